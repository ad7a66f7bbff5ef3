"""What a replay tells and draws."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bridge.blackbox.recording import Recording, write_recording
from bridge.blackbox.replay import Span, peaks, spans
from bridge.contract import UserError
from bridge.png import decode_png
from hitogata.replay import replay
from robots.g1.embodiment import G1, STAND_COMMAND, STATE_DIM, STATE_FIELDS

ROOT = Path(__file__).parent.parent
WAIT_S = 30.0


def walk(levels: list[int]) -> Recording:
    """A recording of known commands: one period of 0.02 s for each level."""
    count = len(levels)
    sent = np.tile(STAND_COMMAND, (count, 1))
    sent[:, 0] = np.linspace(0, 0.3, count)  # 0.1 a period for four periods
    sent[2:, 5] += 0.5
    state = np.zeros((count, STATE_DIM), np.float32)
    state[:, 15:29] = STAND_COMMAND[4:]
    gravity = STATE_FIELDS.index("gravity_x")
    state[:, gravity : gravity + 3] = (0, 0, -1)
    return Recording(
        embodiment=G1,
        time_s=100 + 0.02 * np.arange(count),
        level=np.array(levels, np.uint8),
        causes=tuple("" if level == 0 else f"[red]cause[/{level}]" for level in levels),
        state=state,
        has_state=np.arange(count) != 1,
        asked=sent,
        has_asked=np.arange(count) != 0,
        sent=sent,
        counters={"holds": np.arange(count, dtype=np.int64)},
        image_time_s=np.zeros(0),
        image_camera=np.zeros(0, np.int32),
        pngs=(),
        events=((100.04, "up"),),
        written_at="2026-01-01T00:00:00+00:00",
    )


def test_what_a_replay_tells():
    found = walk([0, 0, 2, 2])
    assert spans(found) == [Span(0, 2, 0, ""), Span(2, 4, 2, "[red]cause[/2]")]
    forward, sideways, _, height, arms = peaks(found)
    assert forward.value == pytest.approx(0.3) and forward.rate == pytest.approx(5.0)
    assert (sideways.value, sideways.rate) == (0, 0) and height.rate == 0
    assert arms.rate == pytest.approx(25.0) and arms.rate_at_s == pytest.approx(0.04)
    back = replace(found, time_s=np.array([100.0, 100.02, 3.0, 3.02]))
    assert peaks(back)[-1].rate == 0  # the step fell together with the clock


@pytest.mark.parametrize("levels", [[0], [0, 1, 2, 3], [7, 0], [0, 1] * 100])
def test_replay_prints_and_draws(levels, tmp_path, capsys):
    write_recording(tmp_path / "some.npz", walk(levels))
    replay(tmp_path / "some.npz", tmp_path / "plot.png")
    told = capsys.readouterr().out
    assert "what happened" in told and "base vel x" in told and "holds" in told
    if len(levels) > 1:
        assert f"cause[/{max(levels)}]" in told
    assert decode_png((tmp_path / "plot.png").read_bytes()).shape == (1080, 1320, 3)
    with pytest.raises(UserError, match=r"ends in \.png"):
        replay(tmp_path / "some.npz", tmp_path / "plot.gif")
