"""Mutated frames against everything that listens: nothing crashes, hangs or grows."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from tempfile import TemporaryDirectory

import numpy as np
import zmq

from bench.endurance.endpoints import (
    LOOK_EVERY,
    fuzz_client,
    fuzz_console,
    fuzz_gr00t,
    fuzz_openpi,
    fuzz_telemetry,
    leave_unfinished,
)
from bench.endurance.growth import measured
from bench.endurance.mutations import Frames, claim, mutated, requests, wishes
from bench.faults.programs import scripted_server
from bridge.contract import UserError
from bridge.operator import messages as operator_wire
from bridge.operator.port import OperatorPort
from bridge.wire import messages as wire
from robots.g1.embodiment import G1, PERIOD_S

FRAMES = 100_000
HANGS_MS, ASK_AGAIN_MS = 30_000, 1000


def fuzz(
    hitogata: Sequence[str], frames: int = FRAMES, seed: int = 0
) -> dict[str, dict[str, float]]:
    """Sends so many mutated messages to each end; UserError names the first that breaks.

    `hitogata` is the command line that starts a console. For each end: messages, how many were
    refused, seconds, growth of memory in MB; for the port also how many were obeyed, and of how
    many epochs. Now and then one does not end.
    """
    ends = {
        "server": _fuzz_server,
        "client": fuzz_client,
        "operator_port": _fuzz_port,
        "telemetry": fuzz_telemetry,
        "gr00t": fuzz_gr00t,
        "openpi": fuzz_openpi,
        "console": partial(fuzz_console, hitogata),
    }
    return {name: end(frames, np.random.default_rng(seed)) for name, end in ends.items()}


def _fuzz_server(frames: int, rng: np.random.Generator) -> dict[str, float]:
    """The policy server, in its process."""
    with TemporaryDirectory(prefix="hitogata-") as folder:
        place = f"ipc://{folder}/policy.sock"
        with scripted_server(place) as server, _dealer(place) as socket:
            session = _greeted(socket)
            refused = 0
            with measured(frames, server) as (count, figures):
                for number in count():
                    # Of an older session, or with an older number, they would go unread.
                    valid = requests(session, number + 1)
                    # The observation is the longest by far.
                    kind = int(rng.integers(len(valid))) if number % 4 else 3
                    for reply in _said(socket, mutated(valid[kind], rng)):
                        refused += isinstance(reply, wire.Fault)
                        session = reply.session if isinstance(reply, wire.Welcome) else session
                    if number % LOOK_EVERY == 0:
                        leave_unfinished(place)
                        session = _greeted(socket)
                _greeted(socket)
            if server.poll() is not None:
                raise UserError("the policy server has ended: read its log")
    return figures | {"refused": refused}


def _said(socket: zmq.Socket[bytes], frames: Frames) -> Iterator[wire.Reply]:
    """Sends a message; what has been answered so far."""
    _send(socket, frames)
    return _answers(socket, 0)


def _greeted(socket: zmq.Socket[bytes]) -> str:
    """The session of a fresh handshake; UserError when none comes.

    A server drops answers to a client that has not read its last ones, so this asks again.
    """
    deadline = time.monotonic() + HANGS_MS / 1000
    while time.monotonic() < deadline:
        _send(socket, wire.pack(wire.Hello(protocol=wire.PROTOCOL, embodiment=G1)))
        for reply in _answers(socket, ASK_AGAIN_MS):
            if isinstance(reply, wire.Welcome):
                return reply.session
    raise UserError(f"the policy server has not answered for {HANGS_MS / 1000:g} s")


def _send(socket: zmq.Socket[bytes], frames: Frames) -> None:
    if not socket.poll(HANGS_MS, zmq.POLLOUT):
        raise UserError(f"the policy server has taken nothing for {HANGS_MS / 1000:g} s")
    socket.send_multipart(frames, zmq.NOBLOCK)


def _answers(socket: zmq.Socket[bytes], patience_ms: int) -> Iterator[wire.Reply]:
    """What is answered, until nothing comes for a while."""
    while socket.poll(patience_ms):
        yield wire.unpack_reply(socket.recv_multipart())[0]


def _fuzz_port(frames: int, rng: np.random.Generator) -> dict[str, float]:
    """The robot's operator port: the sockets for commands and for stops."""
    clock = _Clock()
    epoch = obeyed = 0
    with TemporaryDirectory(prefix="hitogata-") as folder:
        place = f"ipc://{folder}/robot.sock"
        with OperatorPort(place, G1, simulated=True, clock=clock) as port:
            with _dealer(port.addresses.commands) as peer, _dealer(port.addresses.stop) as stopper:
                with measured(frames) as (count, figures):
                    for number in count():
                        clock.now_s += PERIOD_S
                        if number % LOOK_EVERY == 0:
                            leave_unfinished(port.addresses.stop)
                        if number % LOOK_EVERY == 0 or not port.commander:
                            epoch = _claimed(port, peer, clock)
                        # Of an older epoch, or with an older number, they would not be obeyed.
                        commands, halts = wishes(epoch, number + 1)
                        if number % 4 == 0:
                            _heard(port, stopper, mutated(_one_of(halts, rng), rng))
                            continue
                        for frame in _heard(port, peer, mutated(_one_of(commands, rng), rng)):
                            reply = operator_wire.unpack(operator_wire.REPLIES, frame)
                            obeyed += isinstance(reply, operator_wire.Accepted)
                            epoch = _epoch_of(reply) or epoch
                _still_stops(port, stopper)
            refused = port.counters["malformed_messages"]
    return figures | {"refused": refused, "obeyed": obeyed, "epochs": epoch}


@dataclass
class _Clock:
    """The port's own time: a period for each message, however fast they come."""

    now_s: float = 0.0

    def __call__(self) -> float:
        return self.now_s


def _one_of(messages: list[Frames], rng: np.random.Generator) -> Frames:
    return messages[int(rng.integers(len(messages)))]


def _claimed(port: OperatorPort, peer: zmq.Socket[bytes], clock: _Clock) -> int:
    """The epoch of a fresh lease; the last one, whatever its number has become, goes stale.

    A mutated claim that comes late may take it first, with a higher number, so this asks again.
    """
    deadline = time.monotonic() + HANGS_MS / 1000
    while time.monotonic() < deadline:
        clock.now_s += 2 * operator_wire.STALE_S
        port.poll()
        # A port that slept so long obeys nobody for a while.
        clock.now_s += operator_wire.STALE_S / 2
        port.poll()
        frames = _heard(port, peer, [operator_wire.pack(claim(0))])
        asked_s = time.monotonic()
        while time.monotonic() < asked_s + ASK_AGAIN_MS / 1000:
            for frame in frames:
                if epoch := _epoch_of(operator_wire.unpack(operator_wire.REPLIES, frame)):
                    return epoch
            port.poll()
            frames = [peer.recv()] if peer.poll(1) else []
    raise UserError(f"the operator port has lent nothing for {HANGS_MS / 1000:g} s")


def _epoch_of(reply: operator_wire.AnyReply) -> int:
    return reply.epoch if isinstance(reply, operator_wire.Lease) else 0


def _heard(port: OperatorPort, socket: zmq.Socket[bytes], message: Frames) -> list[bytes]:
    """Sends a message; what has been answered so far."""
    while not socket.poll(0, zmq.POLLOUT):
        port.poll()
    socket.send_multipart(message, zmq.NOBLOCK)
    port.poll()
    answers: list[bytes] = []
    while socket.poll(0):
        answers.append(socket.recv())
    return answers


def _still_stops(port: OperatorPort, stopper: zmq.Socket[bytes]) -> None:
    stopper.send(operator_wire.pack(operator_wire.Stop(sequence=99)))
    deadline = time.monotonic() + HANGS_MS / 1000
    while time.monotonic() < deadline:
        port.poll()
        while stopper.poll(1):
            told = operator_wire.unpack(operator_wire.ACKNOWLEDGEMENTS, stopper.recv())
            if told.sequence == 99:
                return
    raise UserError("a stop was not acknowledged")


@contextmanager
def _dealer(address: str) -> Iterator[zmq.Socket[bytes]]:
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.linger = 0
        socket.connect(address)
        yield socket
