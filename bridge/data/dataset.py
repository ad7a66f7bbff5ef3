"""Recorded episodes on disk: the LeRobot v3.0 layout, one set of files per episode.

    meta/info.json  meta/stats.json  meta/tasks.parquet
    meta/episodes/chunk-000/file-000.parquet   one row: the episode exists once this file does
    data/chunk-000/file-000.parquet            images (PNG), state, action, time and indices
    sim/episode-000000.npz                     simulation state and scene, to render again
    labels/episode-000000.npz                  what other instructions would have asked

Episode number i lives in chunk i // 1000, file i % 1000. `sim` and `labels` are ours; `lerobot`
reads the rest.
"""

# pyarrow carries no types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false
# pyright: reportMissingTypeStubs=false

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bridge.contract import (
    CHUNK_HZ,
    CHUNK_STEPS,
    COMMAND_DIM,
    COMMAND_FIELDS,
    IMAGE_SIZE,
    STATE_DIM,
    STATE_FIELDS,
    UserError,
)
from bridge.data.stats import Stats, image_stats, merge_stats, vector_stats
from bridge.files import text_array, write_bytes, write_json, write_npz
from bridge.png import decode_png, encode_png

Slots = Mapping[str, Sequence[str]]

_IMAGE, _STATE, _ACTION = "observation.images.head", "observation.state", "action"
_STATISTICS_OF = (_IMAGE, _STATE, _ACTION)
_FPS = int(CHUNK_HZ)
_CHUNK_SIZE = 1000
_DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
_EPISODES_PATH = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
_IMAGE_TYPE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


@dataclass(frozen=True)
class Labels:
    """What the expert would do at every frame under K other instructions.

    `instruction` (T, K) int32 indexes `instructions`. `context` (T, K, 4) float32 stands in for
    the state's STATE_CONTEXT: elapsed s, odometry x m, y m, yaw rad. `commands`
    (T, K, CHUNK_STEPS, COMMAND_DIM) float16, `status` (T, K) int8, `slots` (T, K, S) int8: index
    into the values of each slot, -1 where the instruction does not mention it. `place` (T, K, 2)
    float16: where the picture shows the object that is named, column and row as shares of it; -1
    where it is not seen, NaN where the instruction is about no single object.
    """

    instructions: tuple[str, ...]
    instruction: np.ndarray
    context: np.ndarray
    commands: np.ndarray
    status: np.ndarray
    slots: np.ndarray
    place: np.ndarray


@dataclass(frozen=True)
class Episode:
    """One recorded episode of T frames at CHUNK_HZ.

    `state` (T, STATE_DIM) and `action` (T, COMMAND_DIM) float32; `qpos` (T, nq) float64 and the
    scene's description are the simulation behind the images.
    """

    index: int
    task: str
    pngs: tuple[bytes, ...]
    state: np.ndarray
    action: np.ndarray
    qpos: np.ndarray
    scene: dict[str, Any]
    labels: Labels

    @cached_property
    def images(self) -> np.ndarray:
        """(T, IMAGE_SIZE, IMAGE_SIZE, 3) uint8, decoded when first asked for."""
        return np.stack([decode_png(png) for png in self.pngs])


class DatasetWriter:
    """Appends episodes to a dataset, new or already there.

    Every episode is durable as soon as `add_episode` returns. `finalize` brings the totals,
    statistics and list of tasks up to date; after a crash, open the folder again and call it.
    """

    def __init__(self, folder: str | Path, slots: Slots) -> None:
        self.folder = Path(folder)
        self.slots = {name: tuple(values) for name, values in slots.items()}
        if (self.folder / "meta/info.json").exists() and read_slots(self.folder) != self.slots:
            raise UserError(
                f"{folder} was recorded with another vocabulary of slots: choose a new folder"
            )
        self._rows = _episode_rows(self.folder)
        self._tasks = _task_indices(self._rows)
        self._write_info()

    def __len__(self) -> int:
        return len(self._rows)

    def add_episode(
        self,
        images: np.ndarray,
        state: np.ndarray,
        action: np.ndarray,
        task: str,
        qpos: np.ndarray,
        scene: Mapping[str, Any],
        labels: Labels,
    ) -> int:
        """Writes one episode and returns its index. Shapes as in `Episode` and `Labels`."""
        length, index = len(images), len(self)
        _check(images, "images", (length, IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
        _check(state, "state", (length, STATE_DIM), np.float32)
        _check(action, "action", (length, COMMAND_DIM), np.float32)
        if len(qpos) != length or not length:
            raise ValueError(f"{len(qpos)} simulation states for {length} images")
        _check_labels(labels, length, self.slots)
        first_frame = int(self._rows[-1]["dataset_to_index"]) if self._rows else 0
        row: dict[str, Any] = {
            "episode_index": index,
            "tasks": [task],
            "length": length,
            **{f"data/{key}": value for key, value in _file_place(index).items()},
            **{f"meta/episodes/{key}": value for key, value in _file_place(index).items()},
            "dataset_from_index": first_frame,
            "dataset_to_index": first_frame + length,
        }
        statistics = (image_stats(images), vector_stats(state), vector_stats(action))
        for feature, stats in zip(_STATISTICS_OF, statistics, strict=True):
            row |= {f"stats/{feature}/{name}": value for name, value in stats.items()}
        task_index = self._tasks.get(task, len(self._tasks))
        data = _data_table(images, state, action, row, task_index)
        _write_table(self.folder / _DATA_PATH.format(**_file_place(index)), data)
        write_npz(_sim_path(self.folder, index), qpos=qpos, scene=text_array(scene))
        write_labels(self.folder, index, labels)
        # Last of all: without this row, what was written above does not count.
        episodes_path = self.folder / _EPISODES_PATH.format(**_file_place(index))
        _write_table(episodes_path, pa.Table.from_pylist([row]))
        self._rows.append(row)
        self._tasks[task] = task_index
        return index

    def finalize(self) -> None:
        """Writes totals, statistics and the list of tasks."""
        self._write_info()
        if not self._rows:
            return
        _write_table(self.folder / "meta/tasks.parquet", _tasks_table(tuple(self._tasks)))
        merged: dict[str, Stats] = {}
        for feature in _STATISTICS_OF:
            prefix = f"stats/{feature}/"
            merged[feature] = merge_stats(
                [
                    {k.removeprefix(prefix): v for k, v in row.items() if k.startswith(prefix)}
                    for row in self._rows
                ]
            )
        write_json(self.folder / "meta/stats.json", merged)

    def _write_info(self) -> None:
        write_json(
            self.folder / "meta/info.json",
            {
                "codebase_version": "v3.0",
                "robot_type": "unitree_g1",
                "fps": _FPS,
                "total_episodes": len(self),
                "total_frames": sum(int(row["length"]) for row in self._rows),
                "total_tasks": len(self._tasks),
                "chunks_size": _CHUNK_SIZE,
                "data_files_size_in_mb": 100,
                "video_files_size_in_mb": 200,
                "data_path": _DATA_PATH,
                "video_path": None,
                "splits": {"train": f"0:{len(self)}"},
                "features": _features(),
                "hitogata": {"slots": self.slots},
            },
        )


def write_labels(folder: str | Path, index: int, labels: Labels) -> None:
    """Writes, or replaces, the labels of one episode."""
    content = {field.name: getattr(labels, field.name) for field in fields(Labels)}
    content["instructions"] = text_array(labels.instructions)
    write_npz(_labels_path(Path(folder), index), **content)


def read_slots(folder: str | Path) -> dict[str, tuple[str, ...]]:
    """The vocabulary in which the dataset's labels are written: slot name to its values."""
    path = Path(folder) / "meta/info.json"
    if not path.exists():
        raise UserError(f"there is no dataset in {folder}: record one with `hitogata collect`")
    slots = json.loads(path.read_text(encoding="utf-8")).get("hitogata", {}).get("slots", {})
    return {name: tuple(values) for name, values in slots.items()}


def episode_count(folder: str | Path) -> int:
    """How many complete episodes a dataset holds."""
    return len(_episode_paths(Path(folder)))


def read_episode(folder: str | Path, index: int) -> Episode:
    """Reads one episode."""
    folder = Path(folder)
    place = _file_place(index)
    row = pq.read_table(folder / _EPISODES_PATH.format(**place), columns=["tasks"]).to_pylist()[0]
    data = pq.read_table(folder / _DATA_PATH.format(**place), columns=list(_STATISTICS_OF))
    with np.load(_sim_path(folder, index)) as sim:
        qpos, scene = sim["qpos"], json.loads(sim["scene"].tobytes())
    return Episode(
        index=index,
        task=row["tasks"][0],
        pngs=tuple(data[_IMAGE].combine_chunks().field("bytes").to_pylist()),
        state=_matrix(data[_STATE], STATE_DIM),
        action=_matrix(data[_ACTION], COMMAND_DIM),
        qpos=qpos,
        scene=scene,
        labels=_read_labels(folder, index),
    )


def read_episodes(folder: str | Path) -> Iterator[Episode]:
    """All complete episodes in the order of recording."""
    read_slots(folder)  # a folder without a dataset is an error, not an empty dataset
    for index in range(episode_count(folder)):
        yield read_episode(folder, index)


def _file_place(index: int) -> dict[str, int]:
    return {"chunk_index": index // _CHUNK_SIZE, "file_index": index % _CHUNK_SIZE}


def _sim_path(folder: Path, index: int) -> Path:
    return folder / f"sim/episode-{index:06d}.npz"


def _labels_path(folder: Path, index: int) -> Path:
    return folder / f"labels/episode-{index:06d}.npz"


def _episode_paths(folder: Path) -> list[Path]:
    return sorted((folder / "meta/episodes").glob("*/*.parquet"))


def _episode_rows(folder: Path) -> list[dict[str, Any]]:
    return [pq.read_table(path).to_pylist()[0] for path in _episode_paths(folder)]


def _task_indices(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Task to its number, in order of first appearance: what the rows alone can restore."""
    tasks: dict[str, int] = {}
    for row in rows:
        tasks.setdefault(row["tasks"][0], len(tasks))
    return tasks


def _check(array: np.ndarray, name: str, shape: tuple[int, ...], dtype: type) -> None:
    if array.shape != shape or array.dtype != dtype:
        found = f"{array.dtype} {array.shape}"
        raise ValueError(f"{name} is {found}, not {np.dtype(dtype).name} {shape}")


def _check_labels(labels: Labels, length: int, slots: Slots) -> None:
    per_frame = labels.instruction.shape[1:]
    shape = (length, *per_frame)
    _check(labels.instruction, "instruction", shape, np.int32)
    _check(labels.context, "context", (*shape, 4), np.float32)
    _check(labels.commands, "commands", (*shape, CHUNK_STEPS, COMMAND_DIM), np.float16)
    _check(labels.status, "status", shape, np.int8)
    _check(labels.slots, "slots", (*shape, len(slots)), np.int8)
    _check(labels.place, "place", (*shape, 2), np.float16)


def _features() -> dict[str, Any]:
    def feature(dtype: str, shape: list[int], names: Sequence[str] | None) -> dict[str, Any]:
        return {"dtype": dtype, "shape": shape, "names": names}

    return {
        _IMAGE: feature("image", [IMAGE_SIZE, IMAGE_SIZE, 3], ["height", "width", "channels"]),
        _STATE: feature("float32", [STATE_DIM], STATE_FIELDS),
        _ACTION: feature("float32", [COMMAND_DIM], COMMAND_FIELDS),
        "timestamp": feature("float32", [1], None),
        **{
            name: feature("int64", [1], None)
            for name in ("frame_index", "episode_index", "index", "task_index")
        },
    }


def _data_table(
    images: np.ndarray,
    state: np.ndarray,
    action: np.ndarray,
    row: Mapping[str, Any],
    task_index: int,
) -> pa.Table:
    frame = np.arange(len(images), dtype=np.int64)
    pictures = [{"bytes": encode_png(image), "path": None} for image in images]
    return pa.table(
        {
            _IMAGE: pa.array(pictures, _IMAGE_TYPE),
            _STATE: pa.FixedSizeListArray.from_arrays(pa.array(state.ravel()), STATE_DIM),
            _ACTION: pa.FixedSizeListArray.from_arrays(pa.array(action.ravel()), COMMAND_DIM),
            "timestamp": pa.array((frame / _FPS).astype(np.float32)),
            "frame_index": pa.array(frame),
            "episode_index": pa.array(np.full_like(frame, row["episode_index"])),
            "index": pa.array(frame + row["dataset_from_index"]),
            "task_index": pa.array(np.full_like(frame, task_index)),
        }
    )


def _tasks_table(tasks: Sequence[str]) -> pa.Table:
    """Task to task_index, marked as pandas marks an index: readers look tasks up by name."""
    table = pa.table({"task_index": pa.array(range(len(tasks)), pa.int64()), "task": list(tasks)})
    number = {"pandas_type": "int64", "numpy_type": "int64", "metadata": None}
    text = {"pandas_type": "unicode", "numpy_type": "object", "metadata": None}
    pandas = {
        "index_columns": ["task"],
        "column_indexes": [],
        "columns": [
            {"name": "task_index", "field_name": "task_index", **number},
            {"name": "task", "field_name": "task", **text},
        ],
    }
    return table.replace_schema_metadata({"pandas": json.dumps(pandas)})


def _write_table(path: Path, table: pa.Table) -> None:
    buffer = io.BytesIO()
    # Nothing to gain on compressed pictures, and the rest is small.
    pq.write_table(table, buffer, compression="snappy", use_dictionary=False)
    write_bytes(path, buffer.getvalue())


def _read_labels(folder: Path, index: int) -> Labels:
    with np.load(_labels_path(folder, index)) as archive:
        missing = {field.name for field in fields(Labels)} - set(archive)
        if missing:
            raise UserError(
                f"{folder} was recorded without {', '.join(sorted(missing))}: record it again with"
                " this release's `hitogata collect`"
            )
        arrays = {field.name: archive[field.name] for field in fields(Labels)}
    instructions = tuple(json.loads(arrays.pop("instructions").tobytes()))
    return Labels(instructions=instructions, **arrays)


def _matrix(column: pa.ChunkedArray, width: int) -> np.ndarray:
    return column.combine_chunks().flatten().to_numpy().reshape(-1, width)
