"""The server for clients of GR00T, over real sockets."""

from __future__ import annotations

import io
import pickle
import signal
import socket as plain
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zmq
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.compat.adapter import Endpoint
from bridge.compat.gr00t import MOST_CLIENTS, serve_gr00t
from bridge.contract import Observation, Status, UserError
from robots.g1.embodiment import CHUNK_STEPS, G1, IMAGE_SIZE, N_JOINTS, STATE_DIM
from tests.doubles import INFO, ROOT, served
from tests.test_compat import (
    JOINTS,
    LANGUAGE,
    LEGS_WAIST_ARMS,
    SERVER,
    EchoPolicy,
    check_fault,
    decode,
    encode,
    seen,
)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with served(SERVER, "gr00t") as server:
        yield server.address


def npy(array: Any, allow_pickle: bool = False) -> dict[str, Any]:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=allow_pickle)
    return {"__ndarray_class__": True, "as_npy": stream.getvalue()}


def from_npy(item: dict[str, Any]) -> np.ndarray:
    assert item["__ndarray_class__"] is True
    return np.load(io.BytesIO(item["as_npy"]), allow_pickle=False)


@contextmanager
def req(address: str) -> Iterator[zmq.Socket]:
    context = zmq.Context()
    socket = context.socket(zmq.REQ)
    socket.linger, socket.rcvtimeo = 0, 60_000
    socket.connect(address)
    try:
        yield socket
    finally:
        context.destroy()


def call(socket: zmq.Socket, endpoint: str, data: Any = None, **more: Any) -> Any:
    request = {"endpoint": endpoint, **more} | ({} if data is None else {"data": data})
    socket.send(encode(request))
    return decode(socket.recv())


def raw_observation(size: int = IMAGE_SIZE, level: int = 7) -> dict[str, dict[str, np.ndarray]]:
    ends = np.cumsum(list(LEGS_WAIST_ARMS.values()))[:-1]
    state = dict(zip(LEGS_WAIST_ARMS, np.split(JOINTS, ends), strict=True))
    state |= {"left_hand": np.zeros(7, np.float32)}
    return {
        "video": {"ego_view": np.full((1, 1, size, size, 3), level, np.uint8)},
        "state": {key: value[None, None] for key, value in state.items()},
    }


def nested(text: Any = "walk to the red ball", **replaced: Any) -> dict[str, Any]:
    """The data of get_action; `replaced` are packed arrays by their key."""
    given: dict[str, Any] = {
        kind: {key: replaced.get(key, npy(value)) for key, value in part.items()}
        for kind, part in raw_observation().items()
    }
    given["state"] |= {key: replaced[key] for key in replaced.keys() - {"ego_view"}}
    return {"observation": given | {"language": {LANGUAGE: [[text]]}}, "options": None}


def check_actions(actions: dict[str, Any], prefix: str = "", axes: int = 3) -> None:
    arrays = {key.removeprefix(prefix): from_npy(item) for key, item in actions.items()}
    assert all(key.startswith(prefix) for key in actions)
    widths = {"left_arm": 7, "right_arm": 7, "base_height_command": 1, "navigate_command": 3}
    lead = (1, CHUNK_STEPS) if axes == 3 else (CHUNK_STEPS,)
    assert {k: a.shape for k, a in arrays.items()} == {k: (*lead, w) for k, w in widths.items()}
    assert all(array.dtype == np.float32 for array in arrays.values())
    # Commands count upwards by 18 a step: velocities, height, left arm, right arm.
    second = {key: array[..., 1, :].ravel().tolist() for key, array in arrays.items()}
    assert second["navigate_command"] == [18, 19, 20]
    assert second["base_height_command"] == [21]
    assert second["left_arm"] == list(range(22, 29))
    assert second["right_arm"] == list(range(29, 36))


def test_actions(address: str) -> None:
    with req(address) as socket:
        actions, info = call(socket, "get_action", nested())
        check_actions(actions)
        assert (info["model_id"], info["action_hz"], info["status"]) == ("model-1", 10.0, "DONE")
        assert info["understood"]["instruction"] == "walk to the red ball"
        assert float(info["understood"]["brightness"]) == 7
        np.testing.assert_array_equal(seen(info).joint_pos_rad, JOINTS)
        np.testing.assert_array_equal(seen(info).gravity, [0, 0, -1])


def test_clients_may_know_more(address: str) -> None:
    wanted = Observation(G1, 0.0, np.arange(STATE_DIM, dtype=np.float32), {"head": np.zeros(0)})
    more = {
        "joint_vel": wanted.joint_vel_rad_s,
        "base_ang_vel": wanted.base_ang_vel_rad_s,
        "gravity": wanted.gravity,
        "command": wanted.command,
        "elapsed_s": np.array([wanted.elapsed_s]),
        "odometry": wanted.odometry.astype(">f8"),
    }
    packed = {key: npy(np.asfortranarray(value[None, None])) for key, value in more.items()}
    with req(address) as socket:
        _, info = call(socket, "get_action", nested(**packed))
    np.testing.assert_array_equal(seen(info).state[N_JOINTS:], wanted.state[N_JOINTS:])


def test_each_client_has_its_own_time_and_reset(address: str) -> None:
    """Time counts from a client's own change of instruction, whatever others ask meanwhile."""

    def elapsed_s(socket: zmq.Socket, text: str) -> float:
        return seen(call(socket, "get_action", nested(text))[1]).elapsed_s

    with req(address) as first, req(address) as second:
        assert elapsed_s(first, "go") == elapsed_s(second, "wave") == 0
        time.sleep(0.05)
        assert elapsed_s(first, "go") >= 0.05 and elapsed_s(second, "wave") >= 0.05
        call(second, "reset", {"options": None})
        assert elapsed_s(second, "wave") == 0 and elapsed_s(first, "go") >= 0.05
        with ExitStack() as others:
            for _ in range(MOST_CLIENTS - 1):  # and the second falls silent
                elapsed_s(others.enter_context(req(address)), "dance")
                assert elapsed_s(first, "go") >= 0.05
            assert elapsed_s(second, "wave") == 0, "the one silent for longest made room"


def test_flat_observations(address: str) -> None:
    given = raw_observation(size=224)
    flat = {f"{kind}.{key}": npy(v) for kind, part in given.items() for key, v in part.items()}
    told = flat | {"annotation.human.action.task_description": ["go"]}
    with req(address) as socket:
        actions, info = call(socket, "get_action", {"observation": told})
        check_actions(actions, "action.")
        assert info["understood"]["instruction"] == "go"
        # N1.5: `data` is the observation, here without the axis of a batch.
        single = {f"{k}.{key}": npy(v[0]) for k, part in given.items() for key, v in part.items()}
        check_actions(call(socket, "get_action", single | {LANGUAGE: "go"}), "action.", axes=2)
        check_actions(call(socket, "get_action", told), "action.")


def test_other_endpoints(address: str) -> None:
    with req(address) as socket:
        assert call(socket, "ping") == {"status": "ok", "message": "Server is running"}
        before = int(call(socket, "get_action", nested())[1]["understood"]["resets"])
        assert call(socket, "reset", {"options": None}) == {}
        assert int(call(socket, "get_action", nested())[1]["understood"]["resets"]) == before + 1
        assert "stop it where it was started" in call(socket, "kill")["error"]
        assert "get_modality_config" in call(socket, "fly")["error"]
        config = call(socket, "get_modality_config")
        assert all(part["__ModalityConfig_class__"] is True for part in config.values())
        keys = {kind: part["as_json"]["modality_keys"] for kind, part in config.items()}
        assert keys["video"] == ["ego_view"] and keys["language"] == [LANGUAGE]
        assert keys["state"] == list(LEGS_WAIST_ARMS)
        actions = config["action"]["as_json"]
        assert actions["delta_indices"] == list(range(16))
        assert len(actions["action_configs"]) == len(keys["action"]) == 4


def test_token() -> None:
    with served(SERVER, "gr00t", "s3cret") as server, req(server.address) as socket:
        for token in ({}, {"api_token": "guess"}, {"api_token": None}):
            assert call(socket, "ping", **token) == {"error": "Unauthorized: Invalid API token"}
        assert call(socket, "ping", api_token="s3cret")["status"] == "ok"


def header_of(shape: str, dtype: str = "<f4") -> bytes:
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


def npz() -> bytes:
    stream = io.BytesIO()
    np.savez(stream, x=np.zeros(6))
    return stream.getvalue()


class Trap:
    """Shows whether anybody unpickles it."""

    def __reduce__(self):
        return (Path.touch, (ROOT / "unpickled",))


def leg(content: bytes) -> dict[str, Any]:
    return nested(left_leg={"__ndarray_class__": True, "as_npy": content})


GOOD = encode({"endpoint": "get_action", "data": nested()})
BAD_ARRAYS: dict[str, tuple[dict[str, Any], str]] = {
    "pickle": (nested(left_leg=npy(np.array([Trap()]), allow_pickle=True)), "object arrays"),
    "bare pickle": (leg(pickle.dumps(Trap())), "np.save"),
    "archive": (leg(npz()), "np.save"),
    "empty": (leg(b""), "np.save"),
    "truncated": (leg(npy(np.zeros(6, np.float32))["as_npy"][:-1]), "23 bytes sent"),
    "terabyte": (leg(header_of(f"({1 << 40},)")), "0 bytes sent"),
    "negative": (leg(header_of("(-1, -6)") + bytes(24)), "declared"),
    "many axes": (leg(header_of("(1,1,1,1,1,1,1,6)") + bytes(24)), "declared"),
    "code": (leg(header_of("(print(1),)") + bytes(24)), "np.save"),
    "structured": (leg(header_of("(1,)", "V24") + bytes(24)), "do not travel"),
    "complex": (nested(left_leg=npy(np.zeros((1, 1, 6), np.complex64))), "do not travel"),
    "integers": (nested(left_leg=npy(np.zeros((1, 1, 6), np.uint8))), r"send float32 \(6,\)"),
    "wide": (nested(left_leg=npy(np.zeros((1, 1, 7), np.float32))), r"send float32 \(6,\)"),
    "batch": (nested(left_leg=npy(np.zeros((2, 1, 6), np.float32))), r"send float32 \(6,\)"),
    "nan": (nested(left_leg=npy(np.full((1, 1, 6), np.nan, np.float32))), "not finite"),
    "huge": (nested(left_leg=npy(np.full((1, 1, 6), 1e300))), "not finite"),
    "too wide": (nested(ego_view=npy(np.zeros((1, 1, 1, 1281, 3), np.uint8))), "sides up to 1280"),
    "grey": (nested(ego_view=npy(np.zeros((1, 1, 96, 96, 1), np.uint8))), "one uint8"),
    "float image": (nested(ego_view=npy(np.zeros((1, 1, 96, 96, 3), np.float32))), "uint8"),
    "two frames": (nested(ego_view=npy(np.zeros((1, 2, 96, 96, 3), np.uint8))), "one uint8"),
    "no words": (nested(text=""), "empty"),
    "two texts": (nested() | {"observation": nested()["observation"] | {"language": {}}}, LANGUAGE),
    "no legs": ({"observation": {"video.ego_view": npy(np.zeros(1)), LANGUAGE: "go"}}, "left_leg"),
    "nothing": ({}, "video.ego_view"),
    "policy fails": (nested(text="fail"), r"^the policy failed \(RuntimeError\): read the server"),
    "policy's nan": (nested(text="nan"), "commands are not finite"),
}
BAD_FRAMES = {
    "empty": b"",
    "random": np.random.default_rng(0).bytes(5000),
    "deep": b"\x91" * 100_000,
    "wide": b"\x81\xa4data\xdd" + (1 << 20).to_bytes(4, "big") + b"\x90" * (1 << 20),
    "truncated": GOOD[:-100],
    "number": encode(7),
    "endpoint": encode({"endpoint": 7}),
    "no data": encode({"endpoint": "get_action"}),
}


@pytest.mark.parametrize("name", BAD_ARRAYS)
def test_bad_observations(address: str, name: str) -> None:
    data, complaint = BAD_ARRAYS[name]
    with req(address) as socket:
        reply = call(socket, "get_action", data)
        assert set(reply) == {"error"}
        check_fault(reply["error"], complaint)
        assert call(socket, "ping")["status"] == "ok"
    assert not (ROOT / "unpickled").exists()


@pytest.mark.parametrize("name", BAD_FRAMES)
def test_bad_frames(address: str, name: str) -> None:
    with req(address) as socket:
        socket.send(BAD_FRAMES[name])
        reply = decode(socket.recv())
        assert set(reply) == {"error"}
        check_fault(reply["error"])
        assert call(socket, "ping")["status"] == "ok"


@settings(max_examples=60, deadline=None)
@given(place=st.integers(0, len(GOOD) - 1), content=st.binary(min_size=1, max_size=12))
def test_mutated_requests(address: str, place: int, content: bytes) -> None:
    with req(address) as socket:
        socket.send(GOOD[:place] + content + GOOD[place + len(content) :])
        reply = decode(socket.recv())
        if isinstance(reply, dict):
            check_fault(reply["error"])
        else:
            check_actions(reply[0])


def test_survives_what_is_no_request(address: str) -> None:
    with req(address) as socket:
        socket.send_multipart([b"two", b"frames"])
        assert "one frame" in decode(socket.recv())["error"]
    with req(address) as socket:
        socket.send(bytes(5 << 20))  # too large: the connection ends, and no more
        assert not socket.poll(1000)
    host, port = address.removeprefix("tcp://").split(":")
    with plain.create_connection((host, int(port))) as stranger:
        stranger.sendall(b"GET / HTTP/1.1\r\n\r\n" + bytes(1000))
    with req(address) as socket:
        assert call(socket, "ping")["status"] == "ok"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_the_server_cleanly(number: signal.Signals) -> None:
    with served(SERVER, "gr00t") as server, req(server.address) as socket:
        call(socket, "ping")
        server.send_signal(number)
        assert server.communicate(timeout=60) == ("stopped\n", "")
        assert server.returncode == 0


def test_an_address_in_use(address: str) -> None:
    with pytest.raises(UserError, match="Address already in use"):
        serve_gr00t(EchoPolicy(), G1, Endpoint(address), INFO)


@pytest.mark.slow
def test_the_shipped_bundle() -> None:
    serve = ("-m", "hitogata", "serve", "--wire", "gr00t", "--address", "tcp://127.0.0.1:0")
    with served(*serve) as server, req(server.address) as socket:
        actions, info = call(socket, "get_action", nested("wave with the left hand"))
        arm = from_npy(actions["left_arm"])
        assert arm.shape == (1, CHUNK_STEPS, 7) and np.abs(arm).max() < np.pi
        assert info["understood"]["action"] == "wave" and info["status"] in Status.__members__
        assert len(info["model_id"]) > 3
