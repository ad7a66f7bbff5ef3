"""Result files and intervals."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.contract import UserError
from tasks.evaluation.results import wilson_interval, write_results


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


def test_unreadable_results_and_nan_are_refused(tmp_path):
    path = tmp_path / "chain.json"
    with pytest.raises(ValueError):
        write_results(path, {"rate": float("nan")}, "x")
    path.write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match="repair or delete"):
        write_results(path, {"rate": 1}, "x")
