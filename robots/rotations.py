"""Rotations: gravity and heading of a quaternion, and vectors in the frame of a heading."""

from __future__ import annotations

import numpy as np


def gravity_in_base(quat_wxyz: np.ndarray) -> np.ndarray:
    """(..., 3) the direction of gravity in the frame of a (..., 4) rotation; (0, 0, -1) upright."""
    w, x, y, z = np.moveaxis(quat_wxyz, -1, 0)
    return np.stack([2 * (w * y - x * z), -2 * (y * z + w * x), 2 * (x * x + y * y) - 1], axis=-1)


def yaw_of(quat_wxyz: np.ndarray) -> np.ndarray:
    """(...) rad in (-pi, pi], the heading of a (..., 4) rotation."""
    w, x, y, z = np.moveaxis(quat_wxyz, -1, 0)
    return np.arctan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))


def to_heading(
    x: np.ndarray | float, y: np.ndarray | float, yaw: np.ndarray | float
) -> tuple[np.ndarray, np.ndarray]:
    """A vector of the world as forward and left of a heading `yaw` rad; arrays (...) alike."""
    cos, sin = np.cos(yaw), np.sin(yaw)
    return cos * x + sin * y, -sin * x + cos * y
