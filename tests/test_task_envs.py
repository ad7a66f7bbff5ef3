"""Families of tasks as environments of Gymnasium: told in words, judged as an evaluation does."""

import gc
import importlib.util
import subprocess
import sys
import warnings
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from bench.footprint import footprint_of
from bridge.contract import UserError
from hitogata.environments import FAMILY_IDS, TASK_ID
from robots.g1.embodiment import G1, STAND_COMMAND, VEL_X
from sim.envs import to_action
from tasks.catalogue import SHIPPED
from tasks.envs import TaskEnv, TaskEnvConfig, TaskVectorEnv
from tasks.families import go_to
from tasks.language.intent import Intent
from tasks.language.parse import read_wording
from tasks.user_task import read_catalogue
from tests.test_success import RED_CUBE, SCENE, truth

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "docs" / "examples" / "learn_to_go.py"
STAND = to_action(STAND_COMMAND)
RAISED_BOTH = truth().hands_m + np.array([0, 0, 1])


def make(name: str, **options) -> gymnasium.Env:
    return gymnasium.make(name, **{"images": False} | options)


def play(env: gymnasium.Env, seed: int) -> tuple[list[float], dict]:
    """The rewards that the expert earns, and the last info."""
    env.reset(seed=seed)
    rewards, ended = [], False
    while not ended:
        _, reward, terminated, truncated, info = env.step(env.unwrapped.expert_action())
        rewards.append(float(reward))
        ended = terminated or truncated
    return rewards, info


def test_every_family_has_a_name():
    assert set(FAMILY_IDS) == set(SHIPPED.names)


def test_a_name_is_known_after_gymnasium_alone():
    code = (
        "import gymnasium\n"
        "env = gymnasium.make('hitogata:Hitogata/GoTo-v0')\n"
        "observed, info = env.reset(seed=0)\n"
        "print(observed['instruction'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    meaning = make(FAMILY_IDS["go_to"]).reset(seed=0)[1]["meaning"]
    assert meaning["action"] == "go_to" and done.stdout.strip()


@pytest.mark.parametrize("name", FAMILY_IDS.values())
def test_gymnasiums_checker_has_nothing_to_say(name):
    env = gymnasium.make(name, render_mode="rgb_array")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env.unwrapped)
    env.close()


@pytest.mark.parametrize("family", FAMILY_IDS)
def test_the_instruction_says_what_the_episode_is_about(family):
    env = make(FAMILY_IDS[family])
    understood = 0
    for seed in range(5):
        observed, info = env.reset(seed=seed)
        assert env.observation_space.contains(observed)
        assert info["meaning"]["action"] in {skill.name for skill in SHIPPED[family].skills}
        meant = read_wording(observed["instruction"], SHIPPED.language)
        understood += meant == Intent.of_slots(info["meaning"])
    assert understood >= 3, "all but those with a typing error"


def test_an_observation_has_the_bodys_state_and_a_picture_of_each_camera():
    env = make(FAMILY_IDS["gesture"], images=True)
    observed, _ = env.reset(seed=1)
    assert set(observed) == {"instruction", "state", "head_image"}
    camera = G1.cameras[0]
    assert observed["head_image"].shape == (camera.height, camera.width, 3)
    assert len(np.unique(observed["head_image"])) > 20
    elapsed_s, odometry = observed["state"][-4], observed["state"][-3:]
    assert elapsed_s == 0 and odometry == pytest.approx(np.zeros(3))
    env.close()


@pytest.mark.parametrize(("family", "seed"), [("go_to", 1), ("walk", 3), ("gesture", 0)])
def test_the_experts_success_is_reported_and_worth_one(family, seed):
    rewards, info = play(make(FAMILY_IDS[family]), seed)
    assert info["is_success"] and not info["failed"]
    assert rewards[-1] == 1 and not any(rewards[:-1])


def test_the_dense_reward_adds_up_to_what_was_gained():
    env = make(FAMILY_IDS["go_to"], reward_type="dense")
    _, before = env.reset(seed=0)
    gained = 0.0
    for _ in range(15):
        _, reward, *_, after = env.step(env.unwrapped.expert_action())
        gained += float(reward)

    def remaining(info):
        far = max(0, info["distance_m"] - go_to.GOAL_M)
        return far + max(0, abs(info["bearing_rad"]) - go_to.GOAL_FACING_RAD)

    assert gained > 0.3 and gained == pytest.approx(remaining(before) - remaining(after))


@pytest.mark.parametrize(
    ("meaning", "state", "remaining"),
    [
        (RED_CUBE, {}, 1.4),
        (RED_CUBE, {"base": (1.5, 0.0, np.pi)}, np.pi - go_to.GOAL_FACING_RAD),
        (Intent("walk_forward", amount="distance_2"), {"base": (1.5, 0.1, -0.2)}, 0.8),
        (Intent("step_left", amount="distance_0.5"), {"base": (0.1, 0.7, 0.0)}, 0.3),
        (Intent("turn_right", amount="angle_90"), {"base": (0.3, 0.4, -0.5)}, np.pi / 2),
        (Intent("stop"), {"base": (0.3, 0.0, 0.0)}, 0.0),
        # A hand at 0.64 m lacks 0.45 m to be over a shoulder at 1.04 m.
        (Intent("raise_hand", side="both"), {}, 0.9),
        (Intent("raise_hand", side="left"), {}, 0.45),
        (Intent("raise_hand"), {}, 0.45),
        (Intent("raise_hand", side="right"), {"hands": RAISED_BOTH}, 0.55),
        (Intent("wave", side="left"), {}, 2.45),
        (Intent("wave", side="left"), {"hands": RAISED_BOTH}, 2.0),
        (Intent("lower_arms"), {}, 0.0),
        (Intent("lower_arms"), {"hands": RAISED_BOTH}, 1.76),
    ],
)
def test_what_remains_is_counted_in_metres_and_radians(meaning, state, remaining):
    success = SHIPPED.skill(meaning).success(meaning, SCENE)
    success.begin(truth())
    success.watch(truth(0.02, **state))
    assert success.remaining(truth(0.02, **state)) == pytest.approx(remaining)


def test_pointing_remains_by_the_angle_of_the_better_hand():
    success = SHIPPED.skills["point_at"].success(Intent("point_at", "red", "cube"), SCENE)
    success.begin(truth())
    # Hands at home point 45 degrees down at what is nearly level.
    assert np.deg2rad(15) < success.remaining(truth()) < np.deg2rad(70)


def test_a_fall_ends_the_episode():
    env = make(FAMILY_IDS["walk"], reward_type="dense")
    env.reset(seed=0)
    env.unwrapped._episode.world.push(np.array([4.0, 0.0]))
    terminated, reward, info = False, 0.0, {}
    while not terminated:
        _, reward, terminated, truncated, info = env.step(STAND)
        assert not truncated
    assert info["failed"] and not info["is_success"] and float(reward) < -0.5


def test_commands_go_through_the_limiter():
    env = make(FAMILY_IDS["go_to"])
    env.reset(seed=0)
    action = STAND.copy()
    action[0] = 1.0
    speeds = []
    for _ in range(4):
        observed = env.step(action)[0]
        speeds.append(observed["state"][G1.state_parts["command"]][VEL_X])
    rate = G1.limits.rate[VEL_X]
    assert 0 < speeds[0] <= 0.1 * rate + 1e-6
    assert speeds[-1] == pytest.approx(G1.limits.high[VEL_X])


def equal(one: dict, other: dict) -> bool:
    return all(np.array_equal(one[key], other[key]) for key in one)


def test_seeds_are_as_the_api_says():
    env, other = make(FAMILY_IDS["gesture"]), make(FAMILY_IDS["gesture"])
    first, second = env.reset(seed=5)[0], env.reset()[0]
    assert not equal(first, second), "unseeded, it goes on"
    assert equal(first, other.reset(seed=5)[0]) and equal(second, other.reset()[0])
    assert equal(env.step(STAND)[0], other.step(STAND)[0])


def test_a_vector_goes_as_single_environments_with_the_seeds_in_a_row():
    options = {"family": "gesture", "images": False}
    env = TaskVectorEnv(num_envs=2, threads=1, **options)
    singles = [TaskEnv(**options) for _ in range(2)]
    observed, info = env.reset(seed=1)
    alone = [single.reset(seed=1 + i)[0] for i, single in enumerate(singles)]
    assert env.observation_space.contains(observed)
    assert list(observed["instruction"]) == [each["instruction"] for each in alone]
    assert info["meaning"]["action"].shape == (2,)
    ended = np.zeros(2, dtype=bool)
    while not ended.any():
        actions = np.stack([single.expert_action() for single in singles])
        observed, rewards, terminated, truncated, info = env.step(actions)
        stepped = [single.step(a) for single, a in zip(singles, actions, strict=True)]
        assert rewards.tolist() == [each[1] for each in stepped]
        ended = terminated | truncated
        for i in range(2):
            now = {"instruction": observed["instruction"][i], "state": observed["state"][i]}
            assert equal(info["final_obs"][i] if ended[i] else now, stepped[i][0])
    (i,) = np.flatnonzero(ended)
    assert info["final_info"]["is_success"][i] and not info["is_success"][i]
    begun = singles[i].reset()[0]
    assert observed["instruction"][i] == begun["instruction"]
    assert np.array_equal(observed["state"][i], begun["state"])
    env.close()


VECTORS = [
    {"vectorization_mode": "vector_entry_point", "threads": 1},
    {"vectorization_mode": "sync"},
    # A fork may hang where the process has threads, as those of MuJoCo and of the renderer.
    {
        "vectorization_mode": "async",
        "vector_kwargs": {"shared_memory": False, "context": "spawn"},
    },
]


@pytest.mark.parametrize("options", VECTORS, ids=lambda options: options["vectorization_mode"])
def test_every_kind_of_vector_carries_the_words(options):
    env = gymnasium.make_vec(FAMILY_IDS["walk"], num_envs=2, images=False, **options)
    observed, _ = env.reset(seed=11)
    single = make(FAMILY_IDS["walk"])
    told = [single.reset(seed=seed)[0]["instruction"] for seed in (11, 12)]
    assert list(observed["instruction"]) == told and told[0] != told[1]
    observed, *_ = env.step(np.stack([STAND, STAND]))
    assert list(observed["instruction"]) == told
    env.close()


def test_shared_memory_is_refused_rather_than_stale():
    with pytest.raises(ValueError, match="shared_memory=False"):
        gymnasium.make_vec(FAMILY_IDS["walk"], num_envs=2, vectorization_mode="async")


BOW = """
from tasks.families.walk import StoodStill, stop
from tasks.task import Skill, Task

BOW = Skill("bow", stop, StoodStill, 0.5, ("お辞儀をして",), ("礼",))
TASK = Task("bow", "bow", (BOW,))
"""


def test_a_task_of_ones_own_is_an_environment_in_any_script(tmp_path):
    file = tmp_path / "bow.py"
    file.write_text(BOW, encoding="utf-8")
    env = make(TASK_ID, family="bow", catalogue=read_catalogue([file]))
    observed, _ = env.reset(seed=0)
    assert "お辞儀をして" in observed["instruction"]
    assert env.observation_space.contains(observed)
    truncated = False
    for _ in range(5):
        assert not truncated
        *_, truncated, info = env.step(STAND)
    assert truncated and not info["is_success"], "a second of standing takes longer than it has"


@pytest.mark.parametrize(
    ("options", "remedy"),
    [
        ({"family": "goto"}, "did you mean go_to"),
        ({"family": "walk", "split": "test"}, "choose train or heldout"),
        ({"family": "walk", "reward_type": "shaped"}, "choose sparse or dense"),
        ({"family": "walk", "n_objects": -1}, "n_objects"),
        ({"family": "go_to", "n_objects": 0}, "n_objects must be at least 1"),
    ],
)
def test_a_wrong_option_is_told_with_its_remedy(options, remedy):
    with pytest.raises(UserError, match=remedy):
        TaskEnvConfig(**options)


def test_more_objects_than_fit_are_told_however_many():
    for n in (10, 100):
        with pytest.raises(UserError, match="take at most 9"):
            TaskEnv("gesture", n_objects=n).reset(seed=0)


def test_a_vector_that_was_closed_and_begun_again_closes_again():
    env = TaskVectorEnv("walk", num_envs=2, threads=1, images=False)
    for _ in range(2):
        env.reset(seed=0)
        env.close()
        with pytest.raises(AssertionError, match="call reset"):
            env.step(np.stack([STAND, STAND]))


def test_closing_leaves_nothing_behind():
    def opened_and_closed():
        for render_mode in (None, "rgb_array"):
            env = gymnasium.make(FAMILY_IDS["walk"], render_mode=render_mode)
            env.reset(seed=0)
            if render_mode:
                assert env.render().shape == (480, 640, 3)
            env.close()
        vector = TaskVectorEnv("walk", num_envs=2, threads=2)
        vector.reset(seed=0)
        vector.close()
        gc.collect()
        return footprint_of()

    before = opened_and_closed()
    after = opened_and_closed()
    assert (after.threads, after.files) == (before.threads, before.files)


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("stable_baselines3") is None, reason="no Stable-Baselines3"
)
def test_the_example_runs():
    done = subprocess.run(
        [sys.executable, EXAMPLE, "--steps", "200", "--episodes", "1"],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    assert "200 steps: return" in done.stdout
