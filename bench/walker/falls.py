"""Examines falls: how soon they are noticed, what is taken for one, who gets up again."""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np

from bench.walker.bodies import LIFT_M
from bridge.control.safety import SafetyConfig, is_falling
from robots.g1.embodiment import (
    ARMS,
    CONTROL_HZ,
    DAMP_KD_NMS_RAD,
    KNEES,
    N_ARM_JOINTS,
    N_JOINTS,
    STAND_COMMAND,
    VELOCITY_HIGH,
    VELOCITY_LOW,
)
from robots.g1.facts import joint_facts
from robots.g1.getup import DAMPING_RATIO, STIFFNESS_RATIO, GetUp
from robots.g1.walker import Walker
from sim.batch import BodyBatch
from sim.scene import Scene, scene_spec

LOST_TILT_COS = np.cos(np.pi / 4)
LYING_S, STANDING_S, DROP_M = 1.5, 2.0, 0.45
AFTER_FALL_S = 0.5  # a robot that sinks on its knees goes on falling
COMMAND_S, PUSH_S, ORDINARY_PUSH_M_S = 2.5, 2.0, 0.8


@dataclass(frozen=True)
class FallExam:
    """What an examination found.

    `noticed_s` has for every robot that fell the time from where nothing saved it, the last time
    that it tilted by 45 degrees or sank below 0.45 m, to the alarm; negative where the alarm came
    first, infinite where none came. `alarms` are those in the `walks` that went on without a fall.
    """

    noticed_s: tuple[float, ...]
    walks: int
    alarms: int

    def __str__(self) -> str:
        late = sum(1 for s in self.noticed_s if s > 0.2)
        return (
            f"{len(self.noticed_s)} falls, noticed {np.median(self.noticed_s):.2f} s after the"
            f" point of no return in the median, {max(self.noticed_s):.2f} s at most, {late} after"
            f" more than 0.2 s; {self.alarms} false alarms in {self.walks} walks"
        )


def examine_falls(n: int = 60, seed: int = 0, seconds: float = 7.0) -> FallExam:
    """Robots that walk at random while their arms move: `n` shoved over, `n` shoved a little."""
    rng = np.random.default_rng(seed)
    fall_lost, fall_alarm, fell = _walk(rng, n, PUSH_S + 2.5, 1.6, 3.0)
    _, walk_alarm, walk_fell = _walk(rng, n, seconds, ORDINARY_PUSH_M_S, ORDINARY_PUSH_M_S)
    noticed = (fall_alarm[fell] - fall_lost[fell]) / CONTROL_HZ
    return FallExam(
        noticed_s=tuple(noticed.tolist()),
        walks=int((~walk_fell).sum()),
        alarms=int(np.isfinite(walk_alarm[~walk_fell]).sum()),
    )


def _walk(
    rng: np.random.Generator, n: int, seconds: float, slow_m_s: float, fast_m_s: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """When each of n robots was beyond saving and had an alarm, and whether it fell, in shoves.

    (n,) periods, infinite for never, twice, and (n,) bool. Shoves come every PUSH_S.
    """
    bodies, walker = BodyBatch(scene_spec(Scene()).compile(), n, threads=1), Walker(n=n)
    bodies.place(joint_facts("home_rad"), rng.uniform(-np.pi, np.pi, n), LIFT_M)
    lost, alarm, fell = np.full(n, np.inf), np.full(n, np.inf), np.zeros(n, dtype=bool)
    left = np.full(n, round(AFTER_FALL_S * CONTROL_HZ))
    for period in range(round(seconds * CONTROL_HZ)):
        if period % round(COMMAND_S * CONTROL_HZ) == 0:
            commands = _commands(rng, n)
        # None in the last seconds: the run must tell whether it led to a fall.
        shoved = period % round(PUSH_S * CONTROL_HZ) == 0
        if period and shoved and period <= (seconds - PUSH_S) * CONTROL_HZ:
            angle, speed = rng.uniform(-np.pi, np.pi, n), rng.uniform(slow_m_s, fast_m_s, n)
            shove = speed[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
            bodies.push(bodies.from_heading(shove))
        moving = left > 0
        bodies.step(walker.step(commands, *bodies.proprioception()), moving)
        fell |= bodies.fallen()
        left -= fell
        beyond = bodies.fallen(tilt_cos=LOST_TILT_COS)
        lost = np.where(beyond, np.minimum(lost, period), np.inf)  # who rises again was not lost
        joint_pos, _, turn, gravity = bodies.proprioception()
        for i in np.flatnonzero(moving & np.isinf(alarm)):
            if is_falling(gravity[i], turn[i], joint_pos[i, KNEES], SafetyConfig()):
                alarm[i] = period
    return lost, alarm, fell & np.isfinite(lost)


def _commands(rng: np.random.Generator, n: int) -> np.ndarray:
    """(n, 18) random velocities, some of them none, and arms that are home or anywhere near it."""
    commands = np.tile(STAND_COMMAND, (n, 1))
    moving = rng.random((n, 1)) < 0.8
    commands[:, :3] = moving * rng.uniform(0.8 * VELOCITY_LOW, 0.8 * VELOCITY_HIGH, (n, 3))
    raised = rng.random((n, 1)) < 0.3
    commands[:, ARMS] += raised * rng.uniform(-0.5, 0.5, (n, N_ARM_JOINTS))
    return commands


def examine_getting_up(n: int = 30, seed: int = 0) -> np.ndarray:
    """(n,) bool: which of `n` robots got up and stood on the walker for two seconds.

    They were dropped with their motors braking, in random poses, every other one face down.
    """
    rng, kp, kd = np.random.default_rng(seed), joint_facts("kp_nm_rad"), joint_facts("kd_nms_rad")
    bodies, walker = BodyBatch(scene_spec(Scene()).compile(), n, threads=1), Walker(n=n)
    bodies.qpos[:] = _dropped(rng, n)
    bodies.set_gains(np.zeros(N_JOINTS), np.full(N_JOINTS, DAMP_KD_NMS_RAD))
    for _ in range(round(LYING_S * CONTROL_HZ)):
        bodies.step(bodies.joint_pos)

    bodies.set_gains(STIFFNESS_RATIO * kp, DAMPING_RATIO * kd)
    ways, targets = [GetUp() for _ in range(n)], bodies.joint_pos
    rising = np.ones(n, dtype=bool)
    while rising.any():
        joint_pos, _, turn, gravity = bodies.proprioception()
        for i in np.flatnonzero(rising):
            wanted = ways[i].step(joint_pos[i], turn[i], gravity[i])
            if wanted is None:
                rising[i] = False
            else:
                targets[i] = wanted
        bodies.step(targets, rising)

    bodies.set_gains(kp, kd)
    stands = ~np.array([way.failed for way in ways])
    commands = np.tile(STAND_COMMAND, (n, 1))
    for _ in range(round(STANDING_S * CONTROL_HZ)):
        bodies.step(walker.step(commands, *bodies.proprioception()), stands)
        stands &= ~bodies.fallen()
    return stands


def _dropped(rng: np.random.Generator, n: int) -> np.ndarray:
    """(n, 36) positions of robots over the floor, lying in the air in random poses."""
    low, high = joint_facts("range_rad").T
    qpos = np.zeros((n, 7 + N_JOINTS))
    qpos[:, 2] = DROP_M
    for i in range(n):
        pitch = (np.pi / 2 if i % 2 else -np.pi / 2) + rng.uniform(-0.3, 0.3)
        angles = np.array([rng.uniform(-np.pi, np.pi), pitch, rng.uniform(-0.4, 0.4)])
        mujoco.mju_euler2Quat(qpos[i, 3:7], angles, "zyx")
    near = joint_facts("home_rad") + rng.uniform(-0.5, 0.5, (n, N_JOINTS))
    qpos[:, 7:] = np.clip(near, low, high)
    return qpos
