"""Result files and intervals."""

from __future__ import annotations

import json
import re
import subprocess
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.contract import UserError
from tasks.evaluation import results
from tasks.evaluation.results import (
    check_results,
    paired_difference,
    read_figures,
    read_results,
    wilson_interval,
    write_results,
)


def test_wilson_against_published_values():
    # Newcombe, Statistics in Medicine 17 (1998), table I: 81/263, 15/148, 0/20 and 1/29.
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson_interval(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert wilson_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert wilson_interval(1, 29) == pytest.approx((0.0061, 0.1718), abs=5e-5)
    assert wilson_interval(0, 0) == (0.0, 1.0)
    with pytest.raises(ValueError):
        wilson_interval(3, 2)


@given(st.integers(1, 10_000), st.data())
def test_wilson_holds_the_rate_and_mirrors(trials, data):
    successes = data.draw(st.integers(0, trials))
    low, high = wilson_interval(successes, trials)
    assert 0 <= low <= successes / trials + 1e-12 and successes / trials <= high + 1e-12 <= 1 + 1e-9
    mirrored = wilson_interval(trials - successes, trials)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=1e-9)


def test_figures_merge_and_keep_their_origin(tmp_path):
    path = tmp_path / "results" / "chain.json"
    write_results(path, {"go_to_success": 0.5, "go_to_falls": 0.0}, "hitogata evaluate go_to")
    write_results(path, {"go_to_success": 0.9, "chunk_p50_ms": 31}, "hitogata bench")
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["figures"] == {"go_to_success": 0.9, "go_to_falls": 0.0, "chunk_p50_ms": 31}
    assert content["command"] == "hitogata bench"
    assert content["sources"]["go_to_falls"]["command"] == "hitogata evaluate go_to"
    assert content["sources"]["go_to_success"]["command"] == "hitogata bench"
    assert re.fullmatch(r"[0-9a-f]{12,}(-dirty)?|unknown", content["commit"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", content["date"])
    assert "cores" in content["machine"]


def test_paired_difference_against_published_values():
    # Fagerland, Lydersen and Laake, Statistics in Medicine 33 (2014): airways before and after.
    before = [True] * 2 + [False] * 19
    after = [True] + [False] + [True] * 7 + [False] * 12
    difference, interval = paired_difference(before, after)
    assert difference == pytest.approx(-6 / 21)
    assert interval == pytest.approx((-0.507, -0.026), abs=5e-4)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=200))
def test_a_paired_difference_lies_in_its_interval_and_mirrors(pairs):
    first, second = zip(*pairs, strict=True)
    difference, (low, high) = paired_difference(first, second)
    assert -1 - 1e-9 <= low <= difference + 1e-12 and difference <= high + 1e-12 <= 1 + 1e-9
    back, mirrored = paired_difference(second, first)
    assert (back, *mirrored) == pytest.approx((-difference, -high, -low), abs=1e-9)


def _write_many(path, name):
    for i in range(10):
        write_results(path, {f"{name}_{i}": i}, name)


def test_two_writers_of_one_file_lose_no_figure(tmp_path):
    path = tmp_path / "chain.json"
    writers = [threading.Thread(target=_write_many, args=(path, name)) for name in "ab"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert len(read_figures(path)) == 20


def test_a_source_tells_of_the_model(tmp_path):
    write_results(tmp_path / "x.json", {"rate": 1}, "x", {"model_id": "abc", "seed": 3})
    source = read_results(tmp_path / "x.json")["sources"]["rate"]
    assert source["model_id"] == "abc" and source["seed"] == 3 and source["command"] == "x"


def test_documents_do_not_dirty_a_commit(tmp_path, monkeypatch):
    def git(*words: str) -> None:
        who = ("-c", "user.name=x", "-c", "user.email=x@x")
        subprocess.run(["git", *who, *words], cwd=tmp_path, check=True, capture_output=True)

    files = [tmp_path / name for name in ("docs/results/a.json", "README.md", "tasks/x.py")]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("{}", encoding="utf-8")
    git("init")
    git("add", ".")
    git("commit", "-m", "x")
    monkeypatch.setattr(results, "__file__", str(files[2]))
    ends = []
    for file in files:
        file.write_text("{ }", encoding="utf-8")
        write_results(files[0], {"rate": 1}, "x")
        ends.append(read_results(files[0])["commit"].endswith("-dirty"))
    assert ends == [False, False, True]


def test_a_commit_of_documents_is_no_other_code(tmp_path, monkeypatch):
    def git(*words: str) -> str:
        who = ("-c", "user.name=x", "-c", "user.email=x@x")
        done = subprocess.run(["git", *who, *words], cwd=tmp_path, check=True, capture_output=True)
        return done.stdout.decode().strip()

    def committed(name: str) -> str:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(name, encoding="utf-8")
        git("add", ".")
        git("commit", "-m", name)
        return git("rev-parse", "--short=12", "HEAD")

    git("init")
    code = committed("tasks/x.py")
    monkeypatch.setattr(results, "__file__", str(tmp_path / "tasks" / "x.py"))
    committed("docs/results/bridge.json")
    committed("README.md")
    assert results.source_of("x")["commit"] == code
    changed = committed("tasks/y.py")
    assert results.source_of("x")["commit"] == changed != code


def test_where_figures_cannot_be_kept_is_told_before(tmp_path):
    (tmp_path / "file").touch()
    for path, told in ((tmp_path, "is a folder"), (tmp_path / "file" / "x.json", "could not")):
        with pytest.raises(UserError, match=told):
            check_results(path)
    check_results(tmp_path / "new" / "x.json")
    assert not [*(tmp_path / "new").iterdir()]


def test_unreadable_results_and_nan_are_refused(tmp_path):
    path = tmp_path / "chain.json"
    with pytest.raises(ValueError):
        write_results(path, {"rate": float("nan")}, "x")
    path.write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match="repair or delete"):
        write_results(path, {"rate": 1}, "x")
