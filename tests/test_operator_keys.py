"""A robot with keys: only the allowed command, stop and watch it, and nobody overhears them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import zmq

from bridge.contract import UserError
from bridge.operator.client import Operator
from bridge.operator.port import CommanderLost, Instructed, OperatorPort, Stopped
from bridge.wire.keys import ClientKeys, allow, client_keys, make_pair, server_keys
from hitogata.__main__ import COMMANDS
from hitogata.commandline import dispatch
from robots.g1.embodiment import G1
from tests.doubles import await_true
from tests.test_operator import WAIT_S, await_telemetry, free_port, moment
from tests.test_security import overheard

pytestmark = pytest.mark.usefixtures("patient")

SILENCE_S = 1.5


@pytest.fixture(scope="module")
def ends(tmp_path_factory) -> dict[str, Path]:
    """Folders of a robot, of an operator that it allows, and of a stranger."""
    folders = {name: tmp_path_factory.mktemp("ends") / name for name in ("robot", "anna", "eve")}
    for name, folder in folders.items():
        make_pair(folder, name)
    allow(folders["robot"], folders["anna"] / "anna.public")
    return folders


def keys_of(ends: dict[str, Path], name: str = "anna", robot: str = "robot") -> ClientKeys:
    return client_keys(ends[name], ends[robot] / f"{robot}.public")


@contextmanager
def secured_port(ends: dict[str, Path], address: str) -> Iterator[OperatorPort]:
    with OperatorPort(address, G1, simulated=True, keys=server_keys(ends["robot"])) as port:
        yield port


class Robot:
    """Polls a port in a thread of its own."""

    def __init__(self, port: OperatorPort) -> None:
        self.port, self.events, self._ending = port, [], threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._ending.wait(0.02):
            self.events += self.port.poll()

    def __enter__(self) -> Robot:
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()


@pytest.mark.parametrize("transport", ["ipc", "tcp"])
def test_an_allowed_operator_commands_and_stops(transport, ends, tmp_path):
    place = f"ipc://{tmp_path}/r.sock" if transport == "ipc" else f"tcp://127.0.0.1:{free_port()}"
    with (
        secured_port(ends, place) as port,
        Robot(port) as robot,
        Operator(place, "anna", WAIT_S, keys_of(ends)) as anna,
    ):
        anna.claim()
        anna.instruct("walk on")
        anna.stop()
        await_true(lambda: robot.events == [Instructed("walk on"), Stopped()])
        anna.leave()
        await_true(lambda: robot.events[2:] == [CommanderLost("anna")])


def test_an_allowed_operator_watches(ends, tmp_path):
    place = f"ipc://{tmp_path}/r.sock"
    with secured_port(ends, place) as port, Operator(place, keys=keys_of(ends)) as anna:
        assert await_telemetry(port, anna, moment(cause="all is well")).cause == "all is well"


def test_strangers_neither_command_nor_stop_nor_watch(ends, tmp_path):
    place = f"ipc://{tmp_path}/r.sock"
    strangers = {
        None: "does it ask for no keys",
        keys_of(ends, "eve"): r"allow eve\.public \(hitogata keys\)",
        keys_of(ends, robot="eve"): "hold the key of --server-key",
    }
    with secured_port(ends, place) as port, Robot(port) as robot:
        for keys, doubt in strangers.items():
            with Operator(place, "eve", SILENCE_S, keys) as eve:
                with pytest.raises(UserError, match=doubt):
                    eve.claim()
                with pytest.raises(UserError, match="NOT stopped"):
                    eve.stop()
        with Operator(place, "eve", SILENCE_S, keys_of(ends, "eve")) as eve:
            until = time.monotonic() + SILENCE_S
            while time.monotonic() < until:
                port.publish(moment())
                assert eve.telemetry(0.05) is None
        assert robot.events == []
        with Operator(place, "anna", WAIT_S, keys_of(ends)) as anna:
            anna.stop()


def test_off_this_machine_with_keys_alone(ends):
    port = free_port()
    for end in (lambda place: OperatorPort(place, G1), Operator):
        with pytest.raises(UserError, match="keys"):
            end(f"tcp://0.0.0.0:{port}")
    with (
        secured_port(ends, f"tcp://0.0.0.0:{port}") as robot_port,
        Robot(robot_port),
        Operator(f"tcp://127.0.0.1:{port}", "anna", WAIT_S, keys_of(ends)) as anna,
    ):
        sockets = (robot_port._stop._socket, robot_port._commands._socket, robot_port._telemetry)
        assert all(socket.getsockopt(zmq.MECHANISM) == zmq.CURVE for socket in sockets)
        anna.claim()


def test_nobody_overhears_a_command(ends):
    """The commands' port alone leads past the ears: nothing else is asked there."""
    port, words = free_port(), b"walk to the red ball"

    def said(keys: ClientKeys | None) -> bytearray:
        place = f"tcp://127.0.0.1:{port}"
        made = server_keys(ends["robot"]) if keys else None
        with (
            OperatorPort(place, G1, keys=made) as robot_port,
            Robot(robot_port),
            overheard(place) as (way, heard),
            Operator(way, "anna", WAIT_S, keys) as anna,
        ):
            anna.claim()
            anna.instruct(words.decode())
        return heard

    assert words in said(None)
    heard = said(keys_of(ends))
    assert len(heard) > 200 and words not in heard


def test_the_command_needs_keys_that_exist(tmp_path, monkeypatch):
    robot = ["simulate", "--connect", "ipc:///nobody", "--operator-keys", str(tmp_path / "none")]
    monkeypatch.setattr("bridge.control.policy_link.PolicyLink.wait_connected", lambda *_: None)
    with pytest.raises(UserError, match="hitogata keys make NAME"):
        dispatch(COMMANDS, robot)
