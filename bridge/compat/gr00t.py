"""A policy behind the wire of GR00T's policy server: ZeroMQ REQ, msgpack, arrays as `.npy` bytes.

Endpoints: ping, get_action, reset, get_modality_config; kill is refused. Keys are those of GR00T's
G1, in float32 (1, 1, width) unless said otherwise:

video     ego_view: uint8 (1, 1, height, width, 3), of the first camera; others by their names
state     joint positions in rad by limb (left_arm, ...), in the embodiment's order; where the
          client has them, as in `Embodiment`: joint_vel, base_ang_vel 3, gravity 3, command,
          elapsed_s 1, odometry 3 (without: see bridge/compat/adapter.py); others are ignored
language  annotation.human.task_description: [[text]], or whatever one key the client has instead
action    absolute targets by limb (left_arm, ...), in rad; navigate_command: the base's velocities,
          m/s, m/s, rad/s; base_height_command 1: m; other fields of a command by their names.
          All (1, STEPS, width), at the embodiment's chunk rate
info      model_id, action_hz, status, status_probability, understood

A client is a connection: each has its own elapsed time and its own reset. One that connects anew,
as after a lost answer, begins anew; of more than MOST_CLIENTS the one silent for longest does.

Flat observations ("video.ego_view") are answered with flat actions ("action.left_arm"). Clients of
N1.5 send one as `data` itself, perhaps without the first axis, and are answered likewise.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Annotated, Any

import msgspec
import numpy as np
import zmq
from numpy.lib import format as npy

from bridge.compat.adapter import (
    MAX_MESSAGE_BYTES,
    OPTIONAL_PARTS,
    Endpoint,
    ForeignClient,
    array_of,
    fault_line,
    numbers,
    picture,
    unpacked,
)
from bridge.contract import ActionChunk, Policy, UserError, check_instruction
from bridge.embodiment import Embodiment
from bridge.wire import flood, sockets
from bridge.wire.messages import ServerInfo, WireError
from bridge.wire.server import stop_on_signals

ADDRESS = "tcp://127.0.0.1:5555"
LANGUAGE_KEY = "annotation.human.task_description"
MOST_CLIENTS = 64
_POLL_MS = 100  # how late a signal may be noticed
_One = msgspec.Meta(max_length=1)
_Few = msgspec.Meta(max_length=64)
_Words = str | Annotated[list[str | Annotated[list[str], _One]], _One]


class _Npy(msgspec.Struct, rename={"marked": "__ndarray_class__"}):
    marked: bool
    as_npy: bytes


class _Request(msgspec.Struct):
    endpoint: str = "get_action"
    data: msgspec.Raw = msgspec.Raw()
    api_token: str | None = None


class _Wrapped(msgspec.Struct):
    """What `data` holds since N1.6."""

    observation: msgspec.Raw = msgspec.Raw()


class _Nested(msgspec.Struct):
    video: Annotated[dict[str, _Npy], _Few]
    state: Annotated[dict[str, _Npy], _Few]
    language: Annotated[dict[str, _Words], _Few]


_Flat = Annotated[dict[str, _Npy | _Words], _Few]


def serve_gr00t(
    policy: Policy,
    body: Embodiment,
    endpoint: Endpoint,
    info: ServerInfo,
    ready: Callable[[str], object] | None = None,
) -> None:
    """Serves a `policy` for `body` until SIGINT or SIGTERM; `ready` is called with the address.

    Raises UserError for an address that is taken, unusable, or leads off this machine.
    """
    host, port = endpoint.host_port(ADDRESS)
    address = f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        # A ROUTER speaks to REQ as a REP would, and no lost client can wedge it.
        sockets.set_options(router, address)
        router.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)
        flood.watch(router, address)
        with ExitStack() as undo:
            undo.callback(flood.release, context)
            sockets.bind(router, address)
            stopping = undo.enter_context(stop_on_signals())
            if ready is not None:
                ready(router.getsockopt_string(zmq.LAST_ENDPOINT))
            server = _Server(policy, body, endpoint, info)
            while not stopping.is_set():
                if router.poll(_POLL_MS):
                    peer, *frames = sockets.receive(router)
                    router.send_multipart([peer, b"", server.reply(peer, frames)], zmq.NOBLOCK)


class _Server:
    def __init__(
        self, policy: Policy, body: Embodiment, endpoint: Endpoint, info: ServerInfo
    ) -> None:
        self._policy, self._endpoint = policy, endpoint
        self._body, self._action_parts = body, action_parts(body)
        self._clients: dict[bytes, ForeignClient] = {}  # the last one heard stands last
        self._info = info

    def reply(self, peer: bytes, frames: list[bytes]) -> bytes:
        try:
            if len(frames) != 2 or frames[0]:
                raise WireError("send each request as one frame from a REQ socket")
            return msgspec.msgpack.encode(self._answer(peer, unpacked(frames[1], _Request)))
        except Exception as error:  # one bad request must not end the service of others
            return msgspec.msgpack.encode({"error": fault_line(error)})

    def _answer(self, peer: bytes, request: _Request) -> Any:
        if not self._endpoint.authorizes(request.api_token):
            raise UserError("Unauthorized: Invalid API token")
        match request.endpoint:
            case "ping":
                return {"status": "ok", "message": "Server is running"}
            case "get_action":
                return self._act(self._client(peer), request.data)
            case "reset":
                self._client(peer).reset()
                return {}
            case "get_modality_config":
                return modality_config(self._body)
            case "kill":
                raise UserError("clients cannot end this server: stop it where it was started")
            case _:
                raise UserError("no such endpoint: ping, get_action, reset, get_modality_config")

    def _client(self, peer: bytes) -> ForeignClient:
        client = self._clients.pop(peer, None)
        if client is None and len(self._clients) >= MOST_CLIENTS:
            del self._clients[next(iter(self._clients))]
        self._clients[peer] = client or ForeignClient(self._policy, self._body)
        return self._clients[peer]

    def _act(self, client: ForeignClient, data: msgspec.Raw) -> Any:
        observation = unpacked(data, _Wrapped).observation
        wrapped = bytes(observation) != b""
        given, flat = _flattened(observation if wrapped else data)
        body = self._body
        sent = {key: _array(given, f"video.{key}") for key in video_keys(body)}
        limbs = [_numbers(given, limb.name, len(limb.joints)) for limb in body.limbs]
        known = {
            name: _numbers(given, name, place.stop - place.start)
            for name, part in OPTIONAL_PARTS.items()
            if f"state.{name}" in given and (place := body.state_parts[part])
        }
        instruction = _instruction(given)
        images = {
            camera.name: picture(f"video.{key}", sent[key], camera)
            for key, camera in zip(sent, body.cameras, strict=True)
        }
        seen = client.observe(instruction, np.concatenate(limbs), known, images)
        chunk = client.ask(instruction, seen)
        batched = wrapped or any(array.ndim == 5 for array in sent.values())
        actions = self._actions(chunk, "action." if flat else "", batched)
        return [actions, self._told(chunk)] if wrapped else actions

    def _told(self, chunk: ActionChunk) -> dict[str, Any]:
        return {
            "model_id": self._info.model_id,
            "action_hz": self._body.chunk_hz,
            "status": chunk.status.name,
            "status_probability": float(chunk.status_probability),
            "understood": dict(chunk.understood),
        }

    def _actions(self, chunk: ActionChunk, prefix: str, batched: bool) -> dict[str, Any]:
        commands = np.asarray(chunk.commands, np.float32)
        if batched:
            commands = commands[None]
        parts = self._action_parts.items()
        return {prefix + key: npy_item(commands[..., places]) for key, places in parts}


def video_keys(body: Embodiment) -> list[str]:
    """What GR00T calls the cameras, in their order."""
    return ["ego_view", *(camera.name for camera in body.cameras[1:])]


def action_parts(body: Embodiment) -> dict[str, list[int]]:
    """Where in a command each part of an action stands, by GR00T's key."""
    limb_of = {joint: limb.name for limb in body.limbs for joint in limb.joints}
    keys = {"base_height_m": "base_height_command"}
    parts: dict[str, list[int]] = {}
    for place, field in enumerate(body.commands):
        own = "navigate_command" if field.velocity else keys.get(field.name, field.name)
        parts.setdefault(limb_of.get(field.joint, own), []).append(place)
    return parts


def modality_config(body: Embodiment) -> dict[str, Any]:
    """What the endpoint of this name answers: the keys that a client must send and will get."""
    actions = list(action_parts(body))
    absolute = {"rep": "ABSOLUTE", "type": "NON_EEF", "format": "DEFAULT", "state_key": None}
    return {
        "video": _modality(video_keys(body)),
        "state": _modality([limb.name for limb in body.limbs]),
        "action": _modality(actions, body.chunk_steps, [absolute] * len(actions)),
        "language": _modality([LANGUAGE_KEY]),
    }


def _modality(keys: list[str], steps: int = 1, actions: Any = None) -> dict[str, Any]:
    config = {"delta_indices": list(range(steps)), "modality_keys": keys}
    return {"__ModalityConfig_class__": True, "as_json": config | {"action_configs": actions}}


def _flattened(observation: msgspec.Raw) -> tuple[dict[str, _Npy | _Words], bool]:
    """The observation by flat keys, and whether the client has sent it flat."""
    keys: dict[str, msgspec.Raw] = unpacked(observation, Annotated[dict[str, msgspec.Raw], _Few])
    if "video" not in keys:
        return unpacked(observation, _Flat), True
    nested: _Nested = unpacked(observation, _Nested)
    arrays = {f"video.{key}": value for key, value in nested.video.items()}
    arrays |= {f"state.{key}": value for key, value in nested.state.items()}
    return {**arrays, **nested.language}, False


def _instruction(given: Mapping[str, _Npy | _Words]) -> str:
    """The text at our language key, or else the only text; clients differ in the key's name."""
    texts = {key: value for key, value in given.items() if not isinstance(value, _Npy)}
    words = texts.get(LANGUAGE_KEY, next(iter(texts.values())) if len(texts) == 1 else [])
    while isinstance(words, list):
        if not words:
            raise WireError(f"no instruction: send it as {LANGUAGE_KEY}")
        words = words[0]
    return check_instruction(words)


def _numbers(given: Mapping[str, _Npy | _Words], name: str, width: int) -> np.ndarray:
    return numbers(f"state.{name}", _array(given, f"state.{name}"), width)


def _array(given: Mapping[str, _Npy | _Words], name: str) -> np.ndarray:
    """As np.load, but without pickles and archives, and it takes no more memory than was sent."""
    item = given.get(name)
    if not isinstance(item, _Npy):
        raise WireError(f"the observation has no array {name}: see get_modality_config")
    stream = io.BytesIO(item.as_npy)
    try:
        if npy.read_magic(stream) != (1, 0):
            raise ValueError("a version that np.save does not write for plain arrays")
        shape, reverse, dtype = npy.read_array_header_1_0(stream)
    except Exception as error:  # numpy's parser raises whatever Python's does
        raise WireError(f"{name} is not what np.save(..., allow_pickle=False) writes") from error
    array = array_of(name, stream.read(), dtype, shape[::-1] if reverse else shape)
    return array.T if reverse else array


def npy_item(array: np.ndarray) -> dict[str, Any]:
    """An array as GR00T packs it, at both ends."""
    stream = io.BytesIO()
    np.save(stream, np.ascontiguousarray(array), allow_pickle=False)
    return {"__ndarray_class__": True, "as_npy": stream.getvalue()}
