"""What travels between people and a robot's control loop, and the sockets that it travels through.

    ADDRESS              commands under a lease, numbered, each answered
    ADDRESS.stop         stop and cut, by anyone
    ADDRESS.telemetry    published; a viewer that cannot keep up misses some

With tcp the port counts up instead: 5760 takes commands, 5761 stops, 5762 publishes. With keys all
three are encrypted, and "anyone" is whoever the robot allows. Every message is one msgpack frame.
Telemetry has one byte before it, which tells whether it holds a picture.

Stops are numbered, those of people and those of the robot itself. Whatever may move the robot names
the last one that its sender knows of, so that nothing asked before a stop can undo it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, TypeVar

import msgspec
import numpy as np
import zmq

from bridge.contract import INSTRUCTION_MAX_BYTES, UserError
from bridge.embodiment import Embodiment
from bridge.wire import flood, sockets
from bridge.wire.keys import ClientKeys, ServerKeys, check_secured, secure_client, secure_server
from bridge.wire.messages import WireError

PROTOCOL = 2
BEAT_S = 0.5
STALE_S = 3 * BEAT_S
PLAIN, PICTURE = b"t", b"i"

_MAX_REQUEST_BYTES = 32 << 10
_MAX_REPLY_BYTES = 1 << 20
# A viewer needs the newest moments alone; what waits for the control loop is read at every poll.
_VIEWER_QUEUE, _ANSWER_QUEUE, _RECEIVE_QUEUE = 4, 64, 1000
_CONNECT_TIMEOUT_MS, _HANDSHAKE_MS = 1000, 2000
# Seconds of silence before a dead peer is looked for, seconds between looks, and looks.
_KEEPALIVE = (2, 1, 3)
_KEEPALIVE_OPTIONS = (zmq.TCP_KEEPALIVE_IDLE, zmq.TCP_KEEPALIVE_INTVL, zmq.TCP_KEEPALIVE_CNT)
_IO_THREADS = 2
_SHARED_THREAD, _STOP_THREAD = 1 << 0, 1 << 1
_FLOAT = np.dtype("<f4")

_Session = Annotated[str, msgspec.Meta(min_length=16, max_length=64)]
_Count = Annotated[int, msgspec.Meta(ge=0, lt=1 << 62)]

Socket = zmq.Socket[bytes]
Context = zmq.Context[Socket]


class Request(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """What all commands share: the client's own secret, and a number that only grows."""

    session: _Session
    sequence: _Count


class Claim(Request, frozen=True, kw_only=True, tag="claim"):
    """Asks for the lease; `name` is what others are told of its holder.

    `embodiment` is the only kind of robot that the asker can command; None for any.
    """

    protocol: int
    embodiment: Embodiment | None = None
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]


class Leased(Request, frozen=True, kw_only=True):
    """What only the lease's holder may ask."""

    epoch: _Count


class Beat(Leased, frozen=True, kw_only=True, tag="beat"):
    """Keeps the lease."""


class Moving(Leased, frozen=True, kw_only=True):
    """What may let the robot move; `stops` is the number of the last stop that the asker knows."""

    stops: _Count


class Instruct(Moving, frozen=True, kw_only=True, tag="instruct"):
    """Begins another instruction."""

    text: Annotated[str, msgspec.Meta(max_length=INSTRUCTION_MAX_BYTES)]


class Pause(Leased, frozen=True, kw_only=True, tag="pause"):
    """Lets the robot hold where it is."""


class Resume(Moving, frozen=True, kw_only=True, tag="resume"):
    """Goes on after a pause."""


class Release(Moving, frozen=True, kw_only=True, tag="release"):
    """Ends a latched level of safety."""


class NewScene(Moving, frozen=True, kw_only=True, tag="scene"):
    """Puts a simulated robot into another scene."""

    seed: Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)]


class Leave(Leased, frozen=True, kw_only=True, tag="leave"):
    """Gives the lease back."""


class Reply(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """What all answers share: the number of the request, and that of the last stop."""

    sequence: int
    stops: int = 0


class Lease(Reply, frozen=True, kw_only=True, tag="lease"):
    """Answers Claim: the epoch to name from now on."""

    epoch: int


class Busy(Reply, frozen=True, kw_only=True, tag="busy"):
    """The lease is not the asker's: who holds it ("" for nobody), and for how long."""

    holder: str
    held_s: float

    def __str__(self) -> str:
        if not self.holder:
            return "nobody commands the robot: claim it first"
        return (
            f"{self.holder} has commanded the robot for {self.held_s:.0f} s:"
            " wait until they leave; stop and cut are open to all"
        )


class Accepted(Reply, frozen=True, kw_only=True, tag="done"):
    """The control loop has it."""


class Denied(Reply, frozen=True, kw_only=True, tag="denied"):
    """This one request cannot be carried out; `message` is for the user."""

    message: str


class Acknowledged(Reply, frozen=True, kw_only=True, tag="acknowledged"):
    """The control loop has the Stop or Cut."""


class Halt(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """What anyone may ask at the stop socket."""

    sequence: _Count


class Stop(Halt, frozen=True, kw_only=True, tag="stop"):
    """Asks for a safe stand."""


class Cut(Halt, frozen=True, kw_only=True, tag="cut"):
    """Asks that the motors only brake."""


class Telemetry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One moment of the robot, for people to watch.

    `state` and `command` are float32 in the embodiment's order, made by `floats` and read by
    `state_vector` and `command_vector`; they are empty when unknown. `base_pose` (x, y, z m,
    quaternion wxyz), `qpos` (float64 bytes) and `scene` (its seed) exist in simulation alone.
    `stops` is the number of the last stop; `reason` a Refusal, where the policy refuses.
    `expert_use` is a share per layer and expert; `tokens` were decoded for the last chunk, in
    `steps`. `image` is a PNG of the first camera, at most ten times a second.
    """

    time_s: float
    level: int
    cause: str
    instruction: str = ""
    commander: str = ""
    status: int | None = None
    status_probability: float = 0.0
    reason: str = ""
    understood: dict[str, str] = {}
    state: bytes = b""
    command: bytes = b""
    base_pose: list[float] | None = None
    qpos: bytes | None = None
    scene: Annotated[int, msgspec.Meta(ge=0)] | None = None
    policy_latency_ms: float | None = None
    chunk_rate_hz: float = 0.0
    loop_overruns: int = 0
    stops: int = 0
    counters: dict[str, int] = {}
    expert_use: list[list[float]] | None = None
    tokens: int | None = None
    steps: int | None = None
    image: bytes | None = None

    def state_vector(self, body: Embodiment) -> np.ndarray | None:
        """(STATE,) float32, or None when unknown; WireError unless the robot is a `body`."""
        return _vector(self.state, len(body.state_names))

    def command_vector(self, body: Embodiment) -> np.ndarray | None:
        """(COMMANDS,) float32, or None when none is in force; WireError as of `state_vector`."""
        return _vector(self.command, len(body.commands))


AnyCommand = Beat | Instruct | Pause | Resume | Release | NewScene | Leave
AnyRequest = Claim | AnyCommand
AnyReply = Lease | Busy | Accepted | Denied
REQUESTS = msgspec.msgpack.Decoder(AnyRequest)
REPLIES = msgspec.msgpack.Decoder(AnyReply)
HALTS = msgspec.msgpack.Decoder(Stop | Cut)
ACKNOWLEDGEMENTS = msgspec.msgpack.Decoder(Acknowledged)
_TELEMETRY = msgspec.msgpack.Decoder(Telemetry)
_encoder = msgspec.msgpack.Encoder()
_Message = TypeVar("_Message")


def pack(message: msgspec.Struct) -> bytes:
    """The frame of a message."""
    return _encoder.encode(message)


def unpack(decoder: msgspec.msgpack.Decoder[_Message], frame: bytes) -> _Message:
    """The message in a frame, or WireError."""
    try:
        return decoder.decode(frame)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise WireError(f"unreadable message: {error}") from error


def pack_telemetry(telemetry: Telemetry) -> bytes:
    """The frame in which telemetry is published."""
    return (PLAIN if telemetry.image is None else PICTURE) + _encoder.encode(telemetry)


def unpack_telemetry(frame: bytes) -> Telemetry:
    """The telemetry in a published frame, or WireError."""
    if frame[:1] not in (PLAIN, PICTURE):
        raise WireError("a frame that is not telemetry")
    return unpack(_TELEMETRY, frame[1:])


def floats(values: np.ndarray) -> bytes:
    """A vector as Telemetry carries it."""
    return values.astype(_FLOAT).tobytes()


def _vector(content: bytes, width: int) -> np.ndarray | None:
    if not content:
        return None
    if len(content) != width * _FLOAT.itemsize:
        raise WireError(f"{len(content)} bytes instead of {width} floats")
    return np.frombuffer(content, _FLOAT)


@dataclass(frozen=True)
class Addresses:
    """The three sockets of one robot."""

    commands: str
    stop: str
    telemetry: str


def addresses_of(address: str, encrypted: bool = False) -> Addresses:
    """The sockets of an address; UserError unless they are encrypted or stay on this machine."""
    address = sockets.local_address(address, encrypted)
    scheme, _, place = address.partition("://")
    if scheme == "ipc" and place != "*":
        return Addresses(address, f"{address}.stop", f"{address}.telemetry")
    host, _, port = place.rpartition(":")
    if not port.isdecimal() or not 0 < int(port) <= 65533:
        raise UserError(
            f"{address} names no place for a robot, which uses three ports in a row:"
            " use ipc:///tmp/hitogata-robot.sock or tcp://127.0.0.1:5760"
        )
    return Addresses(address, *(f"tcp://{host}:{int(port) + step}" for step in (1, 2)))


def make_context() -> Context:
    """A context in which stops have an I/O thread to themselves."""
    return zmq.Context(io_threads=_IO_THREADS)


def listen(
    context: Context,
    kind: int,
    address: str,
    stops: bool = False,
    keys: ServerKeys | None = None,
) -> Socket:
    """A robot's socket; UserError for an address that is taken or unusable.

    With keys, within their `authenticator`. Whoever makes the context closes it then.
    """
    socket = _open(context, kind, address, stops)
    socket.setsockopt(zmq.MAXMSGSIZE, _MAX_REQUEST_BYTES)
    if kind == zmq.ROUTER:
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
    if keys is not None:
        secure_server(socket, keys)
    flood.watch(socket, address)
    sockets.bind(socket, address)
    if keys is not None:
        check_secured(socket)
    return socket


def connect(
    context: Context,
    kind: int,
    address: str,
    stops: bool = False,
    topic: bytes | None = None,
    keys: ClientKeys | None = None,
) -> Socket:
    """An operator's socket. With a topic it subscribes to it, and keeps the newest frame alone."""
    socket = _open(context, kind, address, stops)
    socket.setsockopt(zmq.MAXMSGSIZE, _MAX_REPLY_BYTES)
    socket.setsockopt(zmq.IMMEDIATE, 1)
    socket.setsockopt(zmq.CONNECT_TIMEOUT, _CONNECT_TIMEOUT_MS)
    if keys is not None:
        secure_client(socket, keys)
    if topic is not None:
        socket.setsockopt(zmq.CONFLATE, 1)
        socket.setsockopt(zmq.SUBSCRIBE, topic)
    else:  # what keeps one frame needs no guard
        flood.watch(socket, address)
    sockets.connect(socket, address)
    return socket


def close(context: Context) -> None:
    """Closes all sockets of `listen` or `connect`."""
    flood.release(context)
    context.destroy(linger=0)


def remove_ipc(address: str) -> None:
    """Removes the socket file of a robot that listens no more."""
    if (file := sockets.ipc_file(address)) is not None:
        file.unlink(missing_ok=True)


def _open(context: Context, kind: int, address: str, stops: bool) -> Socket:
    """Every socket between operator and robot is made here.

    They have no ZMTP heartbeat: libzmq (up to 4.3.5) aborts the process when one falls due at a
    peer that filled the receive queue and vanished, https://github.com/zeromq/libzmq/issues/4364.
    """
    socket = context.socket(kind)
    socket.linger = 0
    socket.sndhwm = _VIEWER_QUEUE if kind == zmq.PUB else _ANSWER_QUEUE
    socket.rcvhwm = _RECEIVE_QUEUE
    socket.setsockopt(zmq.HANDSHAKE_IVL, _HANDSHAKE_MS)
    socket.setsockopt(zmq.IPV6, int("[" in address))
    socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
    for option, value in zip(_KEEPALIVE_OPTIONS, _KEEPALIVE, strict=True):
        socket.setsockopt(option, value)
    socket.setsockopt(zmq.AFFINITY, _STOP_THREAD if stops else _SHARED_THREAD)
    return socket
