"""Many G1s learning to walk: a batched Gymnasium vector environment on `mujoco.batch`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import gymnasium
import numpy as np
from annotated_types import Gt
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from bridge.ranges import (
    Ascending,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Share,
    Workers,
)
from bridge.symmetry import joint_mirror
from robots.g1 import gait
from robots.g1.embodiment import (
    ARM_HOME_RAD,
    ARM_POS,
    ARM_SPEED_RAD_S,
    ARMS,
    BASE_HEIGHT,
    CONTROL_HZ,
    G1,
    HIGHEST_M,
    LOWEST_M,
    N_ARM_JOINTS,
    STAND_COMMAND,
    STANDING_HEIGHT_M,
    VELOCITY_HIGH,
    VELOCITY_LOW,
)
from robots.g1.facts import N_LEG_WAIST_JOINTS, facts, joint_facts
from robots.g1.walker import (
    DEEPEST_BOW_RAD,
    OBSERVATION_DIM,
    ControlLaw,
    joint_offsets,
)
from sim.batch import BodyBatch
from sim.locomotion.rewards import WalkState, walk_rewards
from sim.robot import walk_model

DT_S = 1.0 / CONTROL_HZ
CRITIC_DIM = OBSERVATION_DIM + 3 + 1 + 2 + 2  # + base velocity, height, foot heights, contacts
# An episode ends as the pelvis sinks so far below what is commanded: to crouch is not to walk.
SUNK_M = 0.2
PayloadKg = Annotated[float, Gt(-5)]  # the torso alone weighs more


@dataclass(frozen=True)
class WalkConfig:
    """What the worlds of walker training are like."""

    n_worlds: PositiveInt = 1024
    threads: Workers = 2
    episode_s: PositiveFloat = 20.0
    command_s: PositiveFloat = 5.0
    stand_share: Share = 0.3
    turn_share: Share = 0.2
    low_share: Share = 0.3
    bow_share: Share = 0.15
    push_m_s: NonNegativeFloat = 1.3
    push_every_s: PositiveFloat = 6.0
    friction: Annotated[tuple[PositiveFloat, PositiveFloat], Ascending] = (0.4, 1.25)
    torso_payload_kg: Annotated[tuple[PayloadKg, PayloadKg], Ascending] = (-1.0, 2.0)
    wrist_payload_kg: Annotated[tuple[NonNegativeFloat, NonNegativeFloat], Ascending] = (0.0, 1.5)
    wrist_payload_share: Share = 0.4
    mass_ratio: Annotated[tuple[PositiveFloat, PositiveFloat], Ascending] = (0.95, 1.05)
    torso_shift_m: NonNegativeFloat = 0.02
    gain_ratio: Annotated[tuple[PositiveFloat, PositiveFloat], Ascending] = (0.9, 1.1)
    delay_substeps: NonNegativeInt = 3
    joint_noise_rad: NonNegativeFloat = 0.01
    joint_vel_noise_rad_s: NonNegativeFloat = 0.5
    ang_vel_noise_rad_s: NonNegativeFloat = 0.2
    gravity_noise: NonNegativeFloat = 0.03


class WalkEnv(gymnasium.vector.VectorEnv):
    """`n_worlds` G1s follow random base velocities and postures while their arms move at random.

    Actions (n, 15) correct the reference gait of legs and waist, in units of `action_scale`, fifty
    times a second. Observations (n, 86) are the walker's (`ControlLaw.observation`), with noise;
    `info["critic"]` (n, 94) adds what only the simulation knows, and has none. The reward is
    `walk_rewards`' for a control period. A world terminates as its robot falls, sinks or keeps a
    foot planted for a cycle and a half, and is truncated after `episode_s`. It begins anew in the
    same step: what it ended with is in `info["final_obs"]`, without noise, where
    `info["_final_obs"]` (n,) says so. `info["disturbed"]` (n,) tells who got another command or
    was pushed, `info["terms"]` the mean of each term of the reward.

    A critic that knows more than its actor: Pinto et al. 2018, arXiv:1710.06542. Bodies that
    differ: Peng et al. 2018, arXiv:1710.06537; their ranges were chosen by hand.

    `reset(seed)` draws the bodies anew: friction, masses, payload of torso and wrists, where the
    torso's mass lies, gains, and how many physics steps a command is late. Equal seeds and actions
    give equal worlds, bit by bit; without a seed each environment goes its own way.
    """

    metadata: ClassVar[dict[str, Any]] = {"autoreset_mode": AutoresetMode.SAME_STEP}

    def __init__(self, config: WalkConfig = WalkConfig()) -> None:
        self.config = config
        self.num_envs = n = config.n_worlds
        box = gymnasium.spaces.Box
        self.single_observation_space = box(-np.inf, np.inf, (OBSERVATION_DIM,), np.float32)
        self.single_action_space = box(-10, 10, (N_LEG_WAIST_JOINTS,), np.float32)
        self.observation_space = batch_space(self.single_observation_space, n)
        self.action_space = batch_space(self.single_action_space, n)
        # Rewards bear sensors that are 7 ms old; what the walker reads comes from the state of now.
        self.bodies = BodyBatch(walk_model(), n, config.threads, fresh=False)
        self._home = np.array(self.bodies.model.key("home").qpos[-len(joint_facts("home_rad")) :])
        self._arm_low, self._arm_high = joint_facts("range_rad")[ARM_POS].T
        twins, signs = joint_mirror(G1)
        self._arm_twins = twins[ARM_POS] - N_LEG_WAIST_JOINTS
        self._arm_signs = signs[ARM_POS]
        self.penalty_factor = 0.1
        self.difficulty = 1.0  # scales noise, arm motion, pushes; training raises it
        self.episode_steps = np.zeros(n, dtype=np.int64)
        self.max_steps = round(config.episode_s * CONTROL_HZ)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        n = self.num_envs
        self.law = ControlLaw(n)
        self.command = np.tile(STAND_COMMAND, (n, 1)).astype(np.float64)
        self.velocity = self.command[:, :BASE_HEIGHT]  # a view
        self.pitch_goal, self.arm_speed = np.zeros(n), np.full((n, 1), ARM_SPEED_RAD_S)
        self.previous_action = np.zeros((n, N_LEG_WAIST_JOINTS))
        self.smooth_velocity, self.planted_s = np.zeros((n, 3)), np.zeros((n, 2))
        self._randomise_bodies()
        self._reset_worlds(np.ones(n, dtype=bool))
        observation, critic = self._observe()
        return observation, {"critic": critic}

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        self.previous_action = self.law.action
        self.bodies.step(self.law.act(np.array(actions)), delay=self.delay)
        self.episode_steps += 1
        state = self._walk_state()
        rewards, terms = walk_rewards(state, self.penalty_factor, self.difficulty)
        fallen = self.bodies.fallen(lowest_m=self.law.height - SUNK_M)
        terminated = fallen | self._planted(state)
        truncated = (self.episode_steps >= self.max_steps) & ~terminated
        info: dict[str, Any] = {"terms": terms, "fallen": fallen}
        info["episode_steps"] = self.episode_steps.copy()
        info["disturbed"] = self._disturb()
        if (ended := terminated | truncated).any():
            info |= {"final_obs": self._final_observation(ended), "_final_obs": ended}
            self._reset_worlds(ended)
        observation, info["critic"] = self._observe()
        return observation, (rewards * DT_S).astype(np.float32), terminated, truncated, info

    def _walk_state(self) -> WalkState:
        bodies, law = self.bodies, self.law
        phases, moving = gait.leg_phases(law.phase), law.stepping
        # A gait sways within each step; tracking is judged on what remains over 0.4 s.
        self.smooth_velocity += 0.05 * (bodies.base_velocity() - self.smooth_velocity)
        return WalkState(
            velocity_command=self.velocity,
            smooth_velocity=self.smooth_velocity,
            lin_vel=bodies.sensor("base_lin_vel"),
            ang_vel=bodies.sensor("base_ang_vel"),
            gravity=bodies.gravity(),
            height=bodies.height(),
            height_command=law.height,
            base_pos=bodies.qpos[:, :2],
            joint_offset=joint_offsets(bodies.joint_pos, law.posture)[:, :N_LEG_WAIST_JOINTS],
            sole_pos=bodies.feet("sole_pos"),
            sole_vel=bodies.feet("sole_vel"),
            sole_up=bodies.feet("sole_up"),
            contact=bodies.contact(),
            lift=gait.foot_lift(phases, moving),
            phases=phases,
            moving=moving,
            yaw=bodies.yaw(),
            action=law.action,
            previous_action=self.previous_action,
        )

    def _planted(self, state: WalkState) -> np.ndarray:
        """Worlds told to move whose foot has not left the floor for a cycle and a half.

        To hold both feet down balances so well that it is learned first, and never left again.
        """
        waiting = state.contact & gait.is_moving(self.velocity)[:, None]
        self.planted_s = np.where(waiting, self.planted_s + DT_S, 0.0)
        return self.planted_s.max(axis=1) > 1.5 * gait.PERIOD_S

    def _observe(self) -> tuple[np.ndarray, np.ndarray]:
        """What the walker reads as the next control period begins, and the critic."""
        c, law, bodies = self.config, self.law, self.bodies

        def noisy(values: np.ndarray, scale: float) -> np.ndarray:
            scale *= self.difficulty
            return values + self.np_random.uniform(-scale, scale, values.shape)

        joint_pos, joint_vel, ang_vel, gravity = bodies.proprioception()
        clean = law.observe(
            self.command, self.pitch_goal, joint_pos, joint_vel, ang_vel, gravity, self.arm_speed
        )
        observation = law.observation(
            noisy(law.joint_offset, c.joint_noise_rad),
            noisy(joint_vel, c.joint_vel_noise_rad_s),
            noisy(ang_vel, c.ang_vel_noise_rad_s),
            noisy(gravity, c.gravity_noise),
        )
        known = [
            2 * bodies.sensor("base_lin_vel"),
            5 * (bodies.height() - law.height)[:, None],
            10 * bodies.feet("sole_pos")[..., 2],
            bodies.contact(),
        ]
        critic = np.concatenate([clean, *known], axis=1).astype(np.float32)
        assert critic.shape == (self.num_envs, CRITIC_DIM)
        return observation, critic

    def _final_observation(self, ended: np.ndarray) -> np.ndarray:
        """(n, 86) what the worlds that end would have gone on from, zeros for the others."""
        asked, felt = (self.command, self.pitch_goal), self.bodies.proprioception()
        final = np.zeros((self.num_envs, OBSERVATION_DIM), dtype=np.float32)
        final[ended] = self.law.part(ended).observe(*(part[ended] for part in (*asked, *felt)))
        return final

    def _sample_commands(self, worlds: np.ndarray) -> None:
        n = int(worlds.sum())
        if not n:
            return
        c, rng = self.config, self.np_random
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
        self.command[worlds, BASE_HEIGHT] = np.where(
            low, rng.uniform(LOWEST_M, HIGHEST_M, n), STANDING_HEIGHT_M
        )
        velocity[low] *= rng.integers(0, 2, (n, 1))[low] * 0.5
        velocity[np.abs(velocity) < gait.MOVING_SPEED] = 0
        self.velocity[worlds] = velocity
        # Clocks that start again start with either foot.
        phase, foot = self.law.phase[worlds], rng.integers(0, 2, n) * 0.5
        self.law.phase[worlds] = np.where(gait.is_moving(velocity) & (phase == 0), foot, phase)

    def _sample_arm_goals(self, worlds: np.ndarray) -> None:
        n = int(worlds.sum())
        if not n:
            return
        rng = self.np_random
        amplitude = self.difficulty * rng.random((n, 1)) * (rng.random((n, 1)) < 0.7)
        anywhere = rng.uniform(self._arm_low, self._arm_high, (n, N_ARM_JOINTS))
        # Both arms to one side of the body carry its weight furthest: a third of all goals.
        alike = rng.random(n) < 1 / 3
        anywhere[alike] = np.where(
            np.arange(N_ARM_JOINTS) < N_ARM_JOINTS // 2,
            anywhere[alike],
            anywhere[alike][:, self._arm_twins] * self._arm_signs,
        )
        self.command[worlds, ARMS] = ARM_HOME_RAD + amplitude * (anywhere - ARM_HOME_RAD)
        self.arm_speed[worlds] = ARM_SPEED_RAD_S * rng.uniform(0.2, 1.0, (n, 1))

    def _disturb(self) -> np.ndarray:
        """Other commands, other goals of the arms, pushes; (n,) which worlds' velocity changed."""
        c, rng, n = self.config, self.np_random, self.num_envs
        commanded = rng.random(n) < DT_S / c.command_s
        self._sample_commands(commanded)
        self._sample_arm_goals(rng.random(n) < DT_S / 2.0)
        pushed = rng.random(n) < DT_S / c.push_every_s
        if pushed.any():
            angle = rng.uniform(0, 2 * np.pi, n)[:, None]
            speed = rng.uniform(0, self.difficulty * c.push_m_s, n)[:, None]
            self.bodies.push(speed * np.hstack([np.cos(angle), np.sin(angle)]), pushed)
        return pushed | commanded

    def _reset_worlds(self, worlds: np.ndarray) -> None:
        n, rng = int(worlds.sum()), self.np_random
        yaw = rng.uniform(-np.pi, np.pi, n)
        joints = np.tile(self._home, (n, 1))
        joints[:, :N_LEG_WAIST_JOINTS] += rng.uniform(-0.08, 0.08, (n, N_LEG_WAIST_JOINTS))
        self._sample_arm_goals(worlds)
        joints[:, N_LEG_WAIST_JOINTS:] = self.command[worlds, ARMS]
        velocity = self.difficulty * rng.uniform(-0.3, 0.3, (n, 2))
        self.bodies.place(joints, yaw, velocity=velocity, which=worlds)
        self.law.reset(worlds)
        self._sample_commands(worlds)
        for memory in (self.previous_action, self.smooth_velocity, self.planted_s):
            memory[worlds] = 0
        self.episode_steps[worlds] = 0

    def _randomise_bodies(self) -> None:
        c, rng, n = self.config, self.np_random, self.num_envs
        model, expand = self.bodies.model, self.bodies.batch.expand
        friction = expand("geom_friction")
        feet = [i for i in range(model.ngeom) if "_foot_" in model.geom(i).name]
        friction[:, feet, 0] = rng.uniform(*c.friction, (n, 1))
        mass = expand("body_mass")
        torso = model.body("torso_link").id
        torso_kg = next(b["mass_kg"] for b in facts()["bodies"] if b["name"] == "torso_link")
        mass[:] = model.body_mass * rng.uniform(*c.mass_ratio, (n, 1))
        mass[:, torso] = torso_kg + rng.uniform(*c.torso_payload_kg, n)
        for side in ("left", "right"):
            carries = rng.random(n) < c.wrist_payload_share
            hand = model.body(f"{side}_wrist_yaw_link").id
            mass[:, hand] += carries * rng.uniform(*c.wrist_payload_kg, n)
        centre = expand("body_ipos")
        shift = rng.uniform(-c.torso_shift_m, c.torso_shift_m, (n, 3))
        centre[:, torso] = model.body_ipos[torso] + shift
        self.delay = rng.integers(0, c.delay_substeps + 1, n)
        ratio = rng.uniform(*c.gain_ratio, (n, 1))
        kp, kd = model.actuator_gainprm[:, 0], -model.actuator_biasprm[:, 2]
        self.bodies.set_gains(kp * ratio, kd * ratio)
        self.bodies.batch.set_const()


def make_walk_worlds(num_envs: int = 1024, **config: Any) -> WalkEnv:
    """The worlds in which the walker learns; `config` are fields of WalkConfig."""
    return WalkEnv(WalkConfig(n_worlds=num_envs, **config))
