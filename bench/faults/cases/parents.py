"""Faults of programs with children, told to end, killed or suspended: no child outlives them."""

from __future__ import annotations

import os
import signal
import time
from functools import partial
from pathlib import Path

import numpy as np

from bench.faults.foreign import page_told, web_line
from bench.faults.programs import (
    ANSWER_S,
    Child,
    console_process,
    descendants,
    is_running,
    option_of,
    robot_process,
    running,
    simulated,
)
from bench.faults.rig import WAIT_S, FaultTrial, await_true, command, refusal, seen, walking
from bench.faults.trace import FaultOutcome, breaches_of, verdict
from bridge.blackbox.recording import Recording, read_recording
from bridge.control.safety import Level
from bridge.operator.client import Operator
from robots.g1.embodiment import STATE_FIELDS

WALK = "walk forward three metres"
SUSPENDED_S = 1.5
GRAVITY_Z = STATE_FIELDS.index("gravity_z")


def run_ended(number: int, trial: FaultTrial) -> FaultOutcome:
    """`hitogata run` is ended in its work: its policy server ends with it."""
    command_line = (*trial.hitogata, "run", WALK, "--out", str(trial.folder / "run.mp4"))
    with running(command_line, False) as program:
        children = _children(program)
        folder = Path(option_of(children[0], "--address").removeprefix("ipc://")).parent
        program.send_signal(number)
        _, said = program.communicate(timeout=WAIT_S)
        wrong = _left(children)
    if number != signal.SIGKILL:
        wrong += [f"exit status {program.returncode}"] * (program.returncode != 128 + number)
        wrong += ["its folder is left"] * folder.exists()
        wrong += [f"it said {said!r}"] * (said.count("\n") != 1)
    return verdict(wrong, "takes no part: it is the program's own", said or "nothing: it is killed")


def simulate_ended(number: int, trial: FaultTrial) -> FaultOutcome:
    """`hitogata simulate` is ended in mid-walk: its policy server ends with it."""
    with simulated(trial) as robot, Operator(trial.robot_address, "anna", ANSWER_S) as anna:
        command(anna, WALK)
        seen(anna, walking)
        children = _children(robot)
        robot.send_signal(number)
        read = _last(anna, robot)
        wrong = _left(children)
    if number == signal.SIGKILL:
        kept = read_recording(trial.folder / "box")  # the journal
        wrong += breaches_of(kept)
        return verdict(wrong, "its process was gone in mid-walk; a body brakes by itself", read)
    wrong += [f"exit status {robot.returncode}"] * (robot.returncode != 0)
    return _at_rest(trial, wrong, "came to rest, upright, and ended with its server", read)


def console_ended(number: int, trial: FaultTrial) -> FaultOutcome:
    """`hitogata console` is ended while its robot walks: that comes to rest, and all end."""
    with console_process(trial) as (console, place):
        children = _children(console, 2)
        address = option_of(children[0], "--address")
        with Operator(address, "anna", ANSWER_S) as anna, web_line(f"ws://{place}/live") as page:
            await_true(lambda: not page_told(page, "instruct", stops=0, text=WALK))
            seen(anna, walking)
            console.send_signal(number)
            read = seen(anna, lambda now: now.level == Level.SAFE_STAND).cause
        wrong = _left(children)
        console.wait(WAIT_S)
    status = -number if number == signal.SIGKILL else 0
    wrong += [f"exit status {console.returncode}"] * (console.returncode != status)
    return _at_rest(trial, wrong, "came to rest, upright; simulation and server ended too", read)


def loop_lost(number: int, trial: FaultTrial) -> FaultOutcome:
    """A supervised loop is killed, or hangs, in mid-walk: it comes back and waits."""
    with robot_process(trial, "--supervised") as (supervisor, anna):
        before = seen(anna, walking)
        [loop] = descendants(supervisor.pid)
        os.kill(loop, number)
        back = seen(anna, lambda now: now.time_s < before.time_s)
        unclaimed = refusal(lambda: anna.instruct("walk"))
        command(anna, "walk")
        seen(anna, walking)
        anna.stop()
        seen(anna, lambda now: now.level == Level.SAFE_STAND)
        supervisor.terminate()
        _, said = supervisor.communicate(timeout=WAIT_S)
    wrong = ["the lost loop lives"] * is_running(loop)
    wrong += ["it moved by itself"] * (back.level != Level.HOLD or back.instruction != "")
    wrong += ["a lease outlived the loop"] * ("claim it first" not in unclaimed)
    wrong += [f"exit status {supervisor.returncode}"] * (supervisor.returncode != 0)
    wrong += ["nothing was reported"] * ("started anew" not in said)
    return _at_rest(
        trial,
        wrong,
        "brakes by itself while its loop is away; then HOLD until claimed anew, and walked on",
        f"{said.strip()} / {unclaimed}",
    )


def loop_suspended(trial: FaultTrial) -> FaultOutcome:
    """SIGSTOP of the robot's loop in mid-walk, then SIGCONT: it has braked, and stays so."""
    with robot_process(trial) as (robot, anna):
        before = seen(anna, walking)
        robot.send_signal(signal.SIGSTOP)
        time.sleep(SUSPENDED_S)
        robot.send_signal(signal.SIGCONT)
        read = seen(anna, lambda now: now.level >= Level.SAFE_STAND)
        later = seen(anna, lambda now: now.time_s > read.time_s + 1.0)
        robot.send_signal(signal.SIGTERM)
        status = robot.wait(WAIT_S)
    kept = _recorded(trial)
    gap_s = np.diff(kept.time_s)
    slept = int(gap_s.argmax())
    alone_s = float(gap_s[slept])
    wrong = breaches_of(kept)
    wrong += [f"exit status {status}"] * (status != 0)
    wrong += [f"{alone_s:.2f} s alone"] * (alone_s < SUSPENDED_S / 4)
    wrong += ["it walked on"] * bool((kept.level[slept + 1 :] == Level.RUN).any())
    wrong += ["it came back by itself"] * (later.level < Level.SAFE_STAND)
    wrong += ["it had not walked"] * (before.level != Level.RUN)
    level = Level(int(kept.level[slept + 1])).name
    return verdict(
        wrong,
        f"braked by itself for {alone_s:.2f} s, then {level}, and never walked on",
        read.cause,
        "the rest of the walk: the operator looks, and asks again",
    )


def supervisor_ended(number: int, trial: FaultTrial) -> FaultOutcome:
    """A loop's supervisor is ended, or killed, in mid-walk: the loop comes to rest, and ends."""
    with robot_process(trial, "--supervised") as (supervisor, anna):
        seen(anna, walking)
        loop = descendants(supervisor.pid)
        supervisor.send_signal(number)
        read = seen(anna, lambda now: now.level == Level.SAFE_STAND)
        status = supervisor.wait(WAIT_S)
        wrong = _left(loop)
    wrong += [f"exit status {status}"] * (status != (-number if number == signal.SIGKILL else 0))
    return _at_rest(trial, wrong, "came to rest, upright, and its loop ended", read.cause)


FAULTS = {
    **{
        f"{name}_{kind}": partial(act, number)
        for name, act in (
            ("parent_run", run_ended),
            ("parent_simulate", simulate_ended),
            ("parent_console", console_ended),
            ("supervisor", supervisor_ended),
        )
        for kind, number in (("sigterm", signal.SIGTERM), ("killed", signal.SIGKILL))
    },
    "parent_run_sighup": partial(run_ended, signal.SIGHUP),
    "parent_console_sighup": partial(console_ended, signal.SIGHUP),
    "loop_killed": partial(loop_lost, signal.SIGKILL),
    "loop_hangs": partial(loop_lost, signal.SIGSTOP),
    "loop_suspended": loop_suspended,
}


def _children(program: Child, most: int = 1) -> list[int]:
    """The processes of a program, once there are so many and all listen."""

    def all_listen() -> bool:
        found = descendants(program.pid)
        return len(found) == most and all(map(_listens, found))

    await_true(all_listen)
    return descendants(program.pid)


def _listens(process: int) -> bool:
    try:
        return Path(option_of(process, "--address").removeprefix("ipc://")).is_socket()
    except (OSError, ValueError):
        return False  # it is not yet what it will be


def _left(children: list[int]) -> list[str]:
    """Waits for the end of processes; what is wrong if one goes on."""
    try:
        await_true(lambda: not any(map(is_running, children)))
    except TimeoutError:
        for each in children:
            os.kill(each, signal.SIGKILL)
        return [f"{len(children)} children were left"]
    return []


def _last(operator: Operator, robot: Child) -> str:
    """The last that an operator reads of a robot that ends."""
    cause, telemetry = "", None
    while robot.poll() is None or telemetry is not None:
        telemetry = operator.telemetry(0.2)
        cause = telemetry.cause if telemetry else cause
    return cause or "nothing more: its telemetry ends"


def _recorded(trial: FaultTrial) -> Recording:
    """The newest recording of the trial's black box."""
    [*_, last] = sorted((trial.folder / "box").glob("recording-*.npz"))
    return read_recording(last)


def _at_rest(trial: FaultTrial, wrong: list[str], robot: str, operator: str) -> FaultOutcome:
    """An outcome of a robot whose record must end standing safely."""
    kept = _recorded(trial)
    standing = kept.state[kept.has_state][:, GRAVITY_Z] < -np.cos(0.5)
    wrong = wrong + breaches_of(kept)
    wrong += ["it did not end in SAFE_STAND"] * bool(kept.level[-1] != Level.SAFE_STAND)
    wrong += ["it did not end upright"] * (not bool(standing.all()))
    return verdict(wrong, robot, operator, "the rest of the walk")
