"""Left and right exchanged: joints, states, commands and pictures of the mirrored world."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from bridge.embodiment import Embodiment


@lru_cache
def joint_mirror(body: Embodiment) -> tuple[np.ndarray, np.ndarray]:
    """(JOINTS,) source index and sign of every joint in a left-right mirror image."""
    return _twins(body.joints), _signs(body, body.joints)


def mirror_commands(body: Embodiment, commands: np.ndarray) -> np.ndarray:
    """(..., COMMANDS) the commands of the mirrored robots."""
    index, sign = _command_mirror(body)
    return commands[..., index] * sign


def mirror_states(body: Embodiment, states: np.ndarray) -> np.ndarray:
    """(..., STATE) the states of the mirrored robots."""
    index, sign = _state_mirror(body)
    return states[..., index] * sign


@lru_cache
def _command_mirror(body: Embodiment) -> tuple[np.ndarray, np.ndarray]:
    return _twins(body.command_names), _signs(body, body.command_names)


@lru_cache
def _state_mirror(body: Embodiment) -> tuple[np.ndarray, np.ndarray]:
    """As of `joint_mirror`, for states: an angular velocity is an axial vector, gravity a polar."""
    joints, commands = _signs(body, body.joints), _signs(body, body.command_names)
    sign = body.state(
        joint_pos_rad=joints,
        joint_vel_rad_s=joints,
        base_ang_vel_rad_s=(-1, 1, -1),
        gravity=(1, -1, 1),
        command=commands,
        elapsed_s=1,
        odometry=(1, -1, -1),
    )
    return _twins(body.state_names), sign


def _twins(names: tuple[str, ...]) -> np.ndarray:
    """Where each named number comes from in the mirror image."""
    twin = [
        name.replace("left", "#").replace("right", "left").replace("#", "right") for name in names
    ]
    return np.array([names.index(name) for name in twin])


def _signs(body: Embodiment, names: tuple[str, ...]) -> np.ndarray:
    return np.array([-1 if name in body.flipped else 1 for name in names], np.float32)
