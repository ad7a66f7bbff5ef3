"""The balance of the walker: when its clock runs and how fast, where it falls, how it turns."""

import mujoco
import numpy as np
import pytest

from robots.g1 import gait
from robots.g1.embodiment import JOINT_NAMES
from robots.g1.facts import joint_facts
from robots.g1.walker import hold_heading
from robots.rotations import gravity_in_base
from sim.robot import walk_model


def test_balance_starts_the_clock_with_the_foot_it_falls_on_and_a_step_is_ended():
    still = np.zeros(3)
    # Leaning forward by 0.1 rad and falling on at 0.72 rad/s: 0.1 + 0.72 / 3.6 = 0.3 rad.
    still_joints = np.zeros(29), np.zeros(29)
    capture = gait.capture_offset(np.array([0.1, 0, -1]), np.array([0, 0.72, 0]), *still_joints)
    assert capture == pytest.approx([0.3, 0.0]) and gait.is_tipping(capture, np.array(0.0))
    assert not gait.is_tipping(capture, np.array(0.1)), "a step sways as much"
    left = gait.capture_offset(np.array([0.0, 0.1, -1]), np.array([-0.72, 0, 0]), *still_joints)
    assert left == pytest.approx([0.0, 0.3])
    assert gait.start_phase(np.array(0.0), still, left) == 0.5, "the left foot swings first"
    assert gait.start_phase(np.array(0.0), still, -left) == 0.0
    assert _periods_to_rest(gait.start_phase(np.array(0.0), still, left)) == 19  # half of 0.74 s


def test_a_clock_asked_no_more_takes_one_whole_step_in_place():
    # A fifth of a cycle (8 periods) on: the rest of that step, then a whole one, 0.3 + 0.5 cycles.
    assert _periods_to_rest(np.array(0.2)) == pytest.approx(0.8 * 0.74 * 50, abs=1)
    assert _periods_to_rest(np.array(0.0001)) == pytest.approx(0.5 * 0.74 * 50, abs=1)


def _periods_to_rest(phase):
    still, upright, unasked_s, periods = np.zeros(3), np.zeros(2), np.array(0.0), 0
    while gait.is_stepping(phase, still, upright):
        phase, unasked_s = gait.advance_clock(phase, unasked_s, still, upright)
        periods += 1
    return periods


def test_a_turn_that_is_missed_is_asked_for_again():
    command, error = np.array([0.5, 0.0, 0.2]), np.array(0.0)
    still, upright = np.zeros(3), np.zeros(2)
    asked, error = hold_heading(error, command, still, upright)
    # A fiftieth of a second at 0.2 rad/s is 0.004 rad, which adds 3 x 0.004 rad/s.
    assert error == pytest.approx(0.004) and asked == pytest.approx([0.5, 0.0, 0.212])
    asked, kept = hold_heading(np.array(-5.0), command, still, upright)
    assert asked[2] == -1.5, "never beyond what the network knows"
    assert kept == pytest.approx(-1.7 / 3), "who was held fast turns back by half a radian"
    asked, forgotten = hold_heading(error, still, np.array([0, 0, 0.3]), upright)
    assert forgotten == 0.0 and not asked.any(), "a stand does not turn back"
    asked, forgotten = hold_heading(error, command, still, np.array([0.0, 0.61]))
    assert forgotten == 0.0 and asked == pytest.approx(command), "nor who stumbles"


def test_a_walker_that_turns_wrongly_is_held_to_a_25th_of_its_error():
    command, error, turn = np.array([0.5, 0.0, 0.2]), np.array(0.0), 0.0
    for _ in range(500):
        asked, error = hold_heading(error, command, np.array([0.0, 0.0, turn]), np.zeros(2))
        turn = 0.8 * asked[2] + 0.1
    # Alone it would turn by 0.06 rad/s too fast; the leak of 1/10 per second leaves
    # 0.1 / (0.1 + 3 x 0.8) of that.
    assert turn - 0.2 == pytest.approx(0.06 * 0.1 / (0.1 + 2.4), rel=0.02)


def test_a_clock_runs_twice_as_fast_while_the_balance_is_far_off():
    walking, unasked_s = np.array([0.5, 0, 0]), np.array(0.0)
    for capture, periods in (([0.2, 0.2], 1), ([0.25, 0.25], 2), ([0.0, -0.31], 2)):
        phase, _ = gait.advance_clock(np.array(0.1), unasked_s, walking, np.array(capture))
        assert phase == pytest.approx(0.1 + periods / (0.74 * 50))


@pytest.mark.parametrize(
    ("roll", "pitch", "joints"),
    [
        (0.0, 0.1, {}),
        (-0.1, 0.0, {}),
        (0.0, 0.0, {"hip_pitch": 0.1}),
        (0.0, 0.0, {"hip_roll": -0.1}),
        (0.0, 0.0, {"knee": 0.1}),
        (0.0, 0.05, {"hip_pitch": 0.1, "knee": -0.1}),
    ],
)
def test_the_capture_offset_is_where_the_pelvis_hangs_over_its_feet(roll, pitch, joints):
    model = walk_model()
    data = mujoco.MjData(model)
    data.qpos[:] = model.key("home").qpos

    def pelvis_over_feet():
        mujoco.mj_kinematics(model, data)
        feet = [data.body(f"{side}_ankle_roll_link").xpos for side in ("left", "right")]
        return data.body("pelvis").xpos - np.mean(feet, axis=0)

    at_home = pelvis_over_feet()
    mujoco.mju_euler2Quat(data.qpos[3:7], np.array([roll, pitch, 0.0]), "xyz")
    joint_offset = np.zeros(29)
    for name, angle in joints.items():
        for side in ("left", "right"):
            joint_offset[JOINT_NAMES.index(f"{side}_{name}_joint")] = angle
    data.qpos[7:36] += joint_offset
    gravity = gravity_in_base(data.qpos[3:7])
    offset = gait.capture_offset(gravity, np.zeros(3), joint_offset, np.zeros(29))
    moved = (pelvis_over_feet() - at_home)[:2] / at_home[2]
    assert np.abs(moved).max() > 0.02
    assert offset == pytest.approx(moved, abs=0.03)


def test_a_pushed_stand_knows_at_once_that_a_step_alone_saves_it():
    model = walk_model()
    for speed, tips in ((0.3, False), (0.9, True)):
        data = mujoco.MjData(model)
        mujoco.mj_resetDataKeyframe(model, data, model.key("home").id)
        data.qvel[1] = speed
        mujoco.mj_step(model, data, nstep=round(0.06 / model.opt.timestep))
        gravity = gravity_in_base(data.qpos[3:7])
        joints = data.qpos[7:36] - joint_facts("home_rad")
        capture = gait.capture_offset(gravity, data.qvel[3:6], joints, data.qvel[6:35])
        assert bool(gait.is_tipping(capture, np.array(0.0))) == tips
        assert abs(gravity[1]) < 0.12, "the pelvis itself is still upright"
