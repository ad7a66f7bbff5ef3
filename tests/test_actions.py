"""Action tokens: the DCT of chunks, its bins, and what coarser chunks keep."""

import itertools

import numpy as np
import torch

from policy.model.action_codec import BANDS, ActionCodec, dct_basis
from robots.g1.embodiment import BASE_HEIGHT, G1, STAND_COMMAND, VEL_X, YAW_RATE


def smooth_chunks(rng: np.random.Generator, n: int) -> np.ndarray:
    """Commands that ramp from one speed to another, with arms that swing."""
    t = np.linspace(0, 1, 16)[None, :, None]
    start, end = np.tile(STAND_COMMAND, (2, n, 1, 1))
    start, end = start.copy(), end.copy()
    for dim, low, high in ((0, -0.4, 0.8), (1, -0.3, 0.3), (2, -0.8, 0.8)):
        start[..., dim] = rng.uniform(low, high, (n, 1))
        end[..., dim] = rng.uniform(low, high, (n, 1))
    chunks = start + (end - start) * t
    phase = rng.uniform(0, 2 * np.pi, (n, 1, 14))
    swing = rng.uniform(0, 0.4, (n, 1, 14)) * np.sin(2 * np.pi * 0.8 * 1.6 * t + phase)
    chunks[..., 4:] += swing * (rng.random((n, 1, 1)) < 0.2)
    return chunks.astype(np.float32)


def fitted(rng: np.random.Generator) -> ActionCodec:
    codec = ActionCodec(G1)
    codec.fit(smooth_chunks(rng, 4000))
    return codec


def test_basis_is_orthonormal_and_first_band_is_the_mean():
    basis = dct_basis(16, 16)
    np.testing.assert_allclose(basis @ basis.T, np.eye(16), atol=1e-12)
    np.testing.assert_allclose(basis[0], np.full(16, 0.25))
    # cos(pi * 1 * 0.5 / 16) * sqrt(2 / 16)
    np.testing.assert_allclose(basis[1, 0], 0.9951847 * 0.3535534, rtol=1e-6)


def test_speed_is_finer_than_a_centimetre_per_second():
    step = fitted(np.random.default_rng(0)).step[0] / 4  # a mean is a coefficient over sqrt(16)
    assert step[VEL_X] < 0.01
    assert step[YAW_RATE] < 0.01


def test_standing_still_is_exact():
    codec = fitted(np.random.default_rng(1))
    stand = torch.from_numpy(np.tile(STAND_COMMAND, (16, 1)))
    torch.testing.assert_close(codec.decode(codec.encode(stand)), stand, atol=1e-5, rtol=0)


def test_smooth_chunks_come_back():
    rng = np.random.default_rng(2)
    codec = fitted(rng)
    chunks = torch.from_numpy(smooth_chunks(rng, 500))
    error = (codec.decode(codec.encode(chunks)) - chunks).abs()
    assert error[..., :BASE_HEIGHT].mean() < 0.01
    assert error.mean() < 0.01
    # Six of sixteen coefficients keep a ramp but for its ends.
    assert error[..., VEL_X].quantile(0.99) < 0.05


def test_fewer_bands_are_the_same_chunk_with_less_detail():
    rng = np.random.default_rng(3)
    codec = fitted(rng)
    chunks = torch.from_numpy(smooth_chunks(rng, 200))
    tokens = codec.encode(chunks)
    errors = [float((codec.decode(tokens[:, : k + 1]) - chunks).abs().mean()) for k in range(BANDS)]
    assert all(later <= earlier for earlier, later in itertools.pairwise(errors))
    mean = codec.decode(tokens[:, :1])
    torch.testing.assert_close(mean, mean[:, :1].expand_as(mean))
    assert (mean[:, 0] - chunks.mean(1)).abs().max() < 0.01


def test_values_beyond_the_data_are_clipped_to_its_ends():
    codec = fitted(np.random.default_rng(4))
    wild = torch.full((16, 18), 50.0)
    decoded = codec.decode(codec.encode(wild))
    assert 0.7 < decoded[8, VEL_X] < 0.9
