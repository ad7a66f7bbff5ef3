"""Writing files so that a reader sees the old content or the new, never a part."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from bridge.contract import UserError


def write_bytes(path: str | Path, content: bytes, mode: int = 0o644) -> None:
    """Writes `content` to `path` in one step, making the folders that lead there.

    Nobody whom `mode` keeps out can read the file at any moment.
    """
    path = Path(path)
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # The suffix keeps leftovers of a killed process out of every glob for the real files.
        handle, name = tempfile.mkstemp(".tmp", f".{path.name}.", path.parent)
        temporary = Path(name)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(mode)  # mkstemp's 0600 would hide the file from other users
        temporary.replace(path)
    except OSError as error:
        raise UserError(
            f"could not write {path} ({error.strerror}): free some space or choose another folder"
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_text(path: str | Path, content: str) -> None:
    """Writes UTF-8 text in one step."""
    write_bytes(path, content.encode())


def write_json(path: str | Path, content: Any) -> None:
    """Writes indented JSON in one step; NaN and infinity, which JSON lacks, raise ValueError."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_npz(path: str | Path, **arrays: np.ndarray) -> None:
    """Writes a NumPy archive in one step."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # pyright: ignore[reportArgumentType]  (allow_pickle is not among them)
    write_bytes(path, buffer.getvalue())


def text_array(content: Any) -> np.ndarray:
    """JSON as uint8, because a NumPy archive keeps text only as pickles or padded strings."""
    return np.frombuffer(json.dumps(content, ensure_ascii=False).encode(), np.uint8)


def sha256_of(path: str | Path) -> str:
    """The SHA-256 of a file, in hex."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
