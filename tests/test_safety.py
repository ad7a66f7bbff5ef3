"""Limits and ladder, against hand-computed values and arbitrary streams of actions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bridge.contract import ActionChunk, Status
from bridge.control.safety import Level, Safety, lean, tilt
from robots.g1.embodiment import (
    ARM_POS,
    ARMS,
    CHUNK_STEPS,
    COMMAND_DIM,
    PERIOD_S,
    STAND_COMMAND,
    VEL_X,
)
from tests.doubles import BODY, LIMITS, UPRIGHT, body


def chunk(observed_at_s: float, commands: np.ndarray | None = None) -> ActionChunk:
    if commands is None:
        commands = np.tile(STAND_COMMAND, (CHUNK_STEPS, 1))
        commands[:, VEL_X] = 0.5
    return ActionChunk(observed_at_s, commands, Status.ACTING, 1.0, {})


class Drive:
    """A Safety stepped at 50 Hz with a healthy body."""

    def __init__(self):
        self.safety, self.now_s = Safety(BODY), 10.0
        self.safety.step(self.now_s, body(self.now_s))
        self.safety.expect(self.now_s, chunks=True)

    def until(self, end_s: float, **of_body):
        while self.now_s < end_s - PERIOD_S / 2:
            self.now_s += PERIOD_S
            order = self.safety.step(self.now_s, body(self.now_s, **of_body))
        return order

    def levels(self, end_s: float) -> list[tuple[float, Level]]:
        """(time, level) of every change until `end_s`."""
        changes, last = [], self.safety.level
        while self.now_s < end_s - PERIOD_S / 2:
            self.now_s += PERIOD_S
            order = self.safety.step(self.now_s, body(self.now_s))
            if order.level != last:
                changes.append((round(self.now_s, 2), order.level))
                last = order.level
        return changes


# --- what is accepted ---


@given(hnp.arrays(np.float32, (CHUNK_STEPS, COMMAND_DIM), elements=st.floats(width=32)))
@settings(max_examples=60, deadline=None)
def test_whatever_a_policy_says_the_motors_get_finite_commands_within_limits(commands):
    drive = Drive()
    finite = bool(np.isfinite(commands).all())
    fault = drive.safety.accept(chunk(10.0, commands), 10.0)
    assert (fault is None) == finite
    for _ in range(100):
        drive.now_s += PERIOD_S
        order = drive.safety.step(drive.now_s, body(drive.now_s))
        assert np.isfinite(order.command).all()
        assert (order.command >= LIMITS.low.astype("f4")).all()
        assert (order.command <= LIMITS.high.astype("f4")).all()


def test_out_of_limits_is_clamped_and_counted_not_finite_rejected():
    drive = Drive()
    commands = np.tile(STAND_COMMAND, (CHUNK_STEPS, 1))
    commands[3, VEL_X], commands[4:, 7] = 1e30, -9.0
    assert drive.safety.accept(chunk(10.0, commands), 10.0) is None
    # From 0 to 1.5 m/s and back, and a joint by 1 rad, each within 0.1 s.
    assert drive.safety.counters["clamped"] == 1 + 12
    assert drive.safety.counters["slowed"] == 3
    jump = np.tile(STAND_COMMAND, (CHUNK_STEPS, 1))
    jump[:, 9] += 0.7  # from what is being executed: 7 rad/s within a step
    assert drive.safety.accept(chunk(10.01, jump), 10.02) is None
    assert drive.safety.counters["slowed"] == 4
    commands[0, 0] = np.nan
    assert "not finite" in str(drive.safety.accept(chunk(10.1, commands), 10.1))
    assert "17" in str(drive.safety.accept(chunk(10.1, commands[:, :17]), 10.1))
    assert drive.safety.counters["rejected"] == 2


def anything() -> st.SearchStrategy[tuple[str, float]]:
    what = ("accept", "reject", "stop", "cut", "release", "expect", "idle", "silence", "lean")
    return st.tuples(st.sampled_from(what), st.floats(width=32))


@given(st.lists(anything(), max_size=40))
@settings(max_examples=60, deadline=None)
def test_no_stream_of_events_leaves_the_limits_or_a_latched_level(events):
    drive = Drive()
    safety, floor = drive.safety, Level.RUN
    sent: list[np.ndarray] = []
    for what, value in events:
        if what == "accept":
            commands = np.full((CHUNK_STEPS, COMMAND_DIM), value, np.float32)
            safety.accept(chunk(drive.now_s, commands), drive.now_s)
        elif what == "reject":
            safety.reject("no chunk")
        elif what == "stop":
            safety.stop()
            floor = max(floor, Level.SAFE_STAND)
        elif what == "cut":
            safety.cut()
            floor = Level.DAMP
        elif what == "release":
            floor = Level.RUN if safety.release(drive.now_s) is None else floor
        elif what in ("expect", "idle"):
            safety.expect(drive.now_s, chunks=what == "expect")
        for _ in range(6):
            drive.now_s += PERIOD_S
            gravity = np.array([1, 0, 0], np.float32) if what == "lean" else UPRIGHT
            seen = None if what == "silence" else body(drive.now_s, gravity)
            order = safety.step(drive.now_s, seen)
            floor = max(floor, order.level) if order.level >= Level.SAFE_STAND else floor
            assert order.level >= floor
            sent = [*sent, order.command] if order.level < Level.DAMP else []
            path = np.array(sent, np.float64).reshape(-1, COMMAND_DIM)
            rate = np.diff(path, axis=0) / PERIOD_S
            change = np.diff(rate, axis=0) / PERIOD_S
            assert np.isfinite(order.command).all()
            assert (path >= LIMITS.low - 1e-6).all() and (path <= LIMITS.high + 1e-6).all()
            assert (np.abs(rate) <= LIMITS.rate + 1e-4).all()
            assert (np.abs(change) <= LIMITS.rate_change + 1e-2).all()


def test_a_state_without_a_proper_stamp_is_none():
    drive = Drive()
    drive.safety.accept(chunk(10.0), 10.0)
    for stamp in (np.nan, np.inf):
        drive.now_s += 2 * PERIOD_S
        order = drive.safety.step(drive.now_s, body(stamp))
    assert order.level == Level.HOLD and "late" in order.cause
    # From the future: it is as old as its arrival.
    drive.safety.step(drive.now_s, body(drive.now_s + 3600))
    drive.now_s += 0.1
    assert "late" in drive.safety.step(drive.now_s, None).cause


def test_a_camera_of_unknown_age_is_a_frozen_one():
    drive = Drive()
    drive.safety.accept(chunk(10.0), 10.0)
    assert drive.until(10.1, image_age_s=float("nan")).cause == "the camera has frozen"


def test_after_a_short_hold_the_same_chunk_goes_on_from_the_measured_arms():
    drive = Drive()
    commands = np.tile(STAND_COMMAND, (CHUNK_STEPS, 1))
    commands[:, ARMS] += 0.5
    drive.safety.accept(chunk(10.0, commands), 10.0)
    raised = drive.until(10.5).command[ARMS]
    assert raised == pytest.approx(commands[0, ARMS], abs=1e-3)
    for _ in range(4):  # no state
        drive.now_s += PERIOD_S
        order = drive.safety.step(drive.now_s, None)
    assert order.level == Level.HOLD
    # The arms have sunk to where `body` says: they rise again within 0.3 s, not at once.
    path = [drive.until(drive.now_s + PERIOD_S).command[ARMS][0] - raised[0] for _ in range(20)]
    assert drive.safety.level == Level.RUN
    assert min(path) < -0.2 and path[-1] == pytest.approx(0, abs=0.02)
    assert int(np.argmin(path)) >= 3


# --- the ladder ---


def test_a_silent_policy_plays_out_holds_then_stands():
    drive = Drive()
    assert drive.safety.accept(chunk(10.0), 10.0) is None
    # 1.6 s of chunk; HOLD with the period after it, SAFE_STAND half a second later.
    times, levels = zip(*drive.levels(13.0), strict=True)
    assert levels == (Level.RUN, Level.HOLD, Level.SAFE_STAND)
    assert times == pytest.approx((10.02, 11.6, 12.1), abs=1.1 * PERIOD_S)
    assert drive.safety.accept(chunk(13.0), 13.0) is None, "a late chunk is no fault of its own"
    assert drive.until(13.5).level == Level.SAFE_STAND, "but it releases nothing"
    assert drive.safety.release(drive.now_s) is None
    assert drive.until(13.6).level == Level.HOLD
    assert drive.safety.accept(chunk(13.6), 13.6) is None
    assert drive.until(13.7).level == Level.RUN


def test_hold_brings_the_base_to_rest_and_keeps_the_arms():
    drive = Drive()
    commands = np.tile(STAND_COMMAND, (CHUNK_STEPS, 1))
    commands[:, VEL_X], commands[:, 8] = 0.5, STAND_COMMAND[8] + 0.4
    drive.safety.accept(chunk(10.0, commands), 10.0)
    assert drive.until(11.5).command[[VEL_X, 8]] == pytest.approx([0.5, STAND_COMMAND[8] + 0.4])
    assert drive.until(11.82).command[[VEL_X, 8]] == pytest.approx([0.0, STAND_COMMAND[8] + 0.4])
    assert drive.until(13.3).command == pytest.approx(STAND_COMMAND, abs=1e-6)


def test_without_an_instruction_the_robot_may_idle():
    drive = Drive()
    drive.safety.expect(drive.now_s, chunks=False)
    order = drive.until(15.0)
    assert order.level == Level.HOLD and order.cause == "no instruction"


def test_five_bad_answers_stand_and_a_good_one_between_forgives():
    drive = Drive()
    bad = chunk(10.0, np.full((CHUNK_STEPS, COMMAND_DIM), np.inf, np.float32))
    for _ in range(4):
        drive.safety.accept(bad, 10.0)
    drive.safety.accept(chunk(10.0), 10.0)
    for _ in range(4):
        drive.safety.accept(bad, 10.0)
    assert drive.until(10.1).level == Level.RUN
    drive.safety.accept(bad, 10.1)
    order = drive.until(10.2)
    assert order.level == Level.SAFE_STAND and "5 bad answers" in order.cause


def test_old_state_holds_and_silence_damps():
    drive = Drive()
    drive.safety.accept(chunk(10.0), 10.0)
    seen = body(10.0)
    levels = [drive.safety.step(10.0 + k * PERIOD_S, None).level for k in range(1, 13)]
    assert levels == [Level.RUN] * 2 + [Level.HOLD] * 8 + [Level.DAMP] * 2
    assert drive.safety.release(10.3) is not None, "still silent"
    state = seen.state.copy()
    state[BODY.state_parts["gravity"]] = np.nan
    broken = replace(seen, time_s=10.3, state=state)
    assert drive.safety.step(10.3, broken).level == Level.DAMP, "NaN is no state"
    drive.safety.step(10.32, body(10.32))
    assert drive.safety.release(10.32) is None


@pytest.mark.parametrize(
    ("roll", "pitch", "roll_rate", "pitch_rate", "falls"),
    [
        (0.75, 0, 0, 0, False),
        (0.85, 0, 0, 0, True),
        (0, -0.85, 0, 0, True),
        (0, 3.0, 0, 0, True),
        # 0.6 rad and 0.15 s of the rate: 0.99, 1.02, and coming back up.
        (0, 0.6, 0, 2.6, False),
        (0, 0.6, 0, 2.8, True),
        (0, 0.6, 0, -9.0, False),
        (-0.6, 0, -2.8, 0, True),
        (-0.6, 0, 2.8, 9.0, False),
        (0, 0.45, 0, 5.0, False),  # so little can be saved at any rate
    ],
)
def test_a_fall_damps_by_its_lean_and_how_fast_that_grows(
    roll, pitch, roll_rate, pitch_rate, falls
):
    gravity = np.array(
        [np.sin(pitch), -np.sin(roll) * np.cos(pitch), -np.cos(roll) * np.cos(pitch)], np.float32
    )
    if abs(pitch) < 1.5:
        assert tilt(gravity) == pytest.approx((roll, pitch), abs=1e-6)
    rates = np.array([roll_rate, pitch_rate, 0], np.float32)
    assert lean(gravity, rates)[0] == pytest.approx(abs(roll) + abs(pitch), abs=1e-6)
    drive = Drive()
    drive.safety.accept(chunk(10.0), 10.0)
    order = drive.until(10.02, gravity=gravity, base_ang_vel_rad_s=rates)
    assert (order.level == Level.DAMP) == falls, "within one period"
    assert not falls or order.cause == "the robot has fallen"


def test_the_rate_of_a_lean_is_its_change_in_time():
    rng = np.random.default_rng(2)
    for _ in range(20):
        gravity, turn = rng.normal(size=3), rng.normal(size=3)
        gravity /= np.linalg.norm(gravity)
        # A body that turns by w sees the world turn by -w.
        later = gravity - 1e-5 * np.cross(turn, gravity)
        angle, rate = lean(gravity, turn)
        assert (lean(later, turn)[0] - angle) / 1e-5 == pytest.approx(rate, abs=1e-3)


def test_a_robot_upon_its_knees_has_fallen_but_one_bent_knee_is_a_step():
    for bent, falls in (([2.6, 2.6], True), ([2.6, 1.0], False), ([2.1, 2.1], False)):
        drive = Drive()
        kneeling = body(10.02)
        kneeling.joint_pos_rad[[3, 9]] = bent
        assert (drive.safety.step(10.02, kneeling).level == Level.DAMP) == falls


def test_a_fallen_robot_is_not_released_where_it_lies():
    drive = Drive()
    drive.until(10.02, gravity=np.array([1, 0, 0], np.float32))
    assert drive.safety.release(10.02) == "the robot has fallen"
    drive.safety.step(10.04, body(10.04))
    assert drive.safety.level == Level.DAMP, "latched, though it stands again"
    assert drive.safety.release(10.04) is None


def test_a_frozen_camera_holds():
    drive = Drive()
    drive.safety.accept(chunk(10.0), 10.0)
    assert drive.until(10.2, image_age_s=0.4).level == Level.RUN
    order = drive.until(10.3, image_age_s=0.6)
    assert order.level == Level.HOLD and "camera" in order.cause


def test_the_more_severe_latch_wins_and_stays():
    drive = Drive()
    drive.safety.stop()
    assert drive.until(10.1).level == Level.SAFE_STAND
    drive.safety.cut()
    assert drive.until(10.2).level == Level.DAMP
    drive.safety.stop()
    assert drive.until(10.3).level == Level.DAMP
    assert drive.safety.counters["stands"] == drive.safety.counters["damps"] == 1


def test_after_damp_the_next_command_starts_where_the_joints_are():
    drive = Drive()
    drive.safety.cut()
    drive.until(10.1)
    limp = body(10.12)
    limp.joint_pos_rad[ARM_POS] = STAND_COMMAND[ARMS] + 0.9
    drive.safety.step(10.12, limp)
    drive.safety.release(10.12)
    order = drive.safety.step(10.14, limp)
    assert order.level == Level.HOLD
    assert order.command[ARMS] == pytest.approx(STAND_COMMAND[ARMS] + 0.9, abs=1e-5)
