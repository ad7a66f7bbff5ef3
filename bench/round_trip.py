"""Round trips of an observation and its chunk: ours, raw ZeroMQ's and openpi's, turn by turn."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import numpy as np
import zmq
from websockets.sync.client import connect

from bench.doubles import InstantPolicy
from bridge.compat.adapter import Endpoint
from bridge.compat.openpi import packed, serve_openpi
from bridge.contract import Observation
from bridge.wire import messages
from bridge.wire.client import RemotePolicy
from bridge.wire.messages import ServerInfo
from bridge.wire.server import serve_policy
from robots.g1.embodiment import G1, IMAGE_SIZE, STATE_DIM

INSTRUCTION = "walk to the red ball"
# So many round trips of one kind before the next kind has its turn: all meet the same noise.
BLOCK = 20
_INFO = ServerInfo("instant", "none")
_START_S, _END_S = 60.0, 10.0

Trip = Callable[[], None]


def rtt_figures(round_trips: int) -> dict[str, float]:
    """p50 and p99 of each kind in ms, and what ours adds to raw ZeroMQ where it adds most."""
    with TemporaryDirectory(prefix="hitogata-") as folder, ExitStack() as stack:
        trips = {name: stack.enter_context(trip) for name, trip in _trips(Path(folder))}
        times_ms = interleaved_ms(trips, round_trips)
    figures: dict[str, float] = {}
    for q in (50, 99):
        ms = {name: float(np.percentile(times, q)) for name, times in times_ms.items()}
        figures |= {f"rtt_p{q}_ms_{name}": value for name, value in ms.items()}
        added = (ms[transport] - ms[f"raw_{transport}"] for transport in ("ipc", "tcp"))
        figures[f"rtt_added_p{q}_ms"] = max(added)
    figures["openpi_rtt_ratio"] = figures["rtt_p50_ms_tcp"] / figures["rtt_p50_ms_openpi"]
    return figures


def interleaved_ms(trips: dict[str, Trip], round_trips: int) -> dict[str, np.ndarray]:
    """(round_trips,) ms of each kind, measured in blocks that take turns, after one for nothing."""
    blocks = max(1, round_trips // BLOCK)
    taken: dict[str, list[float]] = {name: [] for name in trips}
    for block in range(blocks + 1):
        for name, trip in trips.items():
            for _ in range(BLOCK):
                begun_s = time.perf_counter()
                trip()
                ended_s = time.perf_counter()
                if block > 0:
                    taken[name].append(1000 * (ended_s - begun_s))
    return {name: np.array(times) for name, times in taken.items()}


def _observation() -> Observation:
    """What a robot may see: noise, so that nothing on its way could be made smaller."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    return Observation(G1, 1.0, rng.random(STATE_DIM, np.float32), {"head": image})


# --- the clients ---


def _trips(folder: Path) -> Iterator[tuple[str, Any]]:
    for transport, ours, raw in (
        ("ipc", f"ipc://{folder}/ours.sock", f"ipc://{folder}/raw.sock"),
        ("tcp", "tcp://127.0.0.1:*", "tcp://127.0.0.1:*"),
    ):
        yield f"raw_{transport}", _raw_trip(raw)
        yield transport, _our_trip(ours)
    yield "openpi", _openpi_trip()


@contextmanager
def _our_trip(address: str) -> Generator[Trip, None, None]:
    """Through the client of a robot and the policy server of `hitogata serve`."""
    observation = _observation()
    with _server(_serve_ours, address) as place, RemotePolicy(place, G1, _INFO) as policy:

        def trip() -> None:
            policy.act(INSTRUCTION, observation)

        yield trip


@contextmanager
def _raw_trip(address: str) -> Generator[Trip, None, None]:
    """The same bytes in the same frames, made beforehand and looked at by nobody."""
    request, _ = _frames()
    with _server(_serve_raw, address) as place, zmq.Context() as context:
        socket = context.socket(zmq.DEALER)
        socket.connect(place)

        def trip() -> None:
            socket.send_multipart(request)
            socket.recv_multipart()

        yield trip
        socket.close(linger=0)


@contextmanager
def _openpi_trip() -> Generator[Trip, None, None]:
    """Through openpi's wire: a plain WebSocket client and the server of --wire openpi."""
    observation = _observation()
    with (
        _server(_serve_openpi, "ws://127.0.0.1:0") as place,
        connect(place, compression=None, max_size=None) as socket,
    ):
        socket.recv()

        def trip() -> None:
            sent = {
                "observation/image": packed(observation.images["head"]),
                "observation/state": packed(observation.state),
                "prompt": INSTRUCTION,
            }
            socket.send(msgspec.msgpack.encode(sent))
            answer = socket.recv()
            assert isinstance(answer, bytes), answer
            actions = msgspec.msgpack.decode(answer)["actions"]
            commands = np.frombuffer(actions[b"data"], actions[b"dtype"])
            commands.reshape(actions[b"shape"])

        yield trip


def _frames() -> tuple[list[bytes], list[bytes]]:
    """What a request and its reply are on our wire."""
    observation = _observation()
    chunk = InstantPolicy().act(INSTRUCTION, observation)
    return (
        messages.pack_observation("0" * 16, 1, INSTRUCTION, observation),
        messages.pack_chunk("0" * 16, 1, chunk, G1),
    )


# --- the servers, each a process of its own ---


@contextmanager
def _server(serve: Callable[[str, Connection], None], address: str) -> Generator[str, None, None]:
    """The address at which `serve` answers, in a process of its own."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=serve, args=(address, there), daemon=True)
    process.start()
    try:
        assert here.poll(_START_S), "a server did not start"
        yield here.recv()
    finally:
        process.terminate()
        process.join(_END_S)
        process.kill()


def _serve_ours(address: str, ready: Connection) -> None:
    serve_policy(InstantPolicy(), G1, address, _INFO, ready.send)


def _serve_openpi(address: str, ready: Connection) -> None:
    serve_openpi(InstantPolicy(), G1, Endpoint(address), _INFO, ready.send)


def _serve_raw(address: str, ready: Connection) -> None:
    _, reply = _frames()
    socket = zmq.Context().socket(zmq.ROUTER)
    socket.bind(address)
    ready.send(socket.getsockopt_string(zmq.LAST_ENDPOINT))
    while True:
        name, *_ = socket.recv_multipart()
        socket.send_multipart([name, *reply])
