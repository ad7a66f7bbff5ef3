"""What the servers for foreign clients share: what is assumed, accepted, refused, and where."""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from bridge.compat import gr00t, openpi
from bridge.compat.adapter import Endpoint, ForeignClient, numbers, picture, read_token
from bridge.contract import ActionChunk, Observation, Status, UserError
from bridge.wire.messages import WireError
from hitogata import commandline
from hitogata.__main__ import COMMANDS
from robots.g1.embodiment import ARM_POS, CHUNK_STEPS, G1, IMAGE_SIZE, N_JOINTS, STAND_COMMAND
from tests.doubles import INFO

SERVER = __file__  # run as a program, it serves an EchoPolicy
LANGUAGE = "annotation.human.task_description"
JOINTS = np.linspace(-1, 1, N_JOINTS, dtype=np.float32)
LEGS_WAIST_ARMS = {"left_leg": 6, "right_leg": 6, "waist": 3, "left_arm": 7, "right_arm": 7}
encode = msgspec.msgpack.encode


def decode(message: Any) -> Any:
    """What msgpack says in a message, which a WebSocket may have as text."""
    return msgspec.msgpack.decode(message)


class EchoPolicy:
    """Commands that count upwards; tells what it was given. Some words make it misbehave."""

    def __init__(self) -> None:
        self.resets = 0

    def act(self, instruction: str, observation: Observation) -> ActionChunk:
        if instruction == "fail":
            raise RuntimeError("secret detail\nsecond line")
        commands = np.arange(CHUNK_STEPS * 18, dtype=np.float32).reshape(CHUNK_STEPS, 18)
        if instruction == "nan":
            commands[3, 3] = np.nan
        understood = {
            "instruction": instruction,
            "resets": str(self.resets),
            "state": json.dumps(observation.state.tolist()),
            "brightness": str(observation.images["head"].mean()),
        }
        return ActionChunk(observation.time_s, commands, Status.DONE, 0.5, understood)

    def reset(self) -> None:
        self.resets += 1


def seen(told: dict[str, Any]) -> Observation:
    """The observation that the policy tells of."""
    state = np.array(json.loads(told["understood"]["state"]), np.float32)
    return Observation(G1, 0.0, state, {"head": np.zeros(0)})


def check_fault(line: str, complaint: str = "") -> None:
    """A refusal is one line, names what is wrong, and shows nothing of the inside."""
    assert 0 < len(line) <= 500 and line.isprintable()
    assert "Traceback" not in line and "secret" not in line
    assert re.search(complaint, line), line


def test_pictures() -> None:
    rng = np.random.default_rng(0)
    ours = rng.integers(0, 256, (IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.uint8)
    head = G1.cameras[0]
    np.testing.assert_array_equal(picture("image", ours[None, None], head), ours)
    np.testing.assert_array_equal(picture("image", ours.repeat(3, 0).repeat(3, 1), head), ours)


@pytest.mark.parametrize("shape", [(96, 96, 4), (2, 96, 96, 3), (96, 96), (1281, 9, 3), (0, 9, 3)])
def test_other_pictures_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(WireError, match=r"send one uint8 picture of \(96, 96, 3\)"):
        picture("image", np.zeros(shape, np.uint8), G1.cameras[0])


def test_vectors() -> None:
    np.testing.assert_array_equal(numbers("x", np.ones((1, 1, 3)), 3), np.ones(3, np.float32))
    for wrong in (
        np.ones(2),
        np.ones((2, 3)),
        np.ones(3, np.int64),
        np.array(1.0),
        np.zeros((0, 3)),
    ):
        with pytest.raises(WireError, match=r"send float32 \(3,\)"):
            numbers("x", wrong, 3)
    for value in (np.nan, np.inf, 1e300):
        with pytest.raises(WireError, match="not finite"):
            numbers("x", np.array([0, value, 0]), 3)


def test_what_a_client_does_not_know_is_assumed() -> None:
    client = ForeignClient(EchoPolicy(), G1)
    images = {"head": np.zeros((IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)}
    first = client.observe("go", JOINTS, {}, images)
    np.testing.assert_array_equal(first.gravity, [0, 0, -1])
    np.testing.assert_array_equal(first.command[:4], STAND_COMMAND[:4])
    np.testing.assert_array_equal(first.command[4:], JOINTS[ARM_POS])
    assert first.elapsed_s == 0 and not first.joint_vel_rad_s.any() and not first.odometry.any()
    time.sleep(0.05)
    assert client.observe("go", JOINTS, {}, images).elapsed_s >= 0.05
    assert client.observe("stop", JOINTS, {}, images).elapsed_s == 0
    known = {"elapsed_s": np.array([7.0]), "odometry": np.array([1.0, 2, 3])}
    told = client.observe("stop", JOINTS, known, images)
    assert told.elapsed_s == 7 and told.odometry.tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    "address", ["tcp://0.0.0.0:5555", "tcp://192.168.1.2:5555", "tcp://[::]:1"]
)
def test_other_machines_are_kept_out(address: str) -> None:
    with pytest.raises(UserError, match="--exposed"):
        Endpoint(address).host_port(gr00t.ADDRESS)
    with pytest.raises(UserError, match="--token-file"):
        Endpoint(address, exposed=True, token="s3cret").host_port(gr00t.ADDRESS)
    assert Endpoint(address, exposed=True, token="s3cret" * 3).host_port(gr00t.ADDRESS)[1] in (
        1,
        5555,
    )


@pytest.mark.parametrize(
    "address", ["", "5555", "tcp://127.0.0.1", "ws://127.0.0.1:1", "tcp://robot:1", "tcp://[x:1"]
)
def test_no_address(address: str) -> None:
    with pytest.raises(UserError, match=r"is no address: use tcp://127\.0\.0\.1:5555"):
        Endpoint(address).host_port(gr00t.ADDRESS)


def test_without_an_address_the_wire_has_its_own() -> None:
    assert Endpoint().host_port(gr00t.ADDRESS) == ("127.0.0.1", 5555)
    assert Endpoint("ws://localhost:1").host_port(openpi.ADDRESS) == ("127.0.0.1", 1)


def test_tokens(tmp_path: Path) -> None:
    endpoint = Endpoint("tcp://127.0.0.1:0", token="s3cret")
    assert (
        endpoint.authorizes("s3cret")
        and not endpoint.authorizes(None)
        and not endpoint.authorizes("s3cre")
    )
    (tmp_path / "token").write_text("s3cret\n", encoding="utf-8")
    assert read_token(tmp_path / "token") == "s3cret"
    (tmp_path / "empty").write_text("\n", encoding="utf-8")
    for name in ("empty", "none"):
        with pytest.raises(UserError, match="token"):
            read_token(tmp_path / name)


@pytest.mark.parametrize(
    ("options", "remedy"),
    [
        (["--exposed"], "--keys"),
        (["--wire", "gr00t", "--keys", "folder"], "--token-file"),
        (["--wire", "openpi", "--token-file", "none"], "cannot read the token in none"),
    ],
)
def test_the_front_door_keeps_the_wires_apart(options: list[str], remedy: str) -> None:
    with pytest.raises(UserError, match=remedy):
        commandline.dispatch(COMMANDS, ["serve", *options])


if __name__ == "__main__":
    serve, scheme = {
        "gr00t": (gr00t.serve_gr00t, "tcp"),
        "openpi": (openpi.serve_openpi, "ws"),
    }[sys.argv[1]]
    endpoint = Endpoint(f"{scheme}://127.0.0.1:0", token=sys.argv[2] if sys.argv[2:] else None)
    serve(EchoPolicy(), G1, endpoint, INFO, lambda address: print(address, flush=True))
    print("stopped")
