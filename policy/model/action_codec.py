"""Action chunks as tokens: frequency bands along time, each coefficient in one of 256 bins.

A chunk of 16 steps becomes the first 6 coefficients of its DCT-II per command dimension. Band 0 is
the mean of the chunk, later bands are ever faster detail, so the first k bands alone already give
a smooth chunk. A band of a chunk is 18 tokens, one per dimension.

Action tokens by DCT are those of FAST (Pertsch et al. 2025, arXiv:2501.09747), which packs them
further by byte pairs; here their number is fixed, and bands can be decoded side by side.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from bridge.embodiment import Embodiment

BANDS = 6
BINS = 256
# A dimension that never moves in the data still needs bins of some width.
MIN_STEP = 1e-3
# Share of the coefficients clipped at either end, in every band but the first: those tails are
# long and thin. Band 0 keeps its whole range, because it carries the speed.
CLIPPED_SHARE = 5e-4


def dct_basis(bands: int, steps: int) -> np.ndarray:
    """The first `bands` rows of the orthonormal DCT-II matrix, (bands, steps) float64."""
    band, step = np.arange(bands)[:, None], np.arange(steps)[None, :]
    basis = np.cos(np.pi * band * (step + 0.5) / steps) * math.sqrt(2 / steps)
    basis[0] /= math.sqrt(2)
    return basis


class ActionCodec(nn.Module):
    """Chunks (..., 16, 18) to tokens (..., 6, 18) and back.

    Bins are uniform per band and dimension: token k stands for `origin + k * step`. Standing
    still falls on a bin's centre, so it is decoded without error. Sizes here and below are those of
    a G1: another `body` has other numbers of steps and dimensions.
    """

    basis: Tensor
    origin: Tensor
    step: Tensor

    def __init__(self, body: Embodiment) -> None:
        super().__init__()
        self.stand, self.velocities = body.stand, body.velocities.tolist()
        steps, dimensions = body.chunk_shape
        self.register_buffer("basis", torch.from_numpy(dct_basis(BANDS, steps)).float())
        self.register_buffer("origin", torch.zeros(BANDS, dimensions))
        self.register_buffer("step", torch.ones(BANDS, dimensions))

    def fit(self, commands: np.ndarray) -> None:
        """Chooses the bins from example chunks (N, 16, 18)."""
        steps = commands.shape[1]
        basis = dct_basis(BANDS, steps)
        coefficients = np.einsum("bt,ntd->nbd", basis, commands.astype(np.float64))
        low = np.quantile(coefficients, CLIPPED_SHARE, axis=0)
        high = np.quantile(coefficients, 1 - CLIPPED_SHARE, axis=0)
        low[0], high[0] = coefficients[:, 0].min(axis=0), coefficients[:, 0].max(axis=0)
        rest = np.zeros_like(low)
        rest[0] = self.stand * math.sqrt(steps)
        low, high = np.minimum(low, rest), np.maximum(high, rest)
        # Two bins spare, so that moving the grid onto the rest value leaves both ends inside.
        step = np.maximum((high - low) / (BINS - 2), MIN_STEP)
        slack = (BINS - 1) * step - (high - low)
        origin = rest - np.round((rest - low + slack / 2) / step) * step
        self.origin.copy_(torch.from_numpy(origin))
        self.step.copy_(torch.from_numpy(step))

    def coefficients(self, commands: Tensor) -> Tensor:
        """DCT coefficients (..., 6, 18) of chunks (..., 16, 18)."""
        return self.basis @ commands

    def encode(self, commands: Tensor) -> Tensor:
        """Tokens (..., 6, 18) int64 of chunks (..., 16, 18)."""
        bins = (self.coefficients(commands) - self.origin) / self.step
        return bins.round().clamp(0, BINS - 1).long()

    def decode(self, tokens: Tensor) -> Tensor:
        """Chunks (..., 16, 18) of the first k bands' tokens (..., k, 18)."""
        bands = tokens.shape[-2]
        values = self.origin[:bands] + tokens * self.step[:bands]
        return self.basis[:bands].T @ values
