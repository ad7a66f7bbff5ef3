"""Labels of a recorded episode: what the expert would do at every frame if told otherwise.

labels/episode-000000.npz
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from bridge.contract import Status, UserError
from bridge.embodiment import Embodiment
from bridge.files import read_npz, reading, text_array, write_npz

RECORD_AGAIN = "copy the data set again, or record another with `hitogata collect`"

Slots = Mapping[str, Sequence[str]]

# What a file calls a field otherwise, as release 0.1 wrote it.
_KEYS = {"target_location": "place"}


@dataclass(frozen=True)
class Labels:
    """What the expert would do at every frame under K other instructions.

    `instruction` (T, K) int32 indexes `instructions`. `context` (T, K, 4) float32 stands in for
    the state's context: elapsed s, odometry x m, y m, yaw rad. `commands` (T, K, STEPS, COMMANDS)
    float16, `status` (T, K) int8, `slots` (T, K, S) int8: index into the values of each slot, -1
    where the instruction does not mention it. `target_location` (T, K, 2) float16: where the first
    camera shows the object that is named, column and row as shares of its picture; -1 where it is
    not seen, NaN where the instruction is about no single object.
    """

    instructions: tuple[str, ...]
    instruction: np.ndarray
    context: np.ndarray
    commands: np.ndarray
    status: np.ndarray
    slots: np.ndarray
    target_location: np.ndarray


def write_labels(folder: str | Path, index: int, labels: Labels) -> None:
    """Writes, or replaces, the labels of one episode."""
    content = {key: getattr(labels, name) for name, key in _keys().items()}
    content["instructions"] = text_array(labels.instructions)
    write_npz(_labels_path(Path(folder), index), **content)


def read_labels(folder: Path, index: int) -> Labels:
    """The labels of one episode; UserError when an earlier release wrote them without some."""
    path = _labels_path(folder, index)
    arrays = read_npz(path, RECORD_AGAIN)
    if missing := set(_keys().values()) - set(arrays):
        raise UserError(
            f"{folder} was recorded without {', '.join(sorted(missing))}: record it again with"
            " this release's `hitogata collect`"
        )
    with reading(path, RECORD_AGAIN):
        instructions = tuple(json.loads(arrays.pop("instructions").tobytes()))
        named = {name: arrays[key] for name, key in _keys().items() if name != "instructions"}
        return Labels(instructions=instructions, **named)


def check_labels(labels: Labels, length: int, slots: Slots, body: Embodiment) -> None:
    """ValueError unless the labels are those of an episode of so many frames.

    UserError for a number that is not finite, or that indexes nothing.
    """
    per_frame = labels.instruction.shape[1:]
    shape = (length, *per_frame)
    check_array(labels.instruction, "instruction", shape, np.int32)
    check_array(labels.context, "context", (*shape, 4), np.float32)
    check_array(labels.commands, "commands", (*shape, *body.chunk_shape), np.float16)
    check_array(labels.status, "status", shape, np.int8)
    check_array(labels.slots, "slots", (*shape, len(slots)), np.int8)
    check_array(labels.target_location, "target_location", (*shape, 2), np.float16)
    said, slots_of = labels.instruction, np.array([len(values) for values in slots.values()])
    check_values(_within(said, 0, len(labels.instructions)), "instruction that labels do not have")
    check_values(_within(labels.status, 0, len(Status)), "status that there is not")
    check_values(_within(labels.slots, -1, slots_of), "slot with a value that it does not have")
    check_values(np.isfinite(labels.context), "context that is not finite")
    check_values(np.isfinite(labels.commands), "command that is not finite")
    check_values(~np.isinf(labels.target_location), "target location that is infinite")


def check_values(good: np.ndarray, fault: str) -> None:
    """UserError unless all of (T, ...) is true; it names the first frame that is not."""
    if not good.all():
        frame = int(np.argwhere(~good)[0][0])
        raise UserError(f"frame {frame} has a {fault}: the episode is not recorded")


def _within(values: np.ndarray, low: int, above: int | np.ndarray) -> np.ndarray:
    return (values >= low) & (values < above)


def check_array(array: np.ndarray, name: str, shape: tuple[int, ...], dtype: type) -> None:
    """ValueError unless an array has this shape and type."""
    if array.shape != shape or array.dtype != dtype:
        found = f"{array.dtype} {array.shape}"
        raise ValueError(f"{name} is {found}, not {np.dtype(dtype).name} {shape}")


def _keys() -> dict[str, str]:
    """The fields of labels, each with its key in the file."""
    return {field.name: _KEYS.get(field.name, field.name) for field in fields(Labels)}


def _labels_path(folder: Path, index: int) -> Path:
    return folder / f"labels/episode-{index:06d}.npz"
