"""Arm poses against forward kinematics of the robot, sag under gravity included."""

import mujoco
import numpy as np
import pytest

from robots.g1.embodiment import ARM_HOME_RAD, ARM_JOINTS, SIDES
from robots.g1.facts import joint_facts
from sim.robot import robot_spec
from tasks import arms


@pytest.fixture(scope="module")
def model():
    return robot_spec().compile()


def settled(model: mujoco.MjModel, targets: np.ndarray) -> mujoco.MjData:
    """The state where motors at `targets` (14,) carry the arms of a robot that cannot move."""
    data = mujoco.MjData(model)
    joints = [model.joint(f"{side}_{name}_joint").id for side in SIDES for name in ARM_JOINTS]
    qpos, dofs = model.jnt_qposadr[joints], model.jnt_dofadr[joints]
    stiffness = joint_facts("kp_nm_rad")[-len(joints) :]
    data.qpos[:7] = [0, 0, 0, 1, 0, 0, 0]
    data.qpos[qpos] = targets
    for _ in range(30):
        mujoco.mj_forward(model, data)
        data.qpos[qpos] = targets - data.qfrc_bias[dofs] / stiffness
    mujoco.mj_forward(model, data)
    return data


def hand(data: mujoco.MjData, side: str) -> tuple[np.ndarray, np.ndarray]:
    """A hand's middle, from the shoulder, and the direction it points in."""
    wrist = data.body(f"{side}_wrist_yaw_link")
    axis = wrist.xmat.reshape(3, 3)[:, 0]
    return wrist.xpos + 0.1 * axis - data.body(f"{side}_shoulder_roll_link").xpos, axis


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("target", [(1.5, 0.4, -0.65), (0.6, -0.1, -0.65), (3.0, 0.0, -0.6)])
def test_a_pointing_hand_lies_on_the_line_to_its_target(model, side, target):
    data = settled(model, arms.both_arms({side: arms.pointing(side, target)}))
    place, axis = hand(data, side)
    shoulder = data.body(f"{side}_shoulder_roll_link").xpos
    towards = np.array(target) - shoulder
    towards /= np.linalg.norm(towards)
    assert np.rad2deg(np.arccos(axis @ towards)) < 3
    assert np.rad2deg(np.arccos(place @ towards / np.linalg.norm(place))) < 3


@pytest.mark.parametrize(("sides", "least_m"), [(("left",), 0.2), (("right",), 0.2), (SIDES, 0.17)])
@pytest.mark.parametrize("phase_s", [0.0, 0.3, 0.9])
def test_raised_and_waving_hands_are_above_the_shoulder(model, sides, least_m, phase_s):
    for pose in (arms.raised(sides), arms.waving(sides, phase_s)):
        data = settled(model, pose)
        for side in sides:
            place, _ = hand(data, side)
            assert place[2] > least_m


def test_a_wave_swings_a_raised_hand_aside(model):
    quarter = 1 / (4 * arms.WAVE_HZ)
    places = [
        hand(settled(model, arms.waving(("left",), t)), "left")[0][1]
        for t in (quarter, 3 * quarter)
    ]
    assert abs(places[0] - places[1]) > 0.2


def test_hands_hang_below_the_pelvis_at_home(model):
    data = settled(model, ARM_HOME_RAD)
    for side in SIDES:
        place, _ = hand(data, side)
        assert place[2] + data.body(f"{side}_shoulder_roll_link").xpos[2] < 0


def test_poses_change_little_from_one_direction_to_the_next():
    table = arms.pointing_table()
    for axis in (0, 1):
        assert np.abs(np.diff(table, axis=axis)).max() < 1.0


def test_the_right_arm_mirrors_the_left():
    left = arms.pointing("left", (1.0, 0.5, -0.5))
    np.testing.assert_allclose(arms.pointing("right", (1.0, -0.5, -0.5)), left * arms.MIRROR)
