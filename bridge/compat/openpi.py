"""A policy behind the wire of openpi's policy server: WebSocket, msgpack, arrays as raw bytes.

The first frame is the server's metadata: model_id, normalisation_id, contract, action_hz, and the
names of what observations and actions hold. Then every observation is answered:

observation/image  uint8 (size, size, 3)
observation/state  float32 (STATE_DIM,), ordered as STATE_FIELDS; or (N_JOINTS,), the joints' rad
                   alone, and the rest is assumed (see bridge.foreign)
prompt             text
actions            float32 (CHUNK_STEPS, COMMAND_DIM), columns as COMMAND_FIELDS, at CHUNK_HZ
state              float32 (STATE_DIM,): what the policy was given
status, status_probability, understood; policy_timing and server_timing in ms

A fault is answered by a line of text, and the connection closed with 1011. Time and policy begin
anew with each connection. Web pages (anything with an Origin header) are not answered.
"""

from __future__ import annotations

import http
import logging
import threading
import time
from collections.abc import Callable
from typing import Annotated, Any

import msgspec
import numpy as np
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode
from websockets.http11 import Request, Response
from websockets.sync.server import ServerConnection, serve

from bridge.compat.adapter import (
    MAX_MESSAGE_BYTES,
    Door,
    ForeignClient,
    array_of,
    fault_line,
    numbers,
    picture,
    unpacked,
)
from bridge.contract import (
    CHUNK_HZ,
    COMMAND_FIELDS,
    IMAGE_SIZE,
    N_JOINTS,
    STATE_DIM,
    STATE_FIELDS,
    Observation,
    Policy,
    UserError,
    check_instruction,
    contract_hash,
)
from bridge.wire.messages import ServerInfo, WireError
from bridge.wire.server import stop_on_signals

ADDRESS = "ws://127.0.0.1:8000"
_MAX_CONNECTIONS = 8
_MAX_FRAMES_WAITING = 4
_Array = Annotated[dict[bytes, msgspec.Raw], msgspec.Meta(max_length=4)]
_Shape = Annotated[list[int], msgspec.Meta(max_length=8)]


class _Observation(
    msgspec.Struct, rename={"image": "observation/image", "state": "observation/state"}
):
    image: _Array
    state: _Array
    prompt: str


def serve_openpi(
    policy: Policy, door: Door, info: ServerInfo, ready: Callable[[str], object] | None = None
) -> None:
    """Serves `policy` until SIGINT or SIGTERM; `ready` is called with the address in use.

    Raises UserError for an address that is taken, unusable, or leads off this machine.
    """
    host, port = door.place(ADDRESS)
    made = _Server(policy, door, info)
    # What strangers send is no news; faults of ours are logged where they happen.
    quiet = logging.getLogger(f"{__name__}.websockets")
    quiet.setLevel(logging.CRITICAL)
    try:
        server = serve(
            made.converse,
            host,
            port,
            process_request=made.greet,
            origins=[None],
            compression=None,
            max_size=MAX_MESSAGE_BYTES,
            max_queue=_MAX_FRAMES_WAITING,
            logger=quiet,
        )
    except OSError as error:
        raise UserError(
            f"cannot serve at {door.address or ADDRESS} ({error.strerror}): choose another address"
        ) from error
    with server, stop_on_signals() as stopping:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        if ready is not None:
            host, port = server.socket.getsockname()[:2]
            ready(f"ws://[{host}]:{port}" if ":" in host else f"ws://{host}:{port}")
        stopping.wait()


class _Server:
    def __init__(self, policy: Policy, door: Door, info: ServerInfo) -> None:
        self._policy = policy
        self._door = door
        self._info = info
        self._thinking = threading.Lock()  # a policy serves one thread at a time
        self._seats = threading.Semaphore(_MAX_CONNECTIONS)

    def greet(self, connection: ServerConnection, request: Request) -> Response | None:
        """Answers a health check, and whoever lacks the token; others go on."""
        if request.path == "/healthz":
            return connection.respond(http.HTTPStatus.OK, "OK\n")
        if not self._door.admits(request.headers.get("Authorization", "").removeprefix("Api-Key ")):
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
        client = ForeignClient(self._policy)
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
        sent: _Observation = unpacked(message, _Observation)
        instruction = check_instruction(sent.prompt)
        image = picture("observation/image", _array("observation/image", sent.image))
        name = "observation/state"
        state = numbers(name, _array(name, sent.state), STATE_DIM, N_JOINTS)
        seen = (
            client.observe(instruction, {"joint_pos": state}, image)
            if len(state) == N_JOINTS
            else Observation.from_state(time.monotonic(), state, image)
        )
        with self._thinking:
            begin_s = time.monotonic()
            chunk = client.ask(instruction, seen)
            infer_ms = (time.monotonic() - begin_s) * 1000
        return {
            "actions": _packed(np.asarray(chunk.commands, np.float32)),
            "state": _packed(seen.state()),
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
            "contract": contract_hash(),
            "action_hz": CHUNK_HZ,
            "action_names": COMMAND_FIELDS,
            "state_names": STATE_FIELDS,
            "image_size": IMAGE_SIZE,
        }


def _array(name: str, item: dict[bytes, msgspec.Raw]) -> np.ndarray:
    if not {b"__ndarray__", b"data", b"dtype", b"shape"} <= item.keys():
        raise WireError(f"{name} is no array as openpi's client packs it")
    code: str = unpacked(item[b"dtype"], str)
    try:
        dtype = np.dtype(code)
    except Exception as error:  # numpy reads a small language here
        raise WireError(f"{name}: {code} is no type of numbers") from error
    return array_of(name, unpacked(item[b"data"], bytes), dtype, unpacked(item[b"shape"], _Shape))


def _packed(array: np.ndarray) -> dict[bytes, Any]:
    return {
        b"__ndarray__": True,
        b"data": array.tobytes(),
        b"dtype": array.dtype.str,
        b"shape": array.shape,
    }
