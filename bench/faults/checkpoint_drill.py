"""A process that writes checkpoints for ever, so that it can be killed in the middle of one.

    python -m bench.faults.checkpoint_drill FILE

It reads lines: "write" lets a process of its own, whose number it prints, write one checkpoint
after another; "read" prints the step of the one in the file, once that process is dead.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

from policy.model.vla import Model, ModelConfig
from policy.training.checkpoint import load_model, read_numbers, save_checkpoint
from robots.g1.embodiment import G1

CONFIG = ModelConfig(slots=(("action", ("walk",)),), width=64, layers=2, heads=2, experts=4)


def write_for_ever(path: Path, model: Model, step: int) -> None:
    """Writes checkpoints whose weights all equal their step, which counts up from `step`."""
    while True:
        _fill(model, step)
        save_checkpoint(path, model, model, None, {"step": step})
        step += 1


def read_step(path: Path) -> int:
    """The step of a checkpoint; an AssertionError when it is not all of one step."""
    step = read_numbers(path)["step"]
    for parameter in load_model(path).parameters():
        assert bool((parameter == step).all()), "a mixture of checkpoints"
    return step


@torch.no_grad()
def _fill(model: Model, step: int) -> None:
    for parameter in model.parameters():
        parameter.fill_(step)


def main() -> None:
    """Obeys the lines that it reads."""
    path = Path(sys.argv[1])
    torch.set_num_threads(1)  # threads do not survive a fork
    model = Model(CONFIG, G1)
    _fill(model, 0)
    save_checkpoint(path, model, model, None, {"step": 0})
    print("ready", flush=True)
    writer = 0
    for line in sys.stdin:
        if line.strip() == "write":
            step = read_step(path) + 1
            writer = os.fork()
            if writer == 0:
                write_for_ever(path, model, step)
            print(writer, flush=True)
        else:
            os.waitpid(writer, 0)
            print(read_step(path), flush=True)


if __name__ == "__main__":
    main()
