"""`hitogata walk`: trains and examines the walker."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from bench.walker.exam import examine_walker
from sim.locomotion.train import WalkTrainConfig, train_walker
from tasks.evaluation.results import write_results


def walk(
    config: Annotated[WalkTrainConfig, arg(name="")] = WalkTrainConfig(),
    out: Path = Path("runs/walker"),
    exam: Path | None = None,
    results: Path = Path("docs/results/walker.json"),
) -> None:
    """Trains the walker and exports it to ONNX; goes on where it was stopped.

    Example: hitogata walk --out runs/walker --minutes 110

    Args:
        out: Folder of the run; its walker.onnx is the result.
        exam: Examine this walker.onnx instead of training one.
        results: Where an examination writes its figures.
    """
    if exam is None:
        print(train_walker(out, config))
        return
    found = examine_walker(exam)
    print(found)
    write_results(results, found.figures(), f"hitogata walk --exam {exam}")
