"""An operator port under stress: floods, sleeping loops, garbage, restarts."""

from __future__ import annotations

import os
import threading
import time

import numpy as np
import pytest
import zmq

from bridge.contract import UserError
from bridge.operator import messages as wire
from bridge.operator.client import Operator
from bridge.operator.port import (
    CommanderLost,
    Instructed,
    OperatorPort,
    Paused,
    Released,
    Stopped,
)
from robots.g1.embodiment import G1
from tests.doubles import BLIND, await_true
from tests.test_operator import (
    SESSION,
    ask,
    await_telemetry,
    claim,
    free_port,
    instruct,
    moment,
    patient_operator,
    poll_until,
    raw_peer,
    running_robot,
)

pytestmark = pytest.mark.usefixtures("patient")


def test_what_arrives_with_a_stop_does_not_undo_it(address):
    now_s = [0.0]
    with OperatorPort(address, G1, clock=lambda: now_s[0]) as port:
        places = port.addresses
        with raw_peer(places.commands) as peer, raw_peer(places.stop) as stopper:
            peer.send(wire.pack(claim()))
            poll_until(port, lambda _: port.commander == "anna")
            terms = {"session": SESSION, "epoch": 1}
            asked = (
                wire.Release(sequence=2, stops=0, **terms),
                instruct(1, 3),
                wire.Resume(sequence=4, stops=0, **terms),
                wire.Pause(sequence=5, **terms),
            )
            for request in asked:
                peer.send(wire.pack(request))
            for sequence in (1, 2):
                stopper.send(wire.pack(wire.Stop(sequence=sequence)))
            time.sleep(0.5)
            # Pausing is no danger.
            assert poll_until(port, lambda events: len(events) > 1) == [Stopped(), Paused()]
            replies = [wire.unpack(wire.REPLIES, peer.recv()) for _ in range(5)]
            kinds = [type(reply) for reply in replies]
            assert kinds == [wire.Lease, wire.Denied, wire.Denied, wire.Denied, wire.Accepted]
            heard = [wire.unpack(wire.ACKNOWLEDGEMENTS, stopper.recv()) for _ in range(2)]
            assert [(each.sequence, each.stops) for each in heard] == [(1, 1), (2, 2)]
            assert replies[-1].stops == 2
            now_s[0] = 0.6
            peer.send(wire.pack(wire.Release(sequence=6, stops=replies[-1].stops, **terms)))
            assert poll_until(port, bool) == [Released()]


@pytest.mark.parametrize("own", [False, True], ids=["an operator's", "the robot's own"])
def test_what_was_asked_before_a_stop_is_refused_however_late_it_comes(address, own):
    now_s = [0.0]
    with (
        OperatorPort(address, G1, simulated=True, clock=lambda: now_s[0]) as port,
        raw_peer(port.addresses.commands) as peer,
        raw_peer(port.addresses.stop) as stopper,
    ):
        assert isinstance(asked_of(port, peer, claim()), wire.Lease)
        if own:
            port.stops += 1
        else:
            stopper.send(wire.pack(wire.Stop(sequence=1)))
            assert poll_until(port, bool) == [Stopped()]
        now_s[0] = 1.1  # long after the guard of a stop, and the lease still holds
        terms = {"session": SESSION, "epoch": 1}
        for request in (
            wire.Release(sequence=2, stops=0, **terms),
            instruct(1, 3),
            wire.Resume(sequence=4, stops=0, **terms),
            wire.NewScene(sequence=5, stops=0, seed=7, **terms),
        ):
            reply = asked_of(port, peer, request)
            assert isinstance(reply, wire.Denied) and "stopped since" in reply.message
            assert reply.stops == 1
        knowing = wire.Release(sequence=6, stops=1, **terms)
        assert isinstance(asked_of(port, peer, knowing), wire.Accepted)


def asked_of(port: OperatorPort, peer: zmq.Socket, request: wire.Request) -> wire.AnyReply:
    """The answer of a port in this very thread."""
    peer.send(wire.pack(request))
    await_true(lambda: bool(port.poll()) or bool(peer.poll(0)))
    return wire.unpack(wire.REPLIES, peer.recv())


def test_what_waited_for_a_sleeping_loop_is_refused(address):
    now_s = [0.0]
    with (
        OperatorPort(address, G1, clock=lambda: now_s[0]) as port,
        raw_peer(port.addresses.commands) as peer,
    ):
        peer.send(wire.pack(claim()))
        poll_until(port, lambda _: port.commander == "anna")
        peer.recv()
        peer.send(wire.pack(instruct(1, 2)))
        time.sleep(0.5)
        now_s[0] = wire.STALE_S + 1
        assert port.poll() == []
        denied = wire.unpack(wire.REPLIES, peer.recv())
        assert isinstance(denied, wire.Denied) and "busy" in denied.message
        assert port.commander == "anna"  # it was there all the time
        now_s[0] += wire.STALE_S + 1
        assert port.poll() == [CommanderLost("anna")]


def test_a_stop_passes_a_flood_of_commands(address):
    with OperatorPort(address, G1) as port:
        places = port.addresses
        with raw_peer(places.commands) as peer, raw_peer(places.stop) as stopper:
            ending = threading.Event()

            def flood() -> None:
                while not ending.is_set():
                    peer.send(wire.pack(instruct(9, 9)))

            thread = threading.Thread(target=flood)
            thread.start()
            try:
                await_true(lambda: (port.poll(), port.counters["refused_commands"] > 200)[1])
                stopper.send(wire.pack(wire.Stop(sequence=3)))
                polls = 0
                while not stopper.poll(20):
                    before = port.counters["refused_commands"]
                    port.poll()
                    assert port.counters["refused_commands"] - before <= 32
                    polls += 1
                    assert polls < 500
            finally:
                ending.set()
                peer.rcvtimeo = 0
                while thread.is_alive():
                    port.poll()
                    thread.join(0.01)


@pytest.mark.parametrize("transport", ["ipc", "tcp"])
def test_a_peer_that_floods_and_vanishes_does_no_harm(transport, address):
    """libzmq's heartbeat would abort this very process."""
    place = address if transport == "ipc" else f"tcp://127.0.0.1:{free_port()}"
    with OperatorPort(place, G1) as port:
        for target in (port.addresses.commands, port.addresses.stop):
            with raw_peer(target) as peer:
                peer.sndhwm = 10_000
                until = time.monotonic() + 0.5
                while time.monotonic() < until:
                    try:
                        peer.send(b"x" * 1000, zmq.NOBLOCK)
                    except zmq.Again:
                        time.sleep(0.01)
            time.sleep(0.7)
        with raw_peer(port.addresses.stop) as stopper:
            stopper.send(wire.pack(wire.Stop(sequence=1)))
            assert poll_until(port, bool) == [Stopped()]
        poll_until(port, lambda _: port.counters["malformed_messages"] > 500)


def test_malformed_frames_are_counted_and_ignored(address):
    good = wire.pack(instruct(1, 2))
    # The last two are of the right form: a text too long, a session too short to be a secret.
    garbage = [
        [b""],
        [b"\xff" * 50],
        [b"\x91" * 5000],
        [good, good],
        [b""] * 100,
        [good[:-3]],
        [wire.pack(wire.Stop(sequence=1))],
        [wire.pack(instruct(1, 2, "x" * 2000))],
        [wire.pack(instruct(1, 2, session="s"))],
    ]
    with running_robot(address) as robot, patient_operator(address, "anna") as anna:
        anna.claim()
        for place in (robot.port.addresses.commands, robot.port.addresses.stop):
            with raw_peer(place) as peer:
                known = robot.port.counters["malformed_messages"]
                frames = garbage if place == robot.port.addresses.commands else garbage[:6]
                for each in frames:
                    peer.send_multipart(each)
                await_true(
                    lambda known=known, frames=frames: (
                        robot.port.counters["malformed_messages"] == known + len(frames)
                    )
                )
                peer.send(os.urandom(1 << 20))  # ends the connection
        anna.instruct("go")
        anna.stop()
        robot.await_events(Instructed("go"), Stopped())


def test_random_frames_never_raise(address):
    rng = np.random.default_rng(0)
    seeds = [wire.pack(request) for request in (claim(), instruct(1, 2), wire.Stop(sequence=1))]
    with OperatorPort(address, G1) as port, raw_peer(port.addresses.commands) as peer:
        for sent in range(2000):
            frame = bytearray(seeds[int(rng.integers(len(seeds)))])
            for place in rng.integers(len(frame), size=3):
                frame[place] = int(rng.integers(256))
            peer.send(bytes(frame), zmq.NOBLOCK)
            if sent % 10 == 0:
                port.poll()
        poll_until(port, lambda _: port.counters["malformed_messages"] > 1000)


def test_bad_wishes_are_denied_in_one_line(address):
    with running_robot(address, simulated=False) as robot, patient_operator(address) as operator:
        operator.claim()
        with pytest.raises(UserError, match="no other scenes"):
            operator.new_scene(3)
        with pytest.raises(UserError, match="seed from 0"):
            operator.new_scene(-1)
        with pytest.raises(UserError, match="empty"):
            operator.instruct(" ")
        operator.leave()
        with raw_peer(robot.port.addresses.commands) as peer:
            for request, both in (
                (claim(protocol=99), f"99 here and {wire.PROTOCOL} at the robot: install"),
                (claim(embodiment=BLIND), "nothing here and head (96, 96) at the robot: start"),
            ):
                reply = ask(peer, request)
                assert isinstance(reply, wire.Denied) and both in reply.message
            lease = ask(peer, claim(2, name=" an\x1b[2Jna\n"))
            assert isinstance(lease, wire.Lease) and robot.port.commander == "an [2Jna"
            for sequence, text in enumerate(("", "walk\x07", "é" * 600), 3):
                reply = ask(peer, instruct(lease.epoch, sequence, text))
                assert isinstance(reply, wire.Denied) and "\n" not in reply.message
        assert {type(event) for event in robot.events} == {CommanderLost}


def test_nobody_answers(address):
    with Operator(address, timeout_s=0.3) as operator:
        with pytest.raises(UserError, match="no robot answers at ipc"):
            operator.claim()
        for halt in (operator.stop, operator.cut):
            with pytest.raises(UserError, match=r"^NOT stopped: .* emergency stop"):
                halt()
        assert operator.telemetry(0.1) is None
    operator.close()
    for call in (operator.stop, operator.claim, operator.telemetry):
        with pytest.raises(UserError, match="closed"):
            call()


def test_a_restarted_robot_is_not_commanded_by_itself(address):
    with patient_operator(address, "anna") as anna:
        with running_robot(address) as robot:
            anna.claim()
            anna.instruct("go")
        with running_robot(address) as robot:
            await_true(lambda: not anna.commanding)
            with pytest.raises(UserError, match="nobody commands the robot: claim it first"):
                anna.instruct("go on")
            anna.stop()
            robot.await_events(Stopped())
            time.sleep(0.6)
            anna.claim()
            anna.instruct("go again")
            seen = await_telemetry(robot.port, anna, moment(instruction="go again"))
            assert seen.instruction == "go again"
            robot.await_events(Stopped(), Instructed("go again"))
            anna.leave()


def test_addresses(address, tmp_path):
    assert wire.addresses_of("tcp://localhost:5760") == wire.Addresses(
        "tcp://127.0.0.1:5760", "tcp://127.0.0.1:5761", "tcp://127.0.0.1:5762"
    )
    assert wire.addresses_of("ipc:///x").stop == "ipc:///x.stop"
    for place in (
        "tcp://0.0.0.0:5760",
        "tcp://127.0.0.1:65534",
        "tcp://127.0.0.1:*",
        "ipc://*",
        "ipc://",
        f"ipc://{tmp_path}/no/such/folder",
        f"ipc://{tmp_path}/{'long' * 40}",
    ):
        with pytest.raises(UserError):
            OperatorPort(place, G1)
    with running_robot(address) as robot:
        modes = [path.stat().st_mode & 0o777 for path in tmp_path.iterdir()]
        assert modes == [0o600] * 3
        with pytest.raises(UserError, match="already listens"):
            OperatorPort(address, G1)
        with patient_operator(address) as operator:
            operator.claim()
        assert robot.port.counters["malformed_messages"] == 0
    assert list(tmp_path.iterdir()) == []
