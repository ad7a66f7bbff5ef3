"""`hitogata walk`: trains the walker."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from sim.locomotion.train import WalkTrainConfig, train_walker


def walk(
    config: Annotated[WalkTrainConfig, arg(name="")] = WalkTrainConfig(),
    out: Path = Path("runs/walker"),
) -> None:
    """Trains the walker and exports it to ONNX; goes on where it was stopped.

    Example: hitogata walk --out runs/walker --minutes 110

    Args:
        out: Folder of the run; its walker.onnx is the result. `hitogata bench walker` examines it.
    """
    print(train_walker(out, config))
