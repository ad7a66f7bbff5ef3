"""The programs of a fault, each a process of its own: servers, robots, consoles, other ends."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from assets import asset_path
from bench.faults.rig import FaultTrial, Rig, command, robot_at_work, seen, walking
from bridge.contract import UserError
from bridge.operator.client import Operator

BUNDLE = asset_path("models/bundle")
# A loop that a busy machine keeps waiting for 0.1 s of the robot's time has its motors brake.
SPEED = "0.5"
ANSWER_S = 2.0  # for an operator whose robot may be gone
# -P: no file of the folder in which a user happens to be is taken for a module of ours.
PYTHON = (sys.executable, "-P")


class Child(subprocess.Popen[str]):
    """A process of ours, and the first line that it `said`."""

    said = ""


@contextmanager
def running(command: Sequence[str], speaks: bool = True, /, **environment: str) -> Iterator[Child]:
    """A program as a process that has said its first line, if it `speaks`; killed at the end.

    UserError with its last words if it ends instead.
    """
    process = Child(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )
    try:
        assert process.stdout is not None
        if speaks:
            process.said = process.stdout.readline().strip()
        if speaks and not process.said:
            said = process.communicate()[1].strip().splitlines() or ["nothing"]
            raise UserError(said[-1].removeprefix("hitogata: "))
        yield process
    finally:
        process.kill()
        process.communicate()


def bundle_server(trial: FaultTrial) -> AbstractContextManager[Child]:
    """The shipped bundle, served where the trial expects its policy."""
    return running((*trial.hitogata, "serve", str(BUNDLE), "--address", trial.policy_address))


def scripted_server(address: str, *options: str) -> AbstractContextManager[Child]:
    """A policy that walks, or misbehaves as its instruction says, behind the real server."""
    return peer("policy", address, *options)


def frames_server(address: str) -> AbstractContextManager[Child]:
    """What looks like a policy server and sends frames that none would."""
    return peer("frames", address)


def peer(*arguments: str) -> AbstractContextManager[Child]:
    """The other end of a fault, as a process of its own."""
    return running((*PYTHON, "-m", "bench.faults.peer", *arguments))


def scripted_commander(address: str) -> AbstractContextManager[Child]:
    """An operator who has let a robot walk, and keeps the lease."""
    return peer("commander", address)


def simulated(trial: FaultTrial, *options: str) -> AbstractContextManager[Child]:
    """`hitogata simulate` where the trial expects its robot; its black box is in box/."""
    place, box = trial.robot_address, str(trial.folder / "box")
    command = (*trial.hitogata, "simulate", "--address", place, "--recordings", box)
    return running((*command, "--speed", SPEED, *options))


@contextmanager
def walking_robot(
    trial: FaultTrial, instruction: str = "walk", render: bool = False
) -> Iterator[Rig]:
    """A robot in this process that walks by a scripted policy; see `robot_at_work`."""
    place = trial.policy_address
    with scripted_server(place), robot_at_work(trial, place, render) as rig:
        rig.walk(instruction)
        yield rig


@contextmanager
def robot_process(trial: FaultTrial, *options: str) -> Iterator[tuple[Child, Operator]]:
    """`hitogata simulate` as a process, walking by a scripted policy, and who commands it."""
    policy = trial.policy_address
    with (
        scripted_server(policy),
        simulated(trial, "--connect", policy, *options) as robot,
        Operator(trial.robot_address, "anna", ANSWER_S) as operator,
    ):
        command(operator, "walk")
        seen(operator, walking)
        yield robot, operator


@contextmanager
def console_process(trial: FaultTrial, *options: str) -> Iterator[tuple[Child, str]]:
    """`hitogata console` as a process, and host:port of its page; its recordings are in box/."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        place = f"127.0.0.1:{free.getsockname()[1]}"
    box = str(trial.folder / "box")
    command = (*trial.hitogata, "console", "--address", f"http://{place}", "--recordings", box)
    with running((*command, *options)) as console:
        yield console, place


def descendants(process: int) -> list[int]:
    """The processes that a process has started, each before those that it has."""
    try:
        told = Path(f"/proc/{process}/task/{process}/children").read_text(encoding="utf-8")
    except OSError:
        return []
    return [each for child in map(int, told.split()) for each in (child, *descendants(child))]


def is_running(process: int) -> bool:
    """Whether a process runs; one that has ended may not be reaped yet."""
    try:
        told = Path(f"/proc/{process}/stat").read_text(encoding="utf-8")
    except OSError:
        return False
    return told.rpartition(")")[2].split()[0] != "Z"


def option_of(process: int, option: str) -> str:
    """What a process was given as an option."""
    words = Path(f"/proc/{process}/cmdline").read_text(encoding="utf-8").split("\0")
    return words[words.index(option) + 1]
