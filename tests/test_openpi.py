"""The server for clients of openpi, over real sockets, and openpi's own client."""

from __future__ import annotations

import signal
import socket as plain
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.exceptions import ConnectionClosedError, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from bridge.compat.adapter import Endpoint
from bridge.compat.openpi import serve_openpi
from bridge.contract import Status, UserError
from robots.g1.embodiment import CHUNK_STEPS, COMMAND_FIELDS, G1, STATE_DIM
from tests.doubles import INFO, served
from tests.test_compat import JOINTS, SERVER, EchoPolicy, check_fault, decode, encode


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with served(SERVER, "openpi") as server:
        yield server.address


def packed(array: np.ndarray, **changes: Any) -> dict[bytes, Any]:
    fields = {"data": array.tobytes(), "dtype": array.dtype.str, "shape": array.shape} | changes
    return {b"__ndarray__": True, **{key.encode(): value for key, value in fields.items()}}


def observation(**changes: Any) -> dict[str, Any]:
    given: dict[str, Any] = {
        "image": packed(np.full((224, 224, 3), 7, np.uint8)),
        "state": packed(JOINTS),
    } | changes
    prompt = given.pop("prompt", "walk to the red ball")
    return {f"observation/{key}": value for key, value in given.items()} | {"prompt": prompt}


@contextmanager
def client(address: str, **options: Any) -> Iterator[ClientConnection]:
    options = {"compression": None, "max_size": None} | options
    with connect(address, open_timeout=60, **options) as connection:
        yield connection


def test_answers(address: str) -> None:
    with client(address) as connection:
        metadata = decode(connection.recv())
        assert metadata["model_id"] == "model-1" and metadata["action_hz"] == 10
        assert metadata["action_names"] == list(COMMAND_FIELDS)
        state = np.arange(STATE_DIM, dtype=np.float64)
        for turn, given in enumerate((JOINTS, state)):
            connection.send(encode(observation(state=packed(given))))
            answer = decode(connection.recv())
            actions = answer["actions"]
            assert actions[b"__ndarray__"] is True and actions[b"dtype"] == "<f4"
            assert actions[b"shape"] == [16, 18]
            np.testing.assert_array_equal(np.frombuffer(actions[b"data"], "<f4"), np.arange(288))
            known = np.frombuffer(answer["state"][b"data"], "<f4")
            np.testing.assert_array_equal(known[: len(given)], given)
            assert float(answer["understood"]["brightness"]) == 7
            assert ("prev_total_ms" in answer["server_timing"]) == (turn == 1)
            assert answer["policy_timing"]["infer_ms"] >= 0


def test_begins_anew_with_each_connection(address: str) -> None:
    counts = []
    for _ in range(2):
        with client(address) as connection:
            connection.recv()
            connection.send(encode(observation()))
            counts.append(int(decode(connection.recv())["understood"]["resets"]))
    assert counts[1] == counts[0] + 1


def test_health(address: str) -> None:
    with urllib.request.urlopen(address.replace("ws", "http", 1) + "/healthz") as reply:
        assert (reply.status, reply.read()) == (200, b"OK\n")


def test_token() -> None:
    with served(SERVER, "openpi", "s3cret") as server:
        for headers in ({}, {"Authorization": "Api-Key guess"}):
            with (
                pytest.raises(InvalidStatus, match="401"),
                client(server.address, additional_headers=headers),
            ):
                pass
        right = {"Authorization": "Api-Key s3cret"}
        with client(server.address, additional_headers=right) as connection:
            assert decode(connection.recv())["model_id"] == "model-1"


def test_answers_no_web_page(address: str) -> None:
    with (
        pytest.raises(InvalidStatus, match="403"),
        client(address, origin="https://example.com"),
    ):
        pass


OBSERVATION = encode(observation())
BAD_MESSAGES: dict[str, tuple[bytes | str, str]] = {
    "text": ("hello", "binary"),
    "empty": (b"", "unreadable"),
    "random": (np.random.default_rng(0).bytes(5000), "unreadable"),
    "deep": (b"\x91" * 100_000, "unreadable"),
    "truncated": (OBSERVATION[:-100], "unreadable"),
    "no prompt": (encode({}), "prompt|observation"),
    "number": (encode(observation(state=7)), "unreadable"),
    "pickle": (encode(observation(state=packed(JOINTS, dtype="|O"))), "object arrays"),
    "structured": (encode(observation(state=packed(JOINTS, dtype="V116"))), "do not travel"),
    "code": (
        encode(observation(state=packed(JOINTS, dtype="(1000000,1000000)f8"))),
        "no type of numbers",
    ),
    "endless dtype": (
        encode(observation(state=packed(JOINTS, dtype="f4," * 1_300_000))),
        "no type of numbers",
    ),
    "nonsense": (encode(observation(state=packed(JOINTS, dtype="<zz9"))), "no type of numbers"),
    "terabyte": (encode(observation(state=packed(JOINTS, shape=[1 << 40]))), "116 bytes sent"),
    "negative": (encode(observation(state=packed(JOINTS, shape=[-1, -29]))), "declared"),
    "short": (encode(observation(state=packed(JOINTS, data=bytes(8)))), "8 bytes sent"),
    "wide": (encode(observation(state=packed(np.zeros(30)))), r"send float32 \(86,\) or \(29,\)"),
    "integers": (encode(observation(state=packed(np.zeros(29, np.uint8)))), "send float32"),
    "nan": (encode(observation(state=packed(JOINTS * np.nan))), "not finite"),
    "too wide": (
        encode(observation(image=packed(np.zeros((1, 1281, 3), np.uint8)))),
        "sides up to 1280",
    ),
    "no words": (encode(observation(prompt=" ")), "empty"),
    "policy fails": (encode(observation(prompt="fail")), "^the policy failed .RuntimeError.: read"),
    "policy's nan": (encode(observation(prompt="nan")), "commands are not finite"),
}


@pytest.mark.parametrize("name", BAD_MESSAGES)
def test_bad_messages(address: str, name: str) -> None:
    message, complaint = BAD_MESSAGES[name]
    with client(address) as connection:
        connection.recv()
        connection.send(message)
        line = connection.recv()
        assert isinstance(line, str)
        check_fault(line, complaint)
        with pytest.raises(ConnectionClosedError) as closed:
            connection.recv()
        assert closed.value.rcvd is not None and closed.value.rcvd.code == 1011
    test_health(address)


@settings(max_examples=20, deadline=None)
@given(place=st.integers(0, len(OBSERVATION) - 1), content=st.binary(min_size=1, max_size=12))
def test_mutated_messages(address: str, place: int, content: bytes) -> None:
    with client(address) as connection:
        connection.recv()
        connection.send(OBSERVATION[:place] + content + OBSERVATION[place + len(content) :])
        reply = connection.recv()
        if isinstance(reply, str):
            check_fault(reply)
        else:
            assert decode(reply)["actions"][b"shape"] == [16, 18]


def test_survives_what_is_no_websocket(address: str) -> None:
    host, port = address.removeprefix("ws://").split(":")
    with plain.create_connection((host, int(port))) as stranger:
        stranger.sendall(np.random.default_rng(0).bytes(2000))
        stranger.settimeout(60)
        while reply := stranger.recv(1000):
            assert b"Traceback" not in reply
    with client(address) as connection:
        connection.recv()
        connection.send(bytes(5 << 20))
        with pytest.raises(ConnectionClosedError) as closed:
            connection.recv()
        assert closed.value.rcvd is not None and closed.value.rcvd.code == 1009
    test_health(address)


def test_has_a_limited_number_of_seats(address: str) -> None:
    with ExitStack() as stack:
        for _ in range(8):
            stack.enter_context(client(address)).recv()
        with client(address) as ninth, pytest.raises(ConnectionClosedError) as closed:
            ninth.recv()
        assert closed.value.rcvd is not None and closed.value.rcvd.code == 1013
    test_answers(address)


OPENPI_CLIENT = """
import sys
import numpy as np
from openpi_client import action_chunk_broker, image_tools, websocket_client_policy

remote = websocket_client_policy.WebsocketClientPolicy(sys.argv[1], api_key="s3cret")
assert remote.get_server_metadata()["model_id"] == "model-1"
camera = np.full((480, 480, 3), 7, np.uint8)
image = image_tools.convert_to_uint8(image_tools.resize_with_pad(camera, 224, 224))
observation = {
    "observation/image": image,
    "observation/state": np.linspace(-1, 1, 29),
    "prompt": np.str_("walk to the red ball"),
}
answer = remote.infer(observation)
assert answer["actions"].dtype == np.float32 and answer["actions"].shape == (16, 18)
assert (answer["actions"] == np.arange(288).reshape(16, 18)).all()
assert answer["state"].shape == (86,) and answer["understood"]["brightness"] == "7.0"
broker = action_chunk_broker.ActionChunkBroker(remote, action_horizon=10)
steps = [broker.infer(observation)["actions"] for _ in range(12)]
assert [step[0] for step in steps] == [18.0 * (step % 10) for step in range(12)]
try:
    remote.infer(observation | {"observation/state": np.zeros(5)})
except RuntimeError as error:
    print(error)
"""


@pytest.fixture(scope="session")
def openpi_python(pytestconfig: pytest.Config) -> Path:
    """Python of an environment with openpi's client, which wants an older numpy than ours."""
    assert pytestconfig.cache is not None
    folder = Path(pytestconfig.cache.mkdir("openpi-client"))
    python, made = folder / "bin" / "python", folder / "made"
    if not made.exists():
        venv = [sys.executable, "-m", "venv", "--clear", str(folder)]
        pip = [str(python), "-m", "pip", "install", "--quiet", "--only-binary", ":all:"]
        # The client imports typing_extensions without asking for it.
        for command in (venv, [*pip, "openpi-client==0.1.2", "typing_extensions"]):
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                said = (done.stderr.strip().splitlines() or ["?"])[-1]
                pytest.skip(f"openpi-client cannot be installed: {said}")
        made.touch()
    return python


@pytest.mark.slow
def test_the_client_of_openpi(openpi_python: Path) -> None:
    with served(SERVER, "openpi", "s3cret") as server:
        command = [str(openpi_python), "-c", OPENPI_CLIENT, server.address]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Error in inference server:\nobservation/state is float64 (5,)")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_the_server_cleanly(number: signal.Signals) -> None:
    with served(SERVER, "openpi") as server, client(server.address) as connection:
        connection.recv()
        server.send_signal(number)
        assert server.communicate(timeout=60) == ("stopped\n", "")
        assert server.returncode == 0


def test_an_address_in_use(address: str) -> None:
    with pytest.raises(UserError, match="Address already in use"):
        serve_openpi(EchoPolicy(), G1, Endpoint(address), INFO)


@pytest.mark.slow
def test_the_shipped_bundle() -> None:
    serve = ("-m", "hitogata", "serve", "--wire", "openpi", "--address", "ws://127.0.0.1:0")
    with served(*serve) as server, client(server.address) as connection:
        metadata = decode(connection.recv())
        connection.send(encode(observation(prompt="wave with the left hand")))
        answer = decode(connection.recv())
        commands = np.frombuffer(answer["actions"][b"data"], "<f4")
        assert len(commands) == CHUNK_STEPS * 18 and np.abs(commands).max() < np.pi
        assert answer["understood"]["action"] == "wave" and answer["status"] in Status.__members__
        assert len(metadata["model_id"]) > 3
