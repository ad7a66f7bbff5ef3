"""Getting up from lying: poses of all joints, one after another, until the walker can stand.

Face down, the robot first rolls over its side onto its back. From there it swings up to sit,
rocks onto its feet, and rises from a deep squat. The poses from the back to the squat were found
by a random search in simulation (CMA-ES), the others by hand; docs/decisions/0009 has the measure.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bridge.control.safety import SafetyConfig, is_falling
from bridge.symmetry import joint_mirror
from robots.g1.embodiment import CONTROL_HZ, G1, JOINT_NAMES, KNEES, N_JOINTS, WAIST_PITCH
from robots.g1.facts import joint_facts

# Stiffer than for walking, within the same limits of effort: limbs that lift the body must not sag.
STIFFNESS_RATIO, DAMPING_RATIO = 2.5, 1.6
MOST_TRIES, MOST_ROLLS = 3, 2
LEFT = (
    *("hip_pitch", "hip_roll", "hip_yaw", "knee", "ankle_pitch"),
    *("shoulder_pitch", "shoulder_roll", "shoulder_yaw", "elbow"),
)


@dataclass(frozen=True)
class Pose:
    """Limbs, both sides alike (rad, in the order and with the signs of LEFT), and waist pitch."""

    seconds: float
    limbs: tuple[float, ...]
    waist: float
    one_side: tuple[tuple[str, float], ...] = ()  # joints in which the sides differ

    def targets(self) -> np.ndarray:
        """(29,) rad within the joints' ranges."""
        targets = np.zeros(N_JOINTS)
        for name, angle in zip(LEFT, self.limbs, strict=True):
            targets[JOINT_NAMES.index(f"left_{name}_joint")] = angle
        source, sign = joint_mirror(G1)
        targets = targets + targets[source] * sign
        targets[WAIST_PITCH] = self.waist
        for name, angle in self.one_side:
            targets[JOINT_NAMES.index(f"{name}_joint")] = angle
        low, high = joint_facts("range_rad").T
        return np.clip(targets, low, high)


#                 hip pitch, roll, yaw, knee, ankle; shoulder pitch, roll, yaw, elbow; waist
STRAIGHT_LIMBS = (0.0, 0.1, 0.0, 0.1, 0.0, 0.3, 0.2, 0.0, 1.4)
STRAIGHT = Pose(1.0, STRAIGHT_LIMBS, 0.0)
# Over the left side: the right arm and leg push the floor away, the waist turns after them.
PUSHING = (
    ("right_shoulder_pitch", -1.6),
    ("right_elbow", 1.5),
    ("right_knee", 0.3),
    ("left_shoulder_pitch", 0.0),
    ("left_shoulder_roll", 0.0),
)
ROLL = (
    Pose(0.8, STRAIGHT_LIMBS, 0.0, (*PUSHING, ("right_hip_pitch", -0.7), ("waist_yaw", -0.8))),
    Pose(
        0.6,
        STRAIGHT_LIMBS,
        0.0,
        (
            *PUSHING,
            ("right_hip_pitch", -1.4),
            ("waist_yaw", -1.5),
            ("right_shoulder_pitch", -2.0),
        ),
    ),
    STRAIGHT,
)
RISE = (
    Pose(1.2, (-1.99, 0.7, 0.37, -0.09, -0.82, -1.1, 0.2, 0.45, -1.05), -0.52),
    Pose(0.96, (-2.53, 1.81, 0.36, 1.75, 0.52, 2.04, -1.59, -0.62, 2.09), 0.52),
    Pose(0.3, (-2.19, 1.15, 2.46, 2.88, -0.87, 0.0, 0.85, 1.53, -0.05), 0.52),
    Pose(0.62, (-2.3, 0.3, 0.0, 2.5, -0.85, -1.3, 0.2, 0.0, 1.4), 0.5),
    Pose(0.5, (-2.3, 0.3, 0.0, 2.5, -0.85, -1.3, 0.2, 0.0, 1.4), 0.5),
    Pose(1.0, (-1.57, 0.25, 0.0, 2.5, -0.85, -1.3, 0.2, 0.0, 1.2), 0.5),
    Pose(0.6, (-1.57, 0.25, 0.0, 2.5, -0.85, -1.3, 0.2, 0.0, 1.2), 0.5),
    Pose(0.3, (-1.05, 0.25, 0.0, 2.1, -0.85, -1.3, 0.2, 0.0, 1.2), 0.5),
    Pose(0.3, (-0.54, 0.25, 0.0, 1.7, -0.8, -1.1, 0.2, 0.0, 1.2), 0.4),
    Pose(0.3, (-0.37, 0.1, 0.0, 1.2, -0.6, -0.6, 0.2, 0.0, 1.2), 0.2),
    Pose(0.4, (-0.312, 0.0, 0.0, 0.669, -0.363, 0.2, 0.2, 0.0, 0.6), 0.0),  # home
)


class GetUp:
    """One robot's way up. Call `step` once per control period until it returns None.

    `failed` then says whether it lies still, after three tries.
    """

    def __init__(self) -> None:
        self.failed = False
        self._tries = self._rolls = 0
        self._poses: list[np.ndarray] = []
        self._ends_s: list[float] = []
        self._start: np.ndarray | None = None
        self._rising = False
        self._play((STRAIGHT,))

    def step(
        self, joint_pos: np.ndarray, ang_vel: np.ndarray, gravity: np.ndarray
    ) -> np.ndarray | None:
        """(29,) joint targets (rad) for the next control period.

        Joints (29,) rad; angular velocity (3,) rad/s and gravity (3,), both in the base frame.
        """
        if self._start is None:
            self._start = np.array(joint_pos, dtype=np.float64)
        now_s = (self._period + 1) / CONTROL_HZ
        if now_s > self._ends_s[-1] + 0.5 / CONTROL_HZ:
            fallen = is_falling(gravity, ang_vel, joint_pos[KNEES], SafetyConfig())
            if self._rising and (not fallen or self._tries == MOST_TRIES):
                self.failed = fallen
                return None
            self._go_on(float(gravity[0]))
            return self.step(joint_pos, ang_vel, gravity)
        self._period += 1
        which = min(int(np.searchsorted(self._ends_s, now_s - 1e-9)), len(self._ends_s) - 1)
        begin_s = self._ends_s[which - 1] if which else 0.0
        share = min((now_s - begin_s) / (self._ends_s[which] - begin_s), 1.0)
        smooth = share * share * (3 - 2 * share)
        before = self._poses[which - 1] if which else self._start
        return before + smooth * (self._poses[which] - before)

    def _go_on(self, forward: float) -> None:
        """Chooses what to play next. `forward` is gravity's part along the chest's direction."""
        if self._rising:
            self._rising, self._rolls = False, 0
            self._play((STRAIGHT,))
        elif forward > 0 and self._rolls < MOST_ROLLS:
            # Should one side not let it pass, the other may.
            self._rolls += 1
            self._play(ROLL, mirrored=(self._tries + self._rolls) % 2 == 0)
        else:
            self._tries, self._rising = self._tries + 1, True
            self._play(RISE)

    def _play(self, poses: tuple[Pose, ...], mirrored: bool = False) -> None:
        source, sign = joint_mirror(G1)
        targets = [pose.targets() for pose in poses]
        if self._poses:
            self._start = self._poses[-1]
        self._poses = [t[source] * sign for t in targets] if mirrored else targets
        self._ends_s = list(np.cumsum([pose.seconds for pose in poses]))
        self._period = 0
