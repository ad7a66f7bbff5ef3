"""Odometry with drift: where the robot believes it went since an instruction began."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class OdometryConfig:
    """Standard deviations of one run's errors: scale, and a slow turn of the frame."""

    distance_scale: float = 0.02
    yaw_scale: float = 0.01
    yaw_drift_rad_s: float = 0.002


class Odometry:
    """Adds up true motion with errors drawn once per run, as slipping feet and gyros make them."""

    def __init__(self, rng: np.random.Generator, config: OdometryConfig = OdometryConfig()) -> None:
        self._rng, self._config = rng, config
        self.begin((0.0, 0.0, 0.0))

    def begin(self, base: tuple[float, float, float]) -> None:
        """Counts from `base`, the true pose (x m, y m, yaw rad) in the world, with new errors."""
        c, rng = self._config, self._rng
        self._distance_ratio = 1.0 + c.distance_scale * rng.standard_normal()
        self._yaw_ratio = 1.0 + c.yaw_scale * rng.standard_normal()
        self._drift_rad_s = c.yaw_drift_rad_s * rng.standard_normal()
        self._base = base
        self._pose = np.zeros(3)

    def advance(self, base: tuple[float, float, float], dt_s: float) -> None:
        """The base is at a new true pose, `dt_s` later."""
        dx, dy = base[0] - self._base[0], base[1] - self._base[1]
        turn = (base[2] - self._base[2] + np.pi) % (2 * np.pi) - np.pi
        # Turned from the true heading to the one that the robot believes in.
        angle = self._pose[2] - self._base[2]
        cos, sin = np.cos(angle), np.sin(angle)
        step = (cos * dx - sin * dy, sin * dx + cos * dy)
        self._pose[:2] += np.multiply(step, self._distance_ratio)
        self._pose[2] += turn * self._yaw_ratio + self._drift_rad_s * dt_s
        self._base = base

    @property
    def pose(self) -> np.ndarray:
        """(3,) x m, y m, yaw rad (not wrapped) in the heading frame of the beginning."""
        return self._pose.copy()
