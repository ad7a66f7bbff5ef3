"""The black box: the last minute of a control loop, kept in memory and on disk.

The loop only copies numbers into arrays that exist from the start. A thread writes them to a
journal five times a second, so that a process that is killed leaves all but its last moment, and
makes a recording when the loop asks for one. What fails there is counted and told, never raised.
"""

from __future__ import annotations

import logging
import re
import shutil
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bridge.blackbox.journal import NAMES, Journal, has_journal
from bridge.blackbox.recording import (
    BodyRecord,
    EventRecord,
    ImageRecord,
    Moment,
    PeriodRecord,
    Record,
    pack_record,
    recording_of,
    unpack_record,
    write_recording,
)
from bridge.contract import UserError
from bridge.embodiment import Camera, Embodiment
from bridge.locks import hold_folder
from bridge.pictures import fit_picture
from bridge.png import encode_png

AFTER_S = 5.0
_FLUSH_S = 0.2
_SYNC_S = 1.0  # how much a robot that loses its power may lose
_AT_ONCE, _BREATH_S = 100, 1e-3
_IMAGES_WAITING = 64
_MOST_COUNTERS = 64
_MOST_CHARACTERS = 200
_MOST_RECORDINGS = 100  # in a folder; the oldest make room
_NUMBERED = re.compile(r"recording-(\d{6})(-killed|\.npz)")

_log = logging.getLogger(__name__)


@dataclass(eq=False)
class _Report:
    """A recording that is being made: it is written at once, and again at `until_s`."""

    path: Path
    until_s: float
    written: bool = False


class Recorder:
    """Records the last `seconds` of the control loop of a robot `body` into a folder.

    `add` and `write` are for the loop's thread and never wait. `counters` tells what went wrong,
    and `trouble` what did last, in one line. As a context manager it also records the error that
    ends its block. A journal that a killed process left behind is put aside at the start, in a
    folder of its own for `read_recording`. Raises UserError when `folder` cannot be used.
    """

    def __init__(
        self, folder: str | Path, body: Embodiment, seconds: float = 60.0, after_s: float = AFTER_S
    ) -> None:
        self.counters = {
            "lost_periods": 0,
            "lost_images": 0,
            "failed_journal_writes": 0,
            "failed_recordings": 0,
        }
        self.trouble = ""
        self._folder, self._body, self._after_s = Path(folder), body, after_s
        self._lock = hold_folder(self._folder, "records")
        self._number = _put_aside(self._folder)
        rows, images = int(seconds * body.control_hz), int(seconds * body.chunk_hz)
        self._ring = _Ring(rows, body)
        self._journal = Journal(self._folder, seconds, pack_record(BodyRecord(body)))
        self._periods: deque[bytes] = deque(maxlen=rows)
        self._images: deque[bytes] = deque(maxlen=images * len(body.cameras))
        self._events: deque[EventRecord] = deque(maxlen=_MOST_RECORDINGS)
        self._asked: deque[tuple[_Report, EventRecord]] = deque()
        self._current: _Report | None = None
        self._open: list[_Report] = []
        self._synced_s = time.monotonic()
        self._taken_s = 0.0
        self._wake, self._ending = threading.Event(), False
        self._thread = threading.Thread(target=self._run, name="black box", daemon=True)
        self._thread.start()

    def add(self, moment: Moment) -> None:
        """Remembers one control period."""
        self._ring.add(moment)

    def write(self, reason: str) -> Path:
        """Lets the last `seconds` become a file, at once, and again when `after_s` more are known.

        Returns the path that it will have. Within `after_s` of a call, others join its file.
        """
        now_s = self._ring.newest_s
        if self._current is None or self._is_due(self._current, now_s):
            self._number += 1
            path = self._folder / f"recording-{self._number:06d}.npz"
            self._current = _Report(path, now_s + self._after_s)
        self._asked.append((self._current, EventRecord(now_s, reason[:_MOST_CHARACTERS])))
        self._wake.set()
        return self._current.path

    def close(self) -> None:
        """Writes what has been asked for, and ends; safe to call again."""
        if self._thread.is_alive():
            self._ending = True
            self._wake.set()
            self._thread.join()
            self._lock.close()

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, _: object) -> None:
        if kind is not None and issubclass(kind, Exception):
            self.write(f"the loop has ended: {kind.__name__}: {error}")
        self.close()

    # --- the thread ---

    def _run(self) -> None:
        ending = False
        while not ending:
            self._wake.wait(_FLUSH_S)
            self._wake.clear()
            ending = self._ending
            try:
                self._keep(list(self._take()))
                self._report(ending)
            except Exception as error:  # the black box must not be what ends a robot
                _log.exception("the black box failed")
                self._fail("failed_recordings", 1, f"the black box failed: {error!r}")
        self._journal.close(remove=True)

    def _take(self) -> Iterator[bytes]:
        """What has come since the last time, packed."""
        # Before the periods: theirs are then among those taken.
        asked = [self._asked.popleft() for _ in range(len(self._asked))]
        periods, lost = self._ring.take_periods()
        if lost:
            self._fail("lost_periods", lost, f"{lost} periods came too fast for the black box")
        for period in periods:
            self._taken_s = period.time_s
            self._periods.append(pack_record(period))
            yield self._periods[-1]
        images, lost = self._ring.take_images()
        if lost:
            self._fail("lost_images", lost, f"{lost} images came too fast for the black box")
        for time_s, camera, image in images:
            self._images.append(pack_record(ImageRecord(time_s, encode_png(image), camera)))
            yield self._images[-1]
        for report, event in asked:
            self._events.append(event)
            if report not in self._open:
                self._open.append(report)
            yield pack_record(event)

    def _keep(self, frames: list[bytes]) -> None:
        """Puts frames into the journal."""
        if not frames:
            return
        try:
            self._journal.append(frames, self._ring.newest_s)
            if time.monotonic() - self._synced_s >= _SYNC_S:
                self._journal.sync()
                self._synced_s = time.monotonic()
        except OSError as error:
            self._fail("failed_journal_writes", 1, f"could not write the journal: {error}")

    def _report(self, ending: bool) -> None:
        for report in list(self._open):
            due = ending or self._is_due(report, self._taken_s)
            if due or not report.written:
                self._write(report.path)
                report.written = True
            if due:
                self._open.remove(report)

    def _is_due(self, report: _Report, now_s: float) -> bool:
        """Whether the time after the event has passed, or the clock was set back."""
        return not report.until_s - self._after_s <= now_s < report.until_s

    def _write(self, path: Path) -> None:
        if not self._periods:
            return
        try:
            _make_room(self._folder)
            records = _unpacked([*self._periods, *self._images])
            write_recording(path, recording_of([*records, *self._events], self._body))
        except (UserError, OSError) as error:
            self._fail("failed_recordings", 1, str(error))

    def _fail(self, counter: str, count: int, line: str) -> None:
        self.counters[counter] += count
        if line != self.trouble:
            _log.warning("%s", line)
        self.trouble = line


class _Ring:
    """Arrays that the loop fills and the thread empties, without a lock between them.

    The loop counts a row once it is whole. The thread copies rows first and looks then which of
    them the loop may have begun to overwrite.
    """

    def __init__(self, rows: int, body: Embodiment) -> None:
        self.newest_s = 0.0
        self._rows = rows
        self._written = self._read = 0
        self._time_s, self._level = np.zeros(rows), np.zeros(rows, np.uint8)
        self._cause = [""] * rows
        self._state = np.zeros((rows, len(body.state_names)), np.float32)
        commands = (rows, len(body.commands))
        self._asked, self._sent = (np.zeros(commands, np.float32) for _ in range(2))
        self._has_state, self._has_asked = (np.zeros(rows, bool) for _ in range(2))
        self._names: dict[str, int] = {}
        self._counters = np.zeros((rows, _MOST_COUNTERS), np.int64)
        self._images = [_Pictures(camera) for camera in body.cameras]

    def add(self, moment: Moment) -> None:
        row = self._written % self._rows
        self._time_s[row] = moment.time_s
        self._level[row] = moment.level
        self._cause[row] = moment.cause
        self._has_state[row] = moment.state is not None
        if moment.state is not None:
            self._state[row] = moment.state
        self._has_asked[row] = moment.asked is not None
        if moment.asked is not None:
            self._asked[row] = moment.asked
        self._sent[row] = moment.sent
        self._count(row, moment)
        self.newest_s = moment.time_s
        self._written += 1
        for pictures in self._images:
            if (image := moment.images.get(pictures.camera.name)) is not None:
                pictures.add(moment.time_s, image)

    def _count(self, row: int, moment: Moment) -> None:
        counters, names = self._counters[row], self._names
        counters[:] = 0
        for name, value in moment.counters.items():
            place = names.get(name)
            if place is None:
                if len(names) == _MOST_COUNTERS:
                    continue
                place = names[name] = len(names)
            counters[place] = value

    def take_periods(self) -> tuple[list[PeriodRecord], int]:
        """The periods since the last time, and how many were lost."""
        first = max(self._read, self._written - self._rows)
        rows = np.arange(first, self._written) % self._rows
        records = [self._record(int(row)) for row in rows]
        safe = max(first, self._written - self._rows + 1)
        lost = safe - self._read
        self._read = first + len(rows)
        return records[safe - first :], lost

    def _record(self, row: int) -> PeriodRecord:
        counts = self._counters[row].tolist()
        return PeriodRecord(
            time_s=float(self._time_s[row]),
            level=int(self._level[row]),
            cause=self._cause[row][:_MOST_CHARACTERS],
            state=self._state[row].tobytes() if self._has_state[row] else b"",
            asked=self._asked[row].tobytes() if self._has_asked[row] else b"",
            sent=self._sent[row].tobytes(),
            counters=dict(zip(list(self._names), counts, strict=False)),
        )

    def take_images(self) -> tuple[list[tuple[float, str, np.ndarray]], int]:
        """Time, camera and picture of the images since the last time, and how many were lost."""
        found = [pictures.take() for pictures in self._images]
        return [image for taken, _ in found for image in taken], sum(lost for _, lost in found)


class _Pictures:
    """The newest pictures of one camera, filled and emptied like the rest of the ring."""

    def __init__(self, camera: Camera) -> None:
        self.camera = camera
        self._written = self._read = 0
        self._time_s = np.zeros(_IMAGES_WAITING)
        self._image = np.zeros((_IMAGES_WAITING, camera.height, camera.width, 3), np.uint8)

    def add(self, time_s: float, image: np.ndarray) -> None:
        place = self._written % _IMAGES_WAITING
        self._time_s[place] = time_s
        self._image[place] = fit_picture(image, self.camera)
        self._written += 1

    def take(self) -> tuple[list[tuple[float, str, np.ndarray]], int]:
        """As of `_Ring.take_images`."""
        first = max(self._read, self._written - _IMAGES_WAITING)
        places = np.arange(first, self._written) % _IMAGES_WAITING
        name = self.camera.name
        taken = [(float(self._time_s[p]), name, self._image[p].copy()) for p in places]
        safe = max(first, self._written - _IMAGES_WAITING + 1)
        lost = safe - self._read
        self._read = first + len(places)
        return taken[safe - first :], lost


def _unpacked(frames: Sequence[bytes]) -> list[Record]:
    """Records little by little: the loop wants the interpreter as well."""
    records: list[Record] = []
    for start in range(0, len(frames), _AT_ONCE):
        records += [unpack_record(frame) for frame in frames[start : start + _AT_ONCE]]
        time.sleep(_BREATH_S)
    return records


def _put_aside(folder: Path) -> int:
    """Moves the journal of a killed process out of the way; the highest number in the folder."""
    number = max((int(name[1]) for name in map(_numbered, folder.iterdir()) if name), default=0)
    if has_journal(folder):
        number += 1
        target = folder / f"recording-{number:06d}-killed"
        try:
            target.mkdir()
            for name in NAMES:
                if (folder / name).exists():
                    (folder / name).rename(target / name)
        except OSError as error:
            raise UserError(
                f"could not record in {folder} ({error.strerror}): choose another folder"
            ) from error
    return number


def _numbered(path: Path) -> re.Match[str] | None:
    return _NUMBERED.fullmatch(path.name)


def _make_room(folder: Path) -> None:
    """Removes the oldest recordings of a folder that holds too many."""
    found = sorted(path for path in folder.iterdir() if _numbered(path))
    for path in found[: max(len(found) - _MOST_RECORDINGS + 1, 0)]:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
