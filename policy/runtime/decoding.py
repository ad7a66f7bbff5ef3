"""The decoding loop: an action chunk band by band, whatever computes a step of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from bridge.contract import CHUNK_STEPS, COMMAND_DIM

# As `Parts.decode`.
DecodeStep = Callable[
    [np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray], Sequence[np.ndarray]
]


def decode_bands(
    decode: DecodeStep,
    keys: np.ndarray,
    values: np.ndarray,
    bands: int,
    bands_per_step: int = 1,
    batch: int = 1,
    late: Callable[[], bool] = lambda: False,
) -> tuple[np.ndarray, np.ndarray]:
    """Tokens (B, n, 18) and commands (B, 16, 18) after a prefill's `keys` and `values`.

    n is `bands`, a multiple of `bands_per_step`; fewer where `late`, asked after each step, says
    so: what is there by then is a smooth, coarser chunk.
    """
    commands = np.zeros((batch, CHUNK_STEPS, COMMAND_DIM), np.float32)
    tokens: list[np.ndarray] = []
    for first in range(0, bands, bands_per_step):
        previous = np.zeros((batch, bands_per_step, COMMAND_DIM), np.int64)
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
