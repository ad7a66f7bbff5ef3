"""Left and right exchanged: joints, states, commands and pictures of the mirrored world."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from bridge.contract import COMMAND_FIELDS, JOINT_NAMES, STATE_FIELDS


@lru_cache
def joint_mirror() -> tuple[np.ndarray, np.ndarray]:
    """(29,) source index and sign of every joint in a left-right mirror image."""
    return _mirror(JOINT_NAMES)


def mirror_states(states: np.ndarray) -> np.ndarray:
    """(..., STATE_DIM) the states of the mirrored robots."""
    index, sign = _mirror(STATE_FIELDS)
    return states[..., index] * sign


def mirror_commands(commands: np.ndarray) -> np.ndarray:
    """(..., COMMAND_DIM) the commands of the mirrored robots."""
    index, sign = _mirror(COMMAND_FIELDS)
    return commands[..., index] * sign


@lru_cache
def _mirror(names: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Where each named number comes from in the mirror image, and its sign there.

    What turns about the forward or the vertical axis changes its sign, and so does what points
    sideways; an angular velocity and gravity are given in axes of their own.
    """
    return (
        np.array([names.index(_twin(name)) for name in names]),
        np.array([-1.0 if _flips(name) else 1.0 for name in names], dtype=np.float32),
    )


def _twin(name: str) -> str:
    return name.replace("left", "#").replace("right", "left").replace("#", "right")


def _flips(name: str) -> bool:
    if "ang_vel" in name:
        return "_x_" in name or "_z_" in name
    return any(part in name for part in ("roll", "yaw", "vel_y", "gravity_y", "odometry_y"))
