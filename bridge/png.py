"""Lossless pictures in little time: a PNG writer tuned for small camera frames, and a reader."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image

_MOST_PIXELS = 1 << 24
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_FILTER_UP = 2  # rows stored as the difference to the row above: ISO/IEC 15948, 9.2
_DEPTH_8_RGB = (8, 2, 0, 0, 0)


def encode_png(image: np.ndarray) -> bytes:
    """PNG of an (H, W, 3) uint8 image.

    Every row is filtered against the one above and only runs are searched for (zlib's Z_RLE, made
    for PNG): two to three times as fast as Pillow's encoder, which tries each filter on each row,
    and hardly larger on rendered frames.
    """
    height, width, channels = image.shape
    assert channels == 3 and image.dtype == np.uint8
    flat = image.reshape(height, width * 3)
    rows = np.empty((height, width * 3 + 1), np.uint8)
    rows[:, 0] = _FILTER_UP
    rows[0, 1:] = flat[0]
    np.subtract(flat[1:], flat[:-1], out=rows[1:, 1:])
    packer = zlib.compressobj(1, zlib.DEFLATED, zlib.MAX_WBITS, 8, zlib.Z_RLE)
    header = struct.pack(">IIBBBBB", width, height, *_DEPTH_8_RGB)
    data = packer.compress(rows.tobytes()) + packer.flush()
    return _SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def decode_png(content: bytes) -> np.ndarray:
    """The (H, W, 3) uint8 image in a PNG file; ValueError when it claims to be a huge one."""
    with Image.open(io.BytesIO(content), formats=("PNG",)) as image:
        if image.width * image.height > _MOST_PIXELS:
            raise ValueError(f"a picture of {image.width} x {image.height}")
        return np.asarray(image.convert("RGB"))


def _chunk(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)
