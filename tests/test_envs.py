"""Environments by name: Gymnasium's own checks, batches, and worlds stepped together."""

import string
import subprocess
import sys
import warnings
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from bridge.contract import UserError
from hitogata.environments import SCENE_ID, WALK_ID, register_envs
from robots.g1.embodiment import STAND_COMMAND, STATE_DIM
from sim.envs import (
    STATE_LIMIT,
    SceneConfig,
    SceneEnv,
    SceneVectorEnv,
    WorldEnv,
    WorldVectorEnv,
    command_range,
    to_action,
    to_command,
)
from sim.scene import Scene, sample_scene
from sim.world import World
from sim.worlds import Worlds

ROOT = Path(__file__).parents[1]
WALK = STAND_COMMAND.copy()
WALK[:3] = [0.4, 0.0, 0.2]


def in_a_fresh_interpreter(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_names_are_known_after_gymnasium_alone():
    said = in_a_fresh_interpreter(
        "import gymnasium\n"
        "env = gymnasium.make('hitogata:Hitogata/G1Scene-v0')\n"
        "print(type(env.unwrapped).__name__)\n"
        "worlds = gymnasium.make_vec('hitogata:Hitogata/G1Walk-v0', 2,"
        " vectorization_mode='vector_entry_point', threads=1)\n"
        "print(worlds.reset(seed=0)[0].shape)\n"
    )
    assert said.split("\n")[:2] == ["SceneEnv", "(2, 86)"]


def test_the_front_door_loads_no_simulator_and_opens_without_gymnasium():
    in_a_fresh_interpreter(
        "import sys, hitogata; assert not {'mujoco', 'torch', 'sim'} & set(sys.modules)"
    )
    in_a_fresh_interpreter("import sys; sys.modules['gymnasium'] = None; import hitogata")


def test_registering_again_changes_nothing():
    before = dict(gymnasium.registry)
    register_envs()
    assert gymnasium.registry == before


def test_the_scene_passes_gymnasiums_checker_without_a_warning():
    env = gymnasium.make(SCENE_ID, render_mode="rgb_array")
    with warnings.catch_warnings():
        warnings.simplefilter("error", category=UserWarning)
        check_env(env.unwrapped)
    env.close()


@pytest.mark.parametrize(
    "wrong",
    [np.float32(0), np.zeros(1), np.zeros((1, 18)), np.zeros(17), np.full(18, np.nan), None],
    ids=lambda wrong: str(np.shape(wrong)),
)
def test_what_is_no_action_moves_nothing(wrong):
    env = SceneEnv()
    env.reset(seed=0)
    with pytest.raises(UserError, match=r"finite numbers of shape \(18,\)"):
        env.step(wrong)
    observed, *_ = env.step(to_action(WALK))
    env.reset(seed=0)
    assert np.array_equal(observed["state"], env.step(to_action(WALK))[0]["state"])
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


def test_a_batch_goes_as_single_environments_with_the_seeds_in_a_row_bit_by_bit():
    config = SceneConfig(n_objects=3, episode_s=0.2)
    env = SceneVectorEnv(2, threads=1, config=config)
    singles = [SceneEnv(config=config) for _ in range(2)]
    actions = to_action(np.stack([STAND_COMMAND, WALK]))

    def resets(seed):
        together, info = env.reset(seed=seed)
        seeds = seed if isinstance(seed, list) else [seed, seed + 1]
        alone = [single.reset(seed=s) for single, s in zip(singles, seeds, strict=True)]
        compare(together, [observed for observed, _ in alone])
        assert info["target"].tolist() == [told["target"] for _, told in alone]

    def compare(together, alone):
        for key, values in together.items():
            assert np.array_equal(values, np.stack([observed[key] for observed in alone]))

    for seed in (7, [7, 30]):
        resets(seed)
        for _ in range(2):
            together, rewards, _, truncated, info = env.step(actions)
            alone = [single.step(action) for single, action in zip(singles, actions, strict=True)]
            assert rewards.tolist() == [reward for _, reward, *_ in alone]
        assert truncated.all()
        for i, (observed, *_, told) in enumerate(alone):
            assert np.array_equal(info["final_obs"][i]["state"], observed["state"])
            assert info["final_info"]["distance_m"][i] == told["distance_m"]
        compare(together, [single.reset()[0] for single in singles])
    assert not np.array_equal(env.reset()[0]["image"], together["image"]), "unseeded, it goes on"
    with pytest.raises(ValueError, match="shorter"):
        env.reset(seed=[1])
    env.close()


def test_unseeded_environments_differ():
    states = [SceneVectorEnv(1, threads=1).reset()[1]["distance_m"][0] for _ in range(2)]
    assert states[0] != states[1]


def test_an_episode_of_another_task_may_observe_its_instruction():
    class Told:
        """Stand for two tenths of a second, as you are told."""

        def __init__(self, rng):
            self.world, self.text = World(Scene(), render=False), f"stand {rng.integers(9)}"
            self.periods = 0

        def observe(self):
            return {"instruction": self.text, "state": self.world.observe().state}

        def info(self):
            return {}

        def limited(self, command):
            return command

        def watch(self):
            self.periods += 1

        def judge(self):
            late = self.periods == 10
            return 1.0, False, late, {"success": late}

    spaces = gymnasium.spaces
    state = spaces.Box(-STATE_LIMIT, STATE_LIMIT, (STATE_DIM,), np.float32)
    space = spaces.Dict({"instruction": spaces.Text(256, charset=string.printable), "state": state})
    with warnings.catch_warnings():
        warnings.simplefilter("error", category=UserWarning)
        check_env(WorldEnv(Told, space), skip_render_check=True)
    env = WorldVectorEnv(Told, space, num_envs=2, threads=1)
    observation, _ = env.reset(seed=0)
    assert env.observation_space.contains(observation)
    assert all(text.startswith("stand ") for text in observation["instruction"])
    for _ in range(2):
        *_, info = env.step(to_action(np.stack([STAND_COMMAND] * 2)))
    assert info["final_info"]["success"].all()
    assert info["final_obs"][0]["instruction"] == observation["instruction"][0]
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
        assert np.array_equal(together[i].observe().state, world.observe().state)


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
