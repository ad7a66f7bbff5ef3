"""Courses for walkers: commands, shoves and ground, written down beforehand, alike for all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import mujoco
import numpy as np

from bench.walker.baselines import Entrant
from bench.walker.bodies import LIFT_M, GroundName
from robots.g1.embodiment import (
    ARM_HOME_RAD,
    ARM_POS,
    ARMS,
    BASE_HEIGHT,
    CONTROL_HZ,
    N_ARM_JOINTS,
    STAND_COMMAND,
    STANDING_HEIGHT_M,
)
from robots.g1.facts import N_LEG_WAIST_JOINTS, joint_facts
from sim.batch import BodyBatch

# What is asked of every walker: m/s, m/s, rad/s.
SLOWEST, FASTEST = np.array([-0.6, -0.4, -1.0]), np.array([1.0, 0.4, 1.0])
STAND_SHARE, TURN_SHARE = 0.15, 0.2
COMMAND_S, ARM_GOAL_S = 5.0, 2.0
ARM_SPEED_RAD_S = (0.6, 3.0)
ARM_REACH = 0.6  # of the way from home to the joint's limit
PUSH_AT_S, AFTER_PUSH_S = (2.0, 3.0), 4.0
HEIGHT_EVERY_S = 4.0
SMOOTHING = 0.05  # per control period: tracking is judged over 0.4 s, as a gait sways


@dataclass(frozen=True)
class Scenario:
    """What n robots go through.

    `commands` (steps, n, 18); `headings` (n,) rad at the start; `push_steps` (n,) when each is
    pushed, -1 for never; `pushes` (n, 2) m/s, forward and left of the robot.
    """

    commands: np.ndarray
    headings: np.ndarray
    push_steps: np.ndarray
    pushes: np.ndarray
    ground: GroundName = "flat"
    hand_payload_kg: float = 0.0
    torso_pitch_rad: float = 0.0  # not 0 only for walkers that take it

    @property
    def steps(self) -> int:
        return self.commands.shape[0]

    @property
    def n(self) -> int:
        return self.commands.shape[1]


@dataclass(frozen=True)
class Trace:
    """What became of n robots; each array (steps, n, ...). After a fall nothing counts.

    `velocity` is forward m/s, left m/s and yaw rate rad/s, smoothed; `power_w` the sum of all
    motors' |torque x speed|; `target_rate_rad_s` the mean and `joint_acc_rad_s2` the largest of
    the joints of legs and waist. `qpos` only where it was asked for.
    """

    upright: np.ndarray
    velocity: np.ndarray
    base_xy_m: np.ndarray
    height_m: np.ndarray
    torso_pitch_rad: np.ndarray
    contact: np.ndarray
    sole_speed_m_s: np.ndarray
    power_w: np.ndarray
    target_rate_rad_s: np.ndarray
    joint_acc_rad_s2: np.ndarray
    qpos: np.ndarray | None

    def falls(self) -> int:
        return int((~self.upright[-1]).sum())


def run_scenario(
    scenario: Scenario,
    model: mujoco.MjModel,
    entrant: Entrant,
    threads: int = 0,
    advance: Callable[[], object] | None = None,
    record: bool = False,
) -> Trace:
    """A walker takes a scenario on a body that stands on the scenario's ground.

    `advance` is called after each control period.
    """
    bodies, walker = BodyBatch(model, scenario.n, threads), entrant.make(scenario.n)
    bodies.set_gains(entrant.kp_nm_rad, entrant.kd_nms_rad)
    torque = bodies.batch.bind("actuator_force")
    bodies.place(joint_facts("home_rad"), scenario.headings, LIFT_M)
    upright = np.ones(scenario.n, dtype=bool)
    last_targets = np.tile(joint_facts("home_rad"), (scenario.n, 1)).astype(np.float64)
    velocity, rows, poses = np.zeros((scenario.n, 3)), [], []
    bow = {"torso_pitch": scenario.torso_pitch_rad} if scenario.torso_pitch_rad else {}
    for step, command in enumerate(scenario.commands):
        bodies.push(bodies.from_heading(scenario.pushes), (scenario.push_steps == step) & upright)
        joint_pos, joint_vel, _, gravity = bodies.proprioception()
        gyro = bodies.sensor("base_ang_vel")
        targets = walker.step(command, joint_pos, joint_vel, gyro, gravity, **bow)
        bodies.step(targets, upright)
        upright = upright & ~bodies.fallen()
        velocity += SMOOTHING * (bodies.base_velocity() - velocity)
        changes = targets - last_targets, bodies.joint_vel - joint_vel
        power_w = np.abs(torque * bodies.joint_vel).sum(axis=1)
        row = {"upright": upright, "velocity": velocity.copy(), "power_w": power_w}
        rows.append(row | _measure(bodies, *changes))
        if record:
            poses.append(bodies.qpos.copy())
        last_targets = targets
        if advance:
            advance()
    stacked = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    return Trace(**stacked, qpos=np.stack(poses) if record else None)


def _measure(
    bodies: BodyBatch, target_change: np.ndarray, velocity_change: np.ndarray
) -> dict[str, np.ndarray]:
    """One moment of a trace; the changes (n, 29) of joint targets and speeds in it."""
    legs = slice(0, N_LEG_WAIST_JOINTS)
    return {
        "base_xy_m": bodies.qpos[:, :2].copy(),
        "height_m": bodies.height(),
        "torso_pitch_rad": bodies.torso_pitch(),
        "contact": bodies.contact(),
        "sole_speed_m_s": np.linalg.norm(bodies.feet("sole_vel")[..., :2], axis=-1),
        "target_rate_rad_s": CONTROL_HZ * np.abs(target_change[:, legs]).mean(axis=1),
        "joint_acc_rad_s2": CONTROL_HZ * np.abs(velocity_change[:, legs]).max(axis=1),
    }


def random_scenario(
    runs: int,
    seconds: float,
    seed: int,
    ground: GroundName = "flat",
    hand_payload_kg: float = 0.0,
) -> Scenario:
    """Another base velocity every 5 s, while the arms go from one random pose to another."""
    rng = np.random.default_rng([seed, runs])
    steps = round(seconds * CONTROL_HZ)
    commands = np.tile(STAND_COMMAND, (steps, runs, 1))
    every = round(COMMAND_S * CONTROL_HZ)
    for start in range(0, steps, every):
        commands[start : start + every, :, :3] = _random_velocities(rng, runs)
    commands[..., ARMS] = _random_arms(rng, steps, runs)
    headings = rng.uniform(-np.pi, np.pi, runs)
    return Scenario(commands, headings, *_no_push(runs), ground, hand_payload_kg)


def _random_velocities(rng: np.random.Generator, n: int) -> np.ndarray:
    """(n, 3): half of the walks along one axis; some only turn, some stand."""
    velocity = rng.uniform(SLOWEST, FASTEST, (n, 3))
    axis, kind = rng.integers(0, 4, n), rng.random(n)
    velocity[axis == 0, 1:] = 0
    velocity[axis == 1, 0] = velocity[axis == 1, 2] = 0
    velocity[kind < TURN_SHARE, :2] = 0
    velocity[kind > 1 - STAND_SHARE] = 0
    return velocity


def _random_arms(rng: np.random.Generator, steps: int, n: int) -> np.ndarray:
    """(steps, n, 14) rad, at speeds that differ from goal to goal."""
    low, high = joint_facts("range_rad")[ARM_POS].T
    arms = np.tile(ARM_HOME_RAD, (n, 1)).astype(np.float64)
    goals, speed, path = arms.copy(), np.ones((n, 1)), []
    for step in range(steps):
        if step % round(ARM_GOAL_S * CONTROL_HZ) == 0:
            reach = ARM_REACH * rng.random((n, 1))
            goals = ARM_HOME_RAD + reach * (
                rng.uniform(low, high, (n, N_ARM_JOINTS)) - ARM_HOME_RAD
            )
            speed = rng.uniform(*ARM_SPEED_RAD_S, (n, 1)) / CONTROL_HZ
        arms = arms + np.clip(goals - arms, -speed, speed)
        path.append(arms)
    return np.stack(path)


def _no_push(n: int) -> tuple[np.ndarray, np.ndarray]:
    return np.full(n, -1), np.zeros((n, 2))


def fixed_scenario(
    velocities: Sequence[Sequence[float]], worlds_each: int, seconds: float
) -> Scenario:
    """Each base velocity for the whole time, `worlds_each` robots for each, one after another."""
    n = len(velocities) * worlds_each
    commands = np.tile(STAND_COMMAND, (round(seconds * CONTROL_HZ), n, 1))
    commands[..., :3] = np.repeat(np.asarray(velocities, dtype=np.float64), worlds_each, axis=0)
    headings = np.linspace(0, 2 * np.pi, n, endpoint=False)
    return Scenario(commands, headings, *_no_push(n))


def push_scenario(
    velocities: Sequence[Sequence[float]], speeds: Sequence[float], directions: int, seed: int
) -> Scenario:
    """Every velocity x every push speed x every direction, in this order, one robot each.

    The moments are spread over a second, so that they meet every part of a gait.
    """
    rng = np.random.default_rng([seed, directions])
    seconds = PUSH_AT_S[1] + AFTER_PUSH_S
    flat = fixed_scenario(velocities, len(speeds) * directions, seconds)
    angle = np.tile(2 * np.pi * np.arange(directions) / directions, len(speeds))
    speed = np.repeat(speeds, directions)
    pushes = np.stack([speed * np.cos(angle), speed * np.sin(angle)], axis=1)
    # Equal moments for all velocities and speeds.
    moments = np.round(CONTROL_HZ * rng.uniform(*PUSH_AT_S, directions)).astype(int)
    return Scenario(
        flat.commands,
        flat.headings,
        np.tile(moments, len(velocities) * len(speeds)),
        np.tile(pushes, (len(velocities), 1)),
    )


def low_scenario(runs: int, height_m: float, seconds: float, seed: int) -> Scenario:
    """Stands at one height, from the start, with arms that move."""
    rng = np.random.default_rng([seed, runs])
    commands = np.tile(STAND_COMMAND, (round(seconds * CONTROL_HZ), runs, 1))
    commands[..., BASE_HEIGHT] = height_m
    commands[..., ARMS] = _random_arms(rng, len(commands), runs)
    return Scenario(commands, rng.uniform(-np.pi, np.pi, runs), *_no_push(runs))


def bow_scenario(runs: int, pitch_rad: float, seconds: float, seed: int) -> Scenario:
    """Stands that bow and stay bowed, with arms that move."""
    commands = low_scenario(runs, STANDING_HEIGHT_M, seconds, seed)
    return replace(commands, torso_pitch_rad=pitch_rad)


def height_scenario(runs: int, heights_m: Sequence[float]) -> Scenario:
    """Stands that go down from height to height, every 4 s."""
    every = round(HEIGHT_EVERY_S * CONTROL_HZ)
    commands = np.tile(STAND_COMMAND, (every * len(heights_m), runs, 1))
    commands[..., BASE_HEIGHT] = np.repeat(heights_m, every)[:, None]
    return Scenario(commands, np.zeros(runs), *_no_push(runs))
