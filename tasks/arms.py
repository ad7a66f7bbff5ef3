"""Arm poses: where a pointing, raised or waving arm has its joints.

All poses are (7,) rad in the order of `robots.g1.embodiment.ARM_JOINTS`. They are motor targets:
the motors are springs, so what gravity will pull down is added beforehand. The right arm is the
left one seen in a mirror.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import atan2, hypot, pi, radians, sin

import numpy as np

from robots.g1.embodiment import ARM_HOME_RAD, SIDES
from sim.ik import N_JOINTS_OF_AN_ARM, POINTING_START, ArmSolver

# Roll and yaw turn the other way in a mirror, pitch and elbow do not.
MIRROR = np.array([1, -1, -1, 1, -1, 1, -1], dtype=np.float64)

# The shoulder's centre in the heading frame, over the pelvis, for the left arm of a standing robot.
SHOULDER_M = (0.0, 0.138, 0.278)
# The table of pointing poses of the left arm: direction from its shoulder in the torso frame.
AZIMUTHS_RAD = tuple(radians(angle) for angle in range(-60, 76, 15))
ELEVATIONS_RAD = tuple(radians(angle) for angle in range(-75, 16, 15))

_HOME = ARM_HOME_RAD[:N_JOINTS_OF_AN_ARM].astype(np.float64)
# Upper arm forward, forearm up: an arm held overhead, or swung whole, tips a standing robot over.
RAISED_RAD = np.array([-1.85, 0.3, 0.0, 0.1, 0.0, 0.0, 0.0])
# Both arms as high draw a standing robot backward, step by step; a little lower it stands.
BOTH_RAISED_RAD = np.array([-1.6, 0.3, 0.0, 0.1, 0.0, 0.0, 0.0])

WAVE_HZ = 0.5
WAVE_AMPLITUDE_RAD = 0.45


def mirrored(pose: np.ndarray, side: str) -> np.ndarray:
    """A left arm's (7,) pose as the pose of the arm on `side`."""
    return pose if side == "left" else pose * MIRROR


def both_arms(poses: dict[str, np.ndarray]) -> np.ndarray:
    """(14,) targets, left arm first; an arm that is not in `poses` hangs at home."""
    return np.concatenate([poses.get(side, mirrored(_HOME, side)) for side in SIDES])


def raised(sides: Sequence[str]) -> np.ndarray:
    """(14,) targets with the hands of these sides held up, before the shoulders."""
    return waving(sides, 0.0)


def waving(sides: Sequence[str], phase_s: float) -> np.ndarray:
    """(14,) targets with the arms of these sides waving, `phase_s` after the first swing began."""
    pose = (BOTH_RAISED_RAD if len(sides) > 1 else RAISED_RAD).copy()
    pose[2] += WAVE_AMPLITUDE_RAD * sin(2 * pi * WAVE_HZ * max(phase_s, 0.0))
    return both_arms({side: mirrored(pose, side) for side in sides})


def pointing(side: str, target_m: tuple[float, float, float]) -> np.ndarray:
    """(7,) targets of an arm stretched toward a point, given in the heading frame, from the pelvis.

    Directions outside the table are brought to its edge.
    """
    sign = 1.0 if side == "left" else -1.0
    x = target_m[0] - SHOULDER_M[0]
    y = sign * target_m[1] - SHOULDER_M[1]
    z = target_m[2] - SHOULDER_M[2]
    row, u = _cell(AZIMUTHS_RAD, atan2(y, x))
    column, v = _cell(ELEVATIONS_RAD, atan2(z, hypot(x, y)))
    corners = pointing_table()[row : row + 2, column : column + 2].reshape(4, N_JOINTS_OF_AN_ARM)
    weights = np.array([(1 - u) * (1 - v), (1 - u) * v, u * (1 - v), u * v])
    return mirrored(weights @ corners, side)


def _cell(grid: tuple[float, ...], value: float) -> tuple[int, float]:
    """The grid interval a value lies in, and how far along it: in [0, 1]."""
    position = (min(max(value, grid[0]), grid[-1]) - grid[0]) / (grid[1] - grid[0])
    index = min(int(position), len(grid) - 2)
    return index, position - index


@lru_cache
def pointing_table() -> np.ndarray:
    """(azimuths, elevations, 7) left arm targets by inverse kinematics; takes a second, once.

    Each direction starts from its neighbour's solution, so that poses change smoothly.
    """
    solver = ArmSolver()
    table = np.zeros((len(AZIMUTHS_RAD), len(ELEVATIONS_RAD), N_JOINTS_OF_AN_ARM))
    start = POINTING_START
    for i, azimuth in enumerate(AZIMUTHS_RAD):
        columns = range(len(ELEVATIONS_RAD))
        for j in columns if i % 2 == 0 else reversed(columns):
            start = solver.solve(direction(azimuth, ELEVATIONS_RAD[j]), start)
            table[i, j] = start + solver.sag(start)
    table.setflags(write=False)
    return table


def direction(azimuth: float, elevation: float) -> np.ndarray:
    """Unit vector (3,): x forward, y left, z up."""
    flat = np.cos(elevation)
    return np.array([flat * np.cos(azimuth), flat * np.sin(azimuth), np.sin(elevation)])
