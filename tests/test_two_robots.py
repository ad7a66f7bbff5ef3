"""Two kinds of robots at work in one process, each with its own policy, link, safety and record."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest

from bridge.blackbox.recorder import Recorder
from bridge.blackbox.recording import read_recording
from bridge.contract import ActionChunk, Observation, Status, UserError
from bridge.control.loop import ControlLoop
from bridge.control.policy_link import PolicyLink
from bridge.control.safety import Level, Safety
from bridge.data.dataset import DatasetWriter, read_embodiment, read_episode
from bridge.embodiment import Embodiment
from bridge.operator.port import OperatorPort
from bridge.png import decode_png
from bridge.robot_node import RobotNode
from bridge.wire.client import RemotePolicy
from bridge.wire.server import ServerInfo, serve_policy
from robots.g1.embodiment import G1
from tests.test_dataset import SLOTS, make_labels
from tests.test_embodiment import HANDY

BODIES = (G1, HANDY)
WAIT_S = 60.0


class Puppet:
    """A robot on rails, of any kind: its joints follow at once, its pictures all show one level."""

    def __init__(self, body: Embodiment, level: int) -> None:
        self.body, self.steps, self.sent = body, 0, [body.stand]
        self._joints = np.zeros(len(body.joints), np.float32)
        self._images = {
            camera.name: np.full((camera.height, camera.width, 3), level + place, np.uint8)
            for place, camera in enumerate(body.cameras)
        }

    @property
    def time_s(self) -> float:
        return self.steps * self.body.period_s

    def observe(self) -> Observation:
        state = self.body.state(
            joint_pos_rad=self._joints,
            joint_vel_rad_s=0,
            base_ang_vel_rad_s=0,
            gravity=(0, 0, -1),
            command=self.sent[-1],
            elapsed_s=self.time_s,
            odometry=0,
        )
        return Observation(self.body, self.time_s, state, self._images)

    def apply(self, command: np.ndarray) -> None:
        self.sent.append(command)
        self._joints[self.body.target_joints] = command[self.body.targets]
        self.steps += 1

    def hold(self) -> None:
        raise AssertionError("safety commands every period")

    def damp(self) -> None:
        raise AssertionError("nobody cuts it")

    def begin_instruction(self) -> None:
        pass


class Onward:
    """Walks on, does with the other fields what it can, and remembers what it was shown."""

    def __init__(self, body: Embodiment) -> None:
        self.body, self.seen = body, []

    def act(self, instruction: str, observation: Observation) -> ActionChunk:
        self.seen.append(observation)
        commands = np.tile(self.body.stand, (self.body.chunk_steps, 1))
        commands[:, 0] = 0.5
        commands[:, len(G1.commands) :] = 0.25
        return ActionChunk(observation.time_s, commands, Status.ACTING, 1.0, {})

    def reset(self) -> None:
        pass


@contextmanager
def serving(policy: Onward, place: str) -> Iterator[None]:
    """The policy in a thread of this process; it ends with the process."""
    info, ready = ServerInfo(policy.body.name, "n"), threading.Event()
    arguments = (policy, policy.body, place, info, lambda _: ready.set())
    threading.Thread(target=serve_policy, args=arguments, daemon=True).start()
    assert ready.wait(WAIT_S)
    yield


def test_two_kinds_of_robots_in_one_process(tmp_path: Path) -> None:
    robots = [Puppet(body, 40 * place) for place, body in enumerate(BODIES, start=1)]
    policies = [Onward(body) for body in BODIES]
    stations = []
    with ExitStack() as stack:
        for robot, policy in zip(robots, policies, strict=True):
            folder = tmp_path / robot.body.name
            folder.mkdir()
            place = f"ipc://{folder}/policy.sock"
            stack.enter_context(serving(policy, place))
            link = stack.enter_context(PolicyLink(place, robot.body))
            link.wait_connected(WAIT_S)
            port = stack.enter_context(OperatorPort(f"ipc://{folder}/robot.sock", robot.body))
            recorder = stack.enter_context(Recorder(folder / "box", robot.body))
            loop = ControlLoop(robot, link, Safety(robot.body), lambda robot=robot: robot.time_s)
            loop.instruct("walk on")
            stations.append(RobotNode(loop, port, recorder))
        run_until(lambda: all(map(arrived, robots)), stations)
        files = [node.recorder.write("enough") for node in stations]
    for robot, policy, file in zip(robots, policies, files, strict=True):
        check_robot(robot, policy)
        check_recording(file, robot)


def arrived(robot: Puppet) -> bool:
    """Whether what the policy wants is what the robot is sent."""
    others = robot.sent[-1][len(G1.commands) :]
    return robot.sent[-1][0] > 0.49 and bool((others > 0.24).all())


def run_until(condition, stations: list[RobotNode]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        for node in stations:
            tick = node.step()
            assert tick.order.level <= Level.HOLD and tick.rejected is None, tick.order.cause
        time.sleep(0.005)


def check_robot(robot: Puppet, policy: Onward) -> None:
    """It was sent its own fields within its own limits, and its policy shown its own cameras."""
    body = robot.body
    sent = np.array(robot.sent)
    assert sent.shape[1] == len(body.commands)
    rates = np.abs(np.diff(sent, axis=0)) / body.period_s
    assert (rates <= body.limits.rate * 1.001 + 1e-4).all()
    shown = policy.seen[-1]
    assert shown.embodiment is body and shown.state.shape == (len(body.state_names),)
    levels = {name: int(image[0, 0, 0]) for name, image in shown.images.items()}
    first = 40 if body is G1 else 80
    assert levels == {camera.name: first + i for i, camera in enumerate(body.cameras)}


def check_recording(file: Path, robot: Puppet) -> None:
    kept = read_recording(file)
    assert kept.embodiment == robot.body
    assert kept.sent.shape[1] == len(robot.body.commands)
    np.testing.assert_array_equal(kept.sent[-1], robot.sent[-1])
    sizes = {
        robot.body.cameras[camera].name: decode_png(png).shape
        for camera, png in zip(kept.image_camera, kept.pngs, strict=True)
    }
    assert sizes == {c.name: (c.height, c.width, 3) for c in robot.body.cameras}


def test_a_robot_is_not_served_by_the_policy_of_another(tmp_path: Path) -> None:
    place = f"ipc://{tmp_path}/policy.sock"
    named = (
        r"command field 19 differs, nothing here and torso_pitch_rad at the server: use a policy"
    )
    with serving(Onward(HANDY), place):
        with pytest.raises(UserError, match=named):
            RemotePolicy(place, G1)
        with PolicyLink(place, G1) as link, pytest.raises(UserError, match=named):
            link.wait_connected(WAIT_S)
        RemotePolicy(place, HANDY).close()


def test_a_policy_serves_a_robot_with_more_cameras(tmp_path: Path) -> None:
    seeing = Embodiment.from_dict(G1.to_dict() | {"cameras": HANDY.to_dict()["cameras"]})
    place, policy = f"ipc://{tmp_path}/policy.sock", Onward(G1)
    with serving(policy, place), RemotePolicy(place, seeing) as remote:
        remote.act("walk", Puppet(seeing, 7).observe())
    assert list(policy.seen[0].images) == ["head"] and policy.seen[0].embodiment is G1


def test_a_dataset_knows_its_robot(tmp_path: Path) -> None:
    robot, rng = Puppet(HANDY, 3), np.random.default_rng(0)
    seen = [robot.observe() for _ in range(3)]
    labels = make_labels(rng, 3, fields=len(HANDY.commands))
    writer = DatasetWriter(tmp_path, HANDY, SLOTS)
    writer.add_episode(
        images={name: np.stack([each.images[name] for each in seen]) for name in seen[0].images},
        state=np.stack([each.state for each in seen]),
        action=np.stack([HANDY.stand] * 3),
        task="go",
        qpos=np.zeros((3, 1)),
        scene={},
        labels=labels,
    )
    writer.finalize()
    assert read_embodiment(tmp_path, unnamed=G1) == HANDY
    episode = read_episode(tmp_path, 0)
    assert episode.images["wrist"].shape == (3, 48, 64, 3) and (episode.images["wrist"] == 4).all()
    assert episode.action.shape == (3, 20)
    with pytest.raises(UserError, match=r"command field 19 differs, nothing here.*choose a new"):
        DatasetWriter(tmp_path, G1, SLOTS)
