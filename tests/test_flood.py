"""Messages that never end: whoever sends one is cut off, and the rest is served on."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import pytest
import zmq

from bench.faults.endless import framed, send_without_end, shake_hands, stranger
from bench.faults.programs import scripted_server
from bench.footprint import footprint_of
from bridge.operator import messages as operator_wire
from bridge.operator.client import Operator
from bridge.operator.port import OperatorPort
from bridge.wire import flood
from bridge.wire import messages as wire
from bridge.wire.client import PolicyUnavailable, RemotePolicy
from robots.g1.embodiment import G1
from tests.doubles import await_true
from tests.test_operator import free_port

# The guard promises 64 on a machine that gives it a hundred looks a second; on a busy one 145 were
# seen. Without it there is all that was sent, or 32 times as much in frames of no bytes.
MOST_MB = 512.0
ENDLESS = 1 << 30
ADDRESSES = ("ipc", "tcp")


def place_of(kind: str, folder: Path) -> str:
    if kind == "ipc":
        return f"ipc://{folder}/end.sock"
    return f"tcp://127.0.0.1:{free_port()}"


@contextmanager
def in_background(act: Callable[[], object]) -> Iterator[threading.Thread]:
    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    yield thread
    thread.join(30)
    assert not thread.is_alive()


def growth_mb(thread: threading.Thread, pid: int | None = None) -> float:
    before_mb = most_mb = footprint_of(pid).memory_mb
    while thread.is_alive():
        most_mb = max(most_mb, footprint_of(pid).memory_mb)
        time.sleep(0.005)
    return most_mb - before_mb


def flooded(address: str, frame_bytes: int, kind: bytes = b"DEALER") -> int:
    with stranger(address, kind) as line:
        return send_without_end(line, frame_bytes, ENDLESS)


@pytest.mark.parametrize("kind", ADDRESSES)
@pytest.mark.parametrize("frame_bytes", [0, 1000, 900_000])
def test_a_policy_server_cuts_off_a_message_without_end(
    kind: str, frame_bytes: int, tmp_path: Path
) -> None:
    with scripted_server(place_of(kind, tmp_path)) as server:
        with in_background(lambda: flooded(server.said, frame_bytes)) as thread:
            assert growth_mb(thread, server.pid) < MOST_MB
        with RemotePolicy(server.said, G1) as honest:
            honest.reset()


@pytest.mark.parametrize("kind", ADDRESSES)
@pytest.mark.parametrize("door", ["commands", "stop", "telemetry"])
def test_a_robot_cuts_off_a_message_without_end(
    kind: str, door: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with OperatorPort(place_of(kind, tmp_path), G1) as port:
        address: str = getattr(port.addresses, door)
        socket_kind = b"SUB" if door == "telemetry" else b"DEALER"
        flood = partial(flooded, address, 0, socket_kind)
        with caplog.at_level(logging.WARNING), in_background(flood) as thread:
            assert growth_mb(thread) < MOST_MB
        assert [line for line in caplog.messages if "cut off" in line and address in line]
        over = threading.Event()

        def stop() -> None:
            with Operator(port.addresses.commands) as operator:
                operator.stop()
            over.set()

        with in_background(stop):
            while not over.wait(0.01):
                port.poll()


@pytest.mark.parametrize("kind", ADDRESSES)
def test_a_client_of_a_server_whose_answer_does_not_end_loses_its_link(
    kind: str, tmp_path: Path
) -> None:
    address = place_of(kind, tmp_path)
    with _listening(address) as listener:
        begin = threading.Event()

        def answer() -> None:
            line, _ = listener.accept()
            with line:
                shake_hands(line, b"ROUTER")
                welcome = wire.Welcome(
                    session="s",
                    protocol=wire.PROTOCOL,
                    embodiment=G1,
                    model_id="m",
                    normalisation_id="n",
                )
                line.sendall(framed(wire.pack(welcome)[0]))
                begin.wait(10)
                send_without_end(line, 1000, ENDLESS)

        with in_background(answer) as thread, RemotePolicy(address, G1) as policy:
            begin.set()
            assert growth_mb(thread) < MOST_MB
            with pytest.raises(PolicyUnavailable, match="is gone"):
                for _ in range(100):
                    policy.check()
                    time.sleep(0.02)


def test_an_operator_outlasts_a_robot_whose_answer_does_not_end(tmp_path: Path) -> None:
    address = place_of("ipc", tmp_path)
    with _listening(address) as listener, Operator(address):

        def answer() -> None:
            line, _ = listener.accept()
            with line:
                shake_hands(line, b"ROUTER")
                send_without_end(line, 1000, ENDLESS)

        with in_background(answer) as thread:
            assert growth_mb(thread) < MOST_MB


def test_a_peer_that_is_gone_before_the_first_look_leaves_its_descriptor_to_libzmq() -> None:
    with socket.socket() as reset:  # without a peer, as one whose peer reset it at once
        flood.watch_connection(reset.fileno(), "here")
        assert reset.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0, "it is still open"


def test_whole_messages_however_many_cut_nobody_off(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with OperatorPort(place_of("tcp", tmp_path), G1) as port:
        asked = framed(operator_wire.pack(operator_wire.Stop(sequence=1))) * 1000
        with stranger(port.addresses.stop) as line:
            while port.stops < 40_000:
                line.sendall(asked)
                heard = port.stops
                while port.stops < heard + 1000:
                    port.poll()
                line.recv(1 << 20)
    assert not caplog.messages


def test_a_silent_crowd_pushes_out_nobody_who_has_spoken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(flood, "MOST_CONNECTIONS", 8)
    monkeypatch.setattr(flood, "LOOK_S", 0.1)  # the first message is taken before the first look
    with (
        OperatorPort(place_of("ipc", tmp_path), G1) as port,
        stranger(port.addresses.commands) as speaker,
        ExitStack() as crowd,
    ):
        terms = {"session": "s" * 16, "sequence": 1, "protocol": operator_wire.PROTOCOL}
        speaker.sendall(framed(operator_wire.pack(operator_wire.Claim(name="anna", **terms))))
        await_true(lambda: bool(port.poll()) or port.commander == "anna")
        time.sleep(3 * flood.LOOK_S)  # it is older than the crowd
        for _ in range(30):
            crowd.enter_context(stranger(port.addresses.stop))
        await_true(lambda: sum("cut off" in line for line in caplog.messages) >= 20)
        assert not [line for line in caplog.messages if f"{port.addresses.commands}:" in line]


def test_the_guard_ends_with_the_last_socket(tmp_path: Path) -> None:
    with OperatorPort(place_of("ipc", tmp_path), G1):
        assert [thread for thread in threading.enumerate() if thread.name == "flood"]
    deadline = time.monotonic() + 10
    while [thread for thread in threading.enumerate() if thread.name == "flood"]:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _listening(address: str) -> socket.socket:
    scheme, _, place = address.partition("://")
    if scheme == "ipc":
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(place)
        listener.listen()
        return listener
    host, _, port = place.rpartition(":")
    return socket.create_server((host, int(port)))


def test_a_context_that_ends_unreleased_ends_nobody_elses_guard() -> None:
    with zmq.Context() as other, other.socket(zmq.ROUTER) as kept:
        flood.watch(kept, "tcp://kept")
        kept.bind("tcp://127.0.0.1:*")
        context = zmq.Context()
        flood.watch(context.socket(zmq.ROUTER), "tcp://gone")
        context.destroy(linger=0)
        guard = flood._guard
        await_true(lambda: all(each.context is not context for each in guard._monitors))
        time.sleep(10 * flood.LOOK_S)
        assert guard._thread is not None and guard._thread.is_alive()
        flood.release(other)
