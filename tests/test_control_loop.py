"""The control loop on a robot whose joints follow at once, with policies that misbehave."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest

from bridge.contract import UserError
from bridge.control.loop import ControlLoop, DirectLink, Pace, Rejected
from bridge.control.safety import Level, Safety
from robots.g1.embodiment import ARMS, PERIOD_S, STAND_COMMAND, VEL_X
from tests.doubles import BODY, LIMITS, Puppet, Walk, body


class Mailbox:
    """A link whose answers the test writes."""

    def __init__(self):
        self.session, self.dropped, self.trouble = 1, 0, ""
        self.answers, self.questions = [], []

    def ask(self, instruction, observation):
        self.questions.append((instruction, observation))

    def take(self):
        return self.answers.pop(0) if self.answers else None

    def reset(self):
        self.answers.clear()

    def answer(self, time_s, **changes):
        chunk = Walk().act("", body(time_s))
        self.answers.append(replace(chunk, **changes))


def loop_of(link) -> tuple[ControlLoop, Puppet]:
    puppet = Puppet()
    return ControlLoop(puppet, link, Safety(BODY), lambda: puppet.time_s), puppet


def ticks(loop: ControlLoop, seconds: float) -> list[Level]:
    return [loop.tick().order.level for _ in range(round(seconds / PERIOD_S))]


def test_an_instruction_is_asked_every_replan_and_played():
    policy = Walk()
    loop, puppet = loop_of(DirectLink(policy))
    assert set(ticks(loop, 0.2)) == {Level.HOLD} and not policy.asked
    loop.instruct("  walk on  ")
    assert set(ticks(loop, 1.0)) == {Level.RUN}
    assert [when for _, when in policy.asked] == pytest.approx([0.2, 0.5, 0.8, 1.1])
    assert {text for text, _ in policy.asked} == {"walk on"} and puppet.begun == 1
    assert puppet.sent[-1][VEL_X] == pytest.approx(0.5)
    # From rest it fades in over 0.3 s.
    assert puppet.sent[10 + 6][VEL_X] == pytest.approx(0.5 * 6 / 15, abs=0.04)


def test_another_instruction_takes_over_and_old_answers_are_void():
    link = Mailbox()
    loop, _ = loop_of(link)
    loop.instruct("walk on")
    ticks(loop, 0.1)
    link.answer(0.0)
    ticks(loop, 0.1)
    assert loop.chunk is not None
    loop.instruct("turn left")
    late = Walk().act("", body(0.1))
    link.answers.append(late)
    ticks(loop, 0.1)
    assert loop.chunk is None and link.questions[-1][0] == "turn left"


@pytest.mark.parametrize("word", ["stop", "STOP!", "Emergency stop."])
def test_a_stop_word_needs_no_policy_and_an_operator_to_go_on(word):
    policy = Walk()
    loop, puppet = loop_of(DirectLink(policy))
    loop.instruct("walk on")
    ticks(loop, 1.0)
    asked = len(policy.asked)
    loop.handle_utterance(word)
    assert set(ticks(loop, 1.5)) == {Level.SAFE_STAND} and len(policy.asked) == asked
    assert puppet.sent[-1] == pytest.approx(STAND_COMMAND)
    loop.handle_utterance("walk on")
    assert set(ticks(loop, 1.0)) == {Level.SAFE_STAND}, "an instruction is no release"
    assert loop.release() is None
    assert ticks(loop, 1.0)[-1] == Level.RUN


@pytest.mark.parametrize(
    "text",
    [
        *("Stop!", "  HALT. ", "ｓｔｏｐ！", "st\u200bop", "stop! stop! stop!", "No! Stop!"),
        *("止まれ", "止まって。", "ストップ！", "ｽﾄｯﾌﾟ", "やめて", "待って"),
        *("Walk to the red ball. Stop.", "stop. walk on"),
    ],
)
def test_a_sentence_of_stop_words_stops_at_once(text):
    loop, _ = loop_of(DirectLink(Walk()))
    loop.instruct("walk on")
    loop.handle_utterance(text)
    assert ticks(loop, 0.1)[-1] == Level.SAFE_STAND and loop.instruction == ""


@pytest.mark.parametrize("text", ["stop at the red ball", "do not stop", "walk on without a halt"])
def test_stop_words_within_a_sentence_are_the_policys(text):
    loop, _ = loop_of(DirectLink(Walk()))
    loop.handle_utterance(text)
    assert loop.instruction == text


def test_bad_instructions_change_nothing():
    loop, _ = loop_of(DirectLink(Walk()))
    loop.instruct("walk on")
    for bad in ("", "a\x00b", "x" * 2000):
        with pytest.raises(UserError):
            loop.instruct(bad)
    assert loop.instruction == "walk on" and ticks(loop, 0.1)[-1] == Level.RUN


def test_a_restarted_server_is_not_obeyed_until_released():
    link = Mailbox()
    loop, _ = loop_of(link)
    loop.instruct("walk on")
    link.answer(0.0)
    assert ticks(loop, 0.1)[-1] == Level.RUN
    link.session = 2
    for _ in range(10):
        link.answer(loop.robot.time_s)
        ticks(loop, 0.3)
    assert loop.safety.level == Level.SAFE_STAND and "release the robot" in loop.trouble
    loop.instruct("turn left")
    link.answer(loop.robot.time_s)
    assert ticks(loop, 0.3)[-1] == Level.SAFE_STAND, "an instruction is no release"
    link.trouble = "connecting"
    assert loop.release() == "connecting"
    link.trouble = ""
    assert loop.release() is None
    link.answer(loop.robot.time_s)
    assert ticks(loop, 0.1)[-1] == Level.RUN


def test_a_server_restarted_while_nothing_was_asked_of_it_is_obeyed():
    link = Mailbox()
    loop, _ = loop_of(link)
    ticks(loop, 0.2)
    link.session = 2
    ticks(loop, 0.2)
    assert loop.trouble == ""
    loop.instruct("walk on")
    ticks(loop, 0.1)
    link.answer(loop.robot.time_s)
    assert ticks(loop, 0.1)[-1] == Level.RUN, "told since by an operator: not by itself"


def test_a_pause_ends_with_whatever_ends_the_instruction():
    loop, _ = loop_of(DirectLink(Walk()))
    ends = (loop.stop, loop.cut, loop.idle, lambda: loop.exchange(lambda: None))
    for end in ends:
        loop.instruct("walk on")
        ticks(loop, 0.2)
        loop.pause()
        loop.pause()
        ticks(loop, 0.2)
        loop.resume()
        assert loop.instruction == "walk on"
        loop.pause()
        end()
        ticks(loop, 0.2)
        assert loop.release() is None
        with pytest.raises(UserError, match="nothing is paused"):
            loop.resume()
        assert ticks(loop, 1.0)[-1] == Level.HOLD and loop.instruction == ""


def test_a_new_body_starts_where_it_stands_and_a_latch_stays():
    loop, puppet = loop_of(DirectLink(Walk(lambda commands: commands + 0.5)))
    loop.instruct("walk on")
    ticks(loop, 2.0)
    assert np.abs(puppet.sent[-1][ARMS] - STAND_COMMAND[ARMS]).max() > 0.4

    def stand():
        puppet.joints = STAND_COMMAND[ARMS].copy()

    loop.exchange(stand)
    sent = len(puppet.sent)
    assert set(ticks(loop, 0.5)) == {Level.HOLD}
    jumps = np.abs(np.array(puppet.sent[sent:]) - STAND_COMMAND)
    assert jumps.max() < 1e-6, "the old pose is forgotten"
    for latch, level in ((loop.stop, Level.SAFE_STAND), (loop.cut, Level.DAMP)):
        latch()
        ticks(loop, 0.1)
        loop.exchange(stand)
        assert set(ticks(loop, 0.5)) == {level}, "only a release ends it"


def test_a_loop_that_slept_stands_safely():
    loop, puppet = loop_of(DirectLink(Walk()))
    loop.instruct("walk on")
    ticks(loop, 0.5)
    puppet.steps += 8  # with its own period 0.18 s, no longer than a state may be silent
    assert loop.tick().order.level == Level.RUN
    puppet.steps += 10
    slept = loop.tick().order
    assert slept.level == Level.SAFE_STAND
    assert slept.cause == "the loop slept for 0.2 s: the robot has braked"


MALFORMED = {
    "the state is float32 (85,)": {"state": np.zeros(85, np.float32)},
    "the state is float64 (86,)": {"state": np.zeros(86)},
    "the state is object (86,)": {"state": np.array([None] * 86)},
    "'list' object": {"state": [0.0] * 86},
    "the picture of head is uint8 (4, 4)": {"images": {"head": np.zeros((4, 4), np.uint8)}},
    "the picture of head is float64": {"images": {"head": np.zeros((128, 128, 3))}},
    "'NoneType' object": {"images": {"head": None}},
    "'head'": {"images": {}},
    "must be real number": {"time_s": "now"},
}


@pytest.mark.parametrize("told", MALFORMED)
def test_a_malformed_state_is_as_bad_as_none(told):
    loop, puppet = loop_of(DirectLink(Walk()))
    loop.instruct("walk on")
    ticks(loop, 0.3)
    observe = puppet.observe
    puppet.observe = lambda: replace(observe(), **MALFORMED[told])
    levels = ticks(loop, 0.4)
    assert levels[0] == Level.RUN and Level.HOLD in levels and levels[-1] == Level.DAMP
    assert told in loop.trouble and "\n" not in loop.trouble


def test_rejected_answers_stand_the_robot():
    link = Mailbox()
    loop, _ = loop_of(link)
    loop.instruct("walk on")
    link.answer(0.0)
    ticks(loop, 0.1)
    link.answers += [Rejected("its frames are cut off")] * 5
    assert ticks(loop, 0.12)[-1] == Level.SAFE_STAND
    assert "cut off" in loop.tick().order.cause


def test_a_silent_robot_is_held_then_damped():
    loop, puppet = loop_of(DirectLink(Walk()))
    loop.instruct("walk on")
    ticks(loop, 0.5)
    puppet.silent = True
    levels = ticks(loop, 0.4)
    assert levels[0] == Level.RUN and Level.HOLD in levels and levels[-1] == Level.DAMP
    assert puppet.damped > 0


def test_a_robot_that_cannot_be_moved_brakes_until_released():
    loop, puppet = loop_of(DirectLink(Walk()))
    loop.instruct("walk on")
    ticks(loop, 0.3)

    def refuse(command):
        raise ValueError("the walker was given gravity that is\nnot finite")

    puppet.apply = refuse
    struck = loop.tick()
    assert struck.order.level == Level.DAMP and puppet.damped == 1
    assert struck.order.cause == (
        "the robot could not be moved: the walker was given gravity that is not finite"
    )
    del puppet.apply
    assert set(ticks(loop, 1.0)) == {Level.DAMP}, "latched, though it could be moved again"
    assert loop.safety.counters["damps"] == 1
    assert loop.release() is None
    assert ticks(loop, 0.3)[-1] == Level.RUN


def test_a_driver_that_fails_counts_as_silent_and_does_not_end_the_loop():
    loop, puppet = loop_of(DirectLink(Walk()))
    loop.instruct("walk on")
    ticks(loop, 0.3)

    def fail():
        puppet.steps += 1  # time goes on
        raise OSError("the bus is down")

    puppet.observe = puppet.damp = puppet.begin_instruction = fail
    puppet.apply = lambda command: None
    assert ticks(loop, 0.5)[-1] == Level.DAMP
    assert "silent" in loop.tick().order.cause
    with pytest.raises(UserError, match="the bus is down"):
        loop.instruct("walk on")
    assert loop.instruction == ""


def test_joins_are_bounded_in_value_and_rate():
    rng = np.random.default_rng(0)

    def jump(commands):
        commands[:, VEL_X] = rng.uniform(-0.4, 0.8)
        commands[:, ARMS] += rng.uniform(-0.8, 0.8, 14)
        return commands

    loop, puppet = loop_of(DirectLink(Walk(jump)))
    loop.instruct("walk on")
    ticks(loop, 6.0)
    sent = np.array(puppet.sent)
    rate = np.diff(sent, axis=0) / PERIOD_S
    change = np.diff(rate, axis=0) / PERIOD_S
    assert np.abs(rate).max(axis=0) == pytest.approx(np.minimum(np.abs(rate).max(0), LIMITS.rate))
    assert (np.abs(change) <= LIMITS.rate_change * 1.01 + 0.1).all()
    assert np.ptp(sent[:, ARMS], axis=0).min() > 0.5, "the arms did move"


def test_pace_skips_whole_periods_and_counts_them():
    pace = Pace(PERIOD_S)
    pace.wait()
    time.sleep(5.5 * PERIOD_S)
    pace.wait()
    assert pace.overruns >= 4
    before = time.monotonic()
    pace.wait()
    assert time.monotonic() - before <= 50 * PERIOD_S
    Pace(PERIOD_S, speed=np.inf).wait()


def test_a_period_may_begin_early_and_the_next_ones_count_from_there():
    pace, slept = Pace(PERIOD_S, speed=0.01), []
    pace.wait(slept.append)
    pace.wait(slept.append)
    assert slept == pytest.approx([100 * PERIOD_S, 100 * PERIOD_S], abs=0.5) and not pace.overruns
