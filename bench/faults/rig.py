"""A simulated G1 at work, on which faults are tried: all that reaches its motors is written down.

Everything is real but the body: the control loop with its safety in real time, policy servers and
peers as processes, sockets, signals, the operator's messages.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from bench.faults.trace import FaultOutcome, breaches, joint_breaches, verdict
from bridge.blackbox.recorder import Recorder
from bridge.contract import Observation, UserError
from bridge.control.loop import ControlLoop, Pace
from bridge.control.policy_link import PolicyLink
from bridge.control.safety import Level, Safety
from bridge.operator.client import Operator
from bridge.operator.messages import Telemetry
from bridge.operator.port import OperatorPort
from bridge.robot_node import GroundTruth, RobotNode
from bridge.wire.keys import ClientKeys, ServerKeys
from robots.g1.embodiment import G1, PERIOD_S, STAND_COMMAND, VEL_X
from sim.scene import sample_scene
from sim.world import World

WAIT_S = 60.0  # room for a busy machine
RETRY_S = 3.0
WALKING_M_S = 0.3


@dataclass(frozen=True)
class FaultTrial:
    """Where a robot is put to the test: a folder for it, and the command line of `hitogata`."""

    folder: Path
    hitogata: Sequence[str]

    @property
    def policy_address(self) -> str:
        return f"ipc://{self.folder}/policy.sock"

    @property
    def robot_address(self) -> str:
        return f"ipc://{self.folder}/robot.sock"


@contextmanager
def new_trial(hitogata: Sequence[str]) -> Iterator[FaultTrial]:
    """A trial in a folder that is gone afterwards."""
    with TemporaryDirectory(prefix="hitogata-") as folder:
        yield FaultTrial(Path(folder), hitogata)


@dataclass(frozen=True)
class Noted:
    """One control period as it was."""

    time_s: float
    level: Level
    cause: str
    upright: bool


class TracedRobot:
    """The simulated G1; writes down what reaches its motors, and fails when told.

    `frozen` lets its camera show the same picture for ever, taken at `picture_at_s`; `late_s`
    delays one period.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.sent: list[np.ndarray | None] = [STAND_COMMAND, STAND_COMMAND]
        self.joint_targets: list[np.ndarray] = []
        self.frozen, self.late_s, self.push_m_s = False, 0.0, 0.0
        self.picture_at_s = 0.0
        self._frozen: Observation | None = None

    @property
    def time_s(self) -> float:
        return self.world.time_s

    def observe(self) -> Observation:
        late_s, self.late_s = self.late_s, 0.0
        time.sleep(late_s)
        push_m_s, self.push_m_s = self.push_m_s, 0.0
        self.world.push(np.array([0.0, push_m_s]))
        seen = self.world.observe()
        if not self.frozen:
            self._frozen = None
            return seen
        self._frozen = shown = self._frozen or seen
        self.picture_at_s = shown.time_s - shown.image_age_s
        return replace(seen, images=shown.images, image_age_s=seen.time_s - self.picture_at_s)

    def apply(self, command: np.ndarray) -> None:
        self.sent.append(command.copy())
        self.world.apply(command)
        self.joint_targets.append(self.world.data.ctrl.copy())

    def hold(self) -> None:
        raise AssertionError("safety commands every period")

    def damp(self) -> None:
        self.sent.append(None)
        self.world.damp()

    def begin_instruction(self) -> None:
        self.world.begin_instruction()

    def truth(self) -> GroundTruth:
        qpos = self.world.qpos()
        return GroundTruth(qpos[:7].tolist(), qpos)


class Rig:
    """A robot's node in a thread, in real time, and an operator who commands it.

    `noted` has every period so far.
    """

    def __init__(self, robot: TracedRobot, node: RobotNode, operator: Operator) -> None:
        self.robot, self.node, self.operator = robot, node, operator
        self.noted: list[Noted] = []
        self.pace = Pace(PERIOD_S)
        self._stopping = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="robot", daemon=True)
        self._thread.start()

    # --- acting ---

    def walk(self, instruction: str = "walk") -> Telemetry:
        """Claims the robot and lets it walk; returns once it does."""
        command(self.operator, instruction)
        return self.resume(walking, released=False)

    def resume(
        self, condition: Callable[[Telemetry], bool] | None = None, released: bool = True
    ) -> Telemetry:
        """Releases the robot until it runs: on a busy machine a first chunk may come too late."""
        deadline = time.monotonic() + WAIT_S
        while True:
            try:
                if released:
                    self.operator.release()
                released = True
                return self.until(condition or running_on, RETRY_S)
            except (TimeoutError, UserError):
                if time.monotonic() > deadline:
                    raise
                time.sleep(RETRY_S / 4)

    def until(self, condition: Callable[[Telemetry], bool], within_s: float = WAIT_S) -> Telemetry:
        """The first telemetry that fulfils a condition."""
        return seen(self.operator, condition, within_s, self._check)

    def at(self, level: Level) -> Telemetry:
        """The first telemetry of a level."""
        return self.until(lambda telemetry: telemetry.level == level)

    def forget(self) -> list[str]:
        """What was wrong so far with what reached the motors; all but the end is forgotten."""
        sent, targets = self.robot.sent[:], self.robot.joint_targets[:]
        del self.robot.joint_targets[: len(targets)]
        del self.robot.sent[: max(0, len(sent) - 3)]
        del self.noted[: max(0, len(self.noted) - 3)]
        return breaches(sent, G1.limits) + joint_breaches(targets)

    def rest(self, seconds: float) -> list[Noted]:
        """The periods of the next seconds of the robot's own time."""
        first = len(self.noted)
        self.await_true(lambda: len(self.noted) >= first + round(seconds / PERIOD_S))
        return self.noted[first:]

    def await_true(self, condition: Callable[[], bool]) -> None:
        await_true(condition, self._check)

    # --- judging ---

    def first(self, level: Level, after_s: float = -np.inf) -> Noted | None:
        """The first period of a level, later than a time."""
        return next((n for n in self.noted if n.level == level and n.time_s > after_s), None)

    def outcome(
        self, robot: str, operator: str, lost: str = "nothing", **facts: bool
    ) -> FaultOutcome:
        """Of claims by name: what does not hold, and what the trace shows, is told."""
        wrong = [name.replace("_", " ") for name, holds in facts.items() if not holds]
        wrong = [f"not {name}" for name in wrong]
        wrong += breaches(list(self.robot.sent), G1.limits)
        wrong += joint_breaches(self.robot.joint_targets[:])
        return verdict(wrong, robot, operator, lost)

    def undisturbed(self, told: str, **facts: bool) -> FaultOutcome:
        """The outcome of what a walking robot does not notice, within a second more."""
        facts["kept_running"] = levels(self.rest(1.0)) == {Level.RUN}
        return self.outcome("walked on", told, "nothing", upright=upright(self.noted), **facts)

    def close(self) -> None:
        self._stopping.set()
        self._thread.join()

    def _check(self) -> None:
        if self._error is not None:
            raise RuntimeError("the control loop has ended") from self._error

    def _work(self) -> None:
        try:
            while not self._stopping.is_set():
                tick = self.node.step(self.pace.overruns)
                upright = not self.robot.world.fallen()
                noted = Noted(tick.time_s, tick.order.level, tick.order.cause, upright)
                self.noted.append(noted)
                self.pace.wait(self.node.port.sleep)
            self.robot.world.close()
        except BaseException as error:  # shown to whoever waits for this robot
            self._error = error


def await_true(condition: Callable[[], bool], check: Callable[[], None] = lambda: None) -> None:
    """Waits for a condition; TimeoutError if it never comes. `check` may raise meanwhile."""
    deadline = time.monotonic() + WAIT_S
    while not condition():
        check()
        if time.monotonic() > deadline:
            raise TimeoutError("what should happen never did")
        time.sleep(0.01)


def refusal(attempt: Callable[[], object]) -> str:
    """What the attempt is told; it must not succeed."""
    try:
        attempt()
    except UserError as error:
        return str(error)
    return "nothing: it was let in"


def command(operator: Operator, instruction: str) -> None:
    """Claims a robot and tells it something; again if its loop was too busy to listen."""
    deadline = time.monotonic() + WAIT_S
    while True:
        try:
            operator.claim()
            operator.instruct(instruction)
            return
        except UserError:
            if time.monotonic() > deadline:
                raise
            time.sleep(RETRY_S / 4)


def seen(
    operator: Operator,
    condition: Callable[[Telemetry], bool],
    within_s: float = WAIT_S,
    check: Callable[[], None] = lambda: None,
) -> Telemetry:
    """The first telemetry of a robot that fulfils a condition; `check` may raise meanwhile."""
    deadline = time.monotonic() + within_s
    last: Telemetry | None = None
    while time.monotonic() < deadline:
        check()
        telemetry = operator.telemetry(0.5)
        if telemetry is not None and condition(telemetry):
            return telemetry
        last = telemetry or last
    shown = f"{Level(last.level).name}: {last.cause}" if last else "nothing"
    raise TimeoutError(f"the robot never showed it; last seen {shown}")


def running_on(telemetry: Telemetry) -> bool:
    """Whether nothing keeps the robot from its policy's commands."""
    return telemetry.level == Level.RUN


def walking(telemetry: Telemetry) -> bool:
    """Whether it is commanded to walk."""
    sent = telemetry.command_vector(G1)
    return telemetry.level == Level.RUN and sent is not None and sent[VEL_X] > WALKING_M_S


def upright(periods: Sequence[Noted]) -> bool:
    """Whether it never fell."""
    return all(noted.upright for noted in periods)


def levels(periods: Sequence[Noted]) -> set[Level]:
    """All levels of the safety ladder that it was at."""
    return {noted.level for noted in periods}


@contextmanager
def robot_at_work(
    trial: FaultTrial,
    policy: str,
    render: bool = False,
    keys: ClientKeys | None = None,
    connected: bool = True,
    operators: tuple[ServerKeys, ClientKeys] | None = None,
) -> Iterator[Rig]:
    """A rig whose policy is served at an address, waited for if it shall be `connected`.

    `render` gives it a camera that sees; `operators` are the keys of its port and its operator's.
    """
    port_keys, operator_keys = operators or (None, None)
    place = trial.robot_address
    world = World(sample_scene(np.random.default_rng(0)), render=render)
    robot = TracedRobot(world)
    with ExitStack() as stack:
        link = stack.enter_context(PolicyLink(policy, G1, keys=keys))
        if connected:
            link.wait_connected(WAIT_S)
        port = stack.enter_context(OperatorPort(place, G1, simulated=True, keys=port_keys))
        recorder = stack.enter_context(Recorder(trial.folder / "box", G1))
        loop = ControlLoop(robot, link, Safety(G1), lambda: world.time_s)
        node = RobotNode(loop, port, recorder, robot.truth)
        operator = Operator(place, "anna", WAIT_S, operator_keys)
        rig = Rig(robot, node, operator)
        # The operator leaves while the robot still listens.
        stack.callback(rig.close)
        stack.callback(operator.close)
        yield rig
