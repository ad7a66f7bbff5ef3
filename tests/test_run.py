"""Carrying out one instruction: the scene, the verdict, the video, and a policy that fails."""

import json
from pathlib import Path

import numpy as np
import pytest

from bridge.contract import ActionChunk, Observation, UserError
from sim.scene import Scene, sample_scene
from tasks.episode import EpisodeOutcome, ExpertPolicy
from tasks.evaluation.run import RunConfig, carry_out, choose_scene, set_stage, verdict
from tasks.language.intent import UNKNOWN, Intent
from tasks.success import named_object

RED_BALL = Intent("go_to", colour="red", shape="ball")


class DyingPolicy:
    """Answers nothing, like a server that is gone."""

    def act(self, instruction: str, observation: Observation) -> ActionChunk:
        raise UserError("the policy server is gone")

    def reset(self) -> None:
        pass


def test_a_scene_is_chosen_that_has_what_is_named() -> None:
    seed, scene = choose_scene(RunConfig(), RED_BALL)
    assert seed is not None
    assert named_object(RED_BALL, scene) is not None
    assert not any(
        named_object(RED_BALL, sample_scene(np.random.default_rng(other))) is not None
        for other in range(seed)
    )


def test_a_seed_is_kept_even_if_its_scene_lacks_the_object() -> None:
    seed, scene = choose_scene(RunConfig(seed=0), RED_BALL)
    assert (seed, scene) == (0, sample_scene(np.random.default_rng(0)))


def test_a_scene_file_is_read_back(tmp_path: Path) -> None:
    scene = sample_scene(np.random.default_rng(3))
    path = tmp_path / "scene.json"
    path.write_text(json.dumps(scene.to_dict()), encoding="utf-8")
    assert choose_scene(RunConfig(scene=path), None) == (None, scene)


@pytest.mark.parametrize("text", ["", "[]", '{"objects": [{"shape": "egg"}]}'])
def test_what_is_no_scene_file_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "scene.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=r"scene\.json"):
        choose_scene(RunConfig(scene=path), None)


def test_a_missing_scene_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"none\.json cannot be read \(No such file.*: choose a file"
    ):
        choose_scene(RunConfig(scene=tmp_path / "none.json"), None)


def _outcome(success: bool, said: str) -> EpisodeOutcome:
    return EpisodeOutcome(
        success=success,
        fell=False,
        knocked=False,
        done_said=said == "done",
        said=said,
        time_s=1.0,
        understood={},
        details={},
    )


def test_verdicts() -> None:
    assert verdict(_outcome(True, "done"), RED_BALL) == "yes: go to the red ball"
    assert verdict(_outcome(False, "done"), RED_BALL).startswith("no: ")
    assert verdict(_outcome(False, "refused"), UNKNOWN).startswith("yes: ")
    assert verdict(_outcome(False, "done"), UNKNOWN).startswith("no: ")
    assert verdict(_outcome(True, "done"), None).startswith("not judged")


def test_a_policy_that_fails_leaves_the_robot_standing(capsys: pytest.CaptureFixture[str]) -> None:
    stage = set_stage("walk two metres forward", RunConfig(seed=0))
    before = stage.world.time_s
    with pytest.raises(UserError, match="gone"):
        carry_out(stage, DyingPolicy(), RunConfig())
    assert stage.world.time_s - before == pytest.approx(1.0, abs=0.05)
    assert not stage.world.fallen()
    assert "left standing" in capsys.readouterr().out


def test_the_expert_waves_and_a_video_is_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = RunConfig(seed=0, out=tmp_path / "wave.mp4")
    stage = set_stage("wave", config)
    wave = Intent("wave")
    assert stage.meaning == wave and stage.skill is not None
    expert = ExpertPolicy(stage.world, wave, stage.skill.expert)
    outcome = carry_out(stage, expert, config)
    assert outcome.success
    assert config.out.stat().st_size > 1000
    out = capsys.readouterr().out
    assert "success     yes: wave" in out and "falls       0" in out and "p95" in out


def test_scenes_differ_by_seed() -> None:
    assert choose_scene(RunConfig(seed=1), None) != choose_scene(RunConfig(seed=2), None)
    assert isinstance(choose_scene(RunConfig(seed=1), None)[1], Scene)
