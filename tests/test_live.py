"""The simulated robot in real time: its motors brake by themselves when nobody commands them."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest

import sim.live
from bridge.contract import COMMAND_TIMEOUT_S
from bridge.control.loop import ControlLoop, DirectLink
from bridge.control.safety import Level, Safety
from robots.g1.embodiment import G1, PERIOD_S, STAND_COMMAND, VEL_X
from sim.live import LiveRobot
from tests.doubles import Walk


class Clock:
    """Our clock, which the test sets."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(sim.live, "time", SimpleNamespace(monotonic=clock.monotonic))
    return clock


def robot_at(speed: float) -> LiveRobot:
    return LiveRobot(0, None, speed)


@pytest.mark.parametrize(
    ("speed", "silent_s", "braked"),
    [
        (1.0, COMMAND_TIMEOUT_S - 0.01, 0),
        (1.0, COMMAND_TIMEOUT_S + 0.5 + 1e-3, 25),
        (0.5, COMMAND_TIMEOUT_S + 0.5 + 1e-3, 10),  # 0.3 s of its own time
        (1.0, 1e4, 250),
        (math.inf, 1e4, 0),  # no real time, so nothing was missed
    ],
)
def test_motors_left_alone_brake_by_themselves(clock, speed, silent_s, braked):
    robot = robot_at(speed)
    clock.now_s += 10.0  # before the first command nothing is expected of it
    robot.observe()
    for _ in range(50):
        robot.apply(STAND_COMMAND)
    before_s, height_m = robot.time_s, robot.world.qpos()[2]
    clock.now_s += silent_s
    robot.observe()
    assert robot.time_s - before_s == pytest.approx(braked * PERIOD_S)
    assert (robot.world.qpos()[2] < height_m - 0.05) == (braked > 10)
    robot.apply(STAND_COMMAND)
    assert robot.time_s - before_s == pytest.approx((braked + 1) * PERIOD_S), "made up for once"
    robot.close()


def test_a_loop_that_hung_finds_its_robot_braked_and_does_not_walk_on(clock):
    robot = robot_at(1.0)
    loop = ControlLoop(robot, DirectLink(Walk()), Safety(G1), lambda: robot.time_s)
    loop.instruct("walk on")
    for _ in range(100):
        tick = loop.tick()
    assert tick.order.level == Level.RUN and tick.order.command[VEL_X] > 0.4
    clock.now_s += 0.5
    slept = loop.tick().order
    assert slept.level >= Level.SAFE_STAND
    assert {loop.tick().order.level for _ in range(100)} <= {Level.SAFE_STAND, Level.DAMP}
    robot.close()


def test_another_scene_is_not_taken_for_silence(clock):
    robot = robot_at(1.0)
    robot.apply(STAND_COMMAND)
    clock.now_s += 5.0
    robot.new_scene(1)
    robot.observe()
    assert robot.world.time_s == 0.0
    robot.close()
