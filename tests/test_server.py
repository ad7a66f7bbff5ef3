"""The policy server as its own process, over real sockets: answers, faults, deaths."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import zmq

from bridge.contract import Status, UserError
from bridge.wire import messages
from bridge.wire.client import PolicyUnavailable, RemotePolicy
from bridge.wire.messages import ServerInfo
from bridge.wire.server import serve_policy
from robots.g1.embodiment import G1
from tests.doubles import BLIND, INFO, EchoPolicy, observe, running_server

ROOT = Path(__file__).parent.parent
# A dead server is noticed within 0.8 s; the rest is room for a busy machine, and still less than
# the timeout that would notice in the end.
NOTICED_S = 3.0


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> Iterator[str]:
    with running_server(f"ipc://{tmp_path_factory.mktemp('server')}/policy.sock") as process:
        yield process.address


@contextmanager
def raw_client(address: str) -> Iterator[zmq.Socket]:
    context = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.linger = 0
    socket.rcvtimeo = 30_000
    socket.connect(address)
    try:
        yield socket
    finally:
        context.destroy()


def ask(socket: zmq.Socket, frames: list[bytes]) -> messages.Reply:
    socket.send_multipart(frames)
    return messages.unpack_reply(socket.recv_multipart())[0]


def greet(socket: zmq.Socket) -> str:
    hello = messages.Hello(protocol=messages.PROTOCOL, embodiment=G1)
    welcome = ask(socket, messages.pack(hello))
    assert isinstance(welcome, messages.Welcome)
    return welcome.session


@pytest.mark.parametrize("transport", ["ipc", "tcp"])
def test_a_chunk_over_each_transport(transport, tmp_path):
    place = f"ipc://{tmp_path}/p.sock" if transport == "ipc" else "tcp://127.0.0.1:*"
    with running_server(place) as process, RemotePolicy(process.address, G1, INFO) as policy:
        assert policy.info == INFO
        for turn in range(3):
            chunk = policy.act(" walk to the red ball ", observe(turn / 4, level=turn))
            assert chunk.observed_at_s == turn / 4 and (chunk.commands[:, 0] == turn).all()
            assert chunk.commands.shape == (16, 18) and chunk.commands.dtype == np.float32
            assert chunk.status is Status.DONE and chunk.status_probability == 0.5
            assert chunk.understood["instruction"] == "walk to the red ball"
        assert policy.dropped == 0


def test_reset_reaches_the_policy(address):
    with RemotePolicy(address, G1) as policy:
        before = int(policy.act("go", observe()).understood["resets"])
        policy.reset()
        assert int(policy.act("go", observe()).understood["resets"]) == before + 1


def test_sessions_do_not_disturb_each_other(address):
    with RemotePolicy(address, G1) as first, RemotePolicy(address, G1) as second:
        found: dict[int, bool] = {}

        def work(policy: RemotePolicy, level: int) -> None:
            chunks = [policy.act("go", observe(i, level)) for i in range(20)]
            times = [chunk.observed_at_s for chunk in chunks]
            same = all((chunk.commands[:, 0] == level).all() for chunk in chunks)
            found[level] = same and times == list(range(20))

        pairs = ((first, 1), (second, 2))
        threads = [threading.Thread(target=work, args=pair) for pair in pairs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == {1: True, 2: True}


def test_a_fault_is_one_line_and_the_session_goes_on(address):
    with RemotePolicy(address, G1) as policy:
        with pytest.raises(UserError, match=r"^the policy failed \(RuntimeError\)[^\n]*$"):
            policy.act("fail", observe())
        with pytest.raises(UserError, match="not finite"):
            policy.act("nan", observe())
        with pytest.raises(UserError, match="empty"):
            policy.act(" ", observe())
        assert policy.act("go", observe()).status is Status.DONE


@pytest.mark.parametrize("text", ["", "x" * 1025, "walk\x07"])
def test_the_server_checks_instructions_itself(address, text):
    with raw_client(address) as socket:
        session = greet(socket)
        reply = ask(socket, messages.pack_observation(session, 1, text, observe()))
        assert isinstance(reply, messages.Fault) and (reply.session, reply.sequence) == (session, 1)
        assert "Traceback" not in reply.message and "\n" not in reply.message


def test_the_server_survives_garbage(address):
    garbage = ([b""], [b"\xff" * 50], [b"\x91" * 100_000], [os.urandom(4000)] * 3)
    with raw_client(address) as socket:
        session = greet(socket)
        for frames in garbage:
            reply = ask(socket, list(frames))
            assert isinstance(reply, messages.Fault) and reply.sequence == -1
        act = messages.pack_observation(session, 1, "go", observe())
        wrong_image = ask(
            socket, messages.pack(messages.unpack_request(act)[0], np.zeros(3, np.float32))
        )
        assert isinstance(wrong_image, messages.Fault) and "contract asks" in wrong_image.message
        assert isinstance(
            ask(socket, messages.pack_observation(session, 2, "go", observe())), messages.Chunk
        )


def test_repeated_and_superseded_requests_are_dropped(address):
    with raw_client(address) as socket:
        session = greet(socket)
        socket.send_multipart(messages.pack_observation(session, 1, "sleep 0.3", observe()))
        time.sleep(0.1)  # let it begin; the next three wait in the queue meanwhile
        for sequence in (2, 3, 3):
            socket.send_multipart(messages.pack_observation(session, sequence, "go", observe()))
        replies = [messages.unpack_reply(socket.recv_multipart())[0]]
        socket.rcvtimeo = 1000
        with pytest.raises(zmq.Again):
            while True:
                replies.append(messages.unpack_reply(socket.recv_multipart())[0])
        # Of the three that waited, the newest alone is worth an answer.
        assert [reply.sequence for reply in replies] == [1, 3]


def test_a_session_belongs_to_the_client_that_opened_it(address):
    with raw_client(address) as owner, raw_client(address) as thief:
        session = greet(owner)
        reply = ask(thief, messages.pack_observation(session, 1, "go", observe()))
        assert isinstance(reply, messages.Fault) and "connect again" in reply.message
        greet(thief)
        reply = ask(thief, messages.pack_observation(session, 1, "go", observe()))
        assert isinstance(reply, messages.Fault)
        assert isinstance(
            ask(owner, messages.pack_observation(session, 1, "go", observe())), messages.Chunk
        )


@pytest.mark.parametrize(
    ("changes", "values"),
    [
        ({"protocol": 99}, ("protocol version", "99", "2")),
        ({"embodiment": None, "protocol": 1}, ("protocol version", "1", "2")),
        ({"embodiment": BLIND}, ("camera", "nothing", "head (96, 96)")),
        ({"model_id": "other"}, ("model", "other", "model-1")),
        ({"normalisation_id": "other"}, ("normalisation", "other", "norm-1")),
    ],
)
def test_a_mismatch_is_refused_with_both_values(address, changes, values):
    terms = {"protocol": messages.PROTOCOL, "embodiment": G1, **changes}
    with raw_client(address) as socket:
        reply = ask(socket, messages.pack(messages.Hello(**terms)))
        assert isinstance(reply, messages.Refused) and reply.remedy
        assert (reply.term, reply.client, reply.server) == values


def test_the_client_names_the_mismatch(address):
    with pytest.raises(UserError, match=r"model differs, other here and model-1 at the server: \w"):
        RemotePolicy(address, G1, expected=ServerInfo("other", "norm-1"))


@pytest.mark.parametrize("place", ["ipc:///tmp/hitogata-nobody.sock", "tcp://127.0.0.1:1"])
def test_no_server_is_noticed_at_once(place):
    begin = time.monotonic()
    with pytest.raises(PolicyUnavailable, match="hitogata serve"):
        RemotePolicy(place, G1)
    assert time.monotonic() - begin < NOTICED_S


@pytest.mark.parametrize("fate", [signal.SIGKILL, signal.SIGSTOP])
def test_a_server_that_dies_is_noticed(fate, tmp_path):
    place = f"ipc://{tmp_path}/p.sock"
    with running_server(place) as process, RemotePolicy(place, G1) as policy:
        policy.act("go", observe())
        threading.Timer(0.2, process.send_signal, [fate]).start()
        begin = time.monotonic()
        with pytest.raises(PolicyUnavailable, match="gone: restart it"):
            policy.act("sleep 30", observe())
        assert time.monotonic() - begin < NOTICED_S
        with pytest.raises(PolicyUnavailable):  # a lost connection stays lost
            policy.act("go", observe())


def test_a_restarted_server_is_joined_by_a_new_handshake_only(tmp_path):
    place = f"ipc://{tmp_path}/p.sock"
    with running_server(place) as process:
        policy = RemotePolicy(place, G1, INFO)
        process.kill()
        process.wait()
        with running_server(place, model_id="model-2"):
            time.sleep(0.3)
            with pytest.raises(PolicyUnavailable):
                policy.act("go", observe())
            with pytest.raises(UserError, match="model differs"):
                RemotePolicy(place, G1, INFO)
            with RemotePolicy(place, G1) as other:
                assert other.info.model_id == "model-2"
        policy.close()


def test_a_late_reply_is_dropped_and_counted(address):
    with RemotePolicy(address, G1, timeout_s=1.0) as policy:
        with pytest.raises(PolicyUnavailable, match="within 1 s"):
            policy.act("sleep 1.3", observe(1.0))
        time.sleep(0.5)
        assert policy.act("go", observe(2.0)).observed_at_s == 2.0
        assert policy.dropped == 1


def test_a_client_that_floods_and_vanishes_does_no_harm(address):
    with raw_client(address) as socket:
        session = greet(socket)
        act = messages.pack_observation(session, 1, "sleep 1.5", observe())
        for _ in range(500):
            socket.send_multipart(act)
            time.sleep(0.001)
    time.sleep(2.0)
    with RemotePolicy(address, G1) as policy:
        assert policy.act("go", observe()).status is Status.DONE


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_the_server_cleanly(number, tmp_path):
    place = f"ipc://{tmp_path}/p.sock"
    with running_server(place) as process, RemotePolicy(place, G1) as policy:
        policy.act("go", observe())
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 0 and out == "stopped\n" and err == ""
    assert not (tmp_path / "p.sock").exists()


def test_unusable_addresses_are_refused(address, tmp_path):
    for place in ("tcp://0.0.0.0:5555", f"ipc://{tmp_path}/no/such/folder", address):
        with pytest.raises(UserError) as caught:
            serve_policy(EchoPolicy(), G1, place, INFO)
        assert "\n" not in str(caught.value)
    # The server that was there is still the one that answers.
    with RemotePolicy(address, G1) as policy:
        assert policy.act("go", observe()).status is Status.DONE
    in_use = pytest.raises(UserError, match="Address already in use")
    with running_server("tcp://127.0.0.1:*") as process, in_use:
        serve_policy(EchoPolicy(), G1, process.address, INFO)


def test_a_socket_file_left_by_a_killed_server_is_no_obstacle(tmp_path):
    place = f"ipc://{tmp_path}/p.sock"
    with running_server(place) as process:
        process.kill()
        process.wait()
        assert (tmp_path / "p.sock").exists()
        with running_server(place), RemotePolicy(place, G1) as policy:
            assert policy.act("go", observe()).status is Status.DONE
