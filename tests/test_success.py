"""Success on hand-made truths with known answers."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from sim.objects import SceneObject
from sim.scene import Scene
from tasks.catalogue import SHIPPED
from tasks.language.intent import Intent
from tasks.success import PrivilegedState, Success

SCENE = Scene(
    objects=(
        SceneObject("cube", "red", (1, 0, 0), 0.1, 2.0, 0.0, 0.0),
        SceneObject("ball", "blue", (0, 0, 1), 0.1, 0.0, 2.0, 0.0),
    )
)
RED_CUBE = Intent("go_to", "red", "cube")
SHOULDERS = np.array([[0.0, 0.14, 1.04], [0.0, -0.14, 1.04]])
HOME_HANDS = np.array([[0.13, 0.19, 0.64], [0.13, -0.19, 0.64]])
UP = np.array([0.1, 0.0, 0.7])
FORWARD_DOWN = np.array([0.7, 0.0, -0.7])


def truth(time_s=0.0, base=(0.0, 0.0, 0.0), hands=HOME_HANDS, axes=None, **changes):
    values = {
        "time_s": time_s,
        "base": base,
        "pelvis_z_m": 0.76,
        "speed_m_s": 0.0,
        "yaw_rate_rad_s": 0.0,
        "fallen": False,
        "objects_m": np.array([[2.0, 0.0, 0.1], [0.0, 2.0, 0.1]]),
        "objects_up_cos": np.ones(2),
        "hands_m": np.array(hands),
        "hand_axes": np.tile(FORWARD_DOWN, (2, 1)) if axes is None else np.array(axes),
        "shoulders_m": SHOULDERS,
    }
    return PrivilegedState(**values | changes)


def success_of(meaning) -> Success:
    return SHIPPED.skill(meaning).success(meaning, SCENE)


def verdict(meaning, hold_s=1.1, start=None, **state):
    """Whether success is told after `hold_s` in one state, begun elsewhere."""
    success = success_of(meaning)
    success.begin(start or truth())
    return [success.watch(truth(t, **state)) for t in np.arange(0.02, hold_s + 0.04, 0.02)][-1]


@pytest.mark.parametrize(
    ("base", "right"),
    [
        ((1.45, 0.0, 0.0), True),
        ((1.35, 0.0, 0.0), False),
        ((1.45, 0.0, 0.6), False),
        ((2.0, 0.5, -np.pi / 2), True),
        ((2.0, 0.5, np.pi / 2), False),
    ],
)
def test_go_to_wants_the_named_object_near_and_ahead(base, right):
    assert verdict(RED_CUBE, base=base) is right


def test_go_to_is_held_for_a_second_standing():
    assert not verdict(RED_CUBE, hold_s=0.8, base=(1.5, 0, 0))
    assert not verdict(RED_CUBE, base=(1.5, 0, 0), speed_m_s=0.2)
    assert not verdict(Intent("go_to", "blue", "ball"), base=(1.5, 0, 0))


def test_whoever_tries_every_object_or_hand_fails():
    """The first state that another request asks for, held for a second, decides."""
    raised = SHOULDERS + UP
    left: dict[str, Any] = {"hands": [raised[0], HOME_HANDS[1]]}
    right: dict[str, Any] = {"hands": [HOME_HANDS[0], raised[1]]}
    cube: dict[str, Any] = {"base": (1.5, 0.0, 0.0)}
    ball: dict[str, Any] = {"base": (0.0, 1.5, np.pi / 2)}
    raise_left = Intent("raise_hand", side="left")
    for meaning, wrong, then in ((RED_CUBE, ball, cube), (raise_left, right, left)):
        for wrong_s, succeeds in ((0.9, True), (1.1, False)):
            success = success_of(meaning)
            success.begin(truth())
            for t in np.arange(0.02, wrong_s, 0.02):
                success.watch(truth(t, **wrong))
            later = [success.watch(truth(t, **then)) for t in np.arange(wrong_s, 3.0, 0.02)]
            assert later[-1] is succeeds and success.failed is not succeeds
    assert verdict(raise_left, **left) and not verdict(raise_left, hands=raised)
    passing = {**ball, "speed_m_s": 0.3}  # to walk by is not to choose
    success = success_of(RED_CUBE)
    success.begin(truth())
    assert not any(success.watch(truth(t, **passing)) for t in np.arange(0, 3, 0.02))
    assert not success.failed


def test_knocking_over_spoils_go_to_for_good():
    success = success_of(RED_CUBE)
    success.begin(truth())
    success.watch(truth(0.1, objects_up_cos=np.array([0.8, 1.0])))
    assert success.knocked and success.failed
    assert not any(success.watch(truth(t, base=(1.5, 0, 0))) for t in np.arange(0.2, 3, 0.1))


def test_a_ball_may_roll_over_but_not_away():
    still = {"base": (1.5, 0, 0), "objects_up_cos": np.array([1.0, -1.0])}
    assert verdict(RED_CUBE, **still)
    moved = np.array([[2.0, 0.0, 0.1], [0.0, 2.2, 0.1]])
    assert not verdict(RED_CUBE, base=(1.5, 0, 0), objects_m=moved)


def test_a_fall_always_fails():
    success = success_of(Intent("stop"))
    success.begin(truth())
    success.watch(truth(0.1, fallen=True))
    assert not any(success.watch(truth(t)) for t in np.arange(0.2, 3, 0.1))
    assert success.fell


@pytest.mark.parametrize(
    ("meaning", "base", "right"),
    [
        (Intent("walk_forward", amount="distance_2"), (1.6, 0.2, 0.1), True),
        (Intent("walk_forward", amount="distance_2"), (1.4, 0.0, 0.0), False),
        (Intent("walk_forward", amount="distance_2"), (2.6, 0.0, 0.0), False),
        (Intent("walk_forward", amount="distance_2"), (2.0, 0.6, 0.0), False),
        (Intent("walk_forward", amount="distance_2"), (2.0, 0.0, 0.6), False),
        (Intent("walk_forward"), (1.0, 0.0, 0.0), True),
        (Intent("walk_backward", amount="distance_1"), (-0.9, 0.0, 0.0), True),
        (Intent("walk_backward", amount="distance_1"), (0.9, 0.0, 0.0), False),
        (Intent("step_left", amount="distance_0.3"), (0.0, 0.43, 0.0), True),
        (Intent("step_left", amount="distance_0.3"), (0.0, 0.1, 0.0), False),
        (Intent("step_right"), (0.0, -0.3, 0.0), True),
        (Intent("turn_left", amount="angle_90"), (0.0, 0.0, 1.3), True),
        (Intent("turn_left", amount="angle_90"), (0.0, 0.0, 1.1), False),
        (Intent("turn_right", amount="angle_45"), (0.1, 0.0, -0.6), True),
        (Intent("turn_right", amount="angle_45"), (0.8, 0.0, -0.78), False),
        (Intent("stop"), (0.3, 0.0, 0.0), True),
        (Intent("stop"), (0.8, 0.0, 0.0), False),
    ],
)
def test_walks_are_measured_in_the_first_heading(meaning, base, right):
    assert verdict(meaning, base=base) is right
    # The same anywhere else in the world, facing anywhere.
    cos, sin = np.cos(2.0), np.sin(2.0)
    moved = (3 + cos * base[0] - sin * base[1], -1 + sin * base[0] + cos * base[1], base[2] + 2.0)
    assert verdict(meaning, base=moved, start=truth(base=(3.0, -1.0, 2.0))) is right


def test_a_full_turn_is_not_a_stand():
    success = success_of(Intent("turn_left", amount="angle_360"))
    success.begin(truth())
    assert not any(success.watch(truth(t)) for t in np.arange(0.1, 2, 0.1))
    for t in np.arange(2, 12, 0.1):
        turned = (t - 2) * 0.7
        base = (0.0, 0.0, float((min(turned, 6.2) + np.pi) % (2 * np.pi) - np.pi))
        satisfied = success.watch(truth(t, base=base))
    assert satisfied


def test_raising_wants_the_asked_hands_and_no_other():
    left, both = np.array([SHOULDERS[0] + UP, HOME_HANDS[1]]), SHOULDERS + UP
    assert verdict(Intent("raise_hand", side="left"), hands=left)
    assert not verdict(Intent("raise_hand", side="right"), hands=left)
    assert verdict(Intent("raise_hand"), hands=left)
    assert not verdict(Intent("raise_hand", side="left"), hands=both)
    assert verdict(Intent("raise_hand", side="both"), hands=both)
    assert not verdict(Intent("raise_hand", side="left"), hold_s=0.7, hands=left)


@pytest.mark.parametrize(
    ("asked", "waving", "amplitude", "right"),
    [
        (None, [1], 0.15, True),
        (None, [1], 0.04, False),
        ("left", [1], 0.15, False),
        ("left", [0], 0.15, True),
        ("left", [0, 1], 0.15, False),
        (None, [0, 1], 0.15, False),
        ("both", [1], 0.15, False),
        ("both", [0, 1], 0.15, True),
    ],
)
def test_a_wave_swings_twice(asked, waving, amplitude, right):
    success = success_of(Intent("wave", side=asked))
    success.begin(truth())
    satisfied = []
    for t in np.arange(0, 4, 0.02):
        hands = HOME_HANDS.copy()
        hands[waving] = SHOULDERS[waving] + UP + [0, amplitude * np.sin(2 * np.pi * 0.8 * t), 0]
        satisfied.append(success.watch(truth(t, hands=hands)))
    assert satisfied[-1] is right
    assert not any(satisfied[:50])


@pytest.mark.parametrize(("angle_deg", "right"), [(0, True), (15, True), (25, False)])
def test_pointing_aims_hand_and_arm_at_the_object(angle_deg, right):
    towards = np.array([2.0, 0.0, 0.1]) - SHOULDERS[1]
    angle = np.deg2rad(angle_deg)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0]])
    aim = np.array([*(turn @ towards), towards[2]]) / np.linalg.norm(towards)
    hands = np.array([HOME_HANDS[0], SHOULDERS[1] + 0.45 * aim])
    state = {"hands": hands, "axes": [FORWARD_DOWN, aim]}
    meaning = Intent("point_at", "red", "cube")
    assert verdict(meaning, **state) is right
    assert not verdict(Intent("point_at", "blue", "ball"), **state)
    assert verdict(replace(meaning, side="right"), **state) is right
    assert not verdict(replace(meaning, side="left"), **state)
    assert not verdict(meaning)


def test_pointing_at_two_objects_at_once_is_pointing_at_neither():
    aims = np.array([[0.0, 2.0, 0.1], [2.0, 0.0, 0.1]]) - SHOULDERS
    aims /= np.linalg.norm(aims, axis=1, keepdims=True)
    state = {"hands": SHOULDERS + 0.45 * aims, "axes": aims}
    for meaning in (Intent("point_at", "red", "cube"), Intent("point_at", "blue", "ball")):
        assert not verdict(meaning, **state)
        for side in ("left", "right"):
            assert not verdict(replace(meaning, side=side), **state)


def test_waving_one_hand_after_the_other_is_not_waving_both():
    success = success_of(Intent("wave", side="both"))
    success.begin(truth())
    for t in np.arange(0, 8, 0.02):
        hands, waving = HOME_HANDS.copy(), int(t >= 4)
        hands[waving] = SHOULDERS[waving] + UP + [0, 0.15 * np.sin(2 * np.pi * 0.8 * t), 0]
        assert not success.watch(truth(t, hands=hands))


def test_lowered_hands_are_below_the_waist():
    assert verdict(Intent("lower_arms"))
    assert not verdict(Intent("lower_arms"), hands=np.array([SHOULDERS[0] + UP, HOME_HANDS[1]]))
