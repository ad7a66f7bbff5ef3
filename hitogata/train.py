"""`hitogata train`: imitates demonstrations."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from bridge.contract import UserError
from policy.runtime.text_encoder import TextEncoder, encoder_id
from policy.training.trainer import TrainConfig
from policy.training.trainer import train as train_policy


def train(
    data: Positional[tuple[Path, ...]],
    config: Annotated[TrainConfig, arg(name="")] = TrainConfig(),
    out: Path = Path("runs/policy"),
) -> None:
    """Trains the policy on data sets; goes on where it was stopped.

    Example: hitogata train data/demos --out runs/policy --minutes 60

    Args:
        data: Folders written by `hitogata collect`.
        out: Folder of the run: checkpoint, configuration, TensorBoard log.
    """
    if not data:
        raise UserError("no data set given: hitogata train data/demos")
    encode = partial(TextEncoder().encode, cut=True)
    print(train_policy(list(data), out, encode, config, encoder_id()))
