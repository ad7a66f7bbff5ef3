"""What a process holds: memory, open files, threads. Read from /proc, so on Linux alone."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from bridge.contract import UserError


@dataclass(frozen=True)
class Footprint:
    """One moment of a process. Memory in MB (10^6 bytes): now, and the most it ever was."""

    memory_mb: float
    most_memory_mb: float
    files: int
    threads: int


def footprint_of(process: int | None = None) -> Footprint:
    """Of a process, or of this one; UserError where there is no /proc, or no such process."""
    folder = Path("/proc", str(process or os.getpid()))
    try:
        lines = (folder / "status").read_text(encoding="utf-8").splitlines()
        files = len(list((folder / "fd").iterdir()))
    except OSError as error:
        raise UserError(
            f"could not look into process {folder.name} ({error.strerror}): this needs Linux, and"
            " the process alive"
        ) from error
    values = dict(line.split(":", 1) for line in lines)
    return Footprint(
        memory_mb=_mb(values["VmRSS"]),
        most_memory_mb=_mb(values["VmHWM"]),
        files=files,
        threads=int(values["Threads"]),
    )


def _mb(value: str) -> float:
    return int(value.split()[0]) * 1024 / 1e6
