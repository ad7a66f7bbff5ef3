"""Files: written so that a reader sees the old content or the new, read so that damage is told."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import secrets
import zipfile
import zlib
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np

from bridge.contract import UserError

_Content = TypeVar("_Content")
_MOST_SHOWN = 40  # characters of a wrong value
# What readers of JSON, zip, NumPy and Arrow raise when bytes are missing or wrong.
_DAMAGE = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    zipfile.BadZipFile,
    zlib.error,
)


# --- reading ---


@contextmanager
def reading(path: str | Path, remedy: str) -> Generator[None, None, None]:
    """Turns whatever a damaged file makes its readers raise into one line that names it."""
    try:
        yield
    except _DAMAGE as error:
        told = (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
        raise UserError(f"{path} cannot be read ({' '.join(told.split())}): {remedy}") from error


def read_json(path: str | Path, remedy: str, kind: type[_Content] = object) -> _Content:
    """The JSON in a file as a `kind`; the UserError names the file, the field and its value."""
    with reading(path, remedy):
        return checked(msgspec.json.decode(Path(path).read_bytes()), kind)


def read_npz(path: str | Path, remedy: str) -> dict[str, np.ndarray]:
    """The arrays of a file that `write_npz` wrote, which never packs them; no pickles."""
    with reading(path, remedy), np.load(path, allow_pickle=False) as archive:
        if any(part.compress_type != zipfile.ZIP_STORED for part in archive.zip.infolist()):
            raise ValueError("its arrays are packed")  # to unknown sizes
        return dict(archive.items())


def checked(content: object, kind: type[_Content]) -> _Content:
    """Plain values as a `kind`; ValueError names the field that is wrong, and its value."""
    try:
        return msgspec.convert(content, kind)
    except msgspec.ValidationError as error:
        complaint, _, place = str(error).partition(" - at `")
        field = place.strip("`$.") or "the whole"
        raise ValueError(f"{field} is {_shown(content, place)}: {complaint}") from error


def _shown(content: Any, place: str) -> str:
    """The value at a place such as `$.objects[0].size_m`, shortened; of `[...]` the whole."""
    for key, index in re.findall(r"\.([^.\[`]+)|\[(\d+)\]", place.partition("[...]")[0]):
        content = content[key] if key else content[int(index)]
    text = json.dumps(content, default=repr)
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."


def sha256_of(path: str | Path) -> str:
    """The SHA-256 of a file, in hex."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- writing ---


def write_bytes(path: str | Path, content: bytes, mode: int = 0o644) -> None:
    """Writes `content` to `path` in one step, making the folders that lead there.

    Nobody whom `mode`, or the umask, keeps out can read the file at any moment.
    """
    path = Path(path)
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # The suffix keeps leftovers of a killed process out of every glob for the real files.
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
        handle = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise UserError(
            f"could not write {path} ({error.strerror}): free some space or choose another folder"
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def check_writable(folder: Path) -> None:
    """UserError unless files can be written in a folder, which is made: told before the work."""
    probe = folder / ".writable"
    write_bytes(probe, b"")
    probe.unlink(missing_ok=True)


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
