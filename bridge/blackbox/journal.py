"""A journal that outlives its process: two files in turn, read to the last whole frame.

A segment begins with a magic word and its generation; frames follow, each after its length and
CRC-32, little-endian, the first of them the same in every segment. When the newer segment has grown
old enough, the older one is begun anew: at any moment the two hold at least the last `segment_s`
seconds.
"""

from __future__ import annotations

import errno
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from io import FileIO
from pathlib import Path

NAMES = ("journal-0", "journal-1")
_MAGIC = b"HITOJRN1"
_HEAD = struct.Struct("<8sI")
_FRAME = struct.Struct("<II")
_MOST_FRAME_BYTES = 1 << 20
_MOST_SEGMENT_BYTES = 64 << 20


class Journal:
    """Appends frames in a folder that has none yet; raises OSError when the disk does."""

    def __init__(self, folder: Path, segment_s: float, first: bytes = b"") -> None:
        """`first` is a frame with which every segment begins, if there is one."""
        self._folder, self._segment_s, self._first = folder, segment_s, first
        self._file: FileIO | None = None
        self._generation = 0
        self._size = 0
        self._begun_s = 0.0

    def append(self, frames: Sequence[bytes], now_s: float) -> None:
        """Writes all frames or, raising OSError, none of them. `now_s` decides whose turn it is."""
        if self._file is None or self._is_full(now_s):
            self._begin(now_s)
        assert self._file is not None
        content = b"".join(map(_framed, frames))
        try:
            _write_all(self._file, content)
        except OSError:
            # A torn frame would hide all that follow it.
            self._file.truncate(self._size)
            self._file.seek(self._size)
            raise
        self._size += len(content)

    def sync(self) -> None:
        """Waits until the disk itself has what was written."""
        if self._file is not None:
            os.fdatasync(self._file.fileno())

    def close(self, remove: bool) -> None:
        """Closes the journal, and removes it unless somebody shall read it."""
        if self._file is not None:
            self._file.close()
            self._file = None
        if remove:
            for name in NAMES:
                (self._folder / name).unlink(missing_ok=True)

    def _is_full(self, now_s: float) -> bool:
        young = 0 <= now_s - self._begun_s < self._segment_s  # the clock may be set back
        return not young or self._size >= _MOST_SEGMENT_BYTES

    def _begin(self, now_s: float) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
        path = self._folder / NAMES[self._generation % 2]
        file = FileIO(path, "w")
        begin = _HEAD.pack(_MAGIC, self._generation)
        begin += _framed(self._first) if self._first else b""
        try:
            _write_all(file, begin)
        except OSError:
            file.close()
            raise
        self._file, self._size, self._begun_s = file, len(begin), now_s
        self._generation += 1


def has_journal(folder: Path) -> bool:
    """Whether a process left its journal in a folder."""
    return any((folder / name).exists() for name in NAMES)


def read_frames(folder: Path) -> list[bytes]:
    """All whole frames of a folder's journal, oldest first; none when there is no journal."""
    found: list[tuple[int, list[bytes]]] = []
    for name in NAMES:
        try:
            content = (folder / name).read_bytes()
        except OSError:
            continue
        if len(content) >= _HEAD.size:
            magic, generation = _HEAD.unpack_from(content)
            if magic == _MAGIC:
                found.append((generation, list(_whole_frames(content))))
    return [frame for _, frames in sorted(found, key=lambda pair: pair[0]) for frame in frames]


def _whole_frames(content: bytes) -> Iterator[bytes]:
    place = _HEAD.size
    while place + _FRAME.size <= len(content):
        length, checksum = _FRAME.unpack_from(content, place)
        place += _FRAME.size
        frame = content[place : place + length]
        if length > _MOST_FRAME_BYTES or len(frame) < length or zlib.crc32(frame) != checksum:
            return
        yield frame
        place += length


def _framed(frame: bytes) -> bytes:
    return _FRAME.pack(len(frame), zlib.crc32(frame)) + frame


def _write_all(file: FileIO, content: bytes) -> None:
    view = memoryview(content)
    while view:
        written = file.write(view)
        if not written:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        view = view[written:]
