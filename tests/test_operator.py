"""Operators and a robot over real sockets: who commands, stops and watches, and what is refused."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import zmq

from bridge.contract import UserError
from bridge.operator import messages as wire
from bridge.operator.client import Operator
from bridge.operator.port import (
    CommanderLost,
    Event,
    Instructed,
    MotorsCut,
    OperatorPort,
    Paused,
    Released,
    Resumed,
    SceneAsked,
    Stopped,
)
from robots.g1.embodiment import G1
from tests.doubles import await_true

pytestmark = pytest.mark.usefixtures("patient")

ROOT = Path(__file__).parent.parent
SESSION = "s" * 16
# Room for a busy machine; what is waited for happens within a tenth of it.
WAIT_S = 20.0


class Robot:
    """A control loop in a thread of its own, which remembers the events."""

    def __init__(self, address: str, simulated: bool = True) -> None:
        self.events: list[Event] = []
        self.ready, self._ending = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, args=(address, simulated))
        self._thread.start()
        assert self.ready.wait(WAIT_S)

    def _run(self, address: str, simulated: bool) -> None:
        with OperatorPort(address, G1, simulated) as self.port:
            self.ready.set()
            while not self._ending.wait(0.02):
                self.events += self.port.poll()

    def await_events(self, *events: Event) -> None:
        """Waits for these events, and no others, since the start."""
        await_true(lambda: len(self.events) >= len(events))
        assert self.events == list(events)

    def end(self) -> None:
        self._ending.set()
        self._thread.join()


@contextmanager
def running_robot(address: str, simulated: bool = True) -> Iterator[Robot]:
    robot = Robot(address, simulated)
    try:
        yield robot
    finally:
        robot.end()


@contextmanager
def raw_peer(address: str, kind: int = zmq.DEALER) -> Iterator[zmq.Socket]:
    context = zmq.Context()
    socket = context.socket(kind)
    socket.linger = 0
    socket.rcvtimeo = int(WAIT_S * 1000)
    socket.connect(address)
    try:
        yield socket
    finally:
        context.destroy()


def ask(socket: zmq.Socket, request: wire.Request) -> wire.AnyReply:
    socket.send(wire.pack(request))
    return wire.unpack(wire.REPLIES, socket.recv())


def claim(sequence: int = 1, session: str = SESSION, name: str = "anna", **terms) -> wire.Claim:
    spoken = {"protocol": wire.PROTOCOL, "embodiment": G1, **terms}
    return wire.Claim(session=session, sequence=sequence, name=name, **spoken)


def instruct(
    epoch: int, sequence: int, text: str = "go", session: str = SESSION, stops: int = 0
) -> wire.Instruct:
    return wire.Instruct(session=session, epoch=epoch, sequence=sequence, stops=stops, text=text)


def patient_operator(address: str, name: str = "") -> Operator:
    return Operator(address, name, timeout_s=WAIT_S)


def poll_until(port: OperatorPort, enough: Callable[[list[Event]], bool]) -> list[Event]:
    events: list[Event] = []
    await_true(lambda: events.extend(port.poll()) or enough(events))
    return events


def moment(**changes) -> wire.Telemetry:
    terms = {"time_s": 1.5, "level": 0, "cause": "", **changes}
    return wire.Telemetry(**terms)


def free_port() -> int:
    """A port with two free ones after it, as far as can be known."""
    with raw_peer("ipc://unused") as probe:
        return probe.bind_to_random_port("tcp://127.0.0.1", min_port=20000, max_port=30000)


def await_telemetry(
    port: OperatorPort, viewer: Operator, telemetry: wire.Telemetry
) -> wire.Telemetry:
    """What the viewer sees once it is subscribed."""
    for _ in range(int(WAIT_S / 0.05)):
        port.publish(telemetry)
        if (seen := viewer.telemetry(0.05)) is not None:
            return seen
    raise AssertionError("nothing was seen")


def test_every_command_becomes_its_event(address):
    with running_robot(address) as robot, patient_operator(address, "anna") as operator:
        operator.claim()
        operator.instruct("  walk to the red ball ")
        operator.pause()
        operator.resume()
        operator.release()
        operator.new_scene(7)
        operator.leave()
        robot.await_events(
            Instructed("walk to the red ball"),
            Paused(),
            Resumed(),
            Released(),
            SceneAsked(7),
            CommanderLost("anna"),
        )
        assert robot.port.commander == "" and not operator.commanding


def test_over_tcp(tmp_path):
    port = free_port()
    with running_robot(f"tcp://localhost:{port}") as robot:
        with patient_operator(f"tcp://127.0.0.1:{port}", "anna") as operator:
            operator.claim()
            operator.stop()
        robot.await_events(Stopped(), CommanderLost("anna"))


def test_one_commands_and_the_others_watch(address):
    with (
        running_robot(address) as robot,
        patient_operator(address, "anna") as anna,
        patient_operator(address, "bert") as bert,
    ):
        anna.claim()
        with pytest.raises(UserError, match=r"^anna has commanded the robot for \d s: [^\n]+$"):
            bert.claim()
        with pytest.raises(UserError, match="claim it first"):
            bert.instruct("dance")
        anna.instruct("go")
        robot.await_events(Instructed("go"))
        assert robot.port.commander == "anna"
        anna.leave()
        bert.claim()
        bert.instruct("dance")
        with pytest.raises(UserError, match="claim it again"):
            anna.pause()
        robot.await_events(Instructed("go"), CommanderLost("anna"), Instructed("dance"))


def test_a_command_without_the_lease_is_refused(address):
    with running_robot(address) as robot, patient_operator(address, "anna") as anna:
        with raw_peer(robot.port.addresses.commands) as thief:
            nobody = ask(thief, instruct(1, 1))
            assert isinstance(nobody, wire.Busy) and "nobody commands" in str(nobody)
            anna.claim()
            for epoch in (0, 1, 2):  # one of them is anna's
                reply = ask(thief, instruct(epoch, 10_000))
                assert isinstance(reply, wire.Busy) and reply.holder == "anna"
        anna.pause()
        robot.await_events(Paused())
        assert robot.port.counters["refused_commands"] == 4


def test_replayed_commands_are_refused(address):
    with running_robot(address) as robot, raw_peer(robot.port.addresses.commands) as peer:
        first = ask(peer, claim(1))
        assert isinstance(first, wire.Lease) and first.sequence == 1
        assert isinstance(ask(peer, instruct(first.epoch, 5, "one")), wire.Accepted)
        for sequence in (4, 1):
            assert isinstance(ask(peer, instruct(first.epoch, sequence, "two")), wire.Denied)
        assert isinstance(ask(peer, claim(4)), wire.Denied)
        # The last answer may have been lost on its way.
        assert ask(peer, instruct(first.epoch, 5, "two")) == wire.Accepted(sequence=5)
        second = ask(peer, claim(6))
        assert isinstance(second, wire.Lease) and second.epoch > first.epoch
        assert ask(peer, claim(6)) == second
        assert isinstance(ask(peer, instruct(first.epoch, 7, "three")), wire.Busy)
        assert isinstance(ask(peer, instruct(second.epoch, 5, "four")), wire.Denied)
        assert isinstance(ask(peer, instruct(second.epoch, 7, "five")), wire.Accepted)
        robot.await_events(Instructed("one"), Instructed("five"))
        assert robot.port.counters["repeated_commands"] == 6


def test_beats_keep_the_lease_and_a_killed_holder_loses_it(address, monkeypatch):
    monkeypatch.setattr(wire, "STALE_S", 3.0)
    with running_robot(address) as robot, patient_operator(address, "bert") as bert:
        commander = subprocess.Popen(
            [sys.executable, __file__, address],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
        )
        try:
            assert commander.stdout is not None and commander.stdout.readline() == b"commands\n"
            time.sleep(1.5 * wire.STALE_S)
            with pytest.raises(UserError, match="anna has commanded"):
                bert.claim()
            robot.await_events(Instructed("walk"))
            commander.send_signal(signal.SIGKILL)
            robot.await_events(Instructed("walk"), CommanderLost("anna"))
            bert.claim()
            bert.instruct("dance")
            robot.await_events(Instructed("walk"), CommanderLost("anna"), Instructed("dance"))
        finally:
            commander.kill()
            commander.communicate()


def test_a_silent_holder_finds_its_lease_gone(address, monkeypatch):
    assert wire.BEAT_S == 0.5
    monkeypatch.setattr(wire, "STALE_S", 1.5)
    with running_robot(address) as robot, patient_operator(address, "bert") as bert:
        with raw_peer(robot.port.addresses.commands) as peer:
            lease = ask(peer, claim())
            assert isinstance(lease, wire.Lease)
            robot.await_events(CommanderLost("anna"))  # it never sent a beat
            bert.claim()
            late = ask(peer, instruct(lease.epoch, 2))
            assert isinstance(late, wire.Busy) and late.holder == "bert"
        robot.await_events(CommanderLost("anna"))


def test_anyone_stops_and_cuts_while_another_commands(address):
    with (
        running_robot(address) as robot,
        patient_operator(address, "anna") as anna,
        patient_operator(address, "bert") as bert,
    ):
        anna.claim()
        anna.instruct("go")
        bert.stop()
        robot.await_events(Instructed("go"), Stopped())
        bert.cut()
        robot.await_events(Instructed("go"), Stopped(), MotorsCut())
        assert robot.port.commander == "anna"
        time.sleep(0.6)
        anna.release()
        robot.await_events(Instructed("go"), Stopped(), MotorsCut(), Released())


def test_a_stop_ends_the_sleep_between_periods_and_nothing_else_does(address):
    long_s = 3.0

    def slept_s() -> float:
        begun_s = time.monotonic()
        port.sleep(long_s)
        return time.monotonic() - begun_s

    with (
        OperatorPort(address, G1) as port,
        raw_peer(port.addresses.commands) as commander,
        raw_peer(port.addresses.stop) as anyone,
    ):
        commander.send(wire.pack(claim()))
        assert slept_s() >= long_s
        anyone.send(wire.pack(wire.Stop(sequence=1)))
        assert slept_s() < long_s
        assert port.poll() == [Stopped()]
        anyone.send(wire.pack(wire.Stop(sequence=2)))
        port.sleep(0.1)  # so soon after the first it does not
        begun_s = time.monotonic()
        port.sleep(0.2)
        assert time.monotonic() - begun_s >= 0.2
        assert port.poll() == [Stopped()]


if __name__ == "__main__":
    with Operator(sys.argv[1], "anna", timeout_s=WAIT_S) as commander:
        commander.claim()
        commander.instruct("walk")
        print("commands", flush=True)
        time.sleep(600)
