"""A simulated robot in real time: it waits for people and obeys, whatever else happens."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bridge.blackbox.recorder import Recorder
from bridge.contract import Observation
from bridge.control.loop import ControlLoop, Pace
from bridge.control.policy_link import PolicyLink
from bridge.control.safety import Safety
from bridge.operator.port import OperatorPort
from bridge.robot_node import Station, Truth
from bridge.wire.keys import server_keys
from bridge.wire.server import stop_on_signals
from robots.g1.embodiment import CONTROL_HZ, G1, PERIOD_S
from sim.scene import sample_scene
from sim.world import World

SETTLE_S = 1.5


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
        seconds: When to end, in simulated seconds; without it at SIGINT or SIGTERM.
    """

    seed: int = 0
    robot: Path | None = None
    address: str = "tcp://127.0.0.1:5760"
    operator_keys: Path | None = None
    recordings: Path = Path("out/recordings")
    speed: float = 1.0
    seconds: float | None = None


class LiveRobot:
    """A `Robot` whose world can be exchanged under a running loop; its time goes on."""

    def __init__(self, seed: int, robot_path: Path | None) -> None:
        self._robot_path, self._before_s, self._seed = robot_path, 0.0, seed
        self.world = World(sample_scene(np.random.default_rng(seed)), seed, robot_path)

    @property
    def time_s(self) -> float:
        return self._before_s + self.world.time_s

    def new_scene(self, seed: int) -> None:
        """Puts the robot, standing, into the scene of another seed."""
        world = World(sample_scene(np.random.default_rng(seed)), seed, self._robot_path)
        self._before_s = self.time_s
        self.world.close()
        self.world, self._seed = world, seed

    def truth(self) -> Truth:
        qpos = self.world.qpos()
        return Truth(qpos[:7].tolist(), qpos, self._seed)

    def observe(self) -> Observation:
        return replace(self.world.observe(), time_s=self.time_s)

    def apply(self, command: np.ndarray) -> None:
        self.world.apply(command)

    def hold(self) -> None:
        self.world.hold()

    def damp(self) -> None:
        self.world.damp()

    def get_up(self) -> bool | None:
        return self.world.get_up()

    def begin_instruction(self) -> None:
        self.world.begin_instruction()

    def close(self) -> None:
        self.world.close()


def run_live(
    link: PolicyLink, config: SimulateConfig, ready: Callable[[str], object] | None = None
) -> Station:
    """Runs the robot until interrupted, or for `config.seconds`; it is left standing.

    `ready` is called with the operators' address once they are heard.
    """
    keys = server_keys(config.operator_keys) if config.operator_keys else None
    robot = LiveRobot(config.seed, config.robot)
    loop = ControlLoop(robot, link, Safety(G1), lambda: robot.time_s)
    with (
        stop_on_signals() as stopping,
        OperatorPort(config.address, G1, simulated=True, keys=keys) as port,
        Recorder(config.recordings, G1) as recorder,
    ):
        station = Station(loop, port, recorder, robot.truth, robot.new_scene)
        pace = Pace(PERIOD_S, config.speed)
        if ready is not None:
            ready(config.address)
        _run(station, robot, stopping, pace, config.seconds)
        loop.stop("the program ends")
        for _ in range(round(SETTLE_S * CONTROL_HZ)):
            station.period(pace.overruns)
        robot.close()
    return station


def _run(
    station: Station,
    robot: LiveRobot,
    stopping: threading.Event,
    pace: Pace,
    seconds: float | None,
) -> None:
    while not stopping.is_set() and (seconds is None or robot.time_s < seconds):
        station.period(pace.overruns)
        pace.wait(station.port.sleep)
