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
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bridge.contract import UserError
from bridge.data.labels import (
    RECORD_AGAIN,
    Labels,
    Slots,
    check_array,
    check_labels,
    check_values,
    read_labels,
    write_labels,
)
from bridge.data.stats import Stats, image_stats, merge_stats, vector_stats
from bridge.embodiment import Embodiment
from bridge.files import (
    read_json,
    read_npz,
    reading,
    text_array,
    write_bytes,
    write_json,
    write_npz,
)
from bridge.png import decode_png, encode_png

_IMAGES, _STATE, _ACTION = "observation.images.", "observation.state", "action"
_CHUNK_SIZE = 1000
_DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
_EPISODES_PATH = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
_AXES = ["height", "width", "channels"]
_IMAGE_TYPE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


@dataclass(frozen=True)
class Episode:
    """One recorded episode of T frames at the chunk rate.

    `pngs` has T pictures of each camera by its name, `state` is (T, STATE) and `action`
    (T, COMMANDS) float32; `qpos` (T, nq) float64 and the scene's description are the simulation
    behind the images.
    """

    index: int
    task: str
    pngs: dict[str, tuple[bytes, ...]]
    state: np.ndarray
    action: np.ndarray
    qpos: np.ndarray
    scene: dict[str, Any]
    labels: Labels

    @cached_property
    def images(self) -> dict[str, np.ndarray]:
        """(T, H, W, 3) uint8 by camera, decoded when first asked for."""
        return {name: np.stack([*map(decode_png, pngs)]) for name, pngs in self.pngs.items()}


class DatasetWriter:
    """Appends episodes of a robot `body` to a dataset, new or already there.

    UserError for a folder of another robot or vocabulary, one that lacks an episode in the middle,
    and one whose statistics an episode has spoilt.

    Every episode is durable as soon as `add_episode` returns. `finalize` brings the totals,
    statistics and list of tasks up to date; after a crash, open the folder again and call it.
    """

    def __init__(self, folder: str | Path, body: Embodiment, slots: Slots) -> None:
        self.folder, self.embodiment = Path(folder), body
        self.slots = {name: tuple(values) for name, values in slots.items()}
        if (self.folder / "meta/info.json").exists():
            self._check_fits()
        self._rows = _episode_rows(self.folder)
        self._check_rows()
        self._tasks = _task_indices(self._rows)
        self._write_info()

    def __len__(self) -> int:
        return len(self._rows)

    def add_episode(
        self,
        images: Mapping[str, np.ndarray],
        state: np.ndarray,
        action: np.ndarray,
        task: str,
        qpos: np.ndarray,
        scene: Mapping[str, Any],
        labels: Labels,
    ) -> int:
        """Writes one episode and returns its index. Shapes as in `Episode` and `Labels`.

        UserError, before anything is written, for numbers that are not finite or out of range.
        """
        length, index, body = len(state), len(self), self.embodiment
        for camera in body.cameras:
            shape = (length, camera.height, camera.width, 3)
            check_array(images[camera.name], f"images of {camera.name}", shape, np.uint8)
        check_array(state, "state", (length, len(body.state_names)), np.float32)
        check_array(action, "action", (length, len(body.commands)), np.float32)
        if len(qpos) != length or not length:
            raise ValueError(f"{len(qpos)} simulation states for {length} states")
        for name, values in (("state", state), ("action", action), ("simulation state", qpos)):
            check_values(np.isfinite(values), f"{name} that is not finite")
        check_labels(labels, length, self.slots, body)
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
        pictures = {_IMAGES + camera.name: images[camera.name] for camera in body.cameras}
        statistics = {name: image_stats(picture) for name, picture in pictures.items()}
        statistics |= {_STATE: vector_stats(state), _ACTION: vector_stats(action)}
        for feature, stats in statistics.items():
            row |= {f"stats/{feature}/{name}": value for name, value in stats.items()}
        task_index = self._tasks.get(task, len(self._tasks))
        data = _data_table(pictures, state, action, row, task_index, body.chunk_hz)
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
        for feature in self._measured():
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
                "robot_type": self.embodiment.name,
                "fps": int(self.embodiment.chunk_hz),
                "total_episodes": len(self),
                "total_frames": sum(int(row["length"]) for row in self._rows),
                "total_tasks": len(self._tasks),
                "chunks_size": _CHUNK_SIZE,
                "data_files_size_in_mb": 100,
                "video_files_size_in_mb": 200,
                "data_path": _DATA_PATH,
                "video_path": None,
                "splits": {"train": f"0:{len(self)}"},
                "features": _features(self.embodiment),
                "hitogata": {"slots": self.slots, "embodiment": self.embodiment.to_dict()},
            },
        )

    def _measured(self) -> list[str]:
        return [*(_IMAGES + camera.name for camera in self.embodiment.cameras), _STATE, _ACTION]

    def _check_rows(self) -> None:
        """UserError for a number that would be given twice, or figures that JSON cannot hold."""
        for index, row in enumerate(self._rows):
            if row["episode_index"] != index:
                raise UserError(
                    f"{self.folder} lacks episode {index}: put it back, or choose a new folder"
                )
            for feature in self._measured():
                if not np.isfinite(np.ravel(row[f"stats/{feature}/mean"])).all():
                    raise UserError(
                        f"{feature} of episode {index} in {self.folder} is not finite: delete it"
                        " and those after it, or choose a new folder"
                    )

    def _check_fits(self) -> None:
        """UserError unless what is there already was recorded alike."""
        if read_slots(self.folder) != self.slots:
            raise UserError(
                f"{self.folder} was recorded with another vocabulary of slots: choose a new folder"
            )
        there = read_embodiment(self.folder, unnamed=self.embodiment)
        if found := self.embodiment.difference(there):
            raise UserError(f"{found} in {self.folder}: choose a new folder")


def read_slots(folder: str | Path) -> Mapping[str, tuple[str, ...]]:
    """The vocabulary in which the dataset's labels are written: slot name to its values."""
    return _read_ours(folder).slots


def read_embodiment(folder: str | Path, unnamed: Embodiment) -> Embodiment:
    """The robot that a dataset was recorded with; `unnamed` where release 0.1 recorded it."""
    return _read_ours(folder).embodiment or unnamed


@dataclass(frozen=True)
class _Ours:
    """What info.json holds for us alone."""

    slots: dict[str, tuple[str, ...]] = field(default_factory=dict)
    embodiment: Embodiment | None = None


@dataclass(frozen=True)
class _Info:
    hitogata: _Ours = _Ours()


def _read_ours(folder: str | Path) -> _Ours:
    path = Path(folder) / "meta/info.json"
    if not path.exists():
        raise UserError(f"there is no dataset in {folder}: record one with `hitogata collect`")
    return read_json(path, RECORD_AGAIN, _Info).hitogata


def episode_count(folder: str | Path) -> int:
    """How many complete episodes a dataset holds."""
    return len(_episode_paths(Path(folder)))


def read_episode(folder: str | Path, index: int) -> Episode:
    """Reads one episode."""
    folder = Path(folder)
    place = _file_place(index)
    rows, frames = folder / _EPISODES_PATH.format(**place), folder / _DATA_PATH.format(**place)
    with reading(rows, RECORD_AGAIN):
        task = pq.read_table(rows, columns=["tasks"]).to_pylist()[0]["tasks"][0]
    with reading(frames, RECORD_AGAIN):
        data = pq.read_table(frames)
        cameras = [name for name in data.column_names if name.startswith(_IMAGES)]
        pngs = {
            name.removeprefix(_IMAGES): tuple(
                data[name].combine_chunks().field("bytes").to_pylist()
            )
            for name in cameras
        }
        state, action = _matrix(data[_STATE]), _matrix(data[_ACTION])
    sim = read_npz(_sim_path(folder, index), RECORD_AGAIN)
    with reading(_sim_path(folder, index), RECORD_AGAIN):
        qpos, scene = sim["qpos"], json.loads(sim["scene"].tobytes())
    labels = read_labels(folder, index)
    return Episode(index, task, pngs, state, action, qpos, scene, labels)


def read_episodes(folder: str | Path) -> Iterator[Episode]:
    """All complete episodes in the order of recording."""
    read_slots(folder)  # a folder without a dataset is an error, not an empty dataset
    for index in range(episode_count(folder)):
        yield read_episode(folder, index)


def _file_place(index: int) -> dict[str, int]:
    return {"chunk_index": index // _CHUNK_SIZE, "file_index": index % _CHUNK_SIZE}


def _sim_path(folder: Path, index: int) -> Path:
    return folder / f"sim/episode-{index:06d}.npz"


def _episode_paths(folder: Path) -> list[Path]:
    return sorted((folder / "meta/episodes").glob("*/*.parquet"))


def _episode_rows(folder: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for path in _episode_paths(folder):
        with reading(path, RECORD_AGAIN):
            rows.append(pq.read_table(path).to_pylist()[0])
    return rows


def _task_indices(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Task to its number, in order of first appearance: what the rows alone can restore."""
    tasks = dict.fromkeys(row["tasks"][0] for row in rows)
    return {task: number for number, task in enumerate(tasks)}


def _features(body: Embodiment) -> dict[str, Any]:
    def feature(dtype: str, shape: list[int], names: Sequence[str] | None) -> dict[str, Any]:
        return {"dtype": dtype, "shape": shape, "names": names}

    return {
        **{_IMAGES + c.name: feature("image", [c.height, c.width, 3], _AXES) for c in body.cameras},
        _STATE: feature("float32", [len(body.state_names)], body.state_names),
        _ACTION: feature("float32", [len(body.commands)], body.command_names),
        "timestamp": feature("float32", [1], None),
        **{
            name: feature("int64", [1], None)
            for name in ("frame_index", "episode_index", "index", "task_index")
        },
    }


def _data_table(
    images: Mapping[str, np.ndarray],
    state: np.ndarray,
    action: np.ndarray,
    row: Mapping[str, Any],
    task_index: int,
    rate_hz: float,
) -> pa.Table:
    frame = np.arange(len(state), dtype=np.int64)
    return pa.table(
        {
            **{name: _pictures(pictures) for name, pictures in images.items()},
            _STATE: _rows_of(state),
            _ACTION: _rows_of(action),
            "timestamp": pa.array((frame / rate_hz).astype(np.float32)),
            "frame_index": pa.array(frame),
            "episode_index": pa.array(np.full_like(frame, row["episode_index"])),
            "index": pa.array(frame + row["dataset_from_index"]),
            "task_index": pa.array(np.full_like(frame, task_index)),
        }
    )


def _pictures(images: np.ndarray) -> pa.Array:
    return pa.array([{"bytes": encode_png(image), "path": None} for image in images], _IMAGE_TYPE)


def _rows_of(matrix: np.ndarray) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(matrix.ravel()), matrix.shape[1])


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


def _matrix(column: pa.ChunkedArray) -> np.ndarray:
    return column.combine_chunks().flatten().to_numpy().reshape(len(column), -1)
