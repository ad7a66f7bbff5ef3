"""Environments of Gymnasium: worlds as `gymnasium.Env` and, stepped together, as a vector of them.

What is asked in a world is a `WorldTask`, so that the same two classes serve every task.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, ClassVar, Protocol, cast

import gymnasium
import numpy as np
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space, concatenate, create_empty_array

from bridge.contract import UserError
from robots.g1.embodiment import CHUNK_HZ, COMMAND_DIM, CONTROL_HZ, G1, IMAGE_SIZE, STATE_DIM
from sim.render.camera import ThirdPerson
from sim.scene import sample_scene
from sim.world import World
from sim.worlds import Worlds

# Far beyond any angle, speed, time or place of an episode: Gymnasium frowns on infinite spaces.
STATE_LIMIT = 1000.0
PERIODS_PER_STEP = round(CONTROL_HZ / CHUNK_HZ)

Observed = dict[str, Any]
Info = dict[str, Any]


class WorldTask(Protocol):
    """What is asked in one world, from its first moment to its end."""

    world: World

    def observe(self) -> Observed:
        """The observation of now, in the environment's space."""
        ...

    def info(self) -> Info:
        """What is told beside an observation."""
        ...

    def limited(self, command: np.ndarray) -> np.ndarray:
        """The (18,) command of a control period in which `command` is asked for."""
        ...

    def watch(self) -> None:
        """Is called after every control period."""
        ...

    def judge(self) -> tuple[float, bool, bool, Info]:
        """After a step: its reward, terminated, truncated, and the info of now."""
        ...


def observation_space() -> gymnasium.spaces.Dict:
    """`image` (96, 96, 3) uint8 of the head camera; `state` (86,) float32, `Observation.state`."""
    return gymnasium.spaces.Dict(
        {
            "image": gymnasium.spaces.Box(0, 255, (IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8),
            "state": gymnasium.spaces.Box(-STATE_LIMIT, STATE_LIMIT, (STATE_DIM,), np.float32),
        }
    )


def action_space() -> gymnasium.spaces.Box:
    """Commands scaled to -1..1, see `to_command`."""
    return gymnasium.spaces.Box(-1, 1, (COMMAND_DIM,), np.float32)


@lru_cache
def command_range() -> np.ndarray:
    """(2, 18) least and most of each field of a command that walker and joints follow."""
    return np.stack([G1.limits.low, G1.limits.high]).astype(np.float32)


def to_command(action: np.ndarray) -> np.ndarray:
    """The contract's (..., 18) command of an action in -1..1, each field from least to most."""
    low, high = command_range()
    return low + (np.clip(action, -1, 1) + 1) * (high - low) / 2


def to_action(command: np.ndarray) -> np.ndarray:
    """The (..., 18) float32 action of a command; the inverse of `to_command`."""
    low, high = command_range()
    return np.clip(2 * (command - low) / (high - low) - 1, -1, 1).astype(np.float32)


def _command_of(action: np.ndarray, space: gymnasium.Space[Any]) -> np.ndarray:
    """The command of an action; UserError, and nothing has moved, for what is no action."""
    if np.shape(action) != space.shape or not np.isfinite(action).all():
        raise UserError(f"an action is finite numbers of shape {space.shape}: see action_space")
    return to_command(action)


class WorldEnv(gymnasium.Env):
    """One G1 in one world after another, commanded ten times a second.

    The action is the contract's command, scaled (`to_command`). `reset(seed)` draws scene and
    sensors anew: equal seeds and actions give equal episodes, bit by bit.
    """

    metadata: ClassVar[dict[str, Any]] = {
        "render_modes": ["rgb_array"],
        "render_fps": int(CHUNK_HZ),
    }

    def __init__(
        self,
        new_episode: Callable[[np.random.Generator], WorldTask],
        observation_space: gymnasium.Space[Observed],
        render_mode: str | None = None,
    ) -> None:
        self._new_episode, self.render_mode = new_episode, render_mode
        self.observation_space, self.action_space = observation_space, action_space()
        self._episode: WorldTask | None = None
        self._view: ThirdPerson | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observed, Info]:
        super().reset(seed=seed)
        self.close()
        self._episode = self._new_episode(self.np_random)
        return self._episode.observe(), self._episode.info()

    def step(self, action: np.ndarray) -> tuple[Observed, float, bool, bool, Info]:
        assert self._episode is not None, "call reset() first"
        command = _command_of(action, self.action_space)
        for _ in range(PERIODS_PER_STEP):
            self._episode.world.apply(self._episode.limited(command))
            self._episode.watch()
        reward, terminated, truncated, info = self._episode.judge()
        return self._episode.observe(), reward, terminated, truncated, info

    def render(self) -> np.ndarray | None:
        """(480, 640, 3) uint8 from behind the robot, for render_mode "rgb_array"."""
        if self.render_mode != "rgb_array" or self._episode is None:
            return None
        world = self._episode.world
        self._view = self._view or ThirdPerson(world.model)
        return self._view.draw(world.data)

    def close(self) -> None:
        if self._view is not None:
            self._view.close()
            self._view = None
        if self._episode is not None:
            self._episode.world.close()
            self._episode = None


class WorldVectorEnv(gymnasium.vector.VectorEnv):
    """`num_envs` worlds stepped together on `threads` threads (0: one per core).

    The i-th goes as a `WorldEnv` does under the i-th seed: `reset(seed)` takes the first of a run
    of seeds, or all of them. A world that ends begins anew in the same step: what it last saw is in
    info["final_obs"], why it ended in info["final_info"].
    """

    metadata: ClassVar[dict[str, Any]] = {"autoreset_mode": AutoresetMode.SAME_STEP}

    def __init__(
        self,
        new_episode: Callable[[np.random.Generator], WorldTask],
        observation_space: gymnasium.Space[Observed],
        num_envs: int = 1,
        threads: int = 0,
    ) -> None:
        self.num_envs, self._new_episode, self._threads = num_envs, new_episode, threads
        self.single_observation_space = observation_space
        self.single_action_space = action_space()
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._rngs = [seeding.np_random()[0] for _ in range(num_envs)]
        self._episodes: list[WorldTask] = []
        self._worlds: Worlds | None = None

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Observed, Info]:
        seeds = [seed] * self.num_envs if seed is None else seed
        if isinstance(seeds, int):
            super().reset(seed=seeds)
            seeds = range(seeds, seeds + self.num_envs)
        for i, each in zip(range(self.num_envs), seeds, strict=True):
            if each is not None:
                self._rngs[i], _ = seeding.np_random(each)
        self.close_extras()
        self._episodes = [self._new_episode(rng) for rng in self._rngs]
        self._worlds = Worlds([episode.world for episode in self._episodes], self._threads)
        self.closed = False
        infos: Info = {}
        for i, episode in enumerate(self._episodes):
            infos = self._add_info(infos, episode.info(), i)
        return self._observe(), infos

    def step(
        self, actions: np.ndarray
    ) -> tuple[Observed, np.ndarray, np.ndarray, np.ndarray, Info]:
        assert self._worlds is not None, "call reset() first"
        commands = _command_of(actions, self.action_space)
        for _ in range(PERIODS_PER_STEP):
            asked = zip(self._episodes, commands, strict=True)
            self._worlds.apply(np.stack([episode.limited(command) for episode, command in asked]))
            for episode in self._episodes:
                episode.watch()
        rewards = np.zeros(self.num_envs)
        ended = np.zeros((2, self.num_envs), dtype=bool)
        infos: Info = {}
        for i, episode in enumerate(self._episodes):
            rewards[i], ended[0, i], ended[1, i], info = episode.judge()
            if ended[:, i].any():
                final = {"final_obs": episode.observe(), "final_info": info}
                self._episodes[i] = episode = self._new_episode(self._rngs[i])
                self._worlds.replace(i, episode.world)
                info = episode.info() | final
            infos = self._add_info(infos, info, i)
        return self._observe(), rewards, ended[0], ended[1], infos

    def _observe(self) -> Observed:
        space, seen = self.single_observation_space, [each.observe() for each in self._episodes]
        return cast(Observed, concatenate(space, seen, create_empty_array(space, self.num_envs)))

    def close_extras(self, **kwargs: Any) -> None:
        if self._worlds is not None:
            self._worlds.close()
            self._worlds = None


@dataclass(frozen=True)
class SceneConfig:
    """What episodes in random scenes are like."""

    n_objects: int = 4
    episode_s: float = 30.0
    goal_m: float = 0.6
    fall_penalty: float = 1.0


class GoToFirst:
    """A `WorldTask`: come close to the first object of a random scene.

    The reward is the metres gained towards it in a step, less `fall_penalty` for a fall. Success,
    info["success"], is to stand within `goal_m` of its centre. Either terminates; `episode_s`
    truncates. info["target"] names the object, info["distance_m"] is how far it is.
    """

    def __init__(self, rng: np.random.Generator, config: SceneConfig) -> None:
        scene = sample_scene(rng, config.n_objects)
        self.world, self.config = World(scene, seed=int(rng.integers(2**31))), config
        self._distance_m = self._distance()
        self.target = f"{scene.objects[0].colour} {scene.objects[0].shape}"

    def _distance(self) -> float:
        x, y, _ = self.world.base_pose()
        return float(np.hypot(*(self.world.object_pose(0)[0][:2] - (x, y))))

    def observe(self) -> Observed:
        observation = self.world.observe()
        return {"image": observation.images["head"], "state": observation.state}

    def limited(self, command: np.ndarray) -> np.ndarray:
        return command

    def watch(self) -> None:
        pass

    def judge(self) -> tuple[float, bool, bool, Info]:
        before, self._distance_m = self._distance_m, self._distance()
        fallen = self.world.fallen()
        success = not fallen and self._distance_m < self.config.goal_m
        reward = before - self._distance_m - self.config.fall_penalty * fallen
        late = self.world.time_s >= self.config.episode_s - 1e-9
        info = self.info() | {"success": success, "fallen": fallen}
        return reward, fallen or success, late and not (fallen or success), info

    def info(self) -> Info:
        return {"target": self.target, "distance_m": self._distance_m}


class SceneEnv(WorldEnv):
    """Hitogata/G1Scene-v0: a random scene, and its first object to walk to (`GoToFirst`).

    Observations are of `observation_space`, actions of `action_space`.
    """

    def __init__(self, render_mode: str | None = None, config: SceneConfig = SceneConfig()) -> None:
        super().__init__(partial(GoToFirst, config=config), observation_space(), render_mode)


class SceneVectorEnv(WorldVectorEnv):
    """Hitogata/G1Scene-v0 as a vector of `num_envs`."""

    def __init__(
        self, num_envs: int = 1, threads: int = 0, config: SceneConfig = SceneConfig()
    ) -> None:
        new_episode = partial(GoToFirst, config=config)
        super().__init__(new_episode, observation_space(), num_envs, threads)
