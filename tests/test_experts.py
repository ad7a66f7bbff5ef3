"""Experts: the commands of hand-made moments, smoothness, and that they know only what is seen."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.contract import Status
from robots.g1.embodiment import (
    ARM_HOME_RAD,
    ARMS,
    STAND_COMMAND,
    STANDING_HEIGHT_M,
    VEL_X,
    VEL_Y,
    YAW_RATE,
)
from sim.world import WorldView
from tasks import arms, expert
from tasks.catalogue import SHIPPED
from tasks.expert import Context
from tasks.language.intent import UNKNOWN, Intent

COLOURS, SHAPES = ("red", "blue", "red"), ("cube", "ball", "cone")
RED_CUBE = Intent("go_to", "red", "cube")


def view(red_cube=(2.0, 0.0), blue_ball=(-2.0, 1.0), red_cone=(-2.0, -1.0), visible=(1, 0, 0)):
    places = np.array([[*red_cube, 0.1], [*blue_ball, 0.1], [*red_cone, 0.1]])
    return WorldView(
        time_s=0.0,
        base_pose=(0.0, 0.0, 0.0),
        arm_targets=ARM_HOME_RAD,
        colours=COLOURS,
        shapes=SHAPES,
        object_pos_m=places,
        visible=np.array(visible, dtype=bool),
        extent_px=np.where(visible, 8.0, 0.0),
        image_location=np.full((3, 2), 0.5),
    )


def act(meaning, seen, now):
    return expert.act(SHIPPED.skill(meaning).expert, meaning, seen, now)


def context(elapsed_s=0.0, odometry=(0.0, 0.0, 0.0), command=STAND_COMMAND):
    return Context(elapsed_s, np.array(odometry), command)


def test_walks_straight_to_what_is_ahead_and_plans_to_stop():
    commands, status = act(RED_CUBE, view((1.0, 0.0)), context())
    assert status == Status.ACTING
    assert commands[0, VEL_X] == pytest.approx(expert.SPEED_STEP_M_S)
    assert commands[5, VEL_X] > 0.3
    np.testing.assert_allclose(commands[:, YAW_RATE], 0, atol=1e-6)
    assert abs(commands[-1, VEL_X]) <= expert.SLOWEST_M_S + 1e-6


def test_turns_before_it_walks_to_what_is_far_aside():
    commands, _ = act(RED_CUBE, view((1.0, 1.0)), context())
    assert commands[0, VEL_X] == 0 and commands[0, YAW_RATE] > 0
    commands, _ = act(RED_CUBE, view((1.0, -1.0)), context())
    assert commands[0, VEL_X] == 0 and commands[0, YAW_RATE] < 0


@pytest.mark.parametrize("place", [(0.5, 0.0), (0.55, 0.08), (0.42, -0.08), (0.3, 0.0)])
def test_standing_before_the_object_is_done_and_stays_so(place):
    commands, status = act(RED_CUBE, view(place), context())
    assert status == Status.DONE
    np.testing.assert_array_equal(commands, np.tile(STAND_COMMAND, (16, 1)))


def test_arriving_is_not_done_before_the_command_is_a_stand():
    moving = STAND_COMMAND.copy()
    moving[VEL_X] = 0.3
    commands, status = act(RED_CUBE, view((0.5, 0.0)), context(command=moving))
    assert status == Status.ACTING
    np.testing.assert_allclose(commands[2:, :3], 0, atol=1e-6)


def test_searches_to_the_left_wherever_the_unseen_object_is():
    answers = [
        act(RED_CUBE, view(place, visible=(0, 1, 0)), context())
        for place in ((1.0, -2.0), (-2.0, 0.5))
    ]
    np.testing.assert_array_equal(answers[0][0], answers[1][0])
    assert answers[0][0][-1, YAW_RATE] == pytest.approx(expert.SEARCH_RAD_S)


def test_refuses_after_a_full_turn_has_not_found_it():
    absent = Intent("go_to", "green", "cube")
    assert act(absent, view(), context(odometry=(0, 0, 6.0)))[1] == Status.ACTING
    commands, status = act(absent, view(), context(odometry=(0, 0, 7.0)))
    assert status == Status.REFUSED
    np.testing.assert_array_equal(commands[-1], STAND_COMMAND)


def test_two_that_fit_are_ambiguous_only_when_both_are_in_view():
    red = Intent("go_to", "red")
    assert act(red, view(visible=(1, 0, 1)), context())[1] == Status.AMBIGUOUS
    assert act(red, view(visible=(1, 0, 0)), context())[1] == Status.ACTING


def test_sidesteps_away_from_an_object_in_the_way():
    left = view((3.0, 0.0), blue_ball=(1.0, 0.2), visible=(1, 1, 0))
    assert act(RED_CUBE, left, context())[0][0, VEL_Y] < 0
    right = view((3.0, 0.0), blue_ball=(1.0, -0.2), visible=(1, 1, 0))
    assert act(RED_CUBE, right, context())[0][0, VEL_Y] > 0


@pytest.mark.parametrize(
    ("meaning", "odometry", "status", "field", "sign"),
    [
        (Intent("walk_forward", amount="distance_2"), (1.0, 0, 0), Status.ACTING, VEL_X, 1),
        (Intent("walk_forward", amount="distance_2"), (1.97, 0, 0), Status.DONE, VEL_X, 0),
        (Intent("walk_backward", amount="distance_1"), (-0.2, 0, 0), Status.ACTING, VEL_X, -1),
        (Intent("step_left", amount="distance_0.5"), (0, 0.1, 0), Status.ACTING, VEL_Y, 1),
        (Intent("step_right", amount="distance_0.5"), (0, -0.5, 0), Status.DONE, VEL_Y, 0),
        (Intent("turn_left", amount="angle_360"), (0, 0, 3.2), Status.ACTING, YAW_RATE, 1),
        (Intent("turn_right", amount="angle_90"), (0, 0, -0.5), Status.ACTING, YAW_RATE, -1),
        (Intent("turn_right"), (0, 0, -1.6), Status.DONE, YAW_RATE, 0),
        (Intent("stop"), (5, 5, 5), Status.DONE, VEL_X, 0),
    ],
)
def test_walks_by_odometry(meaning, odometry, status, field, sign):
    commands, said = act(meaning, view(), context(odometry=odometry))
    assert said == status
    assert np.sign(commands[0, field]) == sign


def test_a_straight_walk_corrects_its_drift():
    commands, _ = act(Intent("walk_forward"), view(), context(odometry=(0.3, 0.2, 0.2)))
    assert commands[3, VEL_Y] < 0 and commands[3, YAW_RATE] < 0


def test_raises_the_asked_hand_and_is_done():
    meaning = Intent("raise_hand", side="left")
    commands, status = act(meaning, view(), context())
    goal = arms.raised(("left",))
    assert status == Status.ACTING
    gap, last = goal - ARM_HOME_RAD, commands[-1, ARMS] - ARM_HOME_RAD
    assert 0.6 < last @ gap / (gap @ gap) <= 1 + 1e-6
    command = STAND_COMMAND.copy()
    command[ARMS] = goal
    assert act(meaning, view(), context(3.0, command=command))[1] == Status.DONE


def test_points_once_it_faces_the_object():
    meaning = Intent("point_at", "red", "cube")
    commands, _ = act(meaning, view((1.5, -1.0)), context())
    assert commands[3, YAW_RATE] < 0
    command = STAND_COMMAND.copy()
    goal = arms.pointing("right", (1.5, 0.1, 0.1 - STANDING_HEIGHT_M))
    command[ARMS] = arms.both_arms({"right": goal})
    commands, status = act(meaning, view((1.5, 0.1)), context(3.0, command=command))
    assert status == Status.DONE and commands[0, YAW_RATE] == 0


def test_out_of_scope_is_refused_standing():
    commands, status = act(UNKNOWN, view(), context())
    assert status == Status.REFUSED
    np.testing.assert_array_equal(commands[0], STAND_COMMAND)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_chunks_are_smooth_and_equal_for_equal_moments(seed):
    rng = np.random.default_rng(seed)
    meaning = SHIPPED.tasks[rng.integers(3)].sample_meaning(rng)
    command = STAND_COMMAND.copy()
    command[:3] = rng.uniform(-0.3, 0.3, 3)
    command[ARMS] += rng.normal(0, 0.5, 14)
    seen = view(*rng.uniform(-3, 3, (3, 2)), visible=rng.integers(0, 2, 3))
    now = context(rng.uniform(0, 8), rng.normal(0, 1, 3), command)
    commands, status = act(meaning, seen, now)
    again, said = act(meaning, seen, now)
    np.testing.assert_array_equal(commands, again)
    assert status == said
    steps = np.abs(np.diff(np.vstack([command, commands]), axis=0))
    assert steps[:, :2].max() <= expert.SPEED_STEP_M_S + 1e-5
    assert steps[:, YAW_RATE].max() <= expert.TURN_STEP_RAD_S + 1e-5
    assert steps[:, ARMS].max() <= expert.ARM_STEP_RAD + 1e-5
