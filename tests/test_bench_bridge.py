"""The bridge's figures: waits by hand, turns in their order, and the whole in miniature."""

from __future__ import annotations

import json

import numpy as np
import pytest

import hitogata
from bridge.commandline import dispatch
from tasks.bench_bridge import ROWS
from tasks.bridge_rtt import BLOCK, interleaved_ms
from tasks.bridge_stop import waits_ms


def test_a_wait_ends_with_the_safe_stand_before_the_next_stop():
    asked_s, safe_s = [1.0, 2.0, 3.0, 4.0], [0.5, 1.004, 3.5, 3.6, 4.02]
    assert waits_ms(asked_s, safe_s) == pytest.approx([4.0, 500.0, 20.0])
    assert len(waits_ms([1.0], [])) == 0


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


@pytest.mark.slow
def test_the_command_writes_every_figure(tmp_path, capsys):
    results = tmp_path / "bridge.json"
    options = ["--round-trips", "20", "--stops", "2", "--results", str(results)]
    dispatch(hitogata.COMMANDS, ["bench", "bridge", *options])
    figures = json.loads(results.read_text())["figures"]
    told = capsys.readouterr().out
    for key, _, most in ROWS:
        assert figures[key] > 0 and np.isfinite(figures[key]), key
        assert key in told and f"{most:g}" in told
