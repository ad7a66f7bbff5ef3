"""What travels between robot and policy server: messages, and their frames.

A message is one msgpack frame, a tagged union below, followed by one raw frame per array that it
declares. Requests carry the session of the handshake and the client's own sequence number; a reply
repeats both, so that late, repeated and foreign replies are known for what they are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Literal, TypeVar

import msgspec
import numpy as np

from bridge.contract import ActionChunk, InferenceStats, Observation, Status
from bridge.embodiment import SAME_BODY, Embodiment
from bridge.wire.sockets import Frames

PROTOCOL = 2
LINE_CHARACTERS = 500
_MAX_ARRAYS = 9  # a state, and a picture of each camera
_ROUNDING = 1e-3  # how far float32 may take a probability beyond 1
_DType = Literal["float32", "uint8"]
_DTYPES: dict[_DType, np.dtype] = {"float32": np.dtype("<f4"), "uint8": np.dtype("u1")}
_NAMES: dict[np.dtype, _DType] = {dtype: name for name, dtype in _DTYPES.items()}
_Size = Annotated[int, msgspec.Meta(ge=1, le=1 << 20)]
_Id = Annotated[str, msgspec.Meta(max_length=200)]
_Text = Annotated[str, msgspec.Meta(max_length=64 << 10)]
_Share = Annotated[float, msgspec.Meta(ge=0, le=1 + _ROUNDING)]
_Shares = Annotated[tuple[_Share, ...], msgspec.Meta(max_length=64)]
_Count = Annotated[int, msgspec.Meta(ge=0)]
_Slots = Annotated[dict[_Id, _Text], msgspec.Meta(max_length=64)]


class WireError(ValueError):
    """A message that is not what it should be; the text says how, in one line."""


@dataclass(frozen=True)
class ServerInfo:
    """Which policy a server runs: ids of its weights and of its normalisation statistics."""

    model_id: str
    normalisation_id: str


class ArraySpec(msgspec.Struct, frozen=True):
    """Type and shape of one raw frame."""

    dtype: _DType
    shape: Annotated[tuple[_Size, ...], msgspec.Meta(max_length=4)]


class Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", omit_defaults=True):
    """What all messages share: the arrays in the frames that follow."""

    arrays: Annotated[tuple[ArraySpec, ...], msgspec.Meta(max_length=_MAX_ARRAYS)] = ()


class Hello(Message, frozen=True, kw_only=True, tag="hello"):
    """Opens a session. A None accepts any model, or any normalisation.

    `embodiment` is the robot that asks; those who speak an earlier protocol do not name it.
    """

    protocol: int
    embodiment: Embodiment | None = None
    model_id: _Id | None = None
    normalisation_id: _Id | None = None


class Numbered(Message, frozen=True, kw_only=True):
    """A request within a session, or its reply."""

    session: _Id
    sequence: int


class Act(Numbered, frozen=True, kw_only=True, tag="act"):
    """Asks for a chunk.

    Arrays: state (STATE,) float32, and uint8 the pictures of all cameras that the policy knows.
    """

    observed_at_s: float
    instruction: _Text


class Reset(Numbered, frozen=True, kw_only=True, tag="reset"):
    """Asks the policy to forget what came before."""


class Goodbye(Message, frozen=True, kw_only=True, tag="goodbye"):
    """Ends a session; nobody answers."""

    session: _Id


class Welcome(Message, frozen=True, kw_only=True, tag="welcome"):
    """The handshake's answer: the session to name from now on, and who serves.

    `embodiment` is the body that the policy knows, with its cameras.
    """

    session: _Id
    protocol: int
    embodiment: Embodiment
    model_id: _Id
    normalisation_id: _Id


class Refused(Message, frozen=True, kw_only=True, tag="refused"):
    """The handshake failed: which term differs, both values, and what to do."""

    term: _Id
    client: _Id
    server: _Id
    remedy: _Text

    def __str__(self) -> str:
        return (
            f"{self.term} differs, {self.client} here and {self.server} at the server:"
            f" {self.remedy}"
        )


class Chunk(Numbered, frozen=True, kw_only=True, tag="chunk"):
    """Answers Act, with its stamp; arrays: commands (STEPS, COMMANDS) float32."""

    observed_at_s: float
    status: Status
    status_probability: float
    understood: _Slots
    expert_use: Annotated[tuple[_Shares, ...], msgspec.Meta(max_length=64)] = ()
    tokens: _Count = 0
    steps: _Count = 0
    reason: _Id = ""


class Done(Numbered, frozen=True, kw_only=True, tag="done"):
    """Answers Reset."""


class Fault(Numbered, frozen=True, kw_only=True, tag="fault"):
    """This one request failed; `message` is for the user. Unreadable requests have sequence -1.

    `over`: and so will all others of its session, which the server does not know any more.
    """

    message: _Text
    over: bool = False


Request = Hello | Act | Reset | Goodbye
Reply = Welcome | Refused | Chunk | Done | Fault
_Message = TypeVar("_Message", Request, Reply)

_encoder = msgspec.msgpack.Encoder()
_request_decoder = msgspec.msgpack.Decoder(Request)
_reply_decoder = msgspec.msgpack.Decoder(Reply)


def pack(message: Message, *arrays: np.ndarray) -> list[bytes]:
    """The frames of a message with its arrays, float32 or uint8."""
    if arrays:
        specs = tuple([_spec_of(array.dtype, array.shape) for array in arrays])
        message = msgspec.structs.replace(message, arrays=specs)
    return [_encoder.encode(message), *[array.tobytes() for array in arrays]]


def unpack_request(frames: Frames) -> tuple[Request, list[np.ndarray]]:
    """Message and read-only arrays from a client's frames, or WireError."""
    request = _decode(_request_decoder, frames)
    return request, _arrays(request, frames[1:])


def unpack_reply(frames: Frames) -> tuple[Reply, list[np.ndarray]]:
    """Message and read-only arrays from a server's frames, or WireError."""
    reply = _decode(_reply_decoder, frames)
    return reply, _arrays(reply, frames[1:])


def mismatch(hello: Hello, welcome: Welcome) -> Refused | None:
    """The first term that client and server do not share; each end looks for itself."""
    same_release = "install the same release of hitogata on both sides"
    same_bundle = "serve the bundle that the client expects, or connect without expecting one"
    lacking = hello.embodiment.lacks(welcome.embodiment) if hello.embodiment else None
    terms = (
        ("protocol version", hello.protocol, welcome.protocol, same_release),
        (*(lacking or ("embodiment", "", "")), SAME_BODY),
        ("model", hello.model_id, welcome.model_id, same_bundle),
        ("normalisation", hello.normalisation_id, welcome.normalisation_id, same_bundle),
    )
    for term, client, server, remedy in terms:
        if client is not None and client != server:
            return Refused(term=term, client=str(client), server=str(server), remedy=remedy)
    return None


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
    pictures = [observation.images[camera.name] for camera in observation.embodiment.cameras]
    return pack(act, observation.state, *pictures)


def observation_of(act: Act, arrays: Sequence[np.ndarray], body: Embodiment) -> Observation:
    """The observation of a body in an Act, or WireError when it is none."""
    _expect(act, _specs_of(body))
    state, *pictures = arrays
    if not (_finite(state) and math.isfinite(act.observed_at_s)):
        raise WireError("the observation holds values that are not finite")
    names = [camera.name for camera in body.cameras]
    images = dict(zip(names, pictures, strict=True))
    return Observation(body, act.observed_at_s, state, images)


def pack_chunk(session: str, sequence: int, chunk: ActionChunk, body: Embodiment) -> list[bytes]:
    """The frames of a Chunk, or WireError when the policy's answer is none for that body."""
    commands = np.asarray(chunk.commands, np.float32)
    _check_commands(commands, body)
    _check_probability(chunk.status_probability)
    message = Chunk(
        session=session,
        sequence=sequence,
        observed_at_s=float(chunk.observed_at_s),
        status=Status(chunk.status),
        status_probability=float(chunk.status_probability),
        understood=chunk.understood,
        expert_use=chunk.stats.expert_use,
        tokens=chunk.stats.tokens,
        steps=chunk.stats.steps,
        reason=chunk.reason,
    )
    return pack(message, commands)


def chunk_of(message: Chunk, arrays: Sequence[np.ndarray], body: Embodiment) -> ActionChunk:
    """The chunk for a body in a Chunk, or WireError when it is none."""
    _expect(message, (ArraySpec("float32", body.chunk_shape),))
    (commands,) = arrays
    _check_commands(commands, body)
    _check_probability(message.status_probability)
    return ActionChunk(
        observed_at_s=message.observed_at_s,
        commands=commands,
        status=message.status,
        status_probability=message.status_probability,
        understood={one_line(k): one_line(v) for k, v in message.understood.items()},
        stats=InferenceStats(message.expert_use, message.tokens, message.steps),
        reason=one_line(message.reason),
    )


def one_line(text: str) -> str:
    """Text of the other end as one line that a terminal can show."""
    if not text.isprintable():
        text = "".join(character if character.isprintable() else " " for character in text)
    return " ".join(text.split())[:LINE_CHARACTERS]


@lru_cache
def _spec_of(dtype: np.dtype, shape: tuple[int, ...]) -> ArraySpec:
    name = _NAMES.get(dtype)
    if name is None:
        raise WireError(f"{dtype} arrays do not travel: use float32 or uint8")
    return ArraySpec(dtype=name, shape=shape)


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
    try:
        return np.frombuffer(frame, _DTYPES[spec.dtype]).reshape(spec.shape)
    except ValueError as error:
        sizes = f"{spec.dtype} {spec.shape} declared, {len(frame)} bytes sent"
        raise WireError(sizes) from error


def _expect(message: Message, terms: tuple[ArraySpec, ...]) -> None:
    if message.arrays != terms:
        asked, sent = ([(s.dtype, s.shape) for s in specs] for specs in (terms, message.arrays))
        raise WireError(f"the contract asks for {asked}, not {sent}")


@lru_cache
def _specs_of(body: Embodiment) -> tuple[ArraySpec, ...]:
    """The arrays of an observation."""
    pictures = [ArraySpec("uint8", (c.height, c.width, 3)) for c in body.cameras]
    return ArraySpec("float32", (len(body.state_names),)), *pictures


def _finite(array: np.ndarray) -> bool:
    return b"\0" not in np.isfinite(array).tobytes()  # in half the time of .all()


def _check_commands(commands: np.ndarray, body: Embodiment) -> None:
    if commands.shape != body.chunk_shape:
        raise WireError(f"commands are {commands.shape}, not {body.chunk_shape}")
    if not _finite(commands):
        raise WireError("the policy's commands are not finite")


def _check_probability(value: float) -> None:
    if not 0 <= value <= 1 + _ROUNDING:
        raise WireError(f"{value} is no probability")
