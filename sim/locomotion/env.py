"""Many G1s learning to walk: a batched Gymnasium vector environment on `mujoco.batch`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import gymnasium
import mujoco
import numpy as np
from gymnasium.vector import AutoresetMode
from mujoco import batch

from bridge.symmetry import joint_mirror
from robots.g1 import gait
from robots.g1.embodiment import (
    ARM_HOME_RAD,
    ARM_POS,
    ARM_SPEED_RAD_S,
    CONTROL_HZ,
    G1,
    HIGHEST_M,
    LOWEST_M,
    N_ARM_JOINTS,
    STANDING_HEIGHT_M,
    VELOCITY_HIGH,
    VELOCITY_LOW,
)
from robots.g1.facts import N_LEG_WAIST_JOINTS, facts, joint_facts
from robots.g1.walker import (
    DEEPEST_BOW_RAD,
    OBSERVATION_DIM,
    advance_clock,
    follow_arms,
    follow_height,
    follow_pitch,
    hold_heading,
    is_stepping,
    joint_offsets,
    joint_targets,
    start_phase,
    walker_observation,
)
from robots.rotations import gravity_in_base, yaw_of
from sim.locomotion.rewards import WalkState, walk_rewards
from sim.robot import CONTROL_SUBSTEPS, walk_model

DT_S = 1.0 / CONTROL_HZ
CRITIC_DIM = OBSERVATION_DIM + 3 + 1 + 2 + 2  # + base velocity, height, foot heights, contacts
SENSORS = (
    *("base_ang_vel", "base_lin_vel"),
    *(
        f"{side}_{kind}"
        for kind in ("sole_pos", "sole_vel", "sole_up", "touch")
        for side in ("left", "right")
    ),
)


@dataclass(frozen=True)
class WalkConfig:
    """What the worlds of walker training are like."""

    n_worlds: int = 1024
    threads: int = 2
    episode_s: float = 20.0
    command_s: float = 5.0
    stand_share: float = 0.3
    turn_share: float = 0.2
    low_share: float = 0.3
    bow_share: float = 0.15
    push_m_s: float = 1.3
    push_every_s: float = 6.0
    friction: tuple[float, float] = (0.4, 1.25)
    torso_payload_kg: tuple[float, float] = (-1.0, 2.0)
    wrist_payload_kg: tuple[float, float] = (0.0, 1.5)
    wrist_payload_share: float = 0.4
    mass_ratio: tuple[float, float] = (0.95, 1.05)
    torso_shift_m: float = 0.02
    gain_ratio: tuple[float, float] = (0.9, 1.1)
    delay_substeps: int = 3
    joint_noise_rad: float = 0.01
    joint_vel_noise_rad_s: float = 0.5
    ang_vel_noise_rad_s: float = 0.2
    gravity_noise: float = 0.03


class WalkEnv(gymnasium.vector.VectorEnv):
    """`n_worlds` G1s follow random base velocities and postures while their arms move at random.

    Actions (n, 15) correct the reference gait of legs and waist. Observations (n, 86) are the
    walker's; `info["critic"]` (n, 94) adds what only the simulation knows. A world that falls or
    ends resets in the same step. Randomised per world: friction, masses, payload of torso and
    wrists, where the torso's mass lies, gains, and how many physics steps a command is late.
    """

    metadata: ClassVar[dict[str, Any]] = {"autoreset_mode": AutoresetMode.SAME_STEP}

    def __init__(self, config: WalkConfig = WalkConfig()):
        self.config = config
        self.num_envs = n = config.n_worlds
        box = gymnasium.spaces.Box
        self.single_observation_space = box(-np.inf, np.inf, (OBSERVATION_DIM,), np.float32)
        self.single_action_space = box(-10, 10, (N_LEG_WAIST_JOINTS,), np.float32)
        batched = gymnasium.vector.utils.batch_space
        self.observation_space = batched(self.single_observation_space, n)
        self.action_space = batched(self.single_action_space, n)
        self.model = walk_model()
        self.batch = batch.Batch(self.model, nsim=n, nthread=config.threads)
        self.qpos, self.qvel = self.batch.bind("qpos"), self.batch.bind("qvel")
        self.ctrl = self.batch.bind("ctrl")
        self.sensors = self.batch.bind("sensordata")
        self._columns = {
            name: slice(int(sensor.adr[0]), int(sensor.adr[0] + sensor.dim[0]))
            for name in SENSORS
            for sensor in [self.model.sensor(name)]
        }
        self._home = np.array(self.model.key("home").qpos)
        self._joint_low, self._joint_high = joint_facts("range_rad").T
        twins, signs = joint_mirror(G1)
        self._arm_twins = twins[ARM_POS] - N_LEG_WAIST_JOINTS
        self._arm_signs = signs[ARM_POS]
        self.penalty_factor = 0.1
        self.difficulty = 1.0  # scales noise, arm motion, pushes; training raises it
        self.episode_steps = np.zeros(n, dtype=np.int64)
        self.max_steps = round(config.episode_s * CONTROL_HZ)
        self._rng = np.random.default_rng(0)

    def sensor(self, name: str) -> np.ndarray:
        """(n, width) readings of one named sensor."""
        return self.sensors[:, self._columns[name]]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        n = self.num_envs
        self.velocity = np.zeros((n, 3))
        self.height = np.full(n, STANDING_HEIGHT_M)
        self.height_goal = self.height.copy()
        self.pitch, self.pitch_goal = np.zeros(n), np.zeros(n)
        self.phase, self.unasked_s, self.heading_error = np.zeros((3, n))
        self.action = np.zeros((n, N_LEG_WAIST_JOINTS))
        self.previous_action = np.zeros((n, N_LEG_WAIST_JOINTS))
        self.stepping = np.zeros(n, dtype=bool)
        self.arm_speed = np.full((n, 1), ARM_SPEED_RAD_S)
        self.arms = np.tile(ARM_HOME_RAD, (n, 1)).astype(np.float64)
        self.arm_goals = self.arms.copy()
        self.smooth_velocity = np.zeros((n, 3))
        self.planted_s = np.zeros((n, 2))
        self._randomise_bodies()
        self._reset_worlds(np.ones(n, dtype=bool))
        observation, critic = self._observe()
        return observation, {"critic": critic}

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        self.previous_action, self.action = self.action, np.asarray(actions, dtype=np.float64)
        self._move_arms()
        targets = joint_targets(
            self.action,
            self.phase,
            self.asked,
            self.posture,
            self.pitch,
            self.arms,
            self.stepping,
        )
        self._drive(np.clip(targets, self._joint_low, self._joint_high))
        self.episode_steps += 1
        # The clock of this step follows the balance that its command was computed from.
        self.phase, self.unasked_s = advance_clock(
            self.phase, self.unasked_s, self.velocity, self.capture
        )
        state = self._walk_state()
        rewards, terms = walk_rewards(state, self.penalty_factor, self.difficulty)
        fallen = self._fallen(state)
        terminated = fallen | self._planted(state)
        truncated = (self.episode_steps >= self.max_steps) & ~terminated
        info: dict[str, Any] = {"terms": terms, "fallen": fallen}
        info["episode_steps"] = self.episode_steps.copy()
        info["disturbed"] = self._disturb()
        self._reset_worlds(terminated | truncated)
        observation, info["critic"] = self._observe()
        return observation, (rewards * DT_S).astype(np.float32), terminated, truncated, info

    def _drive(self, targets: np.ndarray) -> None:
        """One control period; a world obeys the last targets until its command arrives.

        Sensors are left as the last physics step found them, 7 ms ago: to compute them anew costs
        a tenth of a step. Rewards bear that; what the walker observes comes from the state of now.
        """
        at_once, at_the_end = self.delay == 0, self.delay == CONTROL_SUBSTEPS
        self.ctrl[at_once] = targets[at_once]
        self._advance(at_once | at_the_end, CONTROL_SUBSTEPS)
        for late in range(1, CONTROL_SUBSTEPS):
            worlds = self.delay == late
            self._advance(worlds, late)
            self.ctrl[worlds] = targets[worlds]
            self._advance(worlds, CONTROL_SUBSTEPS - late)
        self.ctrl[at_the_end] = targets[at_the_end]

    def _advance(self, worlds: np.ndarray, substeps: int) -> None:
        if worlds.any():
            self.batch.step(None if worlds.all() else worlds, nstep=substeps)

    def _gravity(self) -> np.ndarray:
        return gravity_in_base(self.qpos[:, 3:7])

    def _walk_state(self) -> WalkState:
        phases, moving = gait.leg_phases(self.phase), self.stepping
        base = np.concatenate(
            [self.sensor("base_lin_vel")[:, :2], self.sensor("base_ang_vel")[:, 2:]], axis=1
        )
        # A gait sways within each step; tracking is judged on what remains over 0.4 s.
        self.smooth_velocity += 0.05 * (base - self.smooth_velocity)
        pair = {
            kind: np.stack([self.sensor(f"{side}_{kind}") for side in ("left", "right")], axis=1)
            for kind in ("sole_pos", "sole_vel", "sole_up", "touch")
        }
        return WalkState(
            velocity_command=self.velocity,
            smooth_velocity=self.smooth_velocity,
            lin_vel=self.sensor("base_lin_vel"),
            ang_vel=self.sensor("base_ang_vel"),
            gravity=self._gravity(),
            height=self.qpos[:, 2],
            height_command=self.height,
            base_pos=self.qpos[:, :2],
            joint_offset=self.qpos[:, 7 : 7 + N_LEG_WAIST_JOINTS]
            - joint_facts("home_rad")[:N_LEG_WAIST_JOINTS]
            - self.posture,
            sole_pos=pair["sole_pos"],
            sole_vel=pair["sole_vel"],
            sole_up=pair["sole_up"],
            contact=pair["touch"][..., 0] > 1.0,
            lift=gait.foot_lift(phases, moving),
            phases=phases,
            moving=moving,
            yaw=yaw_of(self.qpos[:, 3:7]),
            action=self.action,
            previous_action=self.previous_action,
        )

    def _fallen(self, state: WalkState) -> np.ndarray:
        broken = ~np.isfinite(self.qpos).all(axis=1)
        return (state.gravity[:, 2] > -0.5) | (state.height < self.height - 0.2) | broken

    def _planted(self, state: WalkState) -> np.ndarray:
        """Worlds told to move whose foot has not left the floor for a cycle and a half.

        To hold both feet down balances so well that it is learned first, and never left again.
        """
        waiting = state.contact & gait.is_moving(self.velocity)[:, None]
        self.planted_s = np.where(waiting, self.planted_s + DT_S, 0.0)
        return self.planted_s.max(axis=1) > 1.5 * gait.PERIOD_S

    def _observe(self) -> tuple[np.ndarray, np.ndarray]:
        c, n = self.config, self.num_envs

        def noisy(values: np.ndarray, scale: float) -> np.ndarray:
            scale *= self.difficulty
            return values + self._rng.uniform(-scale, scale, values.shape)

        offset = joint_offsets(self.qpos[:, 7:], gait.posture(self.height, self.pitch))
        joint_vel = self.qvel[:, 6:]
        ang_vel, gravity = self.qvel[:, 3:6], self._gravity()
        self.capture = gait.capture_offset(gravity, ang_vel, offset, joint_vel)
        self.phase = start_phase(self.phase, self.velocity, self.capture)
        self.stepping = is_stepping(self.phase, self.velocity, self.capture)
        turning = self.heading_error, self.velocity, ang_vel, self.capture
        self.asked, self.heading_error = hold_heading(*turning)

        def observed(sensed: Callable[[np.ndarray, float], np.ndarray]) -> np.ndarray:
            return walker_observation(
                self.asked,
                self.height,
                self.pitch,
                self.phase,
                sensed(offset, c.joint_noise_rad),
                sensed(joint_vel, c.joint_vel_noise_rad_s),
                sensed(ang_vel, c.ang_vel_noise_rad_s),
                sensed(gravity, c.gravity_noise),
                self.action,
                self.stepping,
            )

        clean = observed(lambda values, _: values)
        feet = [self.sensor(f"{side}_sole_pos")[:, 2:] for side in ("left", "right")]
        touch = [self.sensor(f"{side}_touch") > 1.0 for side in ("left", "right")]
        height = self.qpos[:, 2:3] - self.height[:, None]
        critic = np.concatenate(
            [clean, 2 * self.sensor("base_lin_vel"), 5 * height, *(10 * f for f in feet), *touch],
            axis=1,
        ).astype(np.float32)
        assert critic.shape == (n, CRITIC_DIM)
        return observed(noisy), critic

    def _sample_commands(self, worlds: np.ndarray) -> None:
        n = int(worlds.sum())
        if not n:
            return
        c, rng = self.config, self._rng
        velocity = rng.uniform(VELOCITY_LOW, VELOCITY_HIGH, (n, 3))
        # Half of the walks are along one axis, as people ask for them.
        axis = rng.integers(0, 4, n)
        velocity[(axis == 0), 1:] = 0
        velocity[(axis == 1), :1] = 0
        velocity[(axis == 1), 2:] = 0
        kind = rng.random(n)
        turning = kind < c.turn_share
        velocity[turning, :2] = 0
        velocity[(kind > 1 - c.stand_share)] = 0
        # Stands, and slow walks, with bent legs: to reach low things.
        low = rng.random(n) < c.low_share * self.difficulty
        bowed = rng.random(n) < c.bow_share * self.difficulty
        self.pitch_goal[worlds] = bowed * rng.uniform(0, DEEPEST_BOW_RAD, n)
        self.height_goal[worlds] = np.where(
            low, rng.uniform(LOWEST_M, HIGHEST_M, n), STANDING_HEIGHT_M
        )
        velocity[low] *= rng.integers(0, 2, (n, 1))[low] * 0.5
        velocity[np.abs(velocity) < gait.MOVING_SPEED] = 0
        self.velocity[worlds] = velocity
        # Clocks that start again start with either foot.
        self.phase[worlds] = np.where(
            gait.is_moving(velocity) & (self.phase[worlds] == 0),
            rng.integers(0, 2, n) * 0.5,
            self.phase[worlds],
        )

    def _sample_arm_goals(self, worlds: np.ndarray) -> None:
        n = int(worlds.sum())
        if not n:
            return
        rng = self._rng
        low, high = self._joint_low[ARM_POS], self._joint_high[ARM_POS]
        amplitude = self.difficulty * rng.random((n, 1)) * (rng.random((n, 1)) < 0.7)
        anywhere = rng.uniform(low, high, (n, N_ARM_JOINTS))
        # Both arms to one side of the body carry its weight furthest: a third of all goals.
        alike = rng.random(n) < 1 / 3
        anywhere[alike] = np.where(
            np.arange(N_ARM_JOINTS) < N_ARM_JOINTS // 2,
            anywhere[alike],
            anywhere[alike][:, self._arm_twins] * self._arm_signs,
        )
        self.arm_goals[worlds] = ARM_HOME_RAD + amplitude * (anywhere - ARM_HOME_RAD)
        self.arm_speed[worlds] = ARM_SPEED_RAD_S * rng.uniform(0.2, 1.0, (n, 1))

    def _move_arms(self) -> None:
        self.arms = follow_arms(self.arms, self.arm_goals, self.arm_speed)
        self.height = follow_height(self.height, self.height_goal)
        self.pitch = follow_pitch(self.pitch, self.pitch_goal)
        self.posture = gait.posture(self.height, self.pitch)

    def _disturb(self) -> np.ndarray:
        """Other commands, other goals of the arms, pushes; (n,) which worlds' velocity changed."""
        c, rng, n = self.config, self._rng, self.num_envs
        commanded = rng.random(n) < DT_S / c.command_s
        self._sample_commands(commanded)
        self._sample_arm_goals(rng.random(n) < DT_S / 2.0)
        pushed = rng.random(n) < DT_S / c.push_every_s
        if pushed.any():
            angle = rng.uniform(0, 2 * np.pi, n)[:, None]
            speed = rng.uniform(0, self.difficulty * c.push_m_s, n)[:, None]
            self.qvel[pushed, :2] += (speed * np.hstack([np.cos(angle), np.sin(angle)]))[pushed]
        return pushed | commanded

    def _reset_worlds(self, worlds: np.ndarray) -> None:
        n = int(worlds.sum())
        if not n:
            return
        rng = self._rng
        self.batch.reset(worlds, stage=mujoco.mjtStage.mjSTAGE_NONE)
        qpos = np.tile(self._home, (n, 1))
        yaw = rng.uniform(-np.pi, np.pi, n)
        qpos[:, 3], qpos[:, 6] = np.cos(yaw / 2), np.sin(yaw / 2)
        qpos[:, 7 : 7 + N_LEG_WAIST_JOINTS] += rng.uniform(-0.08, 0.08, (n, N_LEG_WAIST_JOINTS))
        self._sample_arm_goals(worlds)
        self.arms[worlds] = self.arm_goals[worlds]
        qpos[:, 7 + N_LEG_WAIST_JOINTS :] = self.arms[worlds]
        self.qpos[worlds] = qpos
        self.qvel[worlds] = 0
        self.qvel[worlds, :2] = self.difficulty * rng.uniform(-0.3, 0.3, (n, 2))
        self.ctrl[worlds] = qpos[:, 7:]
        self.height[worlds], self.pitch[worlds] = STANDING_HEIGHT_M, 0.0
        for clock in (self.phase, self.unasked_s, self.stepping, self.heading_error):
            clock[worlds] = 0
        self._sample_commands(worlds)
        for memory in (self.action, self.previous_action, self.smooth_velocity, self.planted_s):
            memory[worlds] = 0
        self.episode_steps[worlds] = 0
        self.batch.forward(worlds)

    def _randomise_bodies(self) -> None:
        c, rng, n = self.config, self._rng, self.num_envs
        friction = self.batch.expand("geom_friction")
        feet = [i for i in range(self.model.ngeom) if "_foot_" in self.model.geom(i).name]
        friction[:, feet, 0] = rng.uniform(*c.friction, (n, 1))
        mass = self.batch.expand("body_mass")
        torso = self.model.body("torso_link").id
        torso_kg = next(b["mass_kg"] for b in facts()["bodies"] if b["name"] == "torso_link")
        mass[:] = self.model.body_mass * rng.uniform(*c.mass_ratio, (n, 1))
        mass[:, torso] = torso_kg + rng.uniform(*c.torso_payload_kg, n)
        for side in ("left", "right"):
            carries = rng.random(n) < c.wrist_payload_share
            hand = self.model.body(f"{side}_wrist_yaw_link").id
            mass[:, hand] += carries * rng.uniform(*c.wrist_payload_kg, n)
        centre = self.batch.expand("body_ipos")
        shift = rng.uniform(-c.torso_shift_m, c.torso_shift_m, (n, 3))
        centre[:, torso] = self.model.body_ipos[torso] + shift
        self.delay = rng.integers(0, c.delay_substeps + 1, n)
        ratio = rng.uniform(*c.gain_ratio, (n, 1))
        gain, bias = self.batch.expand("actuator_gainprm"), self.batch.expand("actuator_biasprm")
        gain[:, :, 0] = self.model.actuator_gainprm[:, 0] * ratio
        bias[:, :, 1] = self.model.actuator_biasprm[:, 1] * ratio
        bias[:, :, 2] = self.model.actuator_biasprm[:, 2] * ratio
        self.batch.set_const()
