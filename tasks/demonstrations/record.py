"""One recorded episode: the robot is shown or shows, with disturbances, and every frame is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge, Interval

from bridge.contract import ActionChunk, Observation, Policy, UserError
from bridge.control.safety import Level
from bridge.data.labels import Labels
from bridge.ranges import Ascending, NonNegativeFloat, NonNegativeInt, PositiveFloat, Share
from robots.g1.embodiment import (
    ARM_HOME_RAD,
    ARMS,
    BASE_HEIGHT,
    CHUNK_HZ,
    CHUNK_STEPS,
    G1,
    N_ARM_JOINTS,
    SIDES,
    VELOCITY_HIGH,
    VELOCITY_LOW,
)
from sim.scene import Scene
from sim.world import World
from tasks import arms
from tasks.catalogue import Catalogue
from tasks.demonstrations.relabel import LabelConfig, RecordedFrame, absent_pairs, relabel
from tasks.episode import ExpertPolicy, Rollout, context_of, warm_up
from tasks.language.grammar import pick
from tasks.language.intent import Intent
from tasks.success import wrapped
from tasks.task import Task

MOST_TAKES = 50  # of one episode; a policy that always falls gets none


@dataclass(frozen=True)
class RecordConfig:
    """How episodes are varied. Shares and rates are probabilities, per episode or per second.

    An expert that is disturbed shows how errors are mended: DART (Laskey et al. 2017,
    arXiv:1703.09327). Values were chosen by hand.
    `tasks` are files with tasks of the user's own; `sentences` how many of them a data set has
    besides those of its episodes.
    """

    tasks: tuple[Path, ...] = ()
    most_s: Annotated[float, Ge(2)] = 32.0
    most_instructions: Annotated[int, Ge(2)] = 4
    chained: Share = 0.45
    absent: Share = 0.04
    partial: Share = 0.1
    near_start: Share = 0.3
    moving_start: Share = 0.3
    arms_start: Share = 0.3
    push_hz: NonNegativeFloat = 0.06
    push_m_s: Annotated[float, Ge(0.1)] = 0.35
    burst_hz: NonNegativeFloat = 0.12
    burst_s: Annotated[tuple[PositiveFloat, PositiveFloat], Ascending] = (0.3, 1.2)
    burst_velocity: tuple[NonNegativeFloat, NonNegativeFloat, NonNegativeFloat] = (0.4, 0.2, 0.6)
    burst_arms_rad: NonNegativeFloat = 0.4
    done_s: Annotated[tuple[NonNegativeFloat, NonNegativeFloat], Ascending] = (0.4, 1.5)
    lost_before_fall_s: NonNegativeFloat = 1.0
    policy_replan_steps: Annotated[int, Interval(ge=1, le=CHUNK_STEPS)] = 3
    sentences: NonNegativeInt = 12_000
    labels: LabelConfig = field(default_factory=LabelConfig)


@dataclass(frozen=True)
class Demonstration:
    """What `bridge.data.dataset.DatasetWriter.add_episode` takes, by its names."""

    images: dict[str, np.ndarray]
    state: np.ndarray
    action: np.ndarray
    task: str
    qpos: np.ndarray
    scene: Mapping[str, Any]
    labels: Labels


def record_episode(
    catalogue: Catalogue,
    families: Sequence[str],
    rng: np.random.Generator,
    policy: Policy | None = None,
    config: RecordConfig = RecordConfig(),
) -> Demonstration:
    """Records one episode of one or several instructions.

    `families` are names of tasks. The expert acts, disturbed, or `policy` acts, undisturbed but for
    pushes; the expert labels.
    An episode that ends at once in a fall is recorded anew, at most MOST_TAKES times: UserError.
    """
    for _ in range(MOST_TAKES):
        take = _Take(catalogue, families, rng, policy, config)
        try:
            take.run()
            if len(take.frames) >= CHUNK_HZ:
                return take.recording()
        finally:
            take.world.close()
    raise UserError(f"the robot fell at once {MOST_TAKES} times: let another policy act")


class _Take:
    def __init__(
        self,
        catalogue: Catalogue,
        families: Sequence[str],
        rng: np.random.Generator,
        policy: Policy | None,
        config: RecordConfig,
    ) -> None:
        self.rng, self.config, self.policy, self._catalogue = rng, config, policy, catalogue
        self._tasks = [catalogue[name] for name in families]
        self._trial = self._draw_task().trial(rng)
        self.world = World(self._trial.scene, seed=int(rng.integers(2**31)))
        self.frames: list[RecordedFrame] = []
        self._observations: list[Observation] = []
        self._actions: list[np.ndarray] = []
        self._qpos: list[np.ndarray] = []
        self._yaw = 0.0

    def run(self) -> None:
        self._prepare()
        self._teacher = _Teacher(self._expert(self._trial.meaning), self.rng, self.config)
        steps = self.config.policy_replan_steps if self.policy else 1
        self._rollout = Rollout(self.world, self.policy or self._teacher, steps)
        rng, config = self.rng, self.config
        chained = rng.random() < config.chained
        count = int(rng.integers(2, config.most_instructions + 1)) if chained else 1
        for number in range(count):
            meaning = self._trial.meaning if number == 0 else self._next_meaning()
            self._carry_out(self._changed(meaning))
            if self.fell() or len(self.frames) >= config.most_s * CHUNK_HZ:
                break
        if self.fell():
            # A falling robot is no example, and nothing that the expert says then helps.
            keep = max(len(self.frames) - round(config.lost_before_fall_s * CHUNK_HZ), 0)
            for kept in (self.frames, self._observations, self._actions, self._qpos):
                del kept[keep:]

    def recording(self) -> Demonstration:
        wordings = dict.fromkeys(frame.wording for frame in self.frames)
        return Demonstration(
            images={
                camera.name: np.stack([each.images[camera.name] for each in self._observations])
                for camera in G1.cameras
            },
            state=np.stack([observation.state for observation in self._observations]),
            action=np.stack(self._actions).astype(np.float32),
            task=" ; ".join(wordings),
            qpos=np.stack(self._qpos),
            scene=self.world.scene.to_dict(),
            labels=relabel(self._catalogue, self.frames, self.rng, self.config.labels),
        )

    # --- what is asked ---

    def _draw_task(self) -> Task:
        shares = np.array([task.share for task in self._tasks])
        return self._tasks[int(self.rng.choice(len(shares), p=shares / shares.sum()))]

    def _next_meaning(self) -> Intent:
        """One that fits where the robot is now: no walk into an object."""
        places = self.world.snapshot().object_pos_m
        while True:
            drawn = self._draw_task().sample_meaning(self.rng, self.world.scene.objects)
            skill = self._catalogue.skill(drawn)
            if not any(skill.in_the_way(drawn, place) for place in places):
                return drawn

    def _changed(self, meaning: Intent) -> Intent:
        """Now and then an object that is not there, or one that is not fully named."""
        if meaning.colour is None or meaning.shape is None:
            return meaning
        draw = self.rng.random()
        if draw < self.config.absent:
            return _absent(meaning, self.world.scene, self.rng)
        if draw < self.config.absent + self.config.partial:
            dropped = "colour" if self.rng.random() < 0.5 else "shape"
            return replace(meaning, **{dropped: None})
        return meaning

    # --- where it begins ---

    def _prepare(self) -> None:
        rng, config = self.rng, self.config
        if self.world.scene.objects and rng.random() < config.near_start:
            self._stand_near_object()
        command = self._trial.start_command.copy()
        if rng.random() < config.arms_start:
            command[ARMS] = random_arms(rng)
        if rng.random() < config.moving_start:
            command[:BASE_HEIGHT] = rng.uniform(0.7 * VELOCITY_LOW, 0.7 * VELOCITY_HIGH)
        warm_up(self.world, command, rng.uniform(0.6, 1.5))
        self._yaw = self.world.base_pose()[2]

    def _stand_near_object(self) -> None:
        """On the inner side of an object, where no other is near, facing it more or less."""
        rng, scene = self.rng, self.world.scene
        thing = pick(scene.objects, rng)
        inward = np.arctan2(-thing.y_m, -thing.x_m) + rng.uniform(-1.0, 1.0)
        distance = rng.uniform(0.45, 1.2)
        x, y = thing.x_m + distance * np.cos(inward), thing.y_m + distance * np.sin(inward)
        if any(o is not thing and np.hypot(o.x_m - x, o.y_m - y) < 0.7 for o in scene.objects):
            return
        yaw = inward + np.pi + rng.normal(0, 0.6)
        qpos = self.world.qpos()
        qpos[:2] = x, y
        qpos[3:7] = np.cos(yaw / 2), 0, 0, np.sin(yaw / 2)
        self.world.set_qpos(qpos)

    # --- what happens ---

    def _carry_out(self, meaning: Intent) -> None:
        rng, config = self.rng, self.config
        wording = self._catalogue.language.sample_wording(meaning, rng, "train")
        self._teacher.expert = self._expert(meaning)
        self._rollout.instruct(wording)
        enough_s = rng.uniform(*config.done_s)
        while len(self.frames) < config.most_s * CHUNK_HZ:
            self._keep(meaning, wording)
            if rng.random() < config.push_hz / CHUNK_HZ:
                angle, size = rng.uniform(-np.pi, np.pi), rng.uniform(0.1, config.push_m_s)
                self.world.push(size * np.array([np.cos(angle), np.sin(angle)]))
            self._rollout.advance(1)
            self._actions.append(self.world.command)
            said_s = self._rollout.said_s
            if self.fell() or (said_s is not None and said_s > enough_s):
                return

    def _expert(self, meaning: Intent) -> ExpertPolicy:
        return ExpertPolicy(self.world, meaning, self._catalogue.skill(meaning).expert)

    def fell(self) -> bool:
        """Whether the robot has fallen, or its safety no longer follows the policy."""
        return self.world.fallen() or self._rollout.safety.level > Level.HOLD

    def _keep(self, meaning: Intent, wording: str) -> None:
        """Records the moment."""
        view, observation = self.world.snapshot(), self.world.observe()
        x, y, yaw = view.base_pose
        self._yaw += wrapped(yaw - self._yaw)
        context = context_of(observation)
        self.frames.append(RecordedFrame(view, context, (x, y, self._yaw), meaning, wording))
        self._observations.append(observation)
        self._qpos.append(self.world.qpos())


class _Teacher:
    """The expert of the instruction in force, whose robot now and then does something wrong."""

    def __init__(self, expert: Policy, rng: np.random.Generator, config: RecordConfig) -> None:
        self.expert, self._rng, self._config = expert, rng, config
        self.reset()

    def reset(self) -> None:
        self._burst: tuple[float, np.ndarray] | None = None

    def act(self, instruction: str, observation: Observation) -> ActionChunk:
        rng, config, now_s = self._rng, self._config, observation.time_s
        chunk = self.expert.act(instruction, observation)
        if self._burst is None and rng.random() < config.burst_hz / CHUNK_HZ:
            wrong = self._wrong_command(observation.command.copy())
            self._burst = now_s + rng.uniform(*config.burst_s), wrong
        elif self._burst is not None and now_s >= self._burst[0]:
            self._burst = None
        if self._burst is None:
            return chunk
        return replace(chunk, commands=np.tile(self._burst[1], (len(chunk.commands), 1)))

    def _wrong_command(self, command: np.ndarray) -> np.ndarray:
        rng, config = self._rng, self._config
        command[:BASE_HEIGHT] += rng.uniform(-1, 1, 3) * config.burst_velocity
        command[:BASE_HEIGHT] = np.clip(command[:BASE_HEIGHT], VELOCITY_LOW, VELOCITY_HIGH)
        if rng.random() < 0.3:
            command[ARMS] += rng.normal(0, config.burst_arms_rad, N_ARM_JOINTS)
        return command


def random_arms(rng: np.random.Generator) -> np.ndarray:
    """(14,) targets between home and one of the poses that gestures lead to, with noise."""
    side = pick(SIDES, rng)
    aim = (2.0 * np.cos(angle := rng.uniform(-0.6, 0.6)), 2.0 * np.sin(angle), -0.6)
    pointing = arms.both_arms({side: arms.pointing(side, aim)})
    goals = (arms.raised((side,)), pointing, arms.raised(SIDES))
    goal = goals[rng.choice(len(goals), p=(0.35, 0.45, 0.2))]
    share = rng.uniform(0.2, 1.0)
    return (1 - share) * ARM_HOME_RAD + share * goal + rng.normal(0, 0.1, N_ARM_JOINTS)


def _absent(meaning: Intent, scene: Scene, rng: np.random.Generator) -> Intent:
    there = {(thing.colour, thing.shape) for thing in scene.objects}
    colour, shape = pick(absent_pairs(there), rng)
    return replace(meaning, colour=colour, shape=shape)
