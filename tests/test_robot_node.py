"""A robot at work: people command it over real sockets, its black box keeps what happened."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from bridge.blackbox.recorder import Recorder
from bridge.blackbox.recording import read_recording
from bridge.control.loop import ControlLoop, DirectLink
from bridge.control.safety import Level, Safety
from bridge.operator.client import Operator
from bridge.operator.messages import Telemetry
from bridge.operator.port import Instructed, OperatorPort, SceneAsked
from bridge.robot_node import RobotNode
from robots.g1.embodiment import G1, STAND_COMMAND, VEL_X
from sim.scene import Scene
from sim.world import World
from tests.doubles import BODY, Puppet, Walk, seen, working_station

ROOT = Path(__file__).parent.parent
WAIT_S = 60.0


def test_an_operator_commands_stops_and_releases(tmp_path):
    with working_station(tmp_path) as (_, address), Operator(address, "anna", WAIT_S) as anna:
        assert seen(anna, lambda t: t.level == Level.HOLD).cause == "no instruction"
        anna.claim()
        anna.instruct("walk on")
        running = seen(anna, lambda t: t.level == Level.RUN and t.chunk_rate_hz > 2)
        assert running.instruction == "walk on" and running.commander == "anna"
        command = running.command_vector(G1)
        assert command is not None and command[VEL_X] == pytest.approx(0.5)
        assert running.policy_latency_ms is not None and running.policy_latency_ms < 1000
        anna.pause()
        assert seen(anna, lambda t: t.level == Level.HOLD).instruction == ""
        time.sleep(0.6)
        anna.resume()
        assert seen(anna, lambda t: t.level == Level.RUN).instruction == "walk on"
        anna.stop()
        assert seen(anna, lambda t: t.level == Level.SAFE_STAND).cause == "the operator stopped it"
        time.sleep(0.6)  # what is asked in the moment of a stop is refused
        anna.instruct("walk on")
        still = seen(anna, lambda t: t.instruction == "walk on")
        assert still.level == Level.SAFE_STAND
        anna.release()
        seen(anna, lambda t: t.level == Level.RUN)
    [recording] = sorted((tmp_path / "box").glob("recording-*.npz"))
    kept = read_recording(recording)
    assert kept.events[0][1] == "SAFE_STAND: the operator stopped it"
    assert {Level.HOLD, Level.RUN, Level.SAFE_STAND} <= {Level(level) for level in kept.level}
    assert np.isfinite(kept.sent).all()


def test_a_stop_word_stops_and_a_lost_commander_ends_the_instruction(tmp_path):
    with working_station(tmp_path) as (_, address), Operator(address, "bert", WAIT_S) as bert:
        with Operator(address, "anna", WAIT_S) as anna:
            anna.claim()
            anna.instruct("walk on")
            seen(bert, lambda t: t.level == Level.RUN)
        left = seen(bert, lambda t: t.level == Level.HOLD)
        assert left.cause == "no instruction" and left.commander == ""
        bert.claim()
        bert.instruct("Stop!")
        assert "told to" in seen(bert, lambda t: t.level == Level.SAFE_STAND).cause


def test_a_body_that_is_nowhere_brakes_until_released(tmp_path):
    """The real walker refuses a state that is not finite: the loop goes on, at DAMP."""
    world, address = World(Scene(), render=False), f"ipc://{tmp_path}/robot.sock"
    loop = ControlLoop(world, DirectLink(Walk()), Safety(G1), lambda: world.time_s)
    with (
        OperatorPort(address, G1) as port,
        Recorder(tmp_path / "box", G1) as recorder,
        Operator(address, "anna", WAIT_S) as anna,
    ):
        node = RobotNode(loop, port, recorder)
        loop.instruct("walk on")
        levels = [node.step().order.level for _ in range(25)]
        assert levels[-1] == Level.RUN
        world.data.qvel[8] = np.nan
        struck = node.step()
        refused = "the walker was given joint velocities that are not finite"
        cause = f"the robot could not be moved: {refused}"
        assert (struck.order.level, struck.order.cause) == (Level.DAMP, cause)
        assert np.isfinite(world.data.qvel).all(), "the simulation begins anew"
        after = [node.step().order for _ in range(50)]
        assert {(order.level, order.cause) for order in after} == {(Level.DAMP, cause)}, "latched"
        while (told := anna.telemetry(0.1)) is None or told.level != Level.DAMP:
            node.step()
        assert told.cause == cause
        assert loop.safety.counters["damps"] == 1
        world.reset()
        loop.idle()
        assert node.step().order.level == Level.DAMP, "only a release ends it"
        assert loop.release() is None
        assert node.step().order.level == Level.HOLD
    [recording] = sorted((tmp_path / "box").glob("recording-*.npz"))
    kept = read_recording(recording)
    assert kept.events[0][1] == f"DAMP: {cause}"
    assert np.isfinite(kept.sent).all()


def _fail(*_: object) -> None:
    raise RuntimeError("a fault\nof ours")


def _broken(node: RobotNode, part: str) -> None:
    """Lets a part of a robot at work fail from now on."""
    loop, port, recorder = node.loop, node.port, node.recorder
    event = {"a scene": SceneAsked(7), "an instruction": Instructed("turn left")}.get(part)
    broken = {
        "an instruction": (loop.robot, "begin_instruction"),
        "a scene": (node, "_new_scene"),
        "the port": (port, "poll"),
        "the answers": (loop.link, "take"),
        "the black box": (recorder, "add"),
        "the truth": (node, "_truth"),
        "the viewers": (port, "publish"),
        "the link": (loop.link, "reset"),
        "the clock": (loop, "_clock"),
    }
    setattr(*broken[part], _fail)
    if event is not None:
        port.poll = lambda: [event] if not loop.safety.counters["stands"] else []


STANDS = ("a scene", "the port", "the answers", "the black box", "the truth", "the viewers")


@pytest.mark.parametrize("part", [*STANDS, "an instruction", "the link", "the clock"])
def test_whatever_fails_the_robot_is_held_and_the_loop_goes_on(tmp_path, part):
    puppet = Puppet()
    loop = ControlLoop(puppet, DirectLink(Walk()), Safety(BODY), lambda: puppet.time_s)
    with (
        OperatorPort(f"ipc://{tmp_path}/robot.sock", BODY) as port,
        Recorder(tmp_path / "box", BODY) as box,
    ):
        node = RobotNode(loop, port, box)
        told: list[Telemetry] = []
        publish = port.publish
        port.publish = lambda telemetry: (told.append(telemetry), publish(telemetry))[1]
        loop.instruct("walk on")
        assert [node.step().order.level for _ in range(25)][-1] == Level.RUN
        _broken(node, part)
        if part == "the link":
            loop.link.take = _fail
        ticks = [node.step() for _ in range(100)]
        last = ticks[-1].order
        if part in STANDS:
            assert last.level == Level.SAFE_STAND
            assert puppet.sent[-1] == pytest.approx(STAND_COMMAND), "it stands, and is moved"
            assert last.cause == "the robot's loop failed: a fault of ours"
        elif part == "an instruction":
            assert last.level == Level.HOLD and puppet.sent[-1][VEL_X] == 0
            assert "could not be moved: a fault of ours" in told[-1].cause
        else:
            assert last.level == Level.DAMP and puppet.damped > 90
        if part != "the viewers":
            assert "a fault of ours" in told[-1].cause and "\n" not in told[-1].cause
            assert told[-1].stops == (part != "an instruction")


@pytest.mark.slow
def test_a_simulated_robot_outlives_its_policy_server(tmp_path):
    """The shipped bundle's server dies in mid-walk: hold, stand, and nothing by itself after."""
    place, policy = f"ipc://{tmp_path}/robot.sock", f"ipc://{tmp_path}/policy.sock"
    command = [sys.executable, "-m", "hitogata"]
    serve = [*command, "serve", "--address", policy]
    server = _started(serve)
    box = str(tmp_path / "box")
    reach = ["--connect", policy, "--address", place, "--recordings", box]
    robot = _started([*command, "simulate", *reach])
    try:
        with Operator(place, "anna", WAIT_S) as anna:
            anna.claim()
            anna.instruct("walk forward three metres")
            seen(anna, lambda t: t.level == Level.RUN and _speed(t) > 0.2)
            server.kill()
            assert seen(anna, lambda t: t.level == Level.SAFE_STAND).counters["holds"] >= 1
            server.wait()
            server = _started(serve)
            time.sleep(2.0)
            after = seen(anna, lambda t: True)
            assert after.level == Level.SAFE_STAND, "never resumes by itself"
            anna.release()
            seen(anna, lambda t: t.level == Level.RUN)
            base = seen(anna, lambda t: t.base_pose is not None).base_pose
            assert base is not None and base[2] > 0.6, "upright"
        robot.send_signal(signal.SIGTERM)
        assert robot.wait(WAIT_S) == 0
    finally:
        for process in (server, robot):
            process.kill()
            process.communicate()
    assert list((tmp_path / "box").glob("recording-*.npz"))


def _started(command: list[str]) -> subprocess.Popen[bytes]:
    """A process that has printed its first line."""
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline()
    return process


def _speed(telemetry: Telemetry) -> float:
    command = telemetry.command_vector(G1)
    return float((STAND_COMMAND if command is None else command)[VEL_X])
