"""The examples of CONTRIBUTING.md: each patch applies to this tree and does its job."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from bridge.png import encode_png

ROOT = Path(__file__).parents[1]
PATCHES = ROOT / "docs" / "examples"
ROOMS = ("bench", "bridge", "console", "hitogata", "policy", "robots", "sim", "tasks")
# Rolls forward and closes its gripper for two seconds.
ROLL = """
import numpy as np
from bridge.contract import ActionChunk, Status
from bridge.control.loop import ControlLoop, DirectLink
from bridge.control.safety import Safety
from robots.rover.driver import PaperRover
from robots.rover.embodiment import ROVER

class Onward:
    def act(self, instruction, seen):
        commands = np.tile(ROVER.stand, (ROVER.chunk_steps, 1))
        commands[:, (0, 3)] = 0.5, 0.4
        return ActionChunk(seen.time_s, commands, Status.ACTING, 1.0, {})
    def reset(self):
        pass

rover = PaperRover()
loop = ControlLoop(rover, DirectLink(Onward()), Safety(ROVER), lambda: rover.time_s)
loop.instruct("roll on")
for _ in range(100):
    tick = loop.tick()
print(tick.order.level.name, rover.pose[0], rover.observe().command[3])
"""


@pytest.fixture
def house(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A copy of the rooms with the patch of the test's parameter applied."""
    for room in ROOMS:
        shutil.copytree(ROOT / room, tmp_path / room, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "assets").symlink_to(ROOT / "assets")
    patch = PATCHES / f"{request.param}.patch"
    subprocess.run(["git", "apply", str(patch)], cwd=tmp_path, check=True)
    return tmp_path


def _run(house: Path, *arguments: str) -> str:
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, cwd=house, env=_environment(house), check=True, stdout=subprocess.PIPE, text=True
    ).stdout


def _environment(house: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(house), "OMP_NUM_THREADS": "1"}


@pytest.mark.parametrize("name", ["task", "robot", "wire"])
def test_contributing_tells_the_files_of_each(name: str) -> None:
    patch = (PATCHES / f"{name}.patch").read_text(encoding="utf-8")
    files = re.findall(r"^\+\+\+ b/(.*)$", patch, re.MULTILINE)
    lines = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    told = re.search(rf"{name}\.patch\).*?```\n(.*?)```", lines, re.DOTALL)
    assert told is not None and re.findall(r"^ (\S+) +\|", told[1], re.MULTILINE) == files


@pytest.mark.parametrize("house", ["task"], indirect=True)
def test_a_task_is_shown_and_judged(house: Path) -> None:
    given = ["--families", "reach", "--episodes", "1", "--processes", "1", "--no-clips"]
    _run(house, "-m", "hitogata", "evaluate", "--expert", *given, "--out", "out")
    (episode,) = json.loads((house / "out" / "episodes.json").read_text(encoding="utf-8"))
    assert episode["success"] and episode["understood"] == {"action": "reach"}


@pytest.mark.parametrize("house", ["robot"], indirect=True)
def test_a_robot_goes_through_loop_and_safety(house: Path) -> None:
    level, x_m, gripper_rad = _run(house, "-c", ROLL).split()
    assert level == "RUN" and 0.8 < float(x_m) < 1.0
    assert float(gripper_rad) == pytest.approx(0.4)


@pytest.mark.parametrize("house", ["wire"], indirect=True)
def test_a_wire_is_served(house: Path) -> None:
    picture = base64.b64encode(encode_png(np.zeros((48, 64, 3), np.uint8))).decode()
    asked = {"prompt": "walk forward", "joint_pos": [0.0] * 29, "images": {"head": picture}}
    with (
        _serving(house) as port,
        socket.create_connection(("127.0.0.1", port)) as line,
        line.makefile("rwb") as talk,
    ):
        talk.write(json.dumps(asked).encode() + b"\n{}\n")
        talk.flush()
        answers = [json.loads(talk.readline()) for _ in range(2)]
    assert len(answers[0]["actions"]) == 16 and answers[0]["action_names"][0] == "base_vel_x_m_s"
    assert "prompt" in answers[1]["error"]


@contextmanager
def _serving(house: Path) -> Iterator[int]:
    command = [sys.executable, "-m", "hitogata", "serve", "--wire", "lines"]
    server = subprocess.Popen(
        [*command, "--address", "tcp://127.0.0.1:0"],
        cwd=house,
        env=_environment(house),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stdout is not None
        yield int(re.findall(r":(\d+) on", server.stdout.readline())[0])
    finally:
        server.terminate()
        assert server.wait(60) == 0
