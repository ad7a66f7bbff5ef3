"""Chunk playback against hand-computed commands."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.contract import ActionChunk, Status
from bridge.control.chunk_player import ChunkPlayer
from robots.g1.embodiment import CHUNK_S, CHUNK_STEPS, COMMAND_DIM, G1

STILL = np.zeros(COMMAND_DIM, np.float32)


def chunk(observed_at_s: float, start: float = 0.0, slope: float = 1.0) -> ActionChunk:
    """Every dimension is `start + slope * k` at step k."""
    steps = start + slope * np.arange(CHUNK_STEPS, dtype=np.float32)
    commands = np.repeat(steps[:, None], COMMAND_DIM, 1)
    return ActionChunk(observed_at_s, commands, Status.ACTING, 1.0, {})


def value(player: ChunkPlayer, now_s: float) -> float:
    command = player.command(now_s)
    assert command is not None and command.shape == (COMMAND_DIM,) and command.dtype == np.float32
    assert (command == command[0]).all()
    return float(command[0])


def test_without_a_chunk_there_is_no_command():
    assert ChunkPlayer(G1).command(0.0) is None


def test_steps_are_interpolated_and_the_last_is_kept():
    player = ChunkPlayer(G1, join_s=0.0, start_s=0.0)
    assert player.accept(chunk(5.0), 5.0, STILL)
    assert value(player, 5.0) == pytest.approx(0.0)
    assert value(player, 5.1) == pytest.approx(1.0, abs=1e-4)
    assert value(player, 5.25) == pytest.approx(2.5, abs=1e-4)
    assert value(player, 6.5) == pytest.approx(15.0, abs=1e-4)
    assert value(player, 6.59) == 15.0
    assert player.command(6.61) is None


def test_steps_already_past_are_skipped():
    player = ChunkPlayer(G1, join_s=0.0, start_s=0.0)
    assert player.accept(chunk(0.0), 0.42, STILL)
    assert value(player, 0.42) == pytest.approx(4.2, abs=1e-4)


def test_start_fades_from_the_command_being_executed():
    player = ChunkPlayer(G1, start_s=0.4)
    executing = np.full(COMMAND_DIM, 8.0, np.float32)
    player.accept(chunk(0.0, slope=0.0), 0.0, executing)
    found = [value(player, t) for t in (0.0, 0.1, 0.2, 0.4, 1.0)]
    assert found == pytest.approx([8, 6, 4, 0, 0], abs=1e-5)


def test_join_of_two_chunks_is_continuous_and_short():
    player = ChunkPlayer(G1, join_s=0.1, start_s=0.3)
    player.accept(chunk(0.0, start=1.0, slope=0.0), 0.0, np.full(COMMAND_DIM, 1.0, np.float32))
    executing = player.command(0.5)
    assert executing is not None
    player.accept(chunk(0.4, start=3.0, slope=0.0), 0.5, executing)
    found = [value(player, t) for t in (0.5, 0.55, 0.6, 0.7)]
    assert found == pytest.approx([1, 2, 3, 3], abs=1e-5)


def test_a_chunk_that_arrives_during_a_start_does_not_shorten_it():
    player = ChunkPlayer(G1, join_s=0.1, start_s=0.4)
    player.accept(chunk(0.0, slope=0.0), 0.0, np.full(COMMAND_DIM, 8.0, np.float32))
    executing = player.command(0.1)
    assert executing is not None and executing[0] == pytest.approx(6.0)
    player.accept(chunk(0.05, slope=0.0), 0.1, executing)
    found = [value(player, t) for t in (0.1, 0.2, 0.3, 0.4)]
    assert found == pytest.approx([6, 4, 2, 0], abs=1e-5)


def test_rejoining_starts_from_where_the_body_is():
    player = ChunkPlayer(G1, join_s=0.1, start_s=0.4)
    player.rejoin(0.0, STILL)  # nothing to play: nothing happens
    assert player.command(0.0) is None
    player.accept(chunk(0.0, start=2.0, slope=0.0), 0.0, STILL)
    player.rejoin(1.0, np.full(COMMAND_DIM, 6.0, np.float32))
    found = [value(player, t) for t in (1.0, 1.2, 1.4)]
    assert found == pytest.approx([6, 4, 2], abs=1e-5)


def test_unusable_chunks_change_nothing():
    player = ChunkPlayer(G1)
    player.accept(chunk(1.0, start=2.0, slope=0.0), 1.0, np.full(COMMAND_DIM, 2.0, np.float32))
    broken = chunk(1.1)
    broken.commands[3, 7] = np.nan
    short = ActionChunk(1.1, broken.commands[:0], Status.ACTING, 1.0, {})
    for bad in (chunk(1.0), chunk(0.9), chunk(3.0), chunk(-2.0), broken, short):
        assert not player.accept(bad, 1.2, STILL)
    assert value(player, 1.2) == 2.0
    player.reset()
    assert player.command(1.2) is None
    assert player.accept(chunk(0.9), 1.2, STILL)


@given(st.lists(st.floats(-1, 1, width=32), min_size=2, max_size=8), st.floats(0.05, 0.8))
def test_no_join_jumps(starts, every_s):
    """However chunks differ, two control periods in a row differ by no more than fades allow."""
    player = ChunkPlayer(G1, join_s=0.1, start_s=0.3)
    command, now_s, values = STILL, 0.0, []
    for number, start in enumerate(starts):
        now_s = number * every_s
        player.accept(chunk(now_s, start, slope=0.0), now_s, command)
        for period in range(int(every_s / 0.02)):
            played = player.command(now_s + 0.02 * period)
            assert played is not None
            command = played
            values.append(float(command[0]))
    # From -1 to 1 in 0.1 s is 0.4 per 20 ms, plus the period that a join repeats.
    assert np.abs(np.diff([0.0, *values])).max() <= 0.4 + 1e-4


def test_a_chunk_lasts_as_long_as_the_contract_says():
    assert pytest.approx(1.6) == CHUNK_S
