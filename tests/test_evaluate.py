"""Evaluations: kept as they go, gone on with, told of honestly."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bridge.contract import UserError
from hitogata import commandline
from hitogata.__main__ import COMMANDS
from sim.scene import Scene
from tasks.evaluation import evaluate as module
from tasks.evaluation.evaluate import EvaluateConfig, drops, evaluate, figures_of, paired_drop
from tasks.evaluation.results import read_results, write_results

CONFIG = EvaluateConfig(("walk",), episodes=4, processes=1, clips=False)


def _row(job: Any) -> dict[str, Any]:
    return {
        "family": job.name,
        "index": job.index,
        "swapped": job.swapped,
        "split": job.config.split,
        "success": job.index != 1,
        "fell": False,
        "done_said": True,
        "said": "done",
        "time_s": 1.0 + job.index,
        "wording": "walk",
        "latencies_ms": [1.0],
    }


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The episodes that were really tried; the third is interrupted when asked for once."""
    found: list[int] = []

    def attempt(worker: object, job: Any) -> Any:
        found.append(job.index)
        if found == [0, 1, 2]:
            raise KeyboardInterrupt
        return module._Tried(_row(job), Scene(), [])

    monkeypatch.setattr(module, "_try", attempt)
    return found


def test_an_interrupted_evaluation_keeps_what_it_has_and_goes_on(
    tmp_path: Path, tried: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(KeyboardInterrupt):
        evaluate(None, CONFIG, tmp_path, model="a")
    assert "2 of 4 episodes" in capsys.readouterr().out
    assert len(json.loads((tmp_path / "episodes.json").read_text(encoding="utf-8"))) == 2
    assert "Episodes: 2" in (tmp_path / "report.html").read_text(encoding="utf-8")
    again = replace(CONFIG, resume=True, processes=1)
    figures = evaluate(None, again, tmp_path, model="a")
    assert tried == [0, 1, 2, 2, 3]
    assert figures["walk_success"] == 0.75 and figures["walk_success_outcomes"] == "1011"
    assert evaluate(None, again, tmp_path, model="a") == figures and len(tried) == 5


def test_another_model_or_config_is_not_gone_on_with(tmp_path: Path, tried: list[int]) -> None:
    with pytest.raises(KeyboardInterrupt):
        evaluate(None, CONFIG, tmp_path, model="a")
    with pytest.raises(UserError, match=r"begun with another model \(a, not b\)"):
        evaluate(None, replace(CONFIG, resume=True), tmp_path, model="b")
    with pytest.raises(UserError, match=r"begun with another seed \(0, not 1\)"):
        evaluate(None, replace(CONFIG, resume=True, seed=1), tmp_path, model="a")
    assert tried == [0, 1, 2]


def test_altered_rows_are_not_gone_on_with(tmp_path: Path, tried: list[int]) -> None:
    with pytest.raises(KeyboardInterrupt):
        evaluate(None, CONFIG, tmp_path, model="a")
    file = tmp_path / "episodes.json"
    first, second = json.loads(file.read_text(encoding="utf-8"))
    for altered in ([{}], [second, first], [first, first], [first, second, first], [first] * 5):
        file.write_text(json.dumps(altered), encoding="utf-8")
        with pytest.raises(UserError, match="other episodes than were begun"):
            evaluate(None, replace(CONFIG, resume=True), tmp_path, model="a")
    assert tried == [0, 1, 2]


def test_a_kill_at_the_beginning_leaves_no_rows_of_other_options(
    tmp_path: Path, tried: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    tried.append(-1)  # none is interrupted
    evaluate(None, CONFIG, tmp_path, model="a")
    writes = iter([module.write_json])

    def killed(path: Path, content: Any) -> None:
        next(writes, _killed)(path, content)

    def _killed(path: Path, content: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "write_json", killed)
    with pytest.raises(KeyboardInterrupt):
        evaluate(None, replace(CONFIG, seed=1), tmp_path, model="a")
    assert json.loads((tmp_path / "episodes.json").read_text(encoding="utf-8")) == []


def test_no_family_is_told() -> None:
    with pytest.raises(UserError, match="--families names none"):
        evaluate(None, EvaluateConfig(()))


@pytest.mark.parametrize(
    "options",
    [
        "--expert --floor zero",
        "--floor zero --blind text",
        "--checkpoint runs/x --blind image",
        "--connect ipc:///tmp/x --blind text",
    ],
)
def test_two_policies_at_once_are_refused(options: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="exclude each other"):
        commandline.dispatch(COMMANDS, ["evaluate", *options.split(), "--out", str(tmp_path)])


def test_a_folder_that_cannot_be_written_is_told_before(tmp_path: Path, tried: list[int]) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="could not write"):
        evaluate(None, CONFIG, tmp_path / "file" / "out")
    for option in ("--out", "--results"):
        line = ["evaluate", "--floor", "zero", "--out", str(tmp_path / "new")]
        with pytest.raises(UserError, match="could not write"):
            commandline.dispatch(COMMANDS, [*line, option, str(tmp_path / "file" / "x.json")])
    assert tried == []


def test_figures_go_beside_the_report(
    tmp_path: Path, tried: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = "evaluate --floor zero --families walk --episodes 2 --processes 1 --no-clips --out new"
    commandline.dispatch(COMMANDS, [str(word) for word in words.split()])
    source = read_results(tmp_path / "new/results.json")["sources"]["zero_walk_success"]
    assert source["model_id"] == "zero" and source["seed"] == 0 and source["tries"] == 2
    assert len(source["embodiment"]) == 12
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_a_baseline_has_figures_of_every_family() -> None:
    rows = [{**_row(job), "success": job.name == "walk"} for job in module._jobs(CONFIG)]
    rows += [{**row, "family": "go_to", "success": False} for row in rows]
    config = replace(CONFIG, families=("walk", "go_to"), baseline="no_text")
    figures = figures_of(rows, config)
    rates = {key: figures[f"no_text_{key}success"] for key in ("", "walk_", "go_to_")}
    assert rates == {"": 0.5, "walk_": 1.0, "go_to_": 0.0}


def _results(**outcomes: str) -> dict[str, Any]:
    figures = {f"{key}_success_outcomes": value for key, value in outcomes.items()}
    return {"figures": figures, "sources": {f"{key}_success": {"seed": 0} for key in outcomes}}


def test_drops_compare_the_same_scenes_of_the_same_seed() -> None:
    results = _results(walk="1110", heldout_walk="1100", go_to="11", heldout_go_to="010")
    pairs = [(f"{name}_success", f"heldout_{name}_success") for name in ("walk", "go_to")]
    found = paired_drop(results, "heldout_drop", pairs)
    assert found["heldout_drop"] == pytest.approx(2 / 6) and found["heldout_drop_episodes"] == 6
    low, high = found["heldout_drop_interval"]
    assert low < 2 / 6 < high
    results["sources"]["go_to_success"]["seed"] = 1
    assert paired_drop(results, "heldout_drop", pairs) == {}
    assert paired_drop(_results(walk="11"), "heldout_drop", pairs) == {}
    assert paired_drop({}, "heldout_drop", []) == {}


def test_the_drop_is_about_the_families_of_its_own_command(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    found = _results(walk="11", heldout_walk="10", gesture="11", heldout_gesture="00", go_to="11")
    found["figures"]["fp32_go_to_success_outcomes"] = "11"
    write_results(path, found["figures"], "x")
    results = read_results(path) | {"sources": found["sources"]}
    results["sources"]["fp32_go_to_success"] = {"seed": 0}
    heldout = replace(CONFIG, split="heldout")
    assert drops(results, heldout)["heldout_drop"] == 0.5
    changed = drops(results, replace(CONFIG, families=("go_to",)))
    assert changed["int8_drop"] == 0.0 and "heldout_drop" not in changed
    results["sources"]["heldout_drop"] = {"families": ["walk", "gesture"]}
    assert drops(results, CONFIG)["heldout_drop"] == 0.75
