"""The bridge's figures: waits by hand, turns in their order, and the whole in miniature."""

from __future__ import annotations

import json
from contextlib import suppress

import numpy as np
import pytest

from bench import stop as bridge_stop
from bench.round_trip import BLOCK, interleaved_ms
from bench.stop import waits_ms
from bridge.contract import UserError
from bridge.control.safety import Level
from hitogata.__main__ import COMMANDS
from hitogata.bench import bridge as bench_bridge
from hitogata.bench.bridge import ROWS
from hitogata.commandline import dispatch


def test_a_wait_ends_with_the_safe_stand_before_the_next_stop():
    levels = [(0.0, Level.RUN), (0.5, Level.SAFE_STAND), (0.9, Level.RUN)]
    levels += [(1.004, Level.SAFE_STAND), (1.5, Level.HOLD), (1.6, Level.RUN)]
    levels += [(2.3, Level.HOLD), (2.5, Level.SAFE_STAND), (2.9, Level.RUN)]
    assert waits_ms([1.0, 2.0], levels) == pytest.approx([4.0, 500.0])


def test_a_stop_without_a_safe_stand_fails_and_one_of_a_resting_robot_is_left_out():
    levels = [(0.0, Level.HOLD), (0.5, Level.RUN), (2.5, Level.SAFE_STAND)]
    assert waits_ms([1.0, 2.0], levels) == pytest.approx([np.inf, 500.0])
    assert waits_ms([1.0], levels[:2]) == pytest.approx([np.inf])
    for asked_s in (0.2, 3.0):
        assert len(waits_ms([asked_s], levels)) == 0


def test_stops_that_failed_or_were_left_out_are_counted(monkeypatch):
    monkeypatch.setattr(bridge_stop, "stop_ms", lambda stops: np.array([10.0, np.inf]))
    monkeypatch.setattr(bridge_stop, "stop_curve_ms", lambda stops: np.array([20.0]))
    figures = bridge_stop.stop_figures(2)
    assert (figures["stops_failed"], figures["stops_left_out"]) == (1, 1)
    assert figures["stop_p99_ms"] > 50_000 and figures["stop_curve_p99_ms"] == 20.0
    monkeypatch.setattr(bridge_stop, "stop_ms", lambda stops: np.array([]))
    with pytest.raises(UserError, match="no stop met a walking robot"):
        bridge_stop.stop_figures(2)


def test_kinds_take_turns_and_the_first_is_for_nothing():
    order: list[str] = []
    trips = {"a": lambda: order.append("a"), "b": lambda: order.append("b")}
    times_ms = interleaved_ms(trips, 2 * BLOCK)
    assert order == (["a"] * BLOCK + ["b"] * BLOCK) * 3
    assert {name: times.shape for name, times in times_ms.items()} == {
        "a": (2 * BLOCK,),
        "b": (2 * BLOCK,),
    }
    assert all((times >= 0).all() for times in times_ms.values())


def test_a_missed_promise_is_kept_shown_and_told_by_the_exit_status(tmp_path, monkeypatch, capsys):
    figures = {key: most for key, _, most in ROWS}
    monkeypatch.setattr(bench_bridge, "wire_figures", lambda round_trips: figures)
    monkeypatch.setattr(bench_bridge, "stop_figures", lambda stops: {})
    results = tmp_path / "bridge.json"
    bench_bridge.bench_bridge(results=results)
    assert "MISSED" not in capsys.readouterr().out
    figures["rtt_added_p50_ms"] = 0.16
    with pytest.raises(SystemExit) as ended:
        bench_bridge.bench_bridge(results=results)
    told = capsys.readouterr()
    assert ended.value.code == 1 and told.out.count("MISSED") == 1
    assert told.err == "hitogata: missed rtt_added_p50_ms\n"
    assert json.loads(results.read_text(encoding="utf-8"))["figures"]["rtt_added_p50_ms"] == 0.16


@pytest.mark.slow
def test_the_command_writes_every_figure(tmp_path, capsys):
    results = tmp_path / "bridge.json"
    options = ["--round-trips", "20", "--stops", "2", "--results", str(results)]
    with suppress(SystemExit):  # a machine that is busy misses a promise
        dispatch(COMMANDS, ["bench", "bridge", *options])
    figures = json.loads(results.read_text(encoding="utf-8"))["figures"]
    told = capsys.readouterr().out
    for key, _, most in ROWS:
        assert np.isfinite(figures[key]), key
        assert key in told and f"{most:g}" in told
    assert figures["stops_failed"] == 0
