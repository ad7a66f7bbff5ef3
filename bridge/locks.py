"""Locks between processes, which end with whoever holds them."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from pathlib import Path

from bridge.contract import UserError

try:
    import fcntl
except ImportError:  # not a Unix
    fcntl = None


def hold_folder(folder: Path, doing: str) -> TextIOWrapper:
    """Keeps others who ask for it out of a folder, for as long as the file stays open.

    `doing` tells what for, as "records". UserError names the process that holds it already.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("a+", encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"could not write in {folder} ({error.strerror}): choose another folder"
        ) from error
    try:
        _lock(file.fileno(), wait=False)
    except OSError as error:
        file.seek(0)
        holder = file.read(20).strip()
        file.close()
        raise UserError(
            f"another process ({holder}) {doing} in {folder}: end it or choose another folder"
        ) from error
    with suppress(OSError):  # of a full disk: what names its holder is a courtesy
        os.ftruncate(file.fileno(), 0)
        os.write(file.fileno(), str(os.getpid()).encode())
    return file


@contextmanager
def turn_in(folder: Path) -> Generator[None, None, None]:
    """Waits until nobody else is in this block for the folder; for what takes a moment."""
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        _lock(handle, wait=True)
        yield
    finally:
        os.close(handle)


def _lock(handle: int, wait: bool) -> None:
    if fcntl is None:
        raise UserError(f"{sys.platform} has no file locks: use Linux or macOS")
    fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
