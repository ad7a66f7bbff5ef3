"""From a stop to the first safe command: a loop in real time, stopped while it walks."""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from bench.doubles import Puppet, WalkPolicy
from bridge.blackbox.recorder import Recorder
from bridge.contract import UserError
from bridge.control.loop import ControlLoop, DirectLink, Pace
from bridge.control.safety import Level, Safety
from bridge.operator.client import Operator
from bridge.operator.port import OperatorPort
from bridge.robot_node import RobotNode
from bridge.wire.keys import ClientKeys, allow, client_keys, make_pair, server_keys
from robots.g1.embodiment import CONTROL_HZ, G1, PERIOD_S

INSTRUCTION = "walk on"
# For so long after a stop a port takes no instruction, and lets no further stop hurry its loop.
DEAF_S = 0.6
WAIT_S = 60.0
# A robot whose limits a walk does not meet.
FREE = replace(
    G1,
    commands=tuple(
        replace(field, low=field.stand - 1, high=field.stand + 1, rate=6.0, rate_change=40.0)
        for field in G1.commands
    ),
)


def stop_figures(stops: int) -> dict[str, float]:
    """p99 of both ways in ms, and of the stops of both how many were left out, or failed.

    `stop_p99_ms` is in process, over ipc. A stop that failed counts as one of WAIT_S.
    """
    waits = {"stop_p99_ms": stop_ms(stops), "stop_curve_p99_ms": stop_curve_ms(stops)}
    if not all(map(len, waits.values())):
        raise UserError("no stop met a walking robot: is this machine too busy for its loop?")
    every = np.concatenate(list(waits.values()))
    return {
        **{
            key: float(np.percentile(np.minimum(each, 1000 * WAIT_S), 99))
            for key, each in waits.items()
        },
        "stops_failed": int(np.isinf(every).sum()),
        "stops_left_out": 2 * stops - len(every),
    }


def stop_ms(stops: int) -> np.ndarray:
    """ms from Operator.stop to the first command of a safe stand, as `waits_ms`; in one process.

    The operator is a thread beside the loop's and reaches it through the port's own ipc sockets.
    """
    with TemporaryDirectory(prefix="hitogata-") as folder:
        port = OperatorPort(f"ipc://{folder}/robot.sock", FREE)
        with (
            _walking(port, Path(folder)) as levels,
            Operator(port.addresses.commands, timeout_s=WAIT_S) as operator,
        ):
            asked_s = stop_again_and_again(operator, stops)
        return waits_ms(asked_s, levels)


def stop_curve_ms(stops: int) -> np.ndarray:
    """The same with an operator in another process, encrypted, over loopback tcp."""
    with TemporaryDirectory(prefix="hitogata-") as name:
        folder = Path(name)
        make_pair(folder / "robot", "robot")
        allow(folder / "robot", make_pair(folder / "anna", "anna"))
        keys = client_keys(folder / "anna", folder / "robot" / "robot.public")
        port = _port_with_keys(folder / "robot")
        with _walking(port, folder) as levels:
            context = multiprocessing.get_context("spawn")
            here, there = context.Pipe()
            arguments = (port.addresses.commands, keys, stops, there)
            process = context.Process(target=_operate, args=arguments, daemon=True)
            process.start()
            there.close()
            try:
                asked_s = here.recv()
            except EOFError as error:
                raise UserError("the operator's process has ended: read its own error") from error
            finally:
                process.terminate()
                process.join()
        return waits_ms(asked_s, levels)


def waits_ms(asked_s: Sequence[float], levels: Sequence[tuple[float, Level]]) -> np.ndarray:
    """ms from each stop to the safe stand that followed it, given when each level began.

    Infinite for a stop that failed: there was no safe stand before the next stop. Left out is a
    stop that met a robot which no longer walked, as on a machine too busy for its loop.
    """
    waits: list[float] = []
    for begin, end in zip(asked_s, [*asked_s[1:], np.inf], strict=True):
        met = [level for since_s, level in levels if since_s <= begin][-1:]
        if met != [Level.RUN]:
            continue
        safe_s = [
            since_s
            for since_s, level in levels
            if begin < since_s < end and level == Level.SAFE_STAND
        ]
        waits.append(1000 * (safe_s[0] - begin) if safe_s else np.inf)
    return np.array(waits)


def _port_with_keys(folder: Path) -> OperatorPort:
    """A port at the first three loopback ports in a row that are free."""
    for number in range(20000, 30000, 3):
        try:
            return OperatorPort(f"tcp://127.0.0.1:{number}", FREE, keys=server_keys(folder))
        except UserError:
            continue
    raise UserError("no three ports in a row are free on 127.0.0.1: end some programs")


@contextmanager
def _walking(port: OperatorPort, folder: Path) -> Generator[list[tuple[float, Level]], None, None]:
    """A puppet that obeys the port in a thread of its own; yields when each level began.

    That is the moment in which its robot was given the first command, on the monotonic clock.
    """
    puppet, stopping = Puppet(), threading.Event()
    loop = ControlLoop(puppet, DirectLink(WalkPolicy()), Safety(FREE))
    levels: list[tuple[float, Level]] = []

    def work() -> None:
        pace, last = Pace(PERIOD_S), None
        while not stopping.is_set():
            level = node.step(pace.overruns).order.level
            if level != last:
                levels.append((puppet.applied_s, level))
            last = level
            pace.wait(port.sleep)

    with port, Recorder(folder / "recordings", FREE) as recorder:
        node = RobotNode(loop, port, recorder)
        thread = threading.Thread(target=work, name="robot")
        thread.start()
        try:
            yield levels
        finally:
            stopping.set()
            thread.join()


def stop_again_and_again(operator: Operator, stops: int) -> list[float]:
    """When each stop was asked, on the monotonic clock, which all processes share."""
    rng = np.random.default_rng(0)
    asked_s: list[float] = []
    for _ in range(stops):
        _walk(operator)
        time.sleep(rng.uniform(0.1, 0.2))  # at any moment of a period
        asked_s.append(time.monotonic())
        operator.stop()
        time.sleep(DEAF_S)
    return asked_s


def _walk(operator: Operator) -> None:
    """Lets the robot walk, whatever has happened to it or to the lease."""
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        with suppress(UserError):
            operator.claim()
            operator.release()
            operator.instruct(INSTRUCTION)
            for _ in range(round(CONTROL_HZ)):
                seen = operator.telemetry(1.0)
                if seen is not None and seen.level == Level.RUN:
                    return
    raise UserError("the robot does not walk: is this machine too busy for its loop?")


def _operate(address: str, keys: ClientKeys, stops: int, told: Connection) -> None:
    with Operator(address, timeout_s=WAIT_S, keys=keys) as operator:
        told.send(stop_again_and_again(operator, stops))
