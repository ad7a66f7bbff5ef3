"""A simulated robot in real time: it waits for people and obeys, whatever else happens."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
from annotated_types import Gt

from bridge.blackbox.recorder import Recorder
from bridge.contract import COMMAND_TIMEOUT_S, Observation
from bridge.control.loop import ControlLoop, Pace
from bridge.control.policy_link import PolicyLink
from bridge.control.safety import Safety
from bridge.operator.port import OperatorPort
from bridge.ranges import MayBeInfinite, PositiveFloat, Seed
from bridge.robot_node import GroundTruth, RobotNode
from bridge.supervisor import Heartbeat
from bridge.wire.keys import server_keys
from bridge.wire.server import stop_on_signals
from robots.g1.embodiment import CONTROL_HZ, G1, PERIOD_S
from sim.scene import sample_scene
from sim.world import World

SETTLE_S = 1.5
MOST_ALONE = round(5 * CONTROL_HZ)  # periods; after them it lies still


@dataclass(frozen=True)
class SimulateConfig:
    """Where the simulated robot stands and who reaches it.

    Attributes:
        seed: Which random scene.
        robot: Another MJCF of the 29-joint G1.
        address: Where operators reach it: ipc:// or loopback tcp://, with keys any tcp://.
        operator_keys: Folder of keys (hitogata keys): encrypt, and let in only the operators that
            are allowed there.
        recordings: Folder of the black box.
        speed: Simulated seconds per second; inf is as fast as it goes.
        seconds: When to end, in simulated seconds; without it at SIGINT, SIGTERM or SIGHUP.
    """

    seed: Seed = 0
    robot: Path | None = None
    address: str = "tcp://127.0.0.1:5760"
    operator_keys: Path | None = None
    recordings: Path = Path("out/recordings")
    speed: Annotated[float, Gt(0), MayBeInfinite] = 1.0
    seconds: PositiveFloat | None = None


class LiveRobot:
    """A `Robot` whose world can be exchanged under a running loop; its time goes on.

    Its motors brake by themselves as the contract demands, at a finite `speed`, in simulated
    seconds per second: the periods for which it was left alone beyond COMMAND_TIMEOUT_S, whether
    the loop hung or the whole process was suspended, are made up for when it is next spoken to.
    """

    def __init__(self, seed: int, robot_path: Path | None, speed: float = math.inf) -> None:
        self._robot_path, self._before_s, self._seed = robot_path, 0.0, seed
        self._speed = speed if math.isfinite(speed) else 0.0
        self._commanded_s: float | None = None  # since when, by our clock, nothing was commanded
        self.world = World(sample_scene(np.random.default_rng(seed)), seed, robot_path)

    @property
    def time_s(self) -> float:
        return self._before_s + self.world.time_s

    def new_scene(self, seed: int) -> None:
        """Puts the robot, standing, into the scene of another seed."""
        world = World(sample_scene(np.random.default_rng(seed)), seed, self._robot_path)
        self._before_s = self.time_s
        self.world.close()
        self.world, self._seed, self._commanded_s = world, seed, None

    def _brake_alone(self) -> None:
        """What the motors did meanwhile, if nobody has commanded them for too long."""
        if self._commanded_s is None:
            return
        left_alone_s = self._speed * (time.monotonic() - self._commanded_s) - COMMAND_TIMEOUT_S
        for _ in range(min(int(left_alone_s * CONTROL_HZ), MOST_ALONE)):
            self.world.damp()
            self._commanded_s = time.monotonic()

    def _command(self, act: Callable[..., None], *command: np.ndarray) -> None:
        self._brake_alone()
        act(*command)
        self._commanded_s = time.monotonic()

    def truth(self) -> GroundTruth:
        qpos = self.world.qpos()
        return GroundTruth(qpos[:7].tolist(), qpos, self._seed)

    def observe(self) -> Observation:
        self._brake_alone()
        return replace(self.world.observe(), time_s=self.time_s)

    def apply(self, command: np.ndarray) -> None:
        self._command(self.world.apply, command)

    def hold(self) -> None:
        self._command(self.world.hold)

    def damp(self) -> None:
        self._command(self.world.damp)

    def get_up(self) -> bool | None:
        self._brake_alone()
        stands = self.world.get_up()
        self._commanded_s = time.monotonic()
        return stands

    def begin_instruction(self) -> None:
        self.world.begin_instruction()

    def close(self) -> None:
        self.world.close()


def run_live(
    link: PolicyLink, config: SimulateConfig, ready: Callable[[str], object] | None = None
) -> RobotNode:
    """Runs the robot until interrupted, or for `config.seconds`; it is left standing.

    `ready` is called with the operators' address once they are heard.
    """
    keys = server_keys(config.operator_keys) if config.operator_keys else None
    robot = LiveRobot(config.seed, config.robot, config.speed)
    loop = ControlLoop(robot, link, Safety(G1), lambda: robot.time_s)
    with (
        stop_on_signals() as stopping,
        OperatorPort(config.address, G1, simulated=True, keys=keys) as port,
        Recorder(config.recordings, G1) as recorder,
    ):
        node = RobotNode(loop, port, recorder, robot.truth, robot.new_scene)
        pace = Pace(PERIOD_S, config.speed)
        if ready is not None:
            ready(config.address)
        heart = Heartbeat()
        end_s = config.seconds or math.inf
        while not stopping.is_set() and robot.time_s < end_s:
            node.step(pace.overruns)
            heart.beat()
            pace.wait(port.sleep)
        heart.close()
        loop.stop("the program ends")
        for _ in range(round(SETTLE_S * CONTROL_HZ)):
            node.step(pace.overruns)
        robot.close()
    return node
