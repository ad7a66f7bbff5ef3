"""One recorded episode: the robot is shown or shows, with disturbances, and every frame is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from bridge.contract import ActionChunk, Observation, Policy, Status
from bridge.control.chunk_player import ChunkPlayer
from bridge.data.labels import Labels
from robots.g1.embodiment import (
    ARM_HOME_RAD,
    ARMS,
    BASE_HEIGHT,
    CHUNK_HZ,
    G1,
    N_ARM_JOINTS,
    VELOCITY_HIGH,
    VELOCITY_LOW,
)
from sim.scene import Scene
from sim.world import World
from tasks import arms
from tasks import expert as experts
from tasks.catalogue import CATALOGUE, family, in_the_way
from tasks.demonstrations.relabel import Frame, LabelConfig, absent_pairs, relabel
from tasks.episode import PERIODS_PER_STEP, context_of, warm_up
from tasks.language.intent import Meaning, sample_wording
from tasks.success import wrapped

# How often each family is asked, relative to the others: what needs eyes needs most pictures.
SHARES = {"go_to": 0.6, "gesture": 0.22, "walk": 0.18}


@dataclass(frozen=True)
class RecordConfig:
    """How episodes are varied. Shares and rates are probabilities, per episode or per second.

    `tasks` are files with tasks of the user's own; `sentences` how many of them a data set has
    besides those of its episodes.
    """

    tasks: tuple[Path, ...] = ()
    most_s: float = 32.0
    most_instructions: int = 4
    chained: float = 0.45
    absent: float = 0.04
    partial: float = 0.1
    near_start: float = 0.3
    moving_start: float = 0.3
    arms_start: float = 0.3
    push_hz: float = 0.06
    push_m_s: float = 0.35
    burst_hz: float = 0.12
    burst_s: tuple[float, float] = (0.3, 1.2)
    burst_velocity: tuple[float, float, float] = (0.4, 0.2, 0.6)
    burst_arms_rad: float = 0.4
    done_s: tuple[float, float] = (0.4, 1.5)
    lost_before_fall_s: float = 1.0
    policy_replan_steps: int = 3
    sentences: int = 12_000
    labels: LabelConfig = field(default_factory=LabelConfig)


@dataclass(frozen=True)
class Recording:
    """What `bridge.dataset.DatasetWriter.add_episode` takes, by its names."""

    images: dict[str, np.ndarray]
    state: np.ndarray
    action: np.ndarray
    task: str
    qpos: np.ndarray
    scene: Mapping[str, Any]
    labels: Labels


def record_episode(
    families: Sequence[str],
    rng: np.random.Generator,
    policy: Policy | None = None,
    config: RecordConfig = RecordConfig(),
    walker_path: str | None = None,
) -> Recording:
    """Records one episode of one or several instructions.

    The expert acts, disturbed, or `policy` acts, undisturbed but for pushes; the expert labels.
    An episode that ends at once in a fall is recorded anew.
    """
    while True:
        take = _Take(families, rng, policy, config, walker_path)
        try:
            take.run()
            if len(take.frames) >= CHUNK_HZ:
                return take.recording()
        finally:
            take.world.close()


class _Take:
    def __init__(
        self,
        families: Sequence[str],
        rng: np.random.Generator,
        policy: Policy | None,
        config: RecordConfig,
        walker_path: str | None,
    ):
        self.rng, self.config, self.policy = rng, config, policy
        self._families = families
        self._trial = family(self._draw_family()).trial(rng)
        self.world = World(self._trial.scene, seed=_seed(rng), walker_path=walker_path)
        self.frames: list[Frame] = []
        self._observations: list[Observation] = []
        self._actions: list[np.ndarray] = []
        self._qpos: list[np.ndarray] = []
        self._yaw = 0.0
        self._burst: tuple[float, np.ndarray] | None = None

    def run(self) -> None:
        self._prepare()
        rng, config = self.rng, self.config
        chained = rng.random() < config.chained
        count = int(rng.integers(2, config.most_instructions + 1)) if chained else 1
        for number in range(count):
            meaning = self._trial.meaning if number == 0 else self._next_meaning()
            self._carry_out(self._changed(meaning))
            if self.world.fallen() or len(self.frames) >= config.most_s * CHUNK_HZ:
                break
        if self.world.fallen():
            # A falling robot is no example, and nothing that the expert says then helps.
            keep = max(len(self.frames) - round(config.lost_before_fall_s * CHUNK_HZ), 0)
            for kept in (self.frames, self._observations, self._actions, self._qpos):
                del kept[keep:]

    def recording(self) -> Recording:
        wordings = dict.fromkeys(frame.wording for frame in self.frames)
        return Recording(
            images={
                camera.name: np.stack([each.images[camera.name] for each in self._observations])
                for camera in G1.cameras
            },
            state=np.stack([observation.state for observation in self._observations]),
            action=np.stack(self._actions).astype(np.float32),
            task=" ; ".join(wordings),
            qpos=np.stack(self._qpos),
            scene=self.world.scene.to_dict(),
            labels=relabel(self.frames, self.rng, self.config.labels),
        )

    # --- what is asked ---

    def _draw_family(self) -> str:
        shares = np.array([SHARES[name] for name in self._families])
        return self._families[int(self.rng.choice(len(shares), p=shares / shares.sum()))]

    def _next_meaning(self) -> Meaning:
        """One that fits where the robot is now: no walk into an object."""
        places = self.world.snapshot().object_pos_m
        while True:
            drawn = CATALOGUE[self._draw_family()].meaning(self.rng, self.world.scene)
            if not any(in_the_way(drawn, place) for place in places):
                return drawn

    def _changed(self, meaning: Meaning) -> Meaning:
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
        thing = scene.objects[int(rng.integers(len(scene.objects)))]
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

    def _carry_out(self, meaning: Meaning) -> None:
        world, rng, config = self.world, self.rng, self.config
        wording = sample_wording(meaning, rng, "train")
        world.begin_instruction()
        player = ChunkPlayer(G1)
        if self.policy:
            self.policy.reset()
        enough, finished = rng.uniform(*config.done_s), 0
        for step in range(round(config.most_s * CHUNK_HZ)):
            observation = world.observe()
            chunk = self._keep(observation, meaning, wording)
            if self.policy and step % config.policy_replan_steps == 0:
                told = self.policy.act(wording, observation)
            else:
                told = chunk
            if not self.policy or step % config.policy_replan_steps == 0:
                player.accept(told, world.time_s, world.command)
                finished = finished + 1 if told.status != Status.ACTING else 0
            self._live(player)
            patience = enough * CHUNK_HZ / (config.policy_replan_steps if self.policy else 1)
            if finished > patience or world.fallen():
                return
            if len(self.frames) >= config.most_s * CHUNK_HZ:
                return

    def _keep(self, observation: Observation, meaning: Meaning, wording: str) -> ActionChunk:
        """Records the moment; returns what the expert would do."""
        world = self.world
        view, context = world.snapshot(), context_of(observation)
        x, y, yaw = view.base_pose
        self._yaw += wrapped(yaw - self._yaw)
        self.frames.append(Frame(view, context, (x, y, self._yaw), meaning, wording))
        self._observations.append(observation)
        self._qpos.append(world.qpos())
        commands, status = experts.act(meaning, view, context)
        return ActionChunk(observation.time_s, commands, status, 1.0, {})

    def _live(self, player: ChunkPlayer) -> None:
        """One step of the episode's 10 Hz."""
        world, rng, config = self.world, self.rng, self.config
        if rng.random() < config.push_hz / CHUNK_HZ:
            angle, size = rng.uniform(-np.pi, np.pi), rng.uniform(0.1, config.push_m_s)
            world.push(size * np.array([np.cos(angle), np.sin(angle)]))
        if self._burst is None and not self.policy and rng.random() < config.burst_hz / CHUNK_HZ:
            self._burst = world.time_s + rng.uniform(*config.burst_s), self._wrong_command()
        elif self._burst is not None and world.time_s >= self._burst[0]:
            self._burst = None
        for _ in range(PERIODS_PER_STEP):
            command = self._burst[1] if self._burst else player.command(world.time_s)
            world.hold() if command is None else world.apply(command)
        self._actions.append(world.command)

    def _wrong_command(self) -> np.ndarray:
        rng, config, command = self.rng, self.config, self.world.command
        command[:BASE_HEIGHT] += rng.uniform(-1, 1, 3) * config.burst_velocity
        command[:BASE_HEIGHT] = np.clip(command[:BASE_HEIGHT], VELOCITY_LOW, VELOCITY_HIGH)
        if rng.random() < 0.3:
            command[ARMS] += rng.normal(0, config.burst_arms_rad, N_ARM_JOINTS)
        return command


def random_arms(rng: np.random.Generator) -> np.ndarray:
    """(14,) targets between home and one of the poses that gestures lead to, with noise."""
    side = arms.SIDES[int(rng.integers(2))]
    aim = (2.0 * np.cos(angle := rng.uniform(-0.6, 0.6)), 2.0 * np.sin(angle), -0.6)
    pointing = arms.both_arms({side: arms.pointing(side, aim)})
    goals = (arms.raised((side,)), pointing, arms.raised(arms.SIDES))
    goal = goals[rng.choice(len(goals), p=(0.35, 0.45, 0.2))]
    share = rng.uniform(0.2, 1.0)
    return (1 - share) * ARM_HOME_RAD + share * goal + rng.normal(0, 0.1, N_ARM_JOINTS)


def _absent(meaning: Meaning, scene: Scene, rng: np.random.Generator) -> Meaning:
    there = {(thing.colour, thing.shape) for thing in scene.objects}
    pairs = absent_pairs(there)
    colour, shape = pairs[int(rng.integers(len(pairs)))]
    return replace(meaning, colour=colour, shape=shape)


def _seed(rng: np.random.Generator) -> int:
    return int(rng.integers(2**31))
