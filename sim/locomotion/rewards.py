"""What a good walk is worth, per second: the terms and weights of walker training.

exp(-error^2 / width) for tracking, and penalties of sway, slip and rate of action, are as in
legged_gym (Rudin et al. 2022, arXiv:2109.11978); contacts by a clock as in Siekmann et al. 2021
(arXiv:2011.01387). Weights and widths were chosen by trial.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from robots.g1 import gait
from robots.rotations import to_heading

# Home-keeping weights: hip pitch, roll, yaw, knee, ankle pitch, roll per leg, then the waist.
POSE_WEIGHTS = np.array([0.01, 1, 5, 0.01, 5, 5] * 2 + [50, 50, 50])
CLOSE_FEET_M = 0.15
SOLE_AHEAD_M = 0.034  # of the pelvis, in the home pose


@dataclass(frozen=True)
class WalkState:
    """Everything the reward reads, of n worlds; frames and units as in sim/locomotion/env.py."""

    velocity_command: np.ndarray  # (n, 3)
    smooth_velocity: np.ndarray  # (n, 3)
    lin_vel: np.ndarray  # (n, 3)
    ang_vel: np.ndarray  # (n, 3)
    gravity: np.ndarray  # (n, 3)
    height: np.ndarray  # (n,)
    height_command: np.ndarray  # (n,)
    base_pos: np.ndarray  # (n, 2) world
    joint_offset: np.ndarray  # (n, 15)
    sole_pos: np.ndarray  # (n, 2, 3) world
    sole_vel: np.ndarray  # (n, 2, 3) world
    sole_up: np.ndarray  # (n, 2, 3) world
    contact: np.ndarray  # (n, 2) bool
    lift: np.ndarray  # (n, 2)
    phases: np.ndarray  # (n, 2)
    moving: np.ndarray  # (n,) bool
    yaw: np.ndarray  # (n,)
    action: np.ndarray  # (n, 15)
    previous_action: np.ndarray  # (n, 15)


def walk_rewards(
    s: WalkState, penalty_factor: float, difficulty: float
) -> tuple[np.ndarray, dict[str, float]]:
    """(n,) reward per second, and the mean of each weighted term for the log.

    `penalty_factor` in [0, 1] scales the penalties, `difficulty` in [0, 1] takes away the help.
    """
    error = s.smooth_velocity - s.velocity_command
    linear, turn = np.sum(error[:, :2] ** 2, axis=1), error[:, 2] ** 2
    # The sole sites lie on the sole plane, a sphere's radius below the reference height.
    rise = s.sole_pos[..., 2] + gait.SOLE_RADIUS_M - gait.foot_height(s.lift)
    expected_contact = np.where(s.moving[:, None], s.phases < 0.5, True)
    gap = s.sole_pos[:, 0, :2] - s.sole_pos[:, 1, :2]
    lateral = np.abs(to_heading(gap[:, 0], gap[:, 1], s.yaw)[1])
    slip = np.sum(s.contact * np.linalg.norm(s.sole_vel[..., :2], axis=-1), axis=1)
    mid = s.sole_pos[..., :2].mean(axis=1) - s.base_pos
    ahead, aside = to_heading(mid[:, 0], mid[:, 1], s.yaw)
    ahead = ahead - SOLE_AHEAD_M
    terms = {
        # A lean shows here long before the fall that it leads to. Later it would only reward rest.
        "over_feet": 0.7 * (1 - difficulty) * np.exp(-(ahead**2 + aside**2) / 0.01),
        "alive": np.ones(len(turn)),
        # The straight part pulls from afar, where stepping on the spot would otherwise be enough.
        "velocity": 4.0 * np.exp(-linear / 0.25)
        + 2.0 * np.exp(-linear / 0.04)
        - 6.0 * np.sqrt(linear),
        "yaw_rate": 2.0 * np.exp(-turn / 0.25) + 1.5 * np.exp(-turn / 0.04) - 8.0 * np.sqrt(turn),
        "height": 1.5 * np.exp(-((s.height - s.height_command) ** 2) / 0.001),
        # So sharp that standing still cannot earn it: a wider one taught just that.
        "foot_height": 2.5 * np.exp(-np.sum(rise**2, axis=1) / 0.0015),
        # Strong, or the first thing learned is to hold the feet down: it balances best.
        "clock": -2.0 * np.sum(s.contact != expected_contact, axis=1),
        # Steps keep the balance more easily than a stand, and would be taken for ever.
        "rest": -1.0 * (s.moving & ~gait.is_moving(s.velocity_command)),
    }
    penalties = {
        "sway": -1.0 * np.sum(s.ang_vel[:, :2] ** 2, axis=1),
        "twist": -3.0 * (s.ang_vel[:, 2] - s.velocity_command[:, 2]) ** 2,
        "tilt": -10.0 * np.sum(s.gravity[:, :2] ** 2, axis=1),
        "action_rate": -2.0 * np.sum((s.action - s.previous_action) ** 2, axis=1),
        "pose": -0.5 * np.sum(POSE_WEIGHTS * s.joint_offset**2, axis=1),
        "close_feet": -10.0 * (lateral < CLOSE_FEET_M),
        "slip": -1.0 * slip,
        "bounce": -1.0 * s.lin_vel[:, 2] ** 2,
        "flat_feet": -3.0 * np.sum(1 - s.sole_up[..., 2], axis=1),
    }
    terms |= {name: penalty_factor * value for name, value in penalties.items()}
    total = np.sum(list(terms.values()), axis=0)
    return total, {name: float(value.mean()) for name, value in terms.items()}
