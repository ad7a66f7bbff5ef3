"""What travels between robot and policy server: messages, their frames, and the sockets' options.

A message is one msgpack frame, a tagged union below, followed by one raw frame per array that it
declares. Requests carry the session of the handshake and the client's own sequence number; a reply
repeats both, so that late, repeated and foreign replies are known for what they are.
"""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, TypeVar

import msgspec
import numpy as np
import zmq

from bridge.contract import (
    CHUNK_STEPS,
    COMMAND_DIM,
    IMAGE_SIZE,
    STATE_DIM,
    ActionChunk,
    Observation,
    Status,
    UserError,
)

PROTOCOL = 1
_MAX_ARRAYS = 4
_DTYPES = {"float32": np.dtype("<f4"), "uint8": np.dtype("u1")}
_Size = Annotated[int, msgspec.Meta(ge=1, le=1 << 20)]

Frames = Sequence[bytes]


class WireError(ValueError):
    """A message that is not what it should be; the text says how, in one line."""


@dataclass(frozen=True)
class ServerInfo:
    """Which policy a server runs: ids of its weights and of its normalisation statistics."""

    model_id: str
    normalisation_id: str


class ArraySpec(msgspec.Struct, frozen=True):
    """Type and shape of one raw frame."""

    dtype: Literal["float32", "uint8"]
    shape: Annotated[tuple[_Size, ...], msgspec.Meta(max_length=4)]


class Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", omit_defaults=True):
    """What all messages share: the arrays in the frames that follow."""

    arrays: Annotated[tuple[ArraySpec, ...], msgspec.Meta(max_length=_MAX_ARRAYS)] = ()


class Hello(Message, frozen=True, kw_only=True, tag="hello"):
    """Opens a session. A None accepts any model, or any normalisation."""

    protocol: int
    contract: str
    model_id: str | None = None
    normalisation_id: str | None = None


class Act(Message, frozen=True, kw_only=True, tag="act"):
    """Asks for a chunk; arrays: state (STATE_DIM,) float32, image uint8."""

    session: str
    sequence: int
    observed_at_s: float
    instruction: str


class Reset(Message, frozen=True, kw_only=True, tag="reset"):
    """Asks the policy to forget what came before."""

    session: str
    sequence: int


class Goodbye(Message, frozen=True, kw_only=True, tag="goodbye"):
    """Ends a session; nobody answers."""

    session: str


class Welcome(Message, frozen=True, kw_only=True, tag="welcome"):
    """The handshake's answer: the session to name from now on, and who serves."""

    session: str
    protocol: int
    contract: str
    model_id: str
    normalisation_id: str


class Refused(Message, frozen=True, kw_only=True, tag="refused"):
    """The handshake failed: which term differs, both values, and what to do."""

    term: str
    client: str
    server: str
    remedy: str

    def __str__(self) -> str:
        return (
            f"{self.term} differs, {self.client} here and {self.server} at the server:"
            f" {self.remedy}"
        )


class Chunk(Message, frozen=True, kw_only=True, tag="chunk"):
    """Answers Act, with its stamp; arrays: commands (CHUNK_STEPS, COMMAND_DIM) float32."""

    session: str
    sequence: int
    observed_at_s: float
    status: Status
    status_probability: float
    understood: dict[str, str]


class Done(Message, frozen=True, kw_only=True, tag="done"):
    """Answers Reset."""

    session: str
    sequence: int


class Fault(Message, frozen=True, kw_only=True, tag="fault"):
    """This one request failed; `message` is for the user. Unreadable requests have sequence -1."""

    session: str
    sequence: int
    message: str


Request = Hello | Act | Reset | Goodbye
Reply = Welcome | Refused | Chunk | Done | Fault
_Message = TypeVar("_Message", Request, Reply)

_encoder = msgspec.msgpack.Encoder()
_request_decoder = msgspec.msgpack.Decoder(Request)
_reply_decoder = msgspec.msgpack.Decoder(Reply)


def pack(message: Message, *arrays: np.ndarray) -> list[bytes]:
    """The frames of a message with its arrays, float32 or uint8."""
    specs = tuple(ArraySpec(dtype=_dtype_name(array), shape=array.shape) for array in arrays)
    header = _encoder.encode(msgspec.structs.replace(message, arrays=specs))
    return [header, *(array.tobytes() for array in arrays)]


def unpack_request(frames: Frames) -> tuple[Request, list[np.ndarray]]:
    """Message and read-only arrays from a client's frames, or WireError."""
    request = _decode(_request_decoder, frames)
    return request, _arrays(request, frames[1:])


def unpack_reply(frames: Frames) -> tuple[Reply, list[np.ndarray]]:
    """Message and read-only arrays from a server's frames, or WireError."""
    reply = _decode(_reply_decoder, frames)
    return reply, _arrays(reply, frames[1:])


def pack_observation(
    session: str, sequence: int, instruction: str, observation: Observation
) -> list[bytes]:
    """The frames of an Act."""
    act = Act(
        session=session,
        sequence=sequence,
        observed_at_s=observation.time_s,
        instruction=instruction,
    )
    return pack(act, observation.state(), observation.image)


def observation_of(act: Act, arrays: Sequence[np.ndarray]) -> Observation:
    """The observation in an Act, or WireError when it breaks the contract."""
    image_shape = (IMAGE_SIZE, IMAGE_SIZE, 3)
    state, image = _expect(arrays, ("float32", (STATE_DIM,)), ("uint8", image_shape))
    if not (np.isfinite(state).all() and math.isfinite(act.observed_at_s)):
        raise WireError("the observation holds values that are not finite")
    return Observation.from_state(act.observed_at_s, state, image)


def pack_chunk(session: str, sequence: int, chunk: ActionChunk) -> list[bytes]:
    """The frames of a Chunk, or WireError when the policy's answer breaks the contract."""
    commands = np.asarray(chunk.commands, np.float32)
    _check_commands(commands)
    message = Chunk(
        session=session,
        sequence=sequence,
        observed_at_s=float(chunk.observed_at_s),
        status=Status(chunk.status),
        status_probability=float(chunk.status_probability),
        understood=dict(chunk.understood),
    )
    return pack(message, commands)


def chunk_of(message: Chunk, arrays: Sequence[np.ndarray]) -> ActionChunk:
    """The chunk in a Chunk, or WireError when it breaks the contract."""
    (commands,) = _expect(arrays, ("float32", (CHUNK_STEPS, COMMAND_DIM)))
    _check_commands(commands)
    return ActionChunk(
        observed_at_s=message.observed_at_s,
        commands=commands,
        status=message.status,
        status_probability=message.status_probability,
        understood=message.understood,
    )


def local_address(address: str) -> str:
    """The address in ZeroMQ's spelling; UserError unless it stays on this machine."""
    scheme, _, place = address.partition("://")
    if scheme == "ipc" and place:
        return address
    host, _, port = place.rpartition(":")
    if scheme == "tcp" and host and port:
        host = "127.0.0.1" if host == "localhost" else host
        try:
            if ipaddress.ip_address(host.strip("[]")).is_loopback:
                return f"tcp://{host}:{port}"
        except ValueError:
            pass  # a name or an interface: it may lead anywhere
    raise UserError(
        f"{address} may leave this machine, and nothing on the wire is encrypted:"
        " use ipc:///tmp/hitogata.sock or tcp://127.0.0.1:5555"
    )


def set_options(socket: zmq.Socket[bytes], address: str) -> None:
    """The options both ends share: short queues, no lingering, a heartbeat."""
    socket.linger = 0
    socket.sndhwm = socket.rcvhwm = 4
    socket.setsockopt(zmq.HEARTBEAT_IVL, 200)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 600)
    socket.setsockopt(zmq.HEARTBEAT_TTL, 600)
    socket.setsockopt(zmq.HANDSHAKE_IVL, 2000)
    socket.setsockopt(zmq.IPV6, int("[" in address))


def _dtype_name(array: np.ndarray) -> Literal["float32", "uint8"]:
    if array.dtype == _DTYPES["float32"]:
        return "float32"
    if array.dtype == _DTYPES["uint8"]:
        return "uint8"
    raise WireError(f"{array.dtype} arrays do not travel: use float32 or uint8")


def _decode(decoder: msgspec.msgpack.Decoder[_Message], frames: Frames) -> _Message:
    if not frames:
        raise WireError("a message without frames")
    try:
        return decoder.decode(frames[0])
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise WireError(f"unreadable message: {error}") from error


def _arrays(message: Message, frames: Frames) -> list[np.ndarray]:
    if len(message.arrays) != len(frames):
        raise WireError(f"{len(message.arrays)} arrays declared, {len(frames)} sent")
    return [_array(spec, frame) for spec, frame in zip(message.arrays, frames, strict=True)]


def _array(spec: ArraySpec, frame: bytes) -> np.ndarray:
    dtype = _DTYPES[spec.dtype]
    if math.prod(spec.shape) * dtype.itemsize != len(frame):
        raise WireError(f"{spec.dtype} {spec.shape} declared, {len(frame)} bytes sent")
    return np.frombuffer(frame, dtype).reshape(spec.shape)


def _expect(
    arrays: Sequence[np.ndarray], *terms: tuple[str, tuple[int, ...]]
) -> Sequence[np.ndarray]:
    found = [(array.dtype.name, array.shape) for array in arrays]
    if found != list(terms):
        raise WireError(f"the contract asks for {list(terms)}, not {found}")
    return arrays


def _check_commands(commands: np.ndarray) -> None:
    if commands.shape != (CHUNK_STEPS, COMMAND_DIM):
        raise WireError(f"commands are {commands.shape}, not {(CHUNK_STEPS, COMMAND_DIM)}")
    if not np.isfinite(commands).all():
        raise WireError("the policy's commands are not finite")
