"""Mutated frames against everything that listens: nothing crashes, hangs or grows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import zmq

from bench.doubles import walk_commands
from bench.faults.rig import Child, scripted_server
from bench.faults.trace import breaches
from bench.footprint import Footprint, footprint_of
from bridge.contract import ActionChunk, Observation, Status, UserError
from bridge.control.safety import Safety
from bridge.operator import messages as operator_wire
from bridge.operator.port import OperatorPort
from bridge.wire import messages as wire
from robots.g1.embodiment import G1, IMAGE_SIZE, PERIOD_S, STAND_COMMAND, STATE_DIM, STATE_FIELDS

FRAMES = 100_000
MOST_GROWTH_MB = 20.0
HANGS_MS, ASK_AGAIN_MS = 30_000, 1000
_WARM_UP = 2000
_LOOK_EVERY = 500
_PLAYED_PERIODS = 20  # by then a chunk has faded in
_MOST_MUTATIONS = 4
_SESSION = "s" * 16
# Bytes that begin something in msgpack, or end a range.
_TELLING = (0x00, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xC0, 0xC1, 0xC6, 0xCB, 0xDB, 0xDD, 0xDF, 0xFF)

Frames = list[bytes]


# --- mutation ---


def mutated(frames: Frames, rng: np.random.Generator) -> Frames:
    """A message with a few accidents, some of which keep it valid."""
    frames = list(frames)
    for _ in range(min(int(rng.geometric(0.6)), _MOST_MUTATIONS)):
        place = int(rng.integers(len(frames)))
        if rng.random() < 0.1:
            frames = _rearranged(frames, place, rng)
        else:
            frames[place] = _damaged(frames[place], rng)
    return frames


def _rearranged(frames: Frames, place: int, rng: np.random.Generator) -> Frames:
    choice = int(rng.integers(3))
    if choice == 0 and len(frames) > 1:
        return frames[:place] + frames[place + 1 :]
    if choice == 1 and len(frames) < 8:
        return [*frames, frames[place]]
    return frames[place:] + frames[:place]


def _damaged(frame: bytes, rng: np.random.Generator) -> bytes:
    if not frame:
        return bytes(rng.integers(256, size=8, dtype=np.uint8))
    a, b = sorted(int(at) for at in rng.integers(len(frame) + 1, size=2))
    match int(rng.integers(7)):
        case 0:
            return frame[:a]
        case 1:
            return frame[:a] + bytes(rng.integers(256, size=int(rng.integers(16)), dtype=np.uint8))
        case 2:
            return frame[:a] + frame[min(b, a + 16) :]
        case 3:
            return frame[:b] + frame[a:b][:64] + frame[b:]
        case 4:
            return b"\x91" * int(rng.integers(2000)) + frame
        case _:
            changed = bytearray(frame)
            told = _TELLING[int(rng.integers(len(_TELLING)))]
            changed[min(a, len(frame) - 1)] = told if rng.random() < 0.5 else a % 256
            return bytes(changed)


# --- valid messages, to be mutated ---


def requests(session: str, sequence: int) -> list[Frames]:
    """What a client says to a policy server in a session."""
    image = np.zeros((IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    seen = Observation(G1, 1.0, np.zeros(STATE_DIM, np.float32), {"head": image})
    hello = wire.Hello(protocol=wire.PROTOCOL, embodiment=G1, model_id="script")
    return [
        wire.pack(hello),
        wire.pack(wire.Reset(session=session, sequence=sequence)),
        wire.pack(wire.Goodbye(session=session)),
        wire.pack_observation(session, sequence, "walk", seen),
    ]


def replies() -> list[Frames]:
    """What a policy server says to a client."""
    chunk = ActionChunk(0.0, walk_commands(), Status.ACTING, 1.0, {"action": "walk"})
    welcome = wire.Welcome(
        session="s", protocol=1, embodiment=G1, model_id="m", normalisation_id="n"
    )
    refused = wire.Refused(term="model", client="a", server="b", remedy="serve a")
    return [
        wire.pack_chunk("s", 1, chunk, G1),
        wire.pack_chunk("s", 2, chunk, G1),
        wire.pack(welcome),
        wire.pack(refused),
        wire.pack(wire.Done(session="s", sequence=1)),
        wire.pack(wire.Fault(session="s", sequence=1, message="no")),
    ]


def wishes(epoch: int, sequence: int) -> tuple[list[Frames], list[Frames]]:
    """What operators say: commands under the lease of an epoch, and halts."""
    terms: dict[str, Any] = {"session": _SESSION, "sequence": sequence, "epoch": epoch}
    asked = (
        _claim(sequence),
        operator_wire.Beat(**terms),
        operator_wire.Instruct(text="walk", stops=0, **terms),
        operator_wire.Release(stops=0, **terms),
        operator_wire.NewScene(seed=7, stops=0, **terms),
        operator_wire.Leave(**terms),
    )
    halts = (operator_wire.Stop(sequence=sequence), operator_wire.Cut(sequence=sequence))
    return [[operator_wire.pack(each)] for each in asked], [
        [operator_wire.pack(each)] for each in halts
    ]


def _claim(sequence: int) -> operator_wire.Claim:
    return operator_wire.Claim(
        session=_SESSION,
        sequence=sequence,
        protocol=operator_wire.PROTOCOL,
        embodiment=G1,
        name="anna",
    )


# --- what listens ---


def fuzz(frames: int = FRAMES, seed: int = 0) -> dict[str, dict[str, float]]:
    """Sends so many mutated messages to each end; UserError names the first that breaks.

    For each end: messages, how many were refused, seconds, growth of memory in MB; for the port
    also how many were obeyed, and of how many epochs.
    """
    ends = {"server": _fuzz_server, "client": _fuzz_client, "operator_port": _fuzz_port}
    return {name: end(frames, np.random.default_rng(seed)) for name, end in ends.items()}


def _fuzz_client(frames: int, rng: np.random.Generator) -> dict[str, float]:
    """A client's and an operator's decoding, and the safety behind it."""
    valid = replies()
    moment = operator_wire.Telemetry(time_s=1.0, level=0, cause="", counters={"holds": 1})
    shown = [[operator_wire.pack_telemetry(moment)]]
    refused = 0
    with _measured(frames) as (count, figures):
        for number in count():
            kind = shown if number % 4 == 0 else valid
            message = mutated(kind[int(rng.integers(len(kind)))], rng)
            try:
                if kind is shown:
                    operator_wire.unpack_telemetry(message[0])
                    continue
                reply, arrays = wire.unpack_reply(message)
                if isinstance(reply, wire.Chunk):
                    sent = played(wire.chunk_of(reply, arrays, G1))
                    if wrong := breaches(sent, G1.limits):
                        raise UserError(f"a mutated chunk reached the motors: {wrong}")
            except wire.WireError:
                refused += 1
    return figures | {"refused": refused}


def played(chunk: ActionChunk) -> list[np.ndarray]:
    """What a chunk that could be read sends to the motors of an upright robot."""
    state = np.zeros(STATE_DIM, np.float32)
    state[STATE_FIELDS.index("gravity_z")] = -1.0
    image = np.zeros((IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    safety = Safety(G1)
    safety.expect(0.0, chunks=True)
    safety.accept(chunk, 0.0)
    sent = [STAND_COMMAND, STAND_COMMAND]
    for period in range(_PLAYED_PERIODS):
        now_s = period * PERIOD_S
        body = Observation(G1, now_s, state, {"head": image})
        sent.append(safety.step(now_s, body).command)
    return sent


def _fuzz_server(frames: int, rng: np.random.Generator) -> dict[str, float]:
    """The policy server, in its process."""
    with TemporaryDirectory(prefix="hitogata-") as folder:
        place = f"ipc://{folder}/policy.sock"
        with scripted_server(place) as server, _dealer(place) as socket:
            session = _greeted(socket)
            refused = 0
            with _measured(frames, server) as (count, figures):
                for number in count():
                    # Of an older session, or with an older number, they would go unread.
                    valid = requests(session, number + 1)
                    # The observation is the longest by far.
                    kind = int(rng.integers(len(valid))) if number % 4 else 3
                    for reply in _said(socket, mutated(valid[kind], rng)):
                        refused += isinstance(reply, wire.Fault)
                        session = reply.session if isinstance(reply, wire.Welcome) else session
                    if number % _LOOK_EVERY == 0:
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
                with _measured(frames) as (count, figures):
                    for number in count():
                        clock.now_s += PERIOD_S
                        if number % _LOOK_EVERY == 0 or not port.commander:
                            epoch = _claimed(port, peer, clock)
                        # Of an older epoch, or with an older number, they would not be obeyed.
                        commands, halts = wishes(epoch, number + 1)
                        if number % 4 == 0:
                            _heard(port, stopper, mutated(_one_of(halts, rng), rng))
                            continue
                        for frame in _heard(port, peer, mutated(_one_of(commands, rng), rng)):
                            reply = operator_wire.unpack(operator_wire.REPLIES, frame)
                            obeyed += isinstance(reply, operator_wire.Done)
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
        frames = _heard(port, peer, [operator_wire.pack(_claim(0))])
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


@contextmanager
def _measured(
    frames: int, process: Child | None = None
) -> Iterator[tuple[Callable[[], Iterator[int]], dict[str, float]]]:
    """Numbers to count messages by, and what came of them once they are all sent."""
    figures: dict[str, float] = {}
    pid = process.pid if process else None
    begun: list[Footprint] = []

    def count() -> Iterator[int]:
        for number in range(frames):
            if number == min(_WARM_UP, frames // 2):
                begun.append(footprint_of(pid))
            yield number

    started = time.monotonic()
    yield count, figures
    grown_mb = footprint_of(pid).memory_mb - begun[0].memory_mb
    figures |= {"messages": frames, "s": time.monotonic() - started, "growth_mb": grown_mb}
    if grown_mb > MOST_GROWTH_MB:
        raise UserError(f"memory grew by {grown_mb:.0f} MB within {frames} mutated messages")
