"""Mutated messages through sockets: to a client, a viewer, foreign wires and the console."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from tempfile import TemporaryDirectory

import msgspec
import numpy as np
import zmq
from websockets.exceptions import ConnectionClosed

from bench.doubles import Puppet
from bench.endurance.growth import measured
from bench.endurance.mutations import mutated, replies
from bench.faults.endless import send_without_end, stranger
from bench.faults.foreign import (
    fill_in_pieces,
    gr00t_line,
    gr00t_request,
    openpi_request,
    web_line,
)
from bench.faults.programs import console_process, peer
from bench.faults.rig import new_trial
from bench.faults.trace import breaches
from bridge.contract import ActionChunk, UserError
from bridge.control.safety import Safety
from bridge.operator import messages as operator_wire
from bridge.operator.client import Operator
from bridge.wire.client import MalformedReply, RemotePolicy
from robots.g1.embodiment import G1, PERIOD_S, STAND_COMMAND

LOOK_EVERY = 500
_UNFINISHED_BYTES = 100_000
_PLAYED_PERIODS = 20  # by then a chunk has faded in
_WAIT_S = 30.0
_encode = msgspec.msgpack.encode


def leave_unfinished(address: str) -> None:
    """A peer that goes in the midst of a message."""
    with stranger(address, b"DEALER") as line:
        send_without_end(line, 1000, _UNFINISHED_BYTES)


# --- the policy's client, an operator's viewer ---


def fuzz_client(frames: int, rng: np.random.Generator) -> dict[str, float]:
    """The robot's client, whose server answers with mutated replies, and the safety behind it."""
    still, refused = Puppet().observe(), 0
    with (
        _mutating_server(rng) as address,
        RemotePolicy(address, G1, timeout_s=_WAIT_S) as policy,
        measured(frames) as (count, figures),
    ):
        for number in count():
            try:
                chunk = policy.act("walk", replace(still, time_s=float(number)))
            except MalformedReply:
                refused += 1
            except UserError as error:
                if "gave no answer" in str(error) or "is gone" in str(error):
                    raise
                refused += 1  # a fault that the server seems to tell
            else:
                if wrong := breaches(played(chunk), G1.limits):
                    raise UserError(f"a mutated chunk reached the motors: {wrong}")
    return figures | {"refused": refused + policy.dropped}


@contextmanager
def _mutating_server(rng: np.random.Generator) -> Iterator[str]:
    """Answers each request with a mutated reply, then with an honest one."""
    ended = threading.Event()
    walk = msgspec.msgpack.decode(replies()[0][0])
    commands = replies()[0][1]

    def serve(router: zmq.Socket[bytes]) -> None:
        while not ended.is_set():
            if not router.poll(100):
                continue
            peer_id, head, *_ = router.recv_multipart()
            asked = msgspec.msgpack.decode(head)
            if asked["type"] != "act":
                router.send_multipart([peer_id, *replies()[2]])
                continue
            terms = {name: asked[name] for name in ("session", "sequence", "observed_at_s")}
            honest = [_encode({**walk, **terms}), commands]
            others = replies()
            bad = honest if rng.random() < 0.5 else others[int(rng.integers(len(others)))]
            for reply in (mutated(bad, rng), honest):
                router.send_multipart([peer_id, *reply])

    with (
        TemporaryDirectory(prefix="hitogata-") as folder,
        zmq.Context() as context,
        context.socket(zmq.ROUTER) as router,
    ):
        address = f"ipc://{folder}/policy.sock"
        router.linger = 0
        router.bind(address)
        thread = threading.Thread(target=serve, args=(router,))
        thread.start()
        try:
            yield address
        finally:
            ended.set()
            thread.join()


def played(chunk: ActionChunk) -> list[np.ndarray]:
    """What a chunk that could be read sends to the motors of an upright robot."""
    upright, safety = Puppet().observe(), Safety(G1)
    safety.expect(0.0, chunks=True)
    safety.accept(chunk, 0.0)
    sent = [STAND_COMMAND, STAND_COMMAND]
    for period in range(_PLAYED_PERIODS):
        now_s = period * PERIOD_S
        sent.append(safety.step(now_s, replace(upright, time_s=now_s)).command)
    return sent


def fuzz_telemetry(frames: int, rng: np.random.Generator) -> dict[str, float]:
    """An operator that watches a robot whose moments are mutated."""
    moment = operator_wire.Telemetry(time_s=1.0, level=0, cause="", counters={"holds": 1})
    shown = [operator_wire.pack_telemetry(moment)]
    refused = 0
    with TemporaryDirectory(prefix="hitogata-") as folder, zmq.Context() as context:
        places = operator_wire.addresses_of(f"ipc://{folder}/robot.sock")
        with context.socket(zmq.PUB) as robot, Operator(places.commands) as viewer:
            robot.linger = 0
            robot.bind(places.telemetry)
            _until_seen(robot, viewer, shown)
            with measured(frames) as (count, figures):
                for number in count():
                    robot.send_multipart(mutated(shown, rng))
                    try:
                        viewer.telemetry(0.001)
                    except UserError:
                        refused += 1
                    if number % LOOK_EVERY == 0:
                        _until_seen(robot, viewer, shown)
    return figures | {"refused": refused}


def _until_seen(robot: zmq.Socket[bytes], viewer: Operator, shown: list[bytes]) -> None:
    deadline = time.monotonic() + _WAIT_S
    while time.monotonic() < deadline:
        robot.send_multipart(shown)
        with suppress(UserError):
            if viewer.telemetry(0.1) is not None:
                return
    raise UserError(f"a viewer has seen nothing for {_WAIT_S:g} s")


# --- foreign wires ---


def fuzz_gr00t(frames: int, rng: np.random.Generator) -> dict[str, float]:
    """The server that speaks GR00T's wire, in its process."""
    valid = [_encode({"endpoint": "ping"}), _encode({"endpoint": "reset"}), gr00t_request()]
    refused = 0
    with (
        peer("gr00t", "tcp://127.0.0.1:0") as server,
        gr00t_line(server.said) as line,
        measured(frames, server) as (count, figures),
    ):
        for number in count():
            message = valid[2 if number % 2 else int(rng.integers(len(valid)))]
            line.send_multipart(mutated([b"", message], rng))
            refused += b"error" in line.recv_multipart()[-1][:16]
            if number % LOOK_EVERY == 0:
                leave_unfinished(server.said)
    return figures | {"refused": refused}


def fuzz_openpi(frames: int, rng: np.random.Generator) -> dict[str, float]:
    """The server that speaks openpi's wire, in its process."""
    valid = openpi_request()
    refused = 0
    with peer("openpi", "ws://127.0.0.1:0") as server, ExitStack() as talk:
        line = talk.enter_context(web_line(server.said))
        line.recv(_WAIT_S)  # the metadata
        with measured(frames, server) as (count, figures):
            for number in count():
                line.send(mutated([valid], rng)[0])
                if isinstance(line.recv(_WAIT_S), str):
                    refused += 1
                    talk.close()
                    line = talk.enter_context(web_line(server.said))
                    line.recv(_WAIT_S)
                if number % LOOK_EVERY == 0:
                    fill_in_pieces(server.said)
    return figures | {"refused": refused}


# --- the console ---


def fuzz_console(
    hitogata: Sequence[str], frames: int, rng: np.random.Generator
) -> dict[str, float]:
    """A console in its process: what browsers ask for, and what a page says. No robot is there."""
    refused = 0
    orders = [
        json.dumps({"do": do, "number": 1, "stops": 0, **terms}).encode()
        for do, terms in (
            ("instruct", {"text": "walk"}),
            ("look", {"picture": False}),
            ("take", {"command": True}),
            ("scene", {"seed": 3}),
        )
    ]
    with (
        new_trial(hitogata) as trial,
        console_process(trial, "--connect", trial.robot_address) as (console, place),
        ExitStack() as talk,
        measured(frames, console) as (count, figures),
    ):
        page = talk.enter_context(web_line(f"ws://{place}/live"))
        for number in count():
            if number % 4 == 0:
                refused += _browsed(place, rng)
                continue
            try:
                page.send(mutated([orders[number % 4]], rng)[0], text=True)
                while number % 16 == 1:
                    refused += b"not understood" in page.recv(0, decode=False)
            except TimeoutError:
                pass  # it has told all
            except ConnectionClosed:  # as after what is no text
                refused += 1
                talk.close()
                page = talk.enter_context(web_line(f"ws://{place}/live"))
            if number % LOOK_EVERY == 1:
                fill_in_pieces(f"ws://{place}/live")
        talk.close()
    return figures | {"refused": refused}


def _browsed(place: str, rng: np.random.Generator) -> bool:
    """Asks for a page, with accidents; whether it was refused. Every line ends."""
    asked = f"GET /console.css?a=1 HTTP/1.1\r\nHost: {place}\r\nCookie: a=b\r\n\r\n".encode()
    host, port = place.split(":")
    with socket.create_connection((host, int(port)), _WAIT_S) as line, suppress(OSError):
        line.sendall(mutated([asked], rng)[0])
        line.shutdown(socket.SHUT_WR)
        told = line.recv(1 << 20)
        while line.recv(1 << 20):
            pass
        return b"200 OK" not in told
    return True
