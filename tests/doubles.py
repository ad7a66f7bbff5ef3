"""Doubles of robots, policies and servers that several tests use.

Run as a program, it serves an EchoPolicy: python tests/doubles.py ADDRESS MODEL_ID [KEYS]
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import zmq

from bridge.blackbox.recorder import Recorder
from bridge.contract import ActionChunk, Observation, Status, UserError
from bridge.control.loop import ControlLoop, DirectLink, Pace
from bridge.control.safety import Safety
from bridge.operator.client import Operator
from bridge.operator.messages import Telemetry
from bridge.operator.port import OperatorPort
from bridge.robot_node import RobotNode
from bridge.wire import messages
from bridge.wire.keys import server_keys
from bridge.wire.messages import ServerInfo
from bridge.wire.server import serve_policy
from robots.g1.embodiment import (
    ARM_POS,
    ARMS,
    CHUNK_STEPS,
    G1,
    IMAGE_SIZE,
    N_JOINTS,
    PERIOD_S,
    STAND_COMMAND,
    STATE_DIM,
    VEL_X,
)

ROOT = Path(__file__).parents[1]
WAIT_S = 60.0  # room for a busy machine
INFO = ServerInfo("model-1", "norm-1")
BLIND = replace(G1, cameras=())

# A G1 with round numbers for limits.
BODY = replace(
    G1,
    commands=tuple(
        replace(
            field,
            low=field.stand - 1.0,
            high=field.stand + 1.5,
            rate=6.0,
            rate_change=40.0 if field.joint else 300.0,
        )
        for field in G1.commands
    ),
)
LIMITS = BODY.limits
IMAGE = np.zeros((IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
UPRIGHT = np.array([0, 0, -1], np.float32)
STILL = np.zeros(3, np.float32)


def body(time_s: float, gravity=UPRIGHT, image_age_s=0.0, base_ang_vel_rad_s=STILL) -> Observation:
    """What a BODY in its home pose sees and feels."""
    joints = np.zeros(N_JOINTS, np.float32)
    joints[ARM_POS] = STAND_COMMAND[ARMS]
    state = BODY.state(
        joint_pos_rad=joints,
        joint_vel_rad_s=0,
        base_ang_vel_rad_s=base_ang_vel_rad_s,
        gravity=gravity,
        command=STAND_COMMAND,
        elapsed_s=0,
        odometry=0,
    )
    return Observation(BODY, time_s, state, {"head": IMAGE}, image_age_s)


class Puppet:
    """A robot on rails: it goes where it is sent and keeps its own time."""

    def __init__(self):
        self.steps, self.sent, self.begun, self.damped, self.silent = 0, [], 0, 0, False
        self.joints = STAND_COMMAND[ARMS].copy()

    @property
    def time_s(self):
        return self.steps * PERIOD_S

    def observe(self):
        if self.silent:
            raise UserError("no state came")
        seen = body(self.time_s)
        seen.joint_pos_rad[ARM_POS] = self.joints
        return seen

    def apply(self, command):
        self.sent.append(command)
        self.joints = command[ARMS].copy()
        self.steps += 1

    def hold(self):
        raise AssertionError("safety commands every period")

    def damp(self):
        self.damped += 1
        self.steps += 1

    def begin_instruction(self):
        self.begun += 1


class Walk:
    """Answers with 0.5 m/s; `bend` changes its chunks."""

    def __init__(self, bend=lambda commands: commands):
        self.bend, self.asked, self.resets = bend, [], 0

    def act(self, instruction, observation):
        self.asked.append((instruction, observation.time_s))
        commands = np.tile(STAND_COMMAND, (CHUNK_STEPS, 1))
        commands[:, VEL_X] = 0.5
        return ActionChunk(observation.time_s, self.bend(commands), Status.ACTING, 1.0, {})

    def reset(self):
        self.resets += 1


class EchoPolicy:
    """Answers with the observed time and the image's brightness; some words make it misbehave."""

    def __init__(self) -> None:
        self.resets = 0

    def act(self, instruction: str, observation: Observation) -> ActionChunk:
        if instruction == "fail":
            raise RuntimeError("secret detail\nsecond line")
        if instruction.startswith("sleep"):
            time.sleep(float(instruction.split()[1]))
        commands = np.tile(STAND_COMMAND, (CHUNK_STEPS, 1))
        commands[:, 0] = observation.images["head"].mean()
        if instruction == "nan":
            commands[3, 3] = np.nan
        understood = {"instruction": instruction, "resets": str(self.resets)}
        return ActionChunk(observation.time_s, commands, Status.DONE, 0.5, understood)

    def reset(self) -> None:
        self.resets += 1


def observe(time_s: float = 0.0, level: int = 7) -> Observation:
    """What a G1 sees in front of a wall of one grey."""
    state = np.linspace(-1, 1, STATE_DIM, dtype=np.float32)
    image = np.full((IMAGE_SIZE, IMAGE_SIZE, 3), level, np.uint8)
    return Observation(G1, time_s, state, {"head": image})


class Served(subprocess.Popen[str]):
    """A server process, and where clients reach it."""

    address = ""


@contextmanager
def served(*arguments: str) -> Iterator[Served]:
    """What `python ARGUMENTS` serves, once it says where; it is killed at the end."""
    process = Served(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        process.address = process.stdout.readline().split(" at ")[-1].split(" on ")[0].strip()
        yield process
    finally:
        process.kill()
        process.communicate()


def running_server(
    address: str, model_id: str = INFO.model_id, keys: Path | None = None
) -> AbstractContextManager[Served]:
    """An EchoPolicy on our own wire, in a process."""
    return served(__file__, address, model_id, *([str(keys)] if keys else []))


@contextmanager
def scripted_server(address: str, replies, **terms: object) -> Iterator[None]:
    """A server of our own making: greets, forgets, and answers each Act with `replies`.

    `terms` of its greeting may be others than ours.
    """
    greeting = {"session": "s", "protocol": messages.PROTOCOL, "embodiment": G1}
    greeting |= {"model_id": "m", "normalisation_id": "n", **terms}
    context = zmq.Context()
    router = context.socket(zmq.ROUTER)
    router.sndhwm = 0
    router.bind(address)

    def serve() -> None:
        try:
            while True:
                peer, *frames = router.recv_multipart()
                request, _ = messages.unpack_request(frames)
                if isinstance(request, messages.Hello):
                    answers = [messages.pack(messages.Welcome(**greeting))]
                elif isinstance(request, messages.Reset):
                    answers = [messages.pack(messages.Done(session="s", sequence=request.sequence))]
                else:
                    answers = replies(request) if isinstance(request, messages.Act) else []
                for answer in answers:
                    router.send_multipart([peer, *answer])
        except zmq.ContextTerminated:
            router.close(0)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        context.term()
        thread.join()


@contextmanager
def working_station(folder: Path) -> Iterator[tuple[RobotNode, str]]:
    """A puppet's node in a thread of its own, in real time."""
    puppet, address = Puppet(), f"ipc://{folder}/robot.sock"
    loop = ControlLoop(puppet, DirectLink(Walk()), Safety(BODY), lambda: puppet.time_s)
    stopping = threading.Event()
    with (
        OperatorPort(address, G1, simulated=True) as port,
        Recorder(folder / "box", G1) as recorder,
    ):
        node = RobotNode(loop, port, recorder, new_scene=lambda seed: None)

        def work() -> None:
            pace = Pace(PERIOD_S)
            while not stopping.is_set():
                node.step(pace.overruns)
                pace.wait()

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield node, address
        finally:
            stopping.set()
            thread.join()


def seen(operator: Operator, condition: Callable[[Telemetry], bool]) -> Telemetry:
    """The first telemetry that fulfils a condition."""
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        telemetry = operator.telemetry(1.0)
        if telemetry is not None and condition(telemetry):
            return telemetry
    raise AssertionError("the robot never showed it")


def await_true(condition: Callable[[], bool]) -> None:
    """Waits until it is so; at most WAIT_S."""
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


if __name__ == "__main__":
    place, served_model, *folder = sys.argv[1:]
    serve_policy(
        EchoPolicy(),
        G1,
        place,
        ServerInfo(served_model, "norm-1"),
        lambda bound: print(bound, flush=True),
        server_keys(Path(folder[0])) if folder else None,
    )
    print("stopped")
