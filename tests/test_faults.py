"""Every fault of the catalogue on a simulated robot: what it does, what its operator reads."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pytest

from bench.faults.catalogue import FAULTS, GROUPS, choose, purpose, try_fault
from bench.faults.report import bench_faults, faults_table, tried_row
from bench.faults.trace import breaches, joint_breaches, verdict
from bridge.contract import UserError
from bridge.control.safety import Limiter
from hitogata.policies import HITOGATA
from robots.g1.embodiment import G1, STAND_COMMAND, VEL_X
from robots.g1.facts import joint_facts
from tasks.evaluation.results import read_figures

ROOT = Path(__file__).parents[1]


def one_of_each(groups: Iterable[Mapping[str, object]]) -> list[str]:
    """Of faults that differ in a parameter, the first; the bench tries all."""
    faults = {name: fault for group in groups for name, fault in group.items()}
    firsts = {getattr(fault, "func", fault): name for name, fault in reversed(faults.items())}
    return [name for name in faults if name in firsts.values()]


def check_safe(name: str) -> None:
    """Tries a fault: the robot stays safe, and its operator is told in plain words."""
    outcome = try_fault(name, HITOGATA)
    assert outcome.passed, outcome
    assert outcome.robot and outcome.operator and "\n" not in outcome.operator
    assert "Traceback" not in outcome.operator


# The others are in test_faults_around.py, so that two workers share them.
@pytest.mark.slow
@pytest.mark.parametrize("name", one_of_each(group.FAULTS for group in GROUPS[:8]))
def test_the_robot_stays_safe(name, patient):
    check_safe(name)


def test_every_fault_says_what_it_is():
    for name in FAULTS:
        assert len(purpose(name)) > 20 and "partial" not in purpose(name), name


def test_an_unknown_fault_is_answered_with_the_nearest():
    assert choose(()) == tuple(FAULTS)
    assert choose(["body_fall"]) == ("body_fall",)
    with pytest.raises(UserError, match="network_delay"):
        choose(["network_dalay"])


def test_a_trace_within_its_limits():
    limits, rng = G1.limits, np.random.default_rng(0)
    limiter = Limiter(limits, STAND_COMMAND)
    sent = [STAND_COMMAND, STAND_COMMAND]
    sent += [limiter.step(STAND_COMMAND + rng.normal(0, 3, 18)) for _ in range(500)]
    assert breaches(sent, limits) == []
    # After brakes a trace begins anew, wherever the joints are.
    assert breaches([*sent, None, STAND_COMMAND], limits) == []
    assert breaches([*sent, STAND_COMMAND + 0.3], limits) != []


def test_joint_targets_are_possible_poses():
    home = joint_facts("home_rad").astype(float)
    assert joint_breaches([home, home]) == [] == joint_breaches([])
    assert joint_breaches([home, home + 4.0]) == ["a joint target was beyond its range"]
    assert joint_breaches([home, home * np.nan]) == ["a joint target was not finite"]


@pytest.mark.parametrize(
    ("field", "values", "wrong"),
    [
        (VEL_X, [0.0, np.nan, 0.0], "finite"),
        (VEL_X, [0.0, np.inf], "finite"),
        (VEL_X, [1.01, 1.01], "range"),
        (VEL_X, [0.0, 0.13], "too fast"),
        # 2 rad/s from rest within a period: allowed as a rate, not as its change of 100 rad/s².
        (7, [0.6, 0.6, 0.64], "rate changed"),
    ],
)
def test_a_trace_beyond_its_limits(field, values, wrong):
    sent = []
    for value in values:
        command = STAND_COMMAND.copy()
        command[field] = value
        sent.append(command)
    assert any(wrong in line for line in breaches(sent, G1.limits))


def test_what_does_not_hold_is_told():
    assert verdict([], "stood", "a\n b").operator == "a b"
    failed = verdict(["not upright"], "stood", "")
    assert not failed.passed and failed.robot == "BUT not upright. stood"


def test_the_table_shows_failures(tmp_path, monkeypatch):
    monkeypatch.setitem(FAULTS, "good", lambda trial: verdict([], "stood", "read"))
    monkeypatch.setitem(FAULTS, "bad", lambda trial: verdict(["not upright"], "fell", "read"))

    def hopeless(trial):
        raise TimeoutError("the robot never showed it")

    def broken(trial):
        raise KeyError("x")

    monkeypatch.setitem(FAULTS, "hopeless", hopeless)
    monkeypatch.setitem(FAULTS, "broken", broken)
    results = tmp_path / "bridge.json"
    bench_faults(HITOGATA, ["good"], results)
    with pytest.raises(UserError, match="3 faults failed: read the lines of bad, hopeless, broken"):
        bench_faults(HITOGATA, ["bad", "hopeless", "broken"], results)
    kept = read_figures(results)["faults"]
    assert {name: outcome["passed"] for name, outcome in kept.items()} == {
        "good": True,
        "bad": False,
        "hopeless": False,
        "broken": False,
    }
    assert faults_table(kept).row_count == 4


def test_the_first_try_at_a_commit_counts():
    def outcome(passed, robot):
        return {"passed": passed, "robot": robot, "operator": "o", "lost": "nothing"}

    row = tried_row(None, outcome(False, "fell"), {"commit": "a", "date": "1"}, 2.0)
    assert (row["passed"], row["robot"]) == (False, "fell")
    assert row["tries"] == [{"commit": "a", "date": "1", "passed": False, "seconds": 2.0}]
    again = tried_row(row, outcome(True, "stood"), {"commit": "a", "date": "2"}, 3.0)
    assert (again["passed"], again["robot"]) == (False, "fell"), "no later try mends it"
    assert [each["passed"] for each in again["tries"]] == [False, True]
    mended = tried_row(again, outcome(True, "stood"), {"commit": "b", "date": "3"}, 3.0)
    assert (mended["passed"], mended["robot"], len(mended["tries"])) == (True, "stood", 3)
    back = tried_row(mended, outcome(True, "ran"), {"commit": "a", "date": "4"}, 3.0)
    assert back["robot"] == "stood", "that commit has had its first try"
    spec = importlib.util.spec_from_file_location("tables", ROOT / "docs" / "tables.py")
    assert spec and spec.loader
    spec.loader.exec_module(tables := importlib.util.module_from_spec(spec))
    line = tables.fault_table({"faults": ({"fault": back}, "")}).splitlines()[-1]
    assert line.endswith("| 1 of 1 | b | 3 |"), "and what is told is of the other"


def test_a_rerun_adds_to_the_tries_of_its_own_row_alone(tmp_path, monkeypatch):
    results, passes = tmp_path / "bridge.json", iter([False, True, True])
    for name in ("one", "two"):
        monkeypatch.setitem(
            FAULTS, name, lambda trial: verdict([] if next(passes) else ["x"], "", "")
        )
    with pytest.raises(UserError):
        bench_faults(HITOGATA, ["one", "two"], results)
    bench_faults(HITOGATA, ["one"], results)
    kept = read_figures(results)["faults"]
    assert [(row["passed"], len(row["tries"])) for row in kept.values()] == [(False, 2), (True, 1)]
    assert all({"command", "commit", "date"} <= each.keys() for each in kept["one"]["tries"])
