"""Environments by name: Gymnasium's own checks, batches, and worlds stepped together."""

import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from bridge.contract import STAND_COMMAND, UserError
from sim.envs import (
    SCENE_ID,
    WALK_ID,
    SceneConfig,
    command_range,
    register_envs,
    to_action,
    to_command,
)
from sim.scene import Scene, sample_scene
from sim.world import World
from sim.worlds import Worlds

WALK = STAND_COMMAND.copy()
WALK[:3] = [0.4, 0.0, 0.2]


@pytest.fixture(scope="module", autouse=True)
def _registered():
    register_envs()
    register_envs()  # a second call changes nothing


def test_the_scene_passes_gymnasiums_checker_without_a_warning():
    env = gymnasium.make(SCENE_ID, render_mode="rgb_array")
    with warnings.catch_warnings():
        warnings.simplefilter("error", category=UserWarning)
        check_env(env.unwrapped)
    env.close()


def test_actions_are_commands_scaled_to_one():
    low, high = command_range()
    assert to_command(-np.ones(18)) == pytest.approx(low)
    assert to_command(np.ones((2, 18)))[1] == pytest.approx(high)
    assert to_command(to_action(WALK)) == pytest.approx(WALK, abs=1e-6)
    assert to_command(np.full(18, 9.0)) == pytest.approx(high)


def test_equal_seeds_play_equal_episodes():
    played = []
    for _ in range(2):
        env = gymnasium.make(SCENE_ID)
        first, info = env.reset(seed=3)
        second, reward, *_ = env.step(to_action(WALK))
        played.append((first["image"], second["state"], info["target"], reward))
        env.close()
    assert all(np.array_equal(a, b) for a, b in zip(*played, strict=True))


def test_reward_is_the_metres_gained():
    env = gymnasium.make(SCENE_ID)
    _, start = env.reset(seed=0)
    gained = 0.0
    for _ in range(5):
        _, reward, _, _, info = env.step(to_action(WALK))
        gained += float(reward)
    assert gained == pytest.approx(start["distance_m"] - info["distance_m"])
    env.close()


def test_a_batch_of_scenes_keeps_its_spaces_and_renews_worlds_that_end():
    env = gymnasium.make_vec(
        SCENE_ID,
        num_envs=2,
        vectorization_mode="vector_entry_point",
        threads=1,
        config=SceneConfig(n_objects=3, episode_s=0.2),
    )
    observation, info = env.reset(seed=1)
    assert env.observation_space.contains(observation)
    assert set(info["target"][0].split()) != set(info["target"][1].split())
    actions = to_action(np.stack([STAND_COMMAND, WALK]))
    assert env.action_space.contains(actions)
    observation, reward, terminated, truncated, _ = env.step(actions)
    assert reward.shape == (2,) and not (terminated | truncated).any()
    observation, _, terminated, truncated, info = env.step(actions)
    assert truncated.all() and not terminated.any()
    assert observation["state"][:, -4] == pytest.approx([0, 0])  # elapsed time of a new episode
    assert info["final_obs"][0]["state"][-4] == pytest.approx(0.2)
    env.close()


def test_worlds_together_are_worlds_alone_bit_by_bit():
    scenes = [sample_scene(np.random.default_rng(seed), 3) for seed in (1, 2, 3)]
    commands = np.tile(STAND_COMMAND, (3, 1))
    commands[:, 0] = [0.0, 0.3, 0.6]
    together = Worlds([World(s, seed=i, render=False) for i, s in enumerate(scenes)], threads=2)
    alone = [World(s, seed=i, render=False) for i, s in enumerate(scenes)]
    for step in range(15):
        if step == 5:
            together[1].push(np.array([0.2, 0.1]))
            alone[1].push(np.array([0.2, 0.1]))
        together.apply(commands)
        for world, command in zip(alone, commands, strict=True):
            world.apply(command)
    for i, world in enumerate(alone):
        assert np.array_equal(together[i].qpos(), world.qpos())
        assert np.array_equal(together[i].observe().state(), world.observe().state())


def test_unlike_scenes_do_not_share_a_batch():
    worlds = [World(sample_scene(np.random.default_rng(0), n), render=False) for n in (1, 2)]
    with pytest.raises(UserError, match="equally many objects"):
        Worlds(worlds)
    assert len(Worlds([World(Scene(), render=False)])) == 1


def test_walking_worlds_have_a_name():
    env = gymnasium.make_vec(
        WALK_ID, num_envs=3, vectorization_mode="vector_entry_point", threads=1
    )
    observation, _ = env.reset(seed=0)
    assert observation.shape == (3, 86)
    observation, reward, *_ = env.step(np.zeros((3, 15), dtype=np.float32))
    assert reward.shape == (3,) and np.isfinite(observation).all()
    env.close()
