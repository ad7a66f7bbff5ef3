"""Recordings of the black box: what a robot knew and did in its last minute, and the file of it.

A recording is a NumPy archive (.npz, no pickle; every array has a checksum) of N control periods
and M pictures:

    header          JSON as uint8: format, embodiment, time of writing, the events
                    [time_s, reason], the causes, the names of the counters
    time_s          (N,) float64, the loop's clock
    level           (N,) uint8, as bridge/control/safety.py numbers them
    cause           (N,) int32, index into the header's causes
    state           (N, STATE) float32, where has_state (N,) bool
    asked           (N, COMMANDS) float32, where has_asked (N,) bool
    sent            (N, COMMANDS) float32
    counters        (N, names) int64
    image_time_s    (M,) float64
    image_camera    (M,) int32, index into the embodiment's cameras
    image_end       (M,) int64, where each PNG ends in images
    images          uint8, the PNGs one after another

Format 1, of one known robot, lacks embodiment and image_camera.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from bridge.blackbox.journal import read_frames
from bridge.contract import UserError
from bridge.embodiment import Embodiment
from bridge.files import read_npz, reading, text_array, write_npz

FORMAT = 2
# Arrays of a recording that its file has under the same names.
_AS_THEY_ARE = (
    *("time_s", "level", "state", "has_state", "asked", "has_asked", "sent"),
    *("image_time_s", "image_camera"),
)
_FLOAT = np.dtype("<f4")


@dataclass(frozen=True)
class Moment:
    """One control period, as the black box keeps it.

    `state` (STATE,) is None when the robot was silent, `asked` (COMMANDS,) when the policy wanted
    nothing; `sent` is what the motors were given. `images` are those new since the last, by camera.
    """

    time_s: float
    level: int
    cause: str
    state: np.ndarray | None
    asked: np.ndarray | None
    sent: np.ndarray
    counters: Mapping[str, int]
    images: Mapping[str, np.ndarray] = field(default_factory=dict[str, np.ndarray])


class PeriodRecord(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="period"):
    """A Moment in bytes, without its images; what is missing is empty."""

    time_s: float
    level: int
    cause: str
    state: bytes
    asked: bytes
    sent: bytes
    counters: dict[str, int]


class ImageRecord(msgspec.Struct, frozen=True, array_like=True, tag="image"):
    """A picture in PNG; without a camera's name it is of the first."""

    time_s: float
    png: bytes
    camera: str = ""


class EventRecord(msgspec.Struct, frozen=True, array_like=True, tag="event"):
    """Why somebody will want to read this."""

    time_s: float
    reason: str


class BodyRecord(msgspec.Struct, frozen=True, array_like=True, tag="body"):
    """Of which robot the others are."""

    embodiment: Embodiment


Record = PeriodRecord | ImageRecord | EventRecord | BodyRecord
_records = msgspec.msgpack.Decoder(Record)
_encoder = msgspec.msgpack.Encoder()


@dataclass(frozen=True)
class Recording:
    """N control periods and M pictures, in the order of their times.

    Rows of `state` without `has_state`, and of `asked` without `has_asked`, are zero. A counter
    that was not counted yet is 0. `written_at` is the wall clock, UTC.
    """

    embodiment: Embodiment
    time_s: np.ndarray
    level: np.ndarray
    causes: tuple[str, ...]
    state: np.ndarray
    has_state: np.ndarray
    asked: np.ndarray
    has_asked: np.ndarray
    sent: np.ndarray
    counters: dict[str, np.ndarray]
    image_time_s: np.ndarray
    image_camera: np.ndarray
    pngs: tuple[bytes, ...]
    events: tuple[tuple[float, str], ...]
    written_at: str


def pack_record(record: Record) -> bytes:
    """A record as the journal keeps it."""
    return _encoder.encode(record)


def unpack_record(frame: bytes) -> Record:
    """The record in a frame of the journal; msgspec.MsgspecError when there is none."""
    return _records.decode(frame)


def recording_of(records: Sequence[Record], body: Embodiment) -> Recording:
    """The recording that records of a body make, at least one of which is a period.

    Of the events, those of its own time alone. ValueError when they are of another body.
    """
    periods = [record for record in records if isinstance(record, PeriodRecord)]
    images = [record for record in records if isinstance(record, ImageRecord)]
    assert periods
    times_s = np.array([period.time_s for period in periods])
    events = [
        (record.time_s, record.reason)
        for record in records
        if isinstance(record, EventRecord) and times_s.min() <= record.time_s <= times_s.max()
    ]
    commands = len(body.commands)
    state, has_state = _rows([period.state for period in periods], len(body.state_names))
    asked, has_asked = _rows([period.asked for period in periods], commands)
    sent, _ = _rows([period.sent for period in periods], commands)
    cameras = [camera.name for camera in body.cameras]
    names = dict.fromkeys(name for period in periods for name in period.counters)
    return Recording(
        embodiment=body,
        time_s=times_s,
        level=np.array([period.level for period in periods], np.uint8),
        causes=tuple(period.cause for period in periods),
        state=state,
        has_state=has_state,
        asked=asked,
        has_asked=has_asked,
        sent=sent,
        counters={
            name: np.array([period.counters.get(name, 0) for period in periods], np.int64)
            for name in names
        },
        image_time_s=np.array([image.time_s for image in images], np.float64),
        image_camera=np.array(
            [cameras.index(image.camera) if image.camera else 0 for image in images], np.int32
        ),
        pngs=tuple(image.png for image in images),
        events=tuple(events),
        written_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def write_recording(path: str | Path, recording: Recording) -> None:
    """Writes a recording in one step; UserError when that fails."""
    causes = list(dict.fromkeys(recording.causes))
    index = {cause: place for place, cause in enumerate(causes)}
    names = list(recording.counters)
    counts = np.array([recording.counters[name] for name in names], np.int64)
    header = {
        "format": FORMAT,
        "embodiment": recording.embodiment.to_dict(),
        "written_at": recording.written_at,
        "events": recording.events,
        "causes": causes,
        "counters": names,
    }
    write_npz(
        path,
        header=text_array(header),
        cause=np.array([index[cause] for cause in recording.causes], np.int32),
        counters=counts.reshape(len(names), len(recording.time_s)).T,
        image_end=np.cumsum([len(png) for png in recording.pngs], dtype=np.int64),
        images=np.frombuffer(b"".join(recording.pngs), np.uint8),
        **{name: getattr(recording, name) for name in _AS_THEY_ARE},
    )


def read_recording(path: str | Path, unnamed: Embodiment | None = None) -> Recording:
    """The recording in a file, or the journal in a folder whose process was killed.

    `unnamed` is the body of recordings that name none, as those of release 0.1 do. Raises UserError
    when there is no recording, or when it is damaged.
    """
    path = Path(path)
    if path.is_dir():
        return _from_journal(path, unnamed)
    remedy = "choose another recording, or the folder that it is in"
    arrays = read_npz(path, remedy)
    with reading(path, remedy):
        return _from_arrays(arrays, unnamed)


def _from_journal(folder: Path, unnamed: Embodiment | None) -> Recording:
    try:
        records = [unpack_record(frame) for frame in read_frames(folder)]
    except msgspec.MsgspecError as error:
        raise UserError(f"another release has recorded in {folder}: read it with that") from error
    bodies = [record.embodiment for record in records if isinstance(record, BodyRecord)]
    if not any(isinstance(record, PeriodRecord) for record in records):
        raise UserError(f"there is no recording in {folder}: choose a file in it, or another")
    body = bodies[0] if bodies else unnamed
    if body is None:
        raise UserError(f"{folder} does not say of which robot it is: see `hitogata replay`")
    return recording_of(records, body)


def _from_arrays(arrays: Mapping[str, np.ndarray], unnamed: Embodiment | None) -> Recording:
    header: dict[str, Any] = json.loads(arrays["header"].tobytes())
    if header["format"] not in (1, FORMAT):
        raise ValueError(f"its format is {header['format']}, not {FORMAT}")
    named = header.get("embodiment")
    body = Embodiment.from_dict(named) if named else unnamed
    if body is None:
        raise ValueError("it does not say of which robot it is")
    n, m, names = len(arrays["time_s"]), len(arrays["image_time_s"]), header["counters"]
    ends, commands = arrays["image_end"], len(body.commands)
    arrays = {"image_camera": np.zeros(m, np.int32), **arrays}
    shapes: dict[str, tuple[str, tuple[int, ...]]] = {
        "time_s": ("float64", (n,)),
        "level": ("uint8", (n,)),
        "cause": ("int32", (n,)),
        "state": ("float32", (n, len(body.state_names))),
        "has_state": ("bool", (n,)),
        "asked": ("float32", (n, commands)),
        "has_asked": ("bool", (n,)),
        "sent": ("float32", (n, commands)),
        "counters": ("int64", (n, len(names))),
        "image_time_s": ("float64", (m,)),
        "image_camera": ("int32", (m,)),
        "image_end": ("int64", (m,)),
        "images": ("uint8", (int(ends[-1]) if m else 0,)),
    }
    for name, expected in shapes.items():
        found = (arrays[name].dtype.name, arrays[name].shape)
        if found != expected:
            raise ValueError(f"{name} is {found}, not {expected}")
    content = arrays["images"].tobytes()
    starts = [0, *(int(end) for end in ends[:-1])]
    return Recording(
        embodiment=body,
        causes=tuple(header["causes"][int(place)] for place in arrays["cause"]),
        counters={name: arrays["counters"][:, place] for place, name in enumerate(names)},
        pngs=tuple(content[a:b] for a, b in zip(starts[:m], ends.tolist(), strict=True)),
        events=tuple((float(time_s), str(reason)) for time_s, reason in header["events"]),
        written_at=header["written_at"],
        **{name: arrays[name] for name in _AS_THEY_ARE},
    )


def _rows(contents: Sequence[bytes], width: int) -> tuple[np.ndarray, np.ndarray]:
    """Vectors as the rows of a matrix, and which of them there were."""
    present = np.array([bool(content) for content in contents])
    nothing = bytes(width * _FLOAT.itemsize)
    joined = b"".join(content or nothing for content in contents)
    return np.frombuffer(joined, _FLOAT).reshape(-1, width), present
