"""The Gymnasium face of the simulation: environments by name, single and batched.

`register_envs()` makes the names known: importing alone registers nothing. `gymnasium.make_vec`
steps all worlds of a batch together on all cores.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from robots.g1.embodiment import (
    CHUNK_HZ,
    COMMAND_DIM,
    CONTROL_HZ,
    HIGHEST_M,
    IMAGE_SIZE,
    LOWEST_M,
    STATE_DIM,
    VELOCITY_HIGH,
    VELOCITY_LOW,
)
from robots.g1.facts import N_LEG_WAIST_JOINTS, joint_facts
from sim.locomotion.env import WalkConfig, WalkEnv
from sim.render.camera import ThirdPerson
from sim.scene import sample_scene
from sim.world import World
from sim.worlds import Worlds

SCENE_ID = "Hitogata/G1Scene-v0"
WALK_ID = "Hitogata/G1Walk-v0"
# Far beyond any angle, speed, time or place of an episode: Gymnasium frowns on infinite spaces.
STATE_LIMIT = 1000.0
PERIODS_PER_STEP = round(CONTROL_HZ / CHUNK_HZ)


def register_envs() -> None:
    """Registers the project's environments, once."""
    if SCENE_ID not in gymnasium.registry:
        gymnasium.register(
            SCENE_ID,
            entry_point="sim.envs:SceneEnv",
            vector_entry_point="sim.envs:SceneVectorEnv",
        )
    if WALK_ID not in gymnasium.registry:
        gymnasium.register(WALK_ID, vector_entry_point="sim.envs:make_walk_worlds")


@dataclass(frozen=True)
class SceneConfig:
    """What episodes in random scenes are like."""

    n_objects: int = 4
    episode_s: float = 30.0
    goal_m: float = 0.6
    fall_penalty: float = 1.0


def observation_space() -> gymnasium.spaces.Dict:
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
    low, high = joint_facts("range_rad").T[:, N_LEG_WAIST_JOINTS:]
    return np.stack(
        [
            np.concatenate([VELOCITY_LOW, [LOWEST_M], low]),
            np.concatenate([VELOCITY_HIGH, [HIGHEST_M], high]),
        ]
    ).astype(np.float32)


def to_command(action: np.ndarray) -> np.ndarray:
    """The contract's (..., 18) command of an action in -1..1, each field from least to most."""
    low, high = command_range()
    return low + (np.clip(action, -1, 1) + 1) * (high - low) / 2


def to_action(command: np.ndarray) -> np.ndarray:
    """The (..., 18) float32 action of a command; the inverse of `to_command`."""
    low, high = command_range()
    return np.clip(2 * (command - low) / (high - low) - 1, -1, 1).astype(np.float32)


class _Episode:
    """The task of one world: come close to the first object of its scene."""

    def __init__(self, world: World, config: SceneConfig):
        self.world, self.config = world, config
        self._distance_m = self._distance()
        thing = world.scene.objects[0]
        self.target = f"{thing.colour} {thing.shape}"

    def _distance(self) -> float:
        x, y, _ = self.world.base_pose()
        return float(np.hypot(*(self.world.object_pose(0)[0][:2] - (x, y))))

    def observe(self) -> dict[str, np.ndarray]:
        observation = self.world.observe()
        return {"image": observation.images["head"], "state": observation.state}

    def judge(self) -> tuple[float, bool, bool, dict[str, Any]]:
        """Reward (metres gained, less a penalty for a fall), terminated, truncated and info."""
        before, self._distance_m = self._distance_m, self._distance()
        fallen = self.world.fallen()
        success = not fallen and self._distance_m < self.config.goal_m
        reward = before - self._distance_m - self.config.fall_penalty * fallen
        late = self.world.time_s >= self.config.episode_s - 1e-9
        info = self.info() | {"success": success, "fallen": fallen}
        return reward, fallen or success, late and not (fallen or success), info

    def info(self) -> dict[str, Any]:
        return {"target": self.target, "distance_m": self._distance_m}


def _new_episode(rng: np.random.Generator, config: SceneConfig) -> _Episode:
    scene = sample_scene(rng, config.n_objects)
    return _Episode(World(scene, seed=int(rng.integers(2**31))), config)


class SceneEnv(gymnasium.Env):
    """One G1 in a random scene, commanded ten times a second.

    The action is the contract's command, scaled (`to_command`), the observation its image and
    state; info["target"] names the object to walk to.
    """

    metadata: ClassVar[dict[str, Any]] = {
        "render_modes": ["rgb_array"],
        "render_fps": int(CHUNK_HZ),
    }

    def __init__(self, render_mode: str | None = None, config: SceneConfig = SceneConfig()):
        self.config, self.render_mode = config, render_mode
        self.observation_space, self.action_space = observation_space(), action_space()
        self._episode: _Episode | None = None
        self._view: ThirdPerson | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        super().reset(seed=seed)
        self.close()
        self._episode = _new_episode(self.np_random, self.config)
        return self._episode.observe(), self._episode.info()

    def step(
        self, action: np.ndarray
    ) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        assert self._episode is not None, "call reset() first"
        command = to_command(action)
        for _ in range(PERIODS_PER_STEP):
            self._episode.world.apply(command)
        reward, terminated, truncated, info = self._episode.judge()
        return self._episode.observe(), reward, terminated, truncated, info

    def render(self) -> np.ndarray | None:
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


class SceneVectorEnv(gymnasium.vector.VectorEnv):
    """`num_envs` scenes stepped together. A world that ends gets a new scene in the same step;
    what it last saw is in info["final_obs"], why it ended in info["final_info"]."""

    metadata: ClassVar[dict[str, Any]] = {"autoreset_mode": AutoresetMode.SAME_STEP}

    def __init__(self, num_envs: int = 1, threads: int = 0, config: SceneConfig = SceneConfig()):
        self.num_envs, self.config, self._threads = num_envs, config, threads
        self.single_observation_space = observation_space()
        self.single_action_space = action_space()
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._episodes: list[_Episode] = []
        self._worlds: Worlds | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        super().reset(seed=seed)
        self.close_extras()
        rngs = self.np_random.spawn(self.num_envs)
        self._rngs = rngs
        self._episodes = [_new_episode(rng, self.config) for rng in rngs]
        self._worlds = Worlds([episode.world for episode in self._episodes], self._threads)
        infos: dict[str, Any] = {}
        for i, episode in enumerate(self._episodes):
            infos = self._add_info(infos, episode.info(), i)
        return self._observe(), infos

    def step(
        self, actions: np.ndarray
    ) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        assert self._worlds is not None, "call reset() first"
        commands = to_command(actions)
        for _ in range(PERIODS_PER_STEP):
            self._worlds.apply(commands)
        rewards = np.zeros(self.num_envs)
        ended = np.zeros((2, self.num_envs), dtype=bool)
        infos: dict[str, Any] = {}
        for i, episode in enumerate(self._episodes):
            rewards[i], ended[0, i], ended[1, i], info = episode.judge()
            if ended[:, i].any():
                final = {"final_obs": episode.observe(), "final_info": info}
                info = self._renew(i).info() | final
            infos = self._add_info(infos, info, i)
        return self._observe(), rewards, ended[0], ended[1], infos

    def _renew(self, index: int) -> _Episode:
        assert self._worlds is not None
        self._episodes[index] = episode = _new_episode(self._rngs[index], self.config)
        self._worlds.replace(index, episode.world)
        return episode

    def _observe(self) -> dict[str, np.ndarray]:
        seen = [episode.observe() for episode in self._episodes]
        return {key: np.stack([each[key] for each in seen]) for key in ("image", "state")}

    def close_extras(self, **kwargs: Any) -> None:
        if self._worlds is not None:
            self._worlds.close()
            self._worlds = None


def make_walk_worlds(num_envs: int = 1024, **config: Any) -> WalkEnv:
    """The worlds in which the walker learns; `config` are fields of WalkConfig."""
    return WalkEnv(WalkConfig(n_worlds=num_envs, **config))
