"""Statistics of recorded features: per episode, and merged over a dataset."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}

# Name ("min", "max", "mean", "std", "count", "q01"...) to nested lists of one feature's shape.
Stats = dict[str, list[Any]]


def vector_stats(values: np.ndarray) -> Stats:
    """Statistics over time of (T, D) values."""
    values = values.astype(np.float64)
    low_to_high = np.quantile(values, list(QUANTILES.values()), axis=0)
    return {
        "min": values.min(0).tolist(),
        "max": values.max(0).tolist(),
        "mean": values.mean(0).tolist(),
        "std": values.std(0).tolist(),
        "count": [len(values)],
        **{name: row.tolist() for name, row in zip(QUANTILES, low_to_high, strict=True)},
    }


def image_stats(images: np.ndarray) -> Stats:
    """Statistics of (T, H, W, 3) uint8 images per channel, on the scale 0..1, shaped (3, 1, 1)."""
    # A histogram holds all that 256 values can tell, and costs one pass over the pixels.
    counts = np.stack([np.bincount(images[..., c].ravel(), minlength=256) for c in range(3)])
    level = np.arange(256) / 255
    share = counts / counts.sum(1, keepdims=True)
    mean = share @ level
    present = counts > 0
    rising = np.cumsum(share, 1)
    rows = {
        "min": level[present.argmax(1)],
        "max": level[255 - present[:, ::-1].argmax(1)],
        "mean": mean,
        "std": np.sqrt(np.maximum(share @ level**2 - mean**2, 0)),
        **{name: level[(rising >= q).argmax(1)] for name, q in QUANTILES.items()},
    }
    shaped: Stats = {name: row.reshape(3, 1, 1).tolist() for name, row in rows.items()}
    return {**shaped, "count": [len(images)]}


def merge_stats(parts: Sequence[Stats]) -> Stats:
    """Statistics of all parts together, exact but for quantiles, which are averaged by count."""
    counts = np.array([part["count"][0] for part in parts], float)

    def stacked(name: str) -> np.ndarray:
        return np.array([part[name] for part in parts], float)

    def average(values: np.ndarray) -> np.ndarray:
        return np.tensordot(counts / counts.sum(), values, axes=1)

    means = stacked("mean")
    mean = average(means)
    # Variance of the whole = mean variance within the parts + variance of their means.
    std = np.sqrt(average(stacked("std") ** 2 + (means - mean) ** 2))
    return {
        "min": stacked("min").min(0).tolist(),
        "max": stacked("max").max(0).tolist(),
        "mean": mean.tolist(),
        "std": std.tolist(),
        "count": [int(counts.sum())],
        **{name: average(stacked(name)).tolist() for name in QUANTILES},
    }
