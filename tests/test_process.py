"""Processes of ours that are told to end, or are killed: nothing of them is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import zmq

from bridge.blackbox.recorder import Recorder
from bridge.contract import UserError
from bridge.control.safety import Level
from bridge.operator.client import Operator
from bridge.process import child_server
from bridge.supervisor import supervise
from bridge.wire import sockets
from bridge.wire.server import stop_on_signals
from robots.g1.embodiment import G1
from tests.doubles import await_true, seen

ROOT = Path(__file__).parents[1]
WAIT_S = 60.0  # room for a busy machine

CHILD = """
import os, pathlib, time
from bridge.process import follow_parent
follow_parent()
pathlib.Path("child").write_text(str(os.getpid()))
print("ready", flush=True)
time.sleep(600)
"""

PARENT = f"""
import pathlib, sys, time
from bridge.process import child_server
from hitogata.commandline import guarded, raise_on_signals

def work():
    with child_server(lambda address: [sys.executable, "-c", {CHILD!r}]) as address:
        print(address, flush=True)
        time.sleep(600)

raise_on_signals()
guarded(work)
"""

# In its first life it is killed, in its second it is suspended, in its third it fails; its fourth
# comes to its end and takes longer to put things away than it may be silent.
LOOP = """
import os, pathlib, signal, sys, time
from bridge.supervisor import Heartbeat
lives = pathlib.Path("lives")
with lives.open("a") as file:
    file.write(".")
heart = Heartbeat()
heart.beat()
life = len(lives.read_text(encoding="utf-8"))
if life < 3:
    os.kill(os.getpid(), signal.SIGKILL if life == 1 else signal.SIGSTOP)
if life == 3:
    sys.exit(1)
heart.close()
time.sleep(2.0)
"""


def is_running(process: int) -> bool:
    """Whether a process that need not be our child runs; one that was ended may not be reaped."""
    try:
        return (
            Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
            != "Z"
        )
    except FileNotFoundError:
        return False


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return tmp_path


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGKILL])
def test_a_child_does_not_outlive_its_parent(number, folder):
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    socket = Path(parent.stdout.readline().strip().removeprefix("ipc://"))
    child = int((folder / "child").read_text(encoding="utf-8"))
    assert is_running(child) and socket.parent.is_dir()
    parent.send_signal(number)
    _, said = parent.communicate(timeout=WAIT_S)
    await_true(lambda: not is_running(child))
    if number == signal.SIGKILL:
        return
    assert parent.returncode == 128 + number
    name = "interrupted" if number == signal.SIGINT else f"ended by {number.name}"
    assert said == f"hitogata: {name}\n"
    assert not socket.parent.exists()


def test_a_loop_that_dies_or_hangs_is_told_and_started_anew(folder):
    told: list[str] = []
    command = [sys.executable, "-c", LOOP]
    assert supervise(command, told.append, hung_s=1.0) == 0
    again = ": it is started anew"
    assert told == [
        f"the control loop was ended by SIGKILL{again}",
        f"the control loop was silent for 1 s{again}",
        f"the control loop failed{again}",
    ]
    assert (folder / "lives").read_text(encoding="utf-8") == "...."


def test_a_loop_that_never_began_is_not_started_again(folder):
    command = [sys.executable, "-c", "import sys; sys.exit(2)"]
    assert supervise(command, pytest.fail) == 2
    command = [sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"]
    assert supervise(command, pytest.fail) == 128 + signal.SIGKILL


def test_a_loop_that_nobody_supervises_beats_in_vain():
    code = "from bridge.supervisor import Heartbeat; h = Heartbeat(); h.beat(); h.close()"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_sighup_stops_as_the_others_do_unless_it_is_ignored():
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        with stop_on_signals() as stopping:
            os.kill(os.getpid(), number)
            assert stopping.wait(WAIT_S)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_on_signals() as stopping:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stopping.is_set()
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_long_folder_for_temporary_files_is_no_place_for_sockets(tmp_path, monkeypatch):
    long = tmp_path / ("x" * 110)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    bind = (
        "import sys, zmq; from bridge.wire import sockets; s = zmq.Context().socket(zmq.ROUTER);"
        "sockets.bind(s, sys.argv[1]); print('ready', flush=True); import time; time.sleep(600)"
    )
    with child_server(lambda address: [sys.executable, "-c", bind, address]) as address:
        assert sockets.ipc_file(address).is_socket()
    refused = pytest.raises(UserError, match=r"longer than the .* bytes .*: choose a shorter one")
    with zmq.Context() as context, context.socket(zmq.ROUTER) as socket, refused:
        sockets.bind(socket, f"ipc://{long}/policy.sock")


def test_without_locks_of_files_the_recorder_says_where_it_runs(tmp_path, monkeypatch):
    monkeypatch.setattr("bridge.locks.fcntl", None)
    with pytest.raises(UserError, match="no file locks: use Linux or macOS"):
        Recorder(tmp_path, G1)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_robot_whose_loop_is_lost_is_back_and_waits_for_an_operator(number, folder):
    place = f"ipc://{folder}/robot.sock"
    command = [sys.executable, "-m", "hitogata", "simulate", "--supervised", "--address", place]
    robot = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert robot.stdout is not None and robot.stdout.readline()
    try:
        with Operator(place, "anna", WAIT_S) as anna:
            walk(anna)
            before = seen(anna, lambda told: told.level == Level.RUN and told.time_s > 0.5)
            [loop] = children(robot.pid)
            os.kill(loop, number)
            back = seen(anna, lambda told: told.time_s < before.time_s)
            assert (back.level, back.instruction) == (Level.HOLD, "")
            with pytest.raises(UserError, match="claim it first"):
                anna.instruct("walk forward three metres")
            walk(anna)
            seen(anna, lambda told: told.level == Level.RUN)
        [again] = children(robot.pid)
        [server] = children(again)
        robot.terminate()
        _, said = robot.communicate(timeout=WAIT_S)
    finally:
        robot.kill()
    told = "was ended by SIGKILL" if number == signal.SIGKILL else "was silent for 5 s"
    assert said == f"hitogata: the control loop {told}: it is started anew\n"
    assert robot.returncode == 0
    await_true(lambda: not any(map(is_running, (loop, again, server))))


def walk(operator: Operator) -> None:
    """Tells a robot to walk, again if its loop was too busy to listen."""

    def told() -> bool:
        try:
            operator.claim()
            operator.instruct("walk forward three metres")
        except UserError:
            return False
        return True

    await_true(told)


def children(process: int) -> list[int]:
    """The processes that a process has started."""
    return list(
        map(
            int,
            Path(f"/proc/{process}/task/{process}/children").read_text(encoding="utf-8").split(),
        )
    )
