"""A world: the robot contract, truth, odometry and determinism."""

import numpy as np
import pytest

from bridge.contract import UserError
from robots.g1.embodiment import (
    ARM_HOME_RAD,
    ARM_POS,
    ARMS,
    IMAGE_SIZE,
    JOINT_NAMES,
    STAND_COMMAND,
    STATE_DIM,
)
from sim.objects import SceneObject
from sim.odometry import Odometry, OdometryConfig
from sim.scene import Scene, sample_scene
from sim.world import World

EXACT = OdometryConfig(0.0, 0.0, 0.0)


def at(x: float, y: float, shape: str = "cube", size_m: float = 0.15) -> SceneObject:
    return SceneObject(shape, "red", (0.9, 0.1, 0.1), size_m, x, y, 0.0)


def turned(world: World, x: float, y: float, yaw: float) -> None:
    """Puts the robot at a pose, its joints as they are."""
    qpos = world.qpos()
    qpos[:2], qpos[3:7] = [x, y], [np.cos(yaw / 2), 0, 0, np.sin(yaw / 2)]
    world.set_qpos(qpos)


@pytest.fixture
def world():
    world = World(sample_scene(np.random.default_rng(0), 4), seed=1)
    yield world
    world.close()


def test_an_observation_keeps_the_contract(world):
    observation = world.observe()
    assert observation.state.shape == (STATE_DIM,)
    assert observation.images["head"].shape == (IMAGE_SIZE, IMAGE_SIZE, 3)
    assert observation.images["head"].dtype == np.uint8 and observation.images["head"].std() > 3
    assert observation.gravity == pytest.approx([0, 0, -1], abs=1e-6)
    assert observation.command == pytest.approx(STAND_COMMAND)
    assert observation.joint_pos_rad[ARM_POS] == pytest.approx(ARM_HOME_RAD)
    assert (observation.time_s, observation.elapsed_s) == (0, 0)


def test_equal_worlds_stay_equal_bit_by_bit():
    scene = sample_scene(np.random.default_rng(2), 4)
    command = STAND_COMMAND.copy()
    command[:3] = [0.4, 0.1, 0.3]
    ends = []
    for _ in range(2):
        world = World(scene, seed=5)
        for _ in range(25):
            world.apply(command)
        last = world.observe()
        ends.append((world.qpos(), last.state, last.images["head"]))
        world.close()
    assert all(np.array_equal(a, b) for a, b in zip(*ends, strict=True))


def test_time_counts_control_periods_and_restarts_with_an_instruction(world):
    for _ in range(5):
        world.apply(STAND_COMMAND)
    assert world.time_s == pytest.approx(0.1)
    world.begin_instruction()
    world.hold()
    observation = world.observe()
    assert observation.time_s == pytest.approx(0.12)
    assert observation.elapsed_s == pytest.approx(0.02)


def test_hold_stands_with_the_arms_where_they_were_sent(world):
    command = STAND_COMMAND.copy()
    command[0] = 0.5
    command[ARMS] += 0.3
    world.apply(command)
    world.hold()
    assert world.command[:3] == pytest.approx([0, 0, 0])
    assert world.command[ARMS] == pytest.approx(command[ARMS])


def test_arms_follow_their_targets(world):
    command = STAND_COMMAND.copy()
    raised = JOINT_NAMES.index("left_shoulder_pitch_joint")
    command[4] = -1.0
    for _ in range(30):
        world.apply(command)
    assert world.observe().joint_pos_rad[raised] < -0.6


@pytest.mark.parametrize("bad", [np.full(18, np.nan), np.zeros(17)])
def test_a_bad_command_never_reaches_the_motors(world, bad):
    before = world.qpos()
    with pytest.raises(ValueError, match="18 finite numbers"):
        world.apply(bad)
    assert np.array_equal(before, world.qpos())


def test_pictures_come_at_the_cameras_rate(world):
    first = world.observe().images["head"]
    world.push(np.array([1.0, 0.0]))
    for _ in range(4):
        world.apply(STAND_COMMAND)
        assert world.observe().images["head"] is first
    world.apply(STAND_COMMAND)
    assert world.observe().images["head"] is not first


def test_a_recorded_state_gives_the_same_picture_again(world):
    for _ in range(5):
        world.apply(STAND_COMMAND)
    picture, qpos = world.observe().images["head"], world.qpos()
    for _ in range(5):
        world.apply(STAND_COMMAND)
    world.set_qpos(qpos)
    assert np.array_equal(world.observe().images["head"], picture)


def test_without_rendering_pictures_are_black():
    assert not World(Scene(), render=False).observe().images["head"].any()


def test_objects_in_the_heading_frame_by_hand():
    world = World(Scene(objects=(at(2.0, 0.0), at(0.0, 3.0))), render=False)
    turned(world, 1.0, 0.0, np.pi / 2)
    view = world.snapshot()
    assert view.base_pose == pytest.approx((1.0, 0.0, np.pi / 2))
    # Facing +y from (1, 0): the first is one metre to the right, the second ahead and left.
    assert view.object_pos_m[:, :2] == pytest.approx(np.array([[0, -1], [3, 1]]), abs=1e-9)
    assert view.object_pos_m[:, 2] == pytest.approx([0.15, 0.15])
    assert view.visible.tolist() == [False, True]
    assert view.extent_px[0] == 0 < view.extent_px[1]


def test_an_object_that_is_knocked_over_shows_it():
    world = World(Scene(objects=(at(1.5, 0.0, "cylinder"),)), render=False)
    assert world.object_pose(0)[1] == pytest.approx(1.0)
    qpos = world.qpos()
    qpos[-4:] = [np.sqrt(0.5), np.sqrt(0.5), 0, 0]
    world.set_qpos(qpos)
    assert world.object_pose(0)[1] == pytest.approx(0.0, abs=1e-9)


def test_a_walking_shin_moves_a_ball():
    world = World(Scene(objects=(at(0.3, 0.12, "ball"),)), render=False)
    command = STAND_COMMAND.copy()
    command[0] = 0.6
    for _ in range(40):
        world.apply(command)
    assert np.linalg.norm(world.object_pose(0)[0][:2] - [0.3, 0.12]) > 0.02


def test_a_push_changes_the_velocity_and_lying_is_fallen(world):
    world.push(np.array([0.3, -0.2]))
    assert world.data.qvel[:2] == pytest.approx([0.3, -0.2])
    assert not world.fallen()
    qpos = world.qpos()
    qpos[2:7] = [0.15, np.sqrt(0.5), 0, np.sqrt(0.5), 0]
    world.set_qpos(qpos)
    assert world.fallen()
    world.reset()
    assert not world.fallen() and world.time_s == 0


def test_exact_odometry_is_the_true_motion_in_the_first_heading_frame():
    odometry = Odometry(np.random.default_rng(0), EXACT)
    odometry.begin((1.0, 2.0, np.pi / 2))
    for pose in [(1.0, 3.0, np.pi / 2), (1.0, 3.0, -np.pi + 0.1), (0.0, 3.0, -np.pi + 0.1)]:
        odometry.advance(pose, 0.1)
    # One metre ahead, a turn to the left through the seam at pi, then one metre to the left.
    assert odometry.pose == pytest.approx([1.0, 1.0, np.pi / 2 + 0.1], abs=1e-9)


def test_odometry_counts_whole_turns():
    odometry = Odometry(np.random.default_rng(0), EXACT)
    for step in range(1, 81):
        odometry.advance((0.0, 0.0, (step * 0.1 + np.pi) % (2 * np.pi) - np.pi), 0.1)
    assert odometry.pose[2] == pytest.approx(8.0)


def test_odometry_drifts_by_a_few_percent_that_differ_each_time():
    odometry = Odometry(np.random.default_rng(3))
    ratios = []
    for _ in range(300):
        odometry.begin((0.0, 0.0, 0.0))
        odometry.advance((2.0, 0.0, 0.0), 4.0)
        ratios.append(odometry.pose[0] / 2.0)
    assert np.mean(ratios) == pytest.approx(1.0, abs=0.005)
    assert np.std(ratios) == pytest.approx(0.02, abs=0.004)


def test_a_missing_walker_is_named():
    with pytest.raises(UserError, match="hitogata walk"):
        World(Scene(), walker_path="/nowhere/walker.onnx")
