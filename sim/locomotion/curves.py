"""The learning curves of a walker's training: the numbers of every iteration, and a picture."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rsl_rl.utils.log_writer import LogWriter
from torch.utils.tensorboard import SummaryWriter

from bridge.files import read_json, reading, write_bytes, write_json

NUMBERS, PICTURE = "curves.json", "curves.png"
# What a panel shows: its label, the curves in it, and its scale. A curve's name may end in "*".
PANELS: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("reward until a push or a command", ("Train/mean_reward",), "linear"),
    ("length of an episode, control steps", ("curriculum/episode_length",), "linear"),
    ("velocity error, m/s and rad/s", ("curriculum/tracking_error",), "linear"),
    ("", ("curriculum/difficulty", "curriculum/penalty_factor"), "linear"),
    ("rewards per second", ("reward/*",), "linear"),
    ("", ("Loss/kl", "Loss/learning_rate", "Policy/mean_std"), "log"),
)


class CurveWriter(LogWriter):
    """What rsl-rl logs, for TensorBoard and for people.

    `curves.json` is written with every checkpoint, `curves.png` whenever a stretch of training
    ends. A run that goes on continues them, and forgets what it did after its checkpoint.
    """

    def __init__(self, log_dir: str) -> None:
        """Raises UserError where the folder's curves cannot be read."""
        self._folder = Path(log_dir)
        self._curves = read_curves(self._folder)
        self._begun = False
        self._board = SummaryWriter(log_dir=log_dir, flush_secs=10)

    def add_scalar(self, tag: str, scalar_value: Any, global_step: int) -> None:
        self._board.add_scalar(tag, scalar_value, global_step)
        if tag.endswith("/time"):
            return  # the same again, over seconds
        if not self._begun:
            for curve in self._curves.values():
                for iteration in [i for i in curve if i >= global_step]:
                    del curve[iteration]
            self._begun = True
        self._curves.setdefault(tag.strip("/"), {})[global_step] = float(scalar_value)

    def save_model(self, model_path: str, it: int) -> None:
        write_json(self._folder / NUMBERS, _as_columns(self._curves))

    def stop(self) -> None:
        write_bytes(self._folder / PICTURE, draw_curves(self._curves))
        self._board.close()


def read_curves(folder: Path) -> dict[str, dict[int, float]]:
    """The curves of a run, by name and iteration; none where it has left none yet."""
    path = folder / NUMBERS
    if not path.exists():
        return {}
    remedy = "move it away to go on"
    columns = read_json(path, remedy, dict[str, list[float | None]])
    with reading(path, remedy):
        iterations = [int(i) for i in columns.pop("iteration") if i is not None]
        return {
            name: {i: float(v) for i, v in zip(iterations, values, strict=True) if v is not None}
            for name, values in columns.items()
        }


def _as_columns(curves: Mapping[str, Mapping[int, float]]) -> dict[str, list[Any]]:
    """One list of iterations, and for every curve its values there; None where it has none."""
    iterations = sorted({i for curve in curves.values() for i in curve})
    columns: dict[str, list[Any]] = {"iteration": iterations}
    for name, curve in curves.items():
        values = [curve.get(i, np.nan) for i in iterations]
        columns[name] = [value if np.isfinite(value) else None for value in values]
    return columns


def draw_curves(curves: Mapping[str, Mapping[int, float]]) -> bytes:
    """A PNG of all panels over the iterations."""
    from matplotlib.figure import Figure

    picture = Figure(figsize=(14, 7), layout="constrained")
    for axes, (label, wanted, scale) in zip(
        picture.subplots(2, 3, sharex=True).flat, PANELS, strict=True
    ):
        names = _matching(curves, wanted)
        for name in names:
            axes.plot(*zip(*sorted(curves[name].items()), strict=True), label=name.split("/")[-1])
        axes.set_yscale(scale)
        axes.set_title(label or ", ".join(w.split("/")[-1] for w in wanted).replace("_", " "))
        axes.grid(alpha=0.3)
        if len(names) > 1:
            axes.legend(fontsize=7, ncols=2)
        axes.set_xlabel("iteration")
    buffer = io.BytesIO()
    picture.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def _matching(curves: Mapping[str, Any], wanted: Sequence[str]) -> list[str]:
    """Names of the curves that are wanted and have values."""
    return [
        name
        for name in curves
        for want in wanted
        if curves[name] and (name.startswith(want[:-1]) if want.endswith("*") else name == want)
    ]
