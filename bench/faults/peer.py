"""The other end of a fault, as a process of its own: servers that misbehave, a viewer that watches.

    python -m bench.faults.peer policy ADDRESS [--model-id ID] [--normalisation-id ID]
        [--body g1|stranger] [--keys FOLDER]
    python -m bench.faults.peer frames ADDRESS
    python -m bench.faults.peer viewer|commander|crowd ADDRESS
    python -m bench.faults.peer gr00t|openpi ADDRESS

The instruction names the mischief: "walk" is none. Every mischief begins after a few honest
answers, in mid-walk. `policy` answers through the real server with values that can pass it;
`frames` answers with frames that no real server would send.
"""

from __future__ import annotations

import argparse
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import zmq

from bench.doubles import (
    BACKWARDS_M_S,
    BODIES,
    ELBOW,
    HONEST_ANSWERS,
    ScriptedPolicy,
    TellingPolicy,
    commands_with,
    walk_commands,
)
from bench.faults.rig import command
from bridge.compat.adapter import Endpoint
from bridge.compat.gr00t import serve_gr00t
from bridge.compat.openpi import serve_openpi
from bridge.contract import Status
from bridge.operator.client import Operator
from bridge.wire import messages, sockets
from bridge.wire.keys import server_keys
from bridge.wire.messages import ArraySpec, ServerInfo
from bridge.wire.server import serve_policy
from robots.g1.embodiment import G1, VEL_X

# Around every answer come those to the question before, and they would walk backwards.
OVERTAKEN = "overtaken"
GIBIBYTE = 1 << 30
MOST_SESSIONS = 64  # that a server keeps
SCRIPT = "script"

_FOREIGN = {"gr00t": serve_gr00t, "openpi": serve_openpi}

Frames = list[bytes]


def _head(act: messages.Act, *arrays: ArraySpec) -> bytes:
    chunk = messages.Chunk(
        session=act.session,
        sequence=act.sequence,
        observed_at_s=act.observed_at_s,
        status=Status.ACTING,
        status_probability=1.0,
        understood={},
        arrays=arrays,
    )
    return msgspec.msgpack.encode(chunk)


def _commands(act: messages.Act, commands: np.ndarray) -> Frames:
    # The type's own name, so that it may be one that does not travel.
    spec = {"dtype": commands.dtype.name, "shape": commands.shape}
    return [_head(act, ArraySpec(**spec)), commands.tobytes()]


def _honest(act: messages.Act) -> Frames:
    return _commands(act, walk_commands())


FRAMES: dict[str, Callable[[messages.Act], Frames]] = {
    "nan": lambda act: _commands(act, commands_with(ELBOW, np.nan)),
    "infinity": lambda act: _commands(act, commands_with(ELBOW, np.inf)),
    "width": lambda act: _commands(act, walk_commands()[:, :-1]),
    "horizon": lambda act: _commands(act, walk_commands()[:0]),
    "dtype": lambda act: _commands(act, walk_commands().astype(np.float64)),
    "truncated": lambda act: [_honest(act)[0], _honest(act)[1][:-4]],
    "random": lambda act: [os.urandom(4000), os.urandom(4000)],
    "empty": lambda act: [b""],
    "nested": lambda act: [b"\x91" * 100_000],
    "gibibyte": lambda act: [_head(act), memoryview(np.zeros(GIBIBYTE, np.uint8))],  # type: ignore[list-item]
}


def serve_frames(address: str) -> None:
    """Greets like a server, answers honestly at first, then with the instruction's frames."""
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        sockets.set_options(router, address)
        router.bind(address)
        print("ready", flush=True)
        answered, earlier = 0, []
        while True:
            peer, *frames = router.recv_multipart()
            request, _ = messages.unpack_request(frames)
            replies: list[Frames] = []
            if isinstance(request, messages.Act):
                answered += 1
                bad = FRAMES.get(request.instruction) if answered > HONEST_ANSWERS else None
                reply = (bad or _honest)(request)
                if request.instruction == OVERTAKEN and earlier:
                    replies = [earlier, reply, earlier]
                earlier = _commands(request, commands_with(VEL_X, BACKWARDS_M_S))
            elif isinstance(request, messages.Hello):
                reply = messages.pack(_welcome())
            elif isinstance(request, messages.Reset):
                answered = 0
                done = messages.Done(session=request.session, sequence=request.sequence)
                reply = messages.pack(done)
            else:
                continue
            for each in replies or [reply]:
                router.send_multipart([peer, *each], copy=False)


def _welcome() -> messages.Welcome:
    return messages.Welcome(
        session=SCRIPT,
        protocol=messages.PROTOCOL,
        embodiment=G1,
        model_id=SCRIPT,
        normalisation_id=SCRIPT,
    )


def watch(address: str) -> None:
    """Says once that telemetry arrives, and goes on reading it."""
    with zmq.Context() as context, context.socket(zmq.SUB) as viewer:
        viewer.rcvhwm = 4
        viewer.subscribe(b"")
        viewer.connect(address)
        viewer.recv()
        print("ready", flush=True)
        while True:
            viewer.recv()


def greet_without_end(address: str) -> None:
    """Greets a server as more clients than it keeps, all between two questions of a robot."""
    hello = messages.pack(messages.Hello(protocol=messages.PROTOCOL, embodiment=G1))
    with zmq.Context() as context:
        clients = [context.socket(zmq.DEALER) for _ in range(MOST_SESSIONS)]
        for client in clients:
            client.connect(address)
        print("ready", flush=True)
        while True:
            for client in clients:
                client.send_multipart(hello)
            time.sleep(0.2)


def keep_commanding(address: str) -> None:
    """Lets a robot walk, says once that it has been told to, and keeps the lease."""
    with Operator(address, "bert") as bert:
        command(bert, "walk")
        print("ready", flush=True)
        signal.pause()


_OTHERS = {"viewer": watch, "commander": keep_commanding, "crowd": greet_without_end}


def main() -> None:
    """Plays the part that the command line names, until it is killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=("policy", "frames", *_OTHERS, *_FOREIGN))
    parser.add_argument("address")
    parser.add_argument("--model-id", default=SCRIPT)
    parser.add_argument("--normalisation-id", default=SCRIPT)
    parser.add_argument("--body", choices=BODIES, default="g1")
    parser.add_argument("--keys", type=Path)
    told = parser.parse_args()
    if told.kind == "frames":
        serve_frames(told.address)
    elif told.kind in _OTHERS:
        _OTHERS[told.kind](told.address)
    elif told.kind in _FOREIGN:
        info, door = ServerInfo(SCRIPT, SCRIPT), Endpoint(told.address)
        _FOREIGN[told.kind](TellingPolicy(), G1, door, info, lambda place: print(place, flush=True))
    else:
        info = ServerInfo(told.model_id, told.normalisation_id)
        keys = server_keys(told.keys) if told.keys else None
        body = BODIES[told.body]
        serve_policy(
            ScriptedPolicy(), body, told.address, info, lambda place: print(place, flush=True), keys
        )


if __name__ == "__main__":
    main()
