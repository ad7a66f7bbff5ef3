"""Tasks in the simulated world, with a body that glides: what needs no walker."""

import dataclasses
import json
import os

import mujoco
import numpy as np
import pytest
from PIL import ImageFont

from bridge.contract import UserError
from bridge.data.dataset import read_episodes
from bridge.data.sentences import read_sentences
from bridge.locks import hold_folder
from robots.g1.embodiment import ARMS, CHUNK_HZ, CONTROL_HZ, G1, STAND_COMMAND
from robots.g1.facts import N_LEG_WAIST_JOINTS, joint_facts
from sim.render.video import caption
from sim.robot import CONTROL_SUBSTEPS
from sim.scene import Scene, sample_scene
from sim.world import World
from tasks.catalogue import SHIPPED
from tasks.demonstrations import record
from tasks.demonstrations.collect import collect
from tasks.demonstrations.record import RecordConfig, record_episode
from tasks.episode import ExpertPolicy, run_episode, warm_up
from tasks.evaluation.evaluate import EvaluateConfig, evaluate, figures_of
from tasks.evaluation.floors import FLOORS
from tasks.language.intent import Intent
from tasks.language.parse import read_wording

DT_S = 1 / CONTROL_HZ


def glide(world: World, command: np.ndarray) -> None:
    """World.apply without a walker: the base slides as asked, only the arms have physics."""
    model, data = world.model, world.data
    model.dof_armature[:6] = 1e5
    world._command = np.array(command, dtype=np.float32)
    data.ctrl[:] = joint_facts("home_rad")
    data.ctrl[N_LEG_WAIST_JOINTS:] = command[ARMS]
    x, y, yaw = world.base_pose()
    mujoco.mj_step(model, data, CONTROL_SUBSTEPS)
    vx, vy, rate = 0.8 * command[:3]
    cos, sin = np.cos(yaw), np.sin(yaw)
    velocity = np.array([cos * vx - sin * vy, sin * vx + cos * vy])
    yaw += rate * DT_S
    data.qpos[:7] = [*(velocity * DT_S + (x, y)), 0.76, np.cos(yaw / 2), 0, 0, np.sin(yaw / 2)]
    data.qvel[:6] = [*velocity, 0, 0, 0, rate]
    legs = slice(0, N_LEG_WAIST_JOINTS)
    data.qpos[world._body._joint_qpos[legs]] = joint_facts("home_rad")[legs]
    data.qvel[world._body._joint_dof[legs]] = 0
    mujoco.mj_kinematics(model, data)
    mujoco.mj_camlight(model, data)
    world._steps += 1
    world._odometry.advance(world.base_pose(), DT_S)


@pytest.fixture(autouse=True)
def gliding(monkeypatch):
    monkeypatch.setattr(World, "apply", glide)


def try_expert(name: str, seed: int):
    trial = SHIPPED[name].trial(np.random.default_rng(seed))
    world = World(trial.scene, seed=seed, render=False)
    warm_up(world, trial.start_command, 0.4)
    policy = ExpertPolicy(world, trial.meaning, trial.skill.expert)
    return run_episode(world, policy, "as shown", trial.success(), trial.time_limit_s)


@pytest.mark.parametrize("name", SHIPPED.names)
@pytest.mark.parametrize("seed", range(3))
def test_the_expert_succeeds(name, seed):
    outcome = try_expert(name, seed)
    assert outcome.success and not outcome.fell, outcome


def test_equal_seeds_give_equal_episodes():
    first, second = try_expert("go_to", 1), try_expert("go_to", 1)
    assert (first.time_s, first.details) == (second.time_s, second.details)


def test_an_unknown_family_is_answered_with_the_nearest():
    with pytest.raises(UserError, match="go_to"):
        SHIPPED["goto"]


def test_walks_have_a_clear_way():
    rng = np.random.default_rng(0)
    for _ in range(50):
        trial = SHIPPED["walk"].trial(rng)
        assert trial.skill.clear_way(trial.meaning, trial.scene) == trial.scene

    def in_the_way(meaning, xy_m):
        return SHIPPED.skill(meaning).in_the_way(meaning, xy_m)

    assert in_the_way(Intent("walk_backward", amount="distance_2"), (-2.2, 0.3))
    assert not in_the_way(Intent("walk_backward", amount="distance_2"), (2.2, 0.3))
    assert not in_the_way(Intent("turn_left"), (1.0, 0.0))
    scene = sample_scene(rng)
    assert SHIPPED.skills["stop"].clear_way(Intent("stop"), scene) == scene


QUICK = RecordConfig(most_s=2.5, chained=0.0, absent=0.0, sentences=60)


def test_collecting_goes_on_where_it_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(record, "World", lambda *args, **kw: World(*args, **kw, render=False))
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    collect(whole, 3, processes=1, seed=5, config=QUICK)
    collect(parts, 1, processes=1, seed=5, config=QUICK)
    assert collect(parts, 3, processes=1, seed=5, config=QUICK) > 0
    assert collect(parts, 3, processes=1, seed=5, config=QUICK) == 0
    for one, other in zip(read_episodes(whole), read_episodes(parts), strict=True):
        assert one.task == other.task
        np.testing.assert_array_equal(one.state, other.state)
        np.testing.assert_array_equal(one.labels.commands, other.labels.commands)
        assert len(one.pngs["head"]) == len(one.qpos) <= 25
    sentences = read_sentences(whole)
    assert sentences is not None and sentences.texts == read_sentences(parts).texts
    assert len(sentences.texts) == QUICK.sentences
    language = SHIPPED.language
    read = [read_wording(text, language, ("train",)) for text in sentences.texts]
    meant = [language.from_slots(slots) for slots in sentences.slots]
    right = [one == other for one, other in zip(read, meant, strict=True)]
    assert np.mean(right) > 0.6, "all but those with a typing error"
    assert all(one is None or fits for one, fits in zip(read, right, strict=True))


def test_a_folder_is_collected_into_by_one_process(tmp_path):
    with (
        hold_folder(tmp_path, "collects"),
        pytest.raises(UserError, match=rf"another process \({os.getpid()}\) collects in"),
    ):
        collect(tmp_path, 1, processes=1)


def test_going_on_with_another_family_brings_its_sentences(tmp_path):
    for families in (("walk",), ("walk", "gesture"), ("gesture",)):
        collect(tmp_path, 0, families, config=QUICK)
    found = read_sentences(tmp_path)
    assert found is not None and found.families == ("walk", "gesture")
    assert len(found.texts) == len(found.slots) == 2 * QUICK.sentences
    skills = {SHIPPED.language.from_slots(slots).skill for slots in found.slots}
    assert {"stop", "lower_arms"} <= skills


def test_evaluation_tells_rates_with_intervals(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "tasks.evaluation.evaluate.World", lambda *args, **kw: World(*args, **kw, render=False)
    )
    config = EvaluateConfig(("gesture", "swap"), episodes=1, processes=1)
    figures = evaluate(None, config, tmp_path)
    assert figures["gesture_success"] == figures["swap_both"] == 1.0
    assert figures["gesture_success_interval"][1] == 1.0
    rows = json.loads((tmp_path / "episodes.json").read_text(encoding="utf-8"))
    assert len(rows) == 3 and rows[1]["meaning"] != rows[2]["meaning"]
    assert (tmp_path / "success.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("floor", ["zero", "random"])
def test_a_floor_has_figures_of_its_own(floor, monkeypatch):
    monkeypatch.setattr(
        "tasks.evaluation.evaluate.World", lambda *args, **kw: World(*args, **kw, render=False)
    )
    config = EvaluateConfig(("go_to",), episodes=2, processes=1, clips=False, floor=floor)
    figures = evaluate(None, config)
    assert figures == evaluate(None, config), "the same commands again"
    assert figures[f"{floor}_go_to_success"] == 0.0
    assert figures[f"{floor}_go_to_success_episodes"] == 2


def test_floors_stand_still_and_move_at_random():
    observation = World(Scene(), render=False).observe()
    still = FLOORS["zero"]().act("go on", observation)
    np.testing.assert_array_equal(still.commands, np.tile(STAND_COMMAND, (16, 1)))
    policy, limits = FLOORS["random"](), G1.limits
    drawn = np.stack([policy.act("go on", observation).commands[0] for _ in range(200)])
    assert (drawn >= limits.low).all() and (drawn <= limits.high).all()
    middle = (limits.low + limits.high) / 2
    # The mean of 200 uniform draws is within 5 standard deviations of the middle.
    off = np.abs(drawn.mean(axis=0) - middle) / (limits.high - limits.low)
    assert off.max() < 5 / np.sqrt(12 * 200)
    policy.reset()
    np.testing.assert_array_equal(policy.act("go on", observation).commands[0], drawn[0])


def test_swap_counts_a_pair_only_if_both_are_right():
    rows = [
        {"family": "swap", "index": i, "success": s}
        for i, pair in enumerate([(True, True), (True, False), (False, False)])
        for s in pair
    ]
    assert figures_of(rows, EvaluateConfig(("swap",)))["swap_both"] == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    "config", [EvaluateConfig(("walk", "jump")), EvaluateConfig(split="other")]
)
def test_evaluation_refuses_what_does_not_exist(config):
    with pytest.raises(UserError):
        evaluate(None, config)


def test_a_caption_has_one_size_whatever_it_says():
    assert caption("walk " * 100, "acting").shape == caption("", "").shape


def test_a_caption_draws_accents_and_shows_what_no_font_has():
    assert not np.array_equal(caption("caf\u00e9 \u00f8", ""), caption("caf? ?", ""))
    assert np.array_equal(caption("walk \U000f0000", ""), caption("walk ?", ""))


def test_the_longest_caption_is_measured_a_few_times_and_drawn_once(monkeypatch):
    measured = []
    length = ImageFont.FreeTypeFont.getlength
    monkeypatch.setattr(
        ImageFont.FreeTypeFont,
        "getlength",
        lambda font, text, *a: measured.append(text) or length(font, text, *a),
    )
    drawn = {caption("walk " * 205, f"{i / 10:5.1f} s").tobytes() for i in range(50)}
    assert len(drawn) == 50
    assert len([text for text in measured if "walk" in text]) < 30


def test_start_commands_leave_something_to_do():
    rng = np.random.default_rng(0)
    stop, lower, wave = (SHIPPED.skills[name] for name in ("stop", "lower_arms", "wave"))
    assert stop.start_command(rng)[0] > 0
    assert not np.allclose(lower.start_command(rng), STAND_COMMAND)
    np.testing.assert_array_equal(wave.start_command(rng), STAND_COMMAND)


def test_demonstrations_record_what_safety_lets_through():
    wrong = RecordConfig(most_s=4.0, chained=0.0, burst_hz=8.0, push_hz=0.0, sentences=0)
    calm = dataclasses.replace(wrong, burst_hz=0.0)
    limits, slack = G1.limits, 1e-4

    def actions(config: RecordConfig) -> np.ndarray:
        take = record_episode(SHIPPED, ("gesture",), np.random.default_rng(2), config=config)
        return take.action

    disturbed = actions(wrong)
    assert (disturbed >= limits.low - slack).all() and (disturbed <= limits.high + slack).all()
    steps = np.abs(np.diff(disturbed, axis=0))
    assert (steps <= limits.rate / CHUNK_HZ + slack).all()
    # Wrong commands are up to 0.4 m/s off; a gesture walks nowhere.
    assert np.abs(disturbed[5:, :2]).max() > 0.1 > np.abs(actions(calm)[10:, :2]).max()
