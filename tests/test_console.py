"""The console without a browser: pages that are programs, scenes, recordings."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from bridge.compat.adapter import Endpoint
from bridge.operator.client import Operator
from bridge.operator.messages import Telemetry, floats
from bridge.png import encode_png
from console.film import Film
from console.pages import Pages
from console.robot import RobotSide
from console.scene import Painter, Stage, doubt, reading
from console.server import page_file
from console.studio import Studio
from console.web import listen, web_server
from robots.g1.embodiment import STATE_DIM
from sim.render.video import VIEW_SIZE
from tests.doubles import working_station
from tests.test_console_web import WAIT_S, fetched, free_port

# --- pages without a browser ---


@contextmanager
def console_of(address: str, folder: Path, port: int) -> Iterator[Pages]:
    """The console's pages in front of a robot, as `console.server` puts them together."""
    listener, gate = listen(Endpoint(f"http://127.0.0.1:{port}"))
    with ExitStack() as stack:
        operator = stack.enter_context(Operator(address, "the console", 5.0))
        painter = Painter(VIEW_SIZE)
        robot = RobotSide(operator, lambda told: pages.see(told))
        studio = Studio()
        pages = Pages(robot, painter, studio)
        pages.film = Film(folder, painter, pages.tell_film)
        stack.callback(painter.close)
        stack.callback(robot.close)
        stack.callback(pages.close)
        robot.start()
        pages.start()
        talks = {"/live": pages.converse, "/state": studio.stream, "/ui": studio.refuse_control}
        stack.enter_context(web_server(listener, gate, partial(page_file, studio), talks))
        yield pages


class Client:
    """A page as a program."""

    def __init__(self, port: int) -> None:
        self._stack = ExitStack()
        opened = connect(f"ws://127.0.0.1:{port}/live", max_size=None)
        self.line: ClientConnection = self._stack.enter_context(opened)
        self.close = self._stack.close
        self.number = self.stops = 0

    def ask(self, what: str, **content: Any) -> str:
        """The fault that answers an order, or nothing."""
        self.number += 1
        self.line.send(
            json.dumps({"do": what, "number": self.number, "stops": self.stops, **content})
        )
        return self.news("answer", lambda answer: answer["number"] == self.number)["fault"]

    def news(self, kind: str, condition: Callable[[Any], bool] = lambda _: True) -> Any:
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            message = self.line.recv(WAIT_S)
            if isinstance(message, str):
                content = json.loads(message)
                self.stops = content.get("stops", self.stops)
                if content["kind"] == kind and condition(content):
                    return content
        raise AssertionError(f"no such {kind} came")


def test_one_page_commands_the_others_watch_and_may_stop(tmp_path: Path) -> None:
    port = free_port()
    with working_station(tmp_path) as (_, address), console_of(address, tmp_path, port):
        first, second = Client(port), Client(port)
        assert first.news("role")["commands"]
        watching = second.news("role")
        assert not watching["commands"] and "watches" in watching["line"]
        assert "watches" in second.ask("instruct", text="walk on")
        assert "another page commands" in second.ask("take", command=True)
        assert first.ask("instruct", text="walk on") == ""
        running = second.news("moment", lambda told: told["level"] == "RUN")
        assert running["instruction"] == "walk on" and running["commander"] == "the console"
        assert second.ask("stop") == ""
        assert first.news("moment", lambda told: told["level"] == "SAFE_STAND")
        time.sleep(0.6)  # what is asked in the moment of a stop is refused
        assert first.ask("release") == ""
        # A page that closes leaves the robot at work, and command to whoever takes it.
        assert first.ask("instruct", text="walk on") == ""
        first.close()
        assert second.news("role", lambda role: role["may_take"])
        assert second.news("moment", lambda told: told["level"] == "RUN")
        assert second.ask("take", command=True) == ""
        assert second.ask("pause") == ""
        assert second.news("moment", lambda told: told["level"] == "HOLD")
        second.close()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "empty"),
        ("   ", "empty"),
        ("a" * (1 << 20), "1024"),
        ("walk\x1b[2J", "control"),
        ("<script>alert(1)</script>", ""),
        ("赤いボールまで歩いて", ""),
    ],
    ids=["empty", "blank", "1 MB", "control", "markup", "Japanese"],
)
def test_whatever_is_typed_is_answered_in_words(tmp_path: Path, text: str, complaint: str) -> None:
    port = free_port()
    with working_station(tmp_path) as (_, address), console_of(address, tmp_path, port):
        page = Client(port)
        fault = page.ask("instruct", text=text)
        assert complaint in fault and bool(fault) == bool(complaint)
        if not fault:
            assert page.news("moment", lambda told: told["instruction"] == text)
        page.line.send("{garbage")
        assert page.news("answer", lambda answer: answer["number"] == -1)["fault"]
        assert "seed" in page.ask("scene", seed=-1)
        page.close()


def test_words_of_a_language_that_was_never_taught_are_doubted() -> None:
    for foreign in ("赤いボールまで歩いて", "иди к красному мячу", "12345 !?"):
        assert "none of these words" in doubt(foreign)
    for known in ("", "walk to the red ball", "Walk, please!", "geh zum roten BALL"):
        assert doubt(known) == ""


def test_a_fault_of_the_console_is_answered_and_told(
    tmp_path: Path, monkeypatch: Any, caplog: Any
) -> None:
    def broken(*_: Any) -> str:
        raise ZeroDivisionError("a fault of ours")

    monkeypatch.setattr(RobotSide, "command", broken)
    port = free_port()
    with working_station(tmp_path) as (_, address), console_of(address, tmp_path, port):
        page = Client(port)
        assert "the console failed" in page.ask("pause")
        assert page.ask("stop") == "", "and all the rest goes on"
        page.close()
    assert "a fault of ours" in caplog.text


def test_a_page_that_reads_nothing_holds_up_nobody(tmp_path: Path) -> None:
    port = free_port()
    with (
        working_station(tmp_path) as (_, address),
        console_of(address, tmp_path, port),
        socket.create_connection(("127.0.0.1", port)) as stalled,
    ):
        stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        key = "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
        upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\n"
        stalled.sendall(
            f"GET /live HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{upgrade}{key}\r\n".encode()
        )
        page = Client(port)
        before = page.news("moment")["time_s"]
        for _ in range(20):
            page.news("moment")
        assert page.ask("stop") == ""
        assert page.news("moment")["time_s"] > before + 0.5
        page.close()


def test_a_robot_that_is_gone_is_said_and_seen_again(tmp_path: Path) -> None:
    port = free_port()
    with ExitStack() as stack:
        robot = ExitStack()
        _, address = robot.enter_context(working_station(tmp_path))
        stack.enter_context(console_of(address, tmp_path, port))
        page = Client(port)
        assert page.news("moment", lambda told: not told["silent"])
        robot.close()
        silent = page.news("moment", lambda told: told["silent"])["silent"]
        assert "no robot answers" in silent
        stack.enter_context(working_station(tmp_path))
        assert page.news("moment", lambda told: not told["silent"])
        assert page.ask("instruct", text="walk on") == "", "the lease is claimed again"
        page.close()


# --- what is shown ---


def test_a_robot_without_truth_stands_as_its_sensors_say() -> None:
    state = np.zeros(STATE_DIM, np.float32)
    state[61:64] = np.sin(0.2), 0, -np.cos(0.2)  # gravity: pitched by 0.2 rad
    state[3] = 0.7  # left knee
    state[-3:] = 1.0, 2.0, 0.5
    stage = Stage(None)
    qpos = stage.qpos(Telemetry(time_s=0, level=0, cause="", state=floats(state)))
    assert qpos is not None
    assert qpos[:2] == pytest.approx([1, 2])
    stage.data.qpos[:] = qpos
    rotation = np.empty(9)
    import mujoco

    mujoco.mju_quat2Mat(rotation, qpos[3:7])
    down = rotation.reshape(3, 3).T @ [0, 0, -1]
    assert down == pytest.approx([np.sin(0.2), 0, -np.cos(0.2)], abs=1e-6)
    assert qpos[stage.model.joint("left_knee_joint").qposadr[0]] == pytest.approx(0.7)
    assert stage.qpos(Telemetry(time_s=0, level=0, cause="")) is None


def test_a_browser_that_draws_gets_model_and_states(monkeypatch: pytest.MonkeyPatch) -> None:
    studio, stage = Studio(), Stage(3)
    listener, gate = listen(Endpoint(f"http://127.0.0.1:{free_port()}"))
    talks = {"/state": studio.stream, "/ui": studio.refuse_control}
    qpos = np.arange(stage.model.nq, dtype=np.float64)
    told = Telemetry(time_s=0, level=0, cause="", qpos=qpos.tobytes())
    with web_server(listener, gate, studio.file, talks) as place:
        line = place.replace("http", "ws", 1)
        assert b"web_client.js" in fetched(f"{place}studio/")[1]
        assert fetched(f"{place}studio/assets/pbr.filamat")[0] == 200
        assert fetched(f"{place}studio/../web_server.py")[0] == 404
        monkeypatch.setattr("console.studio._MODEL_WAIT_S", 0.01)
        assert fetched(f"{place}model")[0] == 404, "no robot was seen yet"
        monkeypatch.setattr("console.studio._MODEL_WAIT_S", WAIT_S)
        with ThreadPoolExecutor() as browser:
            early = browser.submit(fetched, f"{place}model?total_bytes")
            while not studio.watched:
                time.sleep(0.01)
            studio.see(told, stage)
            assert early.result(WAIT_S)[0] == 200, "one who asks early waits for the first moment"
        assert not studio.watched
        with connect(f"{line}ui?sid=1") as control, pytest.raises(ConnectionClosed, match="4001"):
            control.recv(WAIT_S)
        with connect(f"{line}state?sid=1") as states:
            assert "role=spectator" in str(states.recv(WAIT_S))
            studio.see(told, stage)
            payload = states.recv(WAIT_S)
            assert isinstance(payload, bytes) and qpos.tobytes() in payload
        model = fetched(f"{place}model")[1]
        assert json.loads(fetched(f"{place}model?total_bytes")[1]) == {"total_bytes": len(model)}
        part = fetched(f"{place}model?offset_bytes=10&size_bytes=20")[1]
        assert part == model[10:30]
        endless = fetched(f"{place}model?offset_bytes={'9' * 5000}")
        assert endless[:2] == (200, model), "what is no number counts as none"


def test_which_one_names_what_fits() -> None:
    stage = Stage(3)
    balls = {(thing.colour, thing.shape) for thing in stage.fitting({"shape": "ball"})}
    assert balls == {("red", "ball"), ("green", "ball")}
    assert stage.fitting({"action": "wave"}) == []
    assert reading({"action": "go_to", "shape": "ball"}) == "go to the ball"
    assert reading({"action": "unknown", "shape": "ball"}) == "something this robot cannot do"
    assert reading({"action": "point_at"}) == "point at something"
    assert reading({"mood": "calm"}) == "mood=calm"
    assert {"go to the red ball", "stop"} <= set(stage.suggestions()), "in the plainest words"


def test_a_recording_is_a_video_with_captions(tmp_path: Path) -> None:
    stage, said = Stage(3), []
    qpos = stage.model.qpos0.astype(np.float64)
    painter = Painter(VIEW_SIZE)
    film = Film(tmp_path, painter, said.append)
    eye = encode_png(np.full((96, 96, 3), 90, np.uint8))
    film.begin()
    for step in range(100):  # two seconds at 50 Hz
        told = Telemetry(
            time_s=10 + step / 50, level=0, cause="", instruction="wave", qpos=qpos.tobytes(),
            image=eye if step == 0 else None,
        )  # fmt: skip
        film.add(told, stage)
    film.close()
    painter.close()
    [video] = tmp_path.glob("console-*.mp4")
    assert str(video) in said[-1] and not film.recording
    with av.open(str(video)) as container:
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(pictures) == 25
    assert pictures[0][:480, :480].mean() == pytest.approx(90, abs=4), "the head camera's picture"
    assert bool(list(tmp_path.glob("console-*.rrd"))) == _has("rerun")


def _has(package: str) -> bool:
    import importlib.util

    return importlib.util.find_spec(package) is not None
