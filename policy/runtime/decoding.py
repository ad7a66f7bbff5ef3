"""The decoding loop: an action chunk band by band, whatever computes a step of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np


def decode_bands(
    decode: Callable[..., Sequence[np.ndarray]],
    keys: np.ndarray,
    values: np.ndarray,
    shape: tuple[int, int],
    bands: int,
    bands_per_step: int = 1,
    batch: int = 1,
    late: Callable[[], bool] = lambda: False,
) -> tuple[np.ndarray, np.ndarray]:
    """Tokens (B, n, C) and commands (B, T, C) after a prefill's `keys` and `values`.

    `decode` is that of `policy.runtime.onnx_policy.Parts`. `shape` is (T, C); n is `bands`, a
    multiple of `bands_per_step`; fewer where `late`, asked after each step, says so: what is there
    by then is a smooth, coarser chunk.
    """
    commands = np.zeros((batch, *shape), np.float32)
    tokens: list[np.ndarray] = []
    for first in range(0, bands, bands_per_step):
        previous = np.zeros((batch, bands_per_step, shape[1]), np.int64)
        known = np.zeros((batch, bands_per_step), bool)
        if tokens:
            # Only a step's first band has its forerunner; the others are decoded beside it.
            previous[:, 0], known[:, 0] = tokens[-1][:, -1], True
        step = np.arange(first, first + bands_per_step)
        new, commands, keys, values = decode(step, previous, known, commands, keys, values)
        tokens.append(new)
        if late():
            break
    return np.concatenate(tokens, axis=1), commands
