"""A policy behind the wire of openpi's policy server: WebSocket, msgpack, arrays as raw bytes.

The first frame is the server's metadata: model_id, normalisation_id, embodiment (its hash),
action_hz, and the names of what observations and actions hold. Then every observation is answered:

observation/image  uint8 (height, width, 3), of the first camera; observation/NAME_image of others
observation/state  float32 (STATE,), ordered as state_names; or (JOINTS,), the joints' rad alone,
                   and the rest is assumed (see bridge/compat/adapter.py)
prompt             text
actions            float32 (STEPS, COMMANDS), columns as action_names, at action_hz
state              float32 (STATE,): what the policy was given
status, status_probability, understood; policy_timing and server_timing in ms

A fault is answered by a line of text, and the connection closed with 1011. Time and policy begin
anew with each connection. Web pages (anything with an Origin header) are not answered.
"""

from __future__ import annotations

import http
import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import msgspec
import numpy as np
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode
from websockets.http11 import Request, Response
from websockets.sync.server import ServerConnection, serve

from bridge.compat.adapter import (
    MAX_MESSAGE_BYTES,
    Endpoint,
    ForeignClient,
    array_of,
    fault_line,
    numbers,
    picture,
    unpacked,
)
from bridge.contract import Observation, Policy, UserError, check_instruction
from bridge.embodiment import Embodiment
from bridge.wire.listener import Arriving, Listener
from bridge.wire.messages import ServerInfo, WireError
from bridge.wire.server import stop_on_signals

ADDRESS = "ws://127.0.0.1:8000"
_MAX_CONNECTIONS = 8
# NumPy reads a small language in place of a type: of the types that travel, no name is longer.
_DTYPE_CHARACTERS = 8
_MAX_FRAMES_WAITING = 4
_Array = Annotated[dict[bytes, msgspec.Raw], msgspec.Meta(max_length=4)]
_Dtype = Annotated[str, msgspec.Meta(max_length=_DTYPE_CHARACTERS)]
_Shape = Annotated[list[int], msgspec.Meta(max_length=8)]
_Observation = Annotated[dict[str, msgspec.Raw], msgspec.Meta(max_length=64)]


def serve_openpi(
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
    made = _Server(policy, body, endpoint, info)
    # What strangers send is no news; faults of ours are logged where they happen.
    quiet = logging.getLogger(f"{__name__}.websockets")
    quiet.setLevel(logging.CRITICAL)
    try:
        listener = Listener(host, port)
    except OSError as error:
        raise UserError(
            f"cannot serve at {endpoint.address or ADDRESS} ({error.strerror}): choose another"
            " address"
        ) from error
    server = serve(
        made.converse,
        sock=listener,
        process_request=made.greet,
        origins=[None],
        compression=None,
        max_size=MAX_MESSAGE_BYTES,
        max_queue=_MAX_FRAMES_WAITING,
        logger=quiet,
        create_connection=Arriving,
    )
    with server, stop_on_signals() as stopping:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        if ready is not None:
            host, port = server.socket.getsockname()[:2]
            ready(f"ws://[{host}]:{port}" if ":" in host else f"ws://{host}:{port}")
        stopping.wait()


class _Server:
    def __init__(
        self, policy: Policy, body: Embodiment, endpoint: Endpoint, info: ServerInfo
    ) -> None:
        self._policy, self._body = policy, body
        self._endpoint = endpoint
        self._info = info
        self._thinking = threading.Lock()  # a policy serves one thread at a time
        self._seats = threading.Semaphore(_MAX_CONNECTIONS)

    def greet(self, connection: ServerConnection, request: Request) -> Response | None:
        """Answers a health check, and whoever lacks the token; others go on."""
        if request.path == "/healthz":
            return connection.respond(http.HTTPStatus.OK, "OK\n")
        told = ", ".join(request.headers.get_all("Authorization"))
        if not self._endpoint.authorizes(told.removeprefix("Api-Key ")):
            return connection.respond(http.HTTPStatus.UNAUTHORIZED, "send Api-Key TOKEN\n")
        return None

    def converse(self, connection: ServerConnection) -> None:
        """One client, from the metadata to its last observation."""
        if not self._seats.acquire(blocking=False):
            connection.close(CloseCode.TRY_AGAIN_LATER, "too many clients")
            return
        try:
            self._answer_all(connection)
        except ConnectionClosed:
            pass  # it is the client's to go, and to die
        finally:
            self._seats.release()

    def _answer_all(self, connection: ServerConnection) -> None:
        connection.send(msgspec.msgpack.encode(self._metadata()))
        client = ForeignClient(self._policy, self._body)
        with self._thinking:
            client.reset()
        previous: dict[str, float] = {}
        for message in connection:
            begin_s = time.monotonic()
            try:
                answer = msgspec.msgpack.encode(self._answer(client, message, previous))
            except Exception as error:  # one bad client must not end the service of others
                connection.send(fault_line(error))
                connection.close(CloseCode.INTERNAL_ERROR, "the frame before says why")
                return
            connection.send(answer)
            previous = {"prev_total_ms": (time.monotonic() - begin_s) * 1000}

    def _answer(
        self, client: ForeignClient, message: str | bytes, previous: dict[str, float]
    ) -> dict[str, Any]:
        if isinstance(message, str):
            raise WireError("send observations as binary frames of msgpack")
        sent: dict[str, msgspec.Raw] = unpacked(message, _Observation)
        body = self._body
        instruction = check_instruction(unpacked(_item(sent, "prompt"), str))
        images = {
            camera.name: picture(name, _array(name, _item(sent, name)), camera)
            for name, camera in zip(image_names(body), body.cameras, strict=True)
        }
        joints, name = len(body.joints), "observation/state"
        state = numbers(name, _array(name, _item(sent, name)), len(body.state_names), joints)
        seen = (
            client.observe(instruction, state, {}, images)
            if len(state) == joints
            else Observation(body, time.monotonic(), state, images)
        )
        with self._thinking:
            begin_s = time.monotonic()
            chunk = client.ask(instruction, seen)
            infer_ms = (time.monotonic() - begin_s) * 1000
        return {
            "actions": packed(np.asarray(chunk.commands, np.float32)),
            "state": packed(seen.state),
            "status": chunk.status.name,
            "status_probability": float(chunk.status_probability),
            "understood": dict(chunk.understood),
            "policy_timing": {"infer_ms": infer_ms},
            "server_timing": {"infer_ms": infer_ms, **previous},
        }

    def _metadata(self) -> dict[str, Any]:
        return {
            "model_id": self._info.model_id,
            "normalisation_id": self._info.normalisation_id,
            "embodiment": self._body.embodiment_hash,
            "action_hz": self._body.chunk_hz,
            "action_names": self._body.command_names,
            "state_names": self._body.state_names,
            "images": {
                name: (camera.height, camera.width)
                for name, camera in zip(image_names(self._body), self._body.cameras, strict=True)
            },
        }


def image_names(body: Embodiment) -> list[str]:
    """What observations call the pictures of the cameras, in their order."""
    others = (f"observation/{camera.name}_image" for camera in body.cameras[1:])
    return ["observation/image", *others]


def _item(sent: Mapping[str, msgspec.Raw], name: str) -> msgspec.Raw:
    if name not in sent:
        raise WireError(f"the observation has no {name}: see the server's metadata")
    return sent[name]


def _array(name: str, content: msgspec.Raw) -> np.ndarray:
    item: dict[bytes, msgspec.Raw] = unpacked(content, _Array)
    if not {b"__ndarray__", b"data", b"dtype", b"shape"} <= item.keys():
        raise WireError(f"{name} is no array as openpi's client packs it")
    try:
        dtype = np.dtype(unpacked(item[b"dtype"], _Dtype))
    except Exception as error:  # whatever Python's parser raises, among others
        raise WireError(f"{name} is of no type of numbers that travels") from error
    return array_of(name, unpacked(item[b"data"], bytes), dtype, unpacked(item[b"shape"], _Shape))


def packed(array: np.ndarray) -> dict[bytes, Any]:
    """An array as openpi packs it, at both ends."""
    return {
        b"__ndarray__": True,
        b"data": array.tobytes(),
        b"dtype": array.dtype.str,
        b"shape": array.shape,
    }
