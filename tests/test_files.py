"""Files that are read: what is damaged is told in one line, by name, field and value."""

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bridge.contract import UserError
from bridge.files import checked, read_json, read_npz, write_npz


@dataclass(frozen=True)
class Thing:
    name: str
    sizes: tuple[float, ...] = ()
    parts: dict[str, int] | None = None


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ({}, r"the whole is {}: Object missing required field `name`"),
        ({"name": 3}, "name is 3: Expected `str`, got `int`"),
        ({"name": "a", "sizes": [1, None]}, r"sizes\[1\] is null: Expected `float`"),
        ({"name": "a", "parts": {"b": "c"}}, r'parts\[...\] is {"b": "c"}: Expected `int`'),
        ({"name": ["a" * 99]}, r'name is \["a{38}\.\.\.: Expected `str`'),
    ],
)
def test_what_is_wrong_is_told_by_field_and_value(content: object, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        checked(content, Thing)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b'{"a": NaN}', b"[" * 9999, b"1e999"])
def test_what_is_no_json_is_told_in_a_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.json cannot be read \(.+\): repair it") as caught:
        read_json(tmp_path / "a.json", "repair it")
    assert "\n" not in str(caught.value)


def test_a_file_that_is_missing_or_closed_is_told_in_a_line(tmp_path: Path) -> None:
    for reader in (read_json, read_npz):
        with pytest.raises(UserError, match=r"none cannot be read \(No such file or directory\)"):
            reader(tmp_path / "none", "choose another")
        with pytest.raises(UserError, match=r"cannot be read \(Is a directory\)"):
            reader(tmp_path, "choose another")


def packed(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def promised(size: str) -> bytes:
    """An archive whose one array is said to be much larger than it is."""
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': ({size},), }}".encode()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        length = len(header).to_bytes(2, "little")
        archive.writestr("a.npy", b"\x93NUMPY\x01\x00" + length + header)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK",
        packed(a=np.zeros(9)),
        promised("1125899906842624"),
        promised("-1"),
        np.zeros(3).tobytes(),
    ],
)
def test_what_is_no_archive_of_ours_is_told_in_a_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.npz cannot be read \(.+\): repair it") as caught:
        read_npz(tmp_path / "a.npz", "repair it")
    assert "\n" not in str(caught.value)


def test_a_cut_or_altered_archive_is_told_and_a_whole_one_is_read(tmp_path: Path) -> None:
    path, values = tmp_path / "a.npz", np.arange(100.0)
    write_npz(path, values=values)
    assert np.array_equal(read_npz(path, "repair it")["values"], values)
    whole = path.read_bytes()
    altered = whole.replace(values.tobytes(), bytes(800))
    for damaged in (whole[:-1], whole[: len(whole) // 2], altered):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="cannot be read"):
            read_npz(path, "repair it")


def test_pickles_are_not_opened(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", a=np.array([Thing("a")], dtype=object))
    with pytest.raises(UserError, match=r"cannot be read \(Object arrays cannot be loaded"):
        read_npz(tmp_path / "a.npz", "repair it")
