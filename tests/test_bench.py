"""Measuring: latencies of a policy whose slowness is known, memory of a process whose size is."""

import shutil
import subprocess
import sys
import time

import numpy as np
import pytest

from assets import asset_path
from bench.console import BROWSERS, PAGES, console_figures, draw_figures, table_of
from bench.demo import session_bytes
from bench.latency import chunk_figures
from bridge.contract import ActionChunk, Observation, Status
from hitogata.policies import HITOGATA
from robots.g1.embodiment import CHUNK_STEPS, G1, IMAGE_SIZE, STAND_COMMAND, STATE_DIM

SLOW_S = 0.02


class SlowPolicy:
    """Stands, after a fixed time."""

    def __init__(self) -> None:
        self.stamps: list[float] = []

    def act(self, instruction: str, observation: Observation) -> ActionChunk:
        time.sleep(SLOW_S)
        self.stamps.append(observation.time_s)
        commands = np.tile(STAND_COMMAND, (CHUNK_STEPS, 1))
        return ActionChunk(observation.time_s, commands, Status.DONE, 1.0, {})

    def reset(self) -> None:
        pass


def test_latencies_are_those_of_the_policy() -> None:
    image = np.zeros((IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    seen = [Observation(G1, 0.0, np.zeros(STATE_DIM, np.float32), {"head": image})] * 2
    policy = SlowPolicy()
    figures = chunk_figures(policy, seen, chunks=10, suffix="_slow")
    assert figures["chunk_p50_ms_slow"] >= 1000 * SLOW_S
    assert figures["chunk_p95_ms_slow"] >= figures["chunk_p50_ms_slow"]
    assert np.all(np.diff(policy.stamps) > 0)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_of_a_session() -> None:
    code = "x = bytearray(50_000_000); print(flush=True); input()"
    child = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert child.stdin is not None and child.stdout is not None
    child.stdout.readline()
    held = session_bytes(child.pid)
    child.communicate(b"\n")
    assert 50e6 < held < 90e6
    assert session_bytes(child.pid) == 0


LOOP = {
    "loop_hz_0_pages": 50.0, "loop_hz_1_pages": 49.5, "loop_hz_4_pages": 48.0,
    "overruns_0_pages": 0, "overruns_1_pages": 25, "overruns_4_pages": 100, "loss_percent": 4.0,
}  # fmt: skip


def test_what_pages_cost_is_a_table_with_a_verdict_and_a_picture() -> None:
    lines = [line.split() for line in table_of(LOOP).splitlines()]
    assert lines[1] == ["0", "50.00", "0.00", "0"]
    assert lines[2] == ["1", "49.50", "1.00", "25"]
    assert lines[3] == ["4", "48.00", "4.00", "100"]
    assert "MORE than 2 %" in table_of(LOOP)
    assert "within 2 %" in table_of(LOOP | {"loss_percent": 2.0})
    assert draw_figures(LOOP).startswith(b"\x89PNG")


@pytest.mark.slow
@pytest.mark.skipif(
    not any(map(shutil.which, BROWSERS)), reason="no browser is installed: apt-get install chromium"
)
def test_pages_are_opened_and_the_loop_is_watched() -> None:
    figures = console_figures(HITOGATA, asset_path("models/bundle"), seconds=1.0)
    assert figures.keys() == LOOP.keys()
    assert all(figures[f"loop_hz_{n}_pages"] > 0 for n in PAGES)
    worst = min(figures[f"loop_hz_{n}_pages"] for n in PAGES)
    assert figures["loss_percent"] == pytest.approx(100 * (1 - worst / figures["loop_hz_0_pages"]))
