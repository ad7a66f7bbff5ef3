"""Fuzz, load and soak in miniature: that they run, and that they would notice."""

from __future__ import annotations

import mmap
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from bench.doubles import walk_commands
from bench.endurance.endpoints import played
from bench.endurance.fuzz import fuzz
from bench.endurance.load import LoadConfig, put_load
from bench.endurance.mutations import mutated, replies
from bench.endurance.soak import Soak, SoakConfig, soak
from bench.footprint import footprint_of
from bridge.contract import ActionChunk, Status, UserError
from hitogata.policies import HITOGATA
from robots.g1.embodiment import VEL_X


def test_mutations_differ_and_repeat_by_seed():
    message = replies()[0]
    first, again = ([mutated(message, np.random.default_rng(3))] for _ in range(2))
    assert first == again
    rng = np.random.default_rng(0)
    changed = [mutated(message, rng) != message for _ in range(300)]
    assert np.mean(changed) > 0.9
    assert message == replies()[0], "the message itself stays as it is"


def test_a_chunk_that_can_be_read_is_played():
    chunk = ActionChunk(0.0, walk_commands(), Status.ACTING, 1.0, {})
    assert played(chunk)[-1][VEL_X] > 0.3
    late = replace(chunk, observed_at_s=-10.0)
    assert played(late)[-1][VEL_X] == 0


def test_fuzz_in_miniature():
    figures = fuzz(HITOGATA, frames=200)
    assert set(figures) == {
        "server",
        "client",
        "operator_port",
        "telemetry",
        "gr00t",
        "openpi",
        "console",
    }
    for end, found in figures.items():
        assert found["messages"] == 200 and found["refused"] > 30, end
        assert found["growth_mb"] < 20, end
    port = figures["operator_port"]
    assert port["epochs"] > 1 and port["obeyed"] > 0, "mutated commands of later leases are obeyed"


def test_a_footprint_sees_memory_files_and_threads(tmp_path):
    before = footprint_of()
    held = mmap.mmap(-1, 32_000_000)  # pages of its own, whatever was freed before
    for start in range(0, len(held), mmap.PAGESIZE):  # no copy, which might stay as well
        held[start] = 1
    with (tmp_path / "file").open("w", encoding="utf-8"):
        now = footprint_of()
    assert now.memory_mb - before.memory_mb == pytest.approx(32, abs=4)
    assert now.files == before.files + 1 and now.threads >= 1
    held.close()
    with pytest.raises(UserError, match="process 999999999"):
        footprint_of(999999999)


@pytest.mark.slow
def test_load_in_miniature():
    figures = put_load(HITOGATA, LoadConfig(clients=3, hz=2.0, seconds=4.0))
    assert figures["clients"] == 3 and figures["faults"] == 0
    assert figures["answered_hz"] > 1.0 and figures["p99_ms"] >= figures["p50_ms"] > 0


def test_a_soak_that_breaks_off_keeps_its_figures_and_names_what_ended_it(monkeypatch):
    counters = {"rejected": 3, "clamped": 0, "slowed": 0, "holds": 2, "stands": 1, "damps": 0}
    node = SimpleNamespace(loop=SimpleNamespace(safety=SimpleNamespace(counters=counters)))

    def befall(soaked):
        soaked.doing = "kill"
        soaked.counts["kill"] += 1
        if soaked.counts["kill"] == 3:
            raise TimeoutError("the robot never showed it; last seen HOLD")

    def begin(soaked, trial, rng):
        soaked.counts, soaked.wrong = Counter(), {"it limped"}
        soaked.rig = SimpleNamespace(node=node, forget=lambda: ["a command was not finite"])

    monkeypatch.setattr(Soak, "__init__", begin)
    monkeypatch.setattr(Soak, "settled", lambda soaked: footprint_of())
    monkeypatch.setattr(Soak, "befall", befall)
    monkeypatch.setattr(Soak, "close", lambda soaked: None)
    figures = soak(HITOGATA, SoakConfig(minutes=1.0))
    assert not figures["passed"]
    for wrong in ("kill: the robot never showed it", "it limped", "not finite"):
        assert wrong in figures["robot"]
    assert figures["faults"] == {"kill": 3} and figures["rejected"] == 3
    assert figures["minutes"] < 0.5 and "growth_mb" not in figures


@pytest.mark.slow
def test_soak_in_miniature(patient):
    figures = soak(HITOGATA, SoakConfig(minutes=1 / 3, seed=1))
    assert sum(figures["faults"].values()) >= 1
    # Too short to tell a leak from what only begins.
    assert "fallen" not in figures["robot"] and "command" not in figures["robot"]
    assert figures["damps"] == 0
