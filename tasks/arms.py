"""Arm poses: where a pointing, raised or waving arm has its joints.

All poses are (7,) rad in the order of `robots.g1.embodiment.ARM_JOINTS`. They are motor targets:
the motors are springs, so what gravity will pull down is added beforehand. The right arm is the
left one seen in a mirror.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import atan2, hypot, pi, radians, sin

import mink
import mujoco
import numpy as np

from robots.g1.embodiment import ARM_HOME_RAD, ARM_JOINTS, JOINT_NAMES
from robots.g1.facts import joint_facts
from sim.robot import robot_spec

SIDES = ("left", "right")
N_JOINTS_OF_AN_ARM = len(ARM_JOINTS)
# Roll and yaw turn the other way in a mirror, pitch and elbow do not.
MIRROR = np.array([1, -1, -1, 1, -1, 1, -1], dtype=np.float64)

# The shoulder's centre in the heading frame, over the pelvis, for the left arm of a standing robot.
SHOULDER_M = (0.0, 0.138, 0.278)
# The table of pointing poses of the left arm: direction from its shoulder in the torso frame.
AZIMUTHS_RAD = tuple(radians(angle) for angle in range(-60, 76, 15))
ELEVATIONS_RAD = tuple(radians(angle) for angle in range(-75, 16, 15))
# Nearly stretched: a straight arm loses a direction to move in.
WRIST_REACH_M = 0.355

_HOME = ARM_HOME_RAD[:N_JOINTS_OF_AN_ARM].astype(np.float64)
_POINTING_START = np.array([-0.6, 0.1, 0.0, 1.0, 0.0, 0.0, 0.0])
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
    solver = _ArmSolver()
    table = np.zeros((len(AZIMUTHS_RAD), len(ELEVATIONS_RAD), N_JOINTS_OF_AN_ARM))
    start = _POINTING_START
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


class _ArmSolver:
    """Inverse kinematics of the left arm of a robot whose torso does not move."""

    def __init__(self) -> None:
        self._model = robot_spec().compile()
        self._configuration = mink.Configuration(self._model)
        ids = [self._model.joint(f"left_{joint}_joint").id for joint in ARM_JOINTS]
        self._qpos = self._model.jnt_qposadr[ids]
        self._dofs = self._model.jnt_dofadr[ids]
        first = JOINT_NAMES.index(f"left_{ARM_JOINTS[0]}_joint")
        self._kp = joint_facts("kp_nm_rad")[first : first + N_JOINTS_OF_AN_ARM]
        self._wrist = mink.FrameTask("left_wrist_yaw_link", "body", 1.0, 0.0, lm_damping=1e-3)
        self._hand = mink.AxisAlignTask("left_wrist_yaw_link", "body", (1, 0, 0), 0.3)
        # The wrist prefers to stay straight: the line of the forearm is what people see.
        posture = np.full(self._model.nv, 1e-3)
        posture[self._dofs] = [0.003, 0.003, 0.02, 0.003, 0.05, 0.02, 0.02]
        self._posture = mink.PostureTask(self._model, cost=posture)
        others = [dof for dof in range(self._model.nv) if dof not in set(self._dofs.tolist())]
        self._still = mink.DofFreezingTask(self._model, others)
        self._limits = [mink.ConfigurationLimit(self._model)]

    def solve(self, towards: np.ndarray, start: np.ndarray) -> np.ndarray:
        """(7,) joint angles with the wrist on the ray from the shoulder, the hand along it."""
        self._configuration.update(self._pose(_POINTING_START))
        self._posture.set_target_from_configuration(self._configuration)
        self._configuration.update(self._pose(start))
        shoulder = self._configuration.data.body("left_shoulder_roll_link").xpos
        rest = mink.SO3.identity()
        goal = mink.SE3.from_rotation_and_translation(rest, shoulder + WRIST_REACH_M * towards)
        self._wrist.set_target(goal)
        self._hand.set_target(towards)
        tasks = [self._wrist, self._hand, self._posture]
        for _ in range(60):
            velocity = mink.solve_ik(
                self._configuration,
                tasks,
                0.1,
                "daqp",
                damping=1e-4,
                limits=self._limits,
                constraints=[self._still],
            )
            self._configuration.integrate_inplace(velocity, 0.1)
        return self._configuration.q[self._qpos].copy()

    def sag(self, pose: np.ndarray) -> np.ndarray:
        """(7,) rad that a standing robot's motors give way to under the arm's own weight."""
        data = mujoco.MjData(self._model)
        data.qpos[:] = self._pose(pose)
        mujoco.mj_forward(self._model, data)
        return data.qfrc_bias[self._dofs] / self._kp

    def _pose(self, arm: np.ndarray) -> np.ndarray:
        qpos = np.zeros(self._model.nq)
        qpos[3] = 1.0
        qpos[self._qpos] = arm
        return qpos
