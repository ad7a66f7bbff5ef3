"""A robot as a value: its parts by name, and how two of them differ."""

from __future__ import annotations

import json
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from bridge.contract import Observation
from bridge.embodiment import Camera, CommandField, Difference, Embodiment
from bridge.symmetry import mirror_commands
from policy.runtime.legacy import release_0_1
from robots.g1.embodiment import G1

PITCH = CommandField("torso_pitch_rad", 0.0, -0.2, 0.5, 0.5, 25.0)
GRASP = CommandField("left_hand_closure", 0.0, 0.0, 1.0, 2.0, 100.0)
WRIST = Camera("wrist", 48, 64)
# The G1 with what comes last in its command being no arm any more, and with two cameras.
HANDY = replace(
    G1, name="handy_g1", commands=(*G1.commands, PITCH, GRASP), cameras=(*G1.cameras, WRIST)
)


def test_the_g1_by_name():
    assert len(G1.joints) == 29 and len(G1.commands) == 18 and len(G1.state_names) == 86
    assert G1.command_index("base_height_m") == 3 and G1.velocities.tolist() == [0, 1, 2]
    assert G1.targets.tolist() == list(range(4, 18))
    assert G1.target_joints.tolist() == list(range(15, 29))
    assert [G1.joints[i] for i in G1.joint_index(G1.knees)] == [
        "left_knee_joint",
        "right_knee_joint",
    ]
    assert G1.context == slice(82, 86) and G1.state_names[82:84] == ("elapsed_s", "odometry_x_m")
    assert G1.stand[3] == np.float32(0.76) and G1.stand[4:7].tolist() == pytest.approx(
        [0.2, 0.2, 0]
    )
    assert (G1.limits.low <= G1.stand).all() and G1.limits.rate[:4].tolist() == [6, 4, 8, 0.5]
    assert (G1.period_s, G1.chunk_s, G1.chunk_shape) == (0.02, 1.6, (16, 18))


def test_arms_stay_arms_behind_other_fields():
    assert HANDY.targets.tolist() == G1.targets.tolist()
    assert HANDY.target_joints.tolist() == G1.target_joints.tolist()
    assert HANDY.command_names[18:] == ("torso_pitch_rad", "left_hand_closure")
    assert HANDY.state_parts["command"] == slice(64, 84)


def test_a_state_has_its_parts_by_name():
    names = np.arange(86, dtype=np.float32)
    seen = Observation(G1, 0.0, names, {})
    assert seen.joint_vel_rad_s[0] == 29 and seen.base_ang_vel_rad_s.tolist() == [58, 59, 60]
    assert seen.gravity.tolist() == [61, 62, 63] and seen.command[0] == 64
    assert seen.elapsed_s == 82 and seen.odometry.tolist() == [83, 84, 85]
    parts = {name: names[place] for name, place in G1.state_parts.items()}
    assert np.array_equal(G1.state(**parts), names)
    with pytest.raises(AssertionError, match="all of its parts"):
        G1.state(gravity=(0, 0, -1))


def test_it_survives_json():
    again = Embodiment.from_dict(json.loads(json.dumps(HANDY.to_dict())))
    assert again == HANDY and again.embodiment_hash == HANDY.embodiment_hash
    assert release_0_1() == G1  # until the G1 itself changes


def test_the_first_difference_is_named():
    assert G1.difference(replace(G1, name="another", flipped=())) is None
    assert G1.difference(HANDY) == Difference("command field 19", "nothing", "torso_pitch_rad")
    assert str(HANDY.difference(G1)) == (
        "command field 19 differs, torso_pitch_rad here and nothing there"
    )
    faster = replace(G1, control_hz=100.0)
    assert str(G1.difference(faster)) == "control rate differs, 50 Hz here and 100 Hz there"
    assert len({body.embodiment_hash for body in (G1, HANDY, faster)}) == 3
    swapped = replace(G1, commands=(G1.commands[1], G1.commands[0], *G1.commands[2:]))
    assert G1.difference(swapped) == ("command field 1", "base_vel_x_m_s", "base_vel_y_m_s")


def test_what_a_policy_needs():
    seeing = replace(G1, cameras=(*G1.cameras, WRIST))
    large = replace(G1, cameras=(Camera("head", 480, 640),))
    assert seeing.lacks(G1) is None and large.lacks(G1) is None
    assert str(G1.lacks(seeing)).endswith("nothing here and wrist (48, 64) there")
    assert G1.lacks(HANDY) == ("command field 19", "nothing", "torso_pitch_rad")


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"knees": ("left_wing_joint",)}, "no joint left_wing_joint"),
        ({"commands": (*G1.commands, G1.commands[0])}, "two of the same name"),
        ({"cameras": G1.cameras * 2}, "two of the same name"),
    ],
)
def test_a_body_that_cannot_be(changes, complaint):
    with pytest.raises(ValueError, match=complaint):
        replace(G1, **changes)
    content = msgspec.to_builtins(G1) | msgspec.to_builtins(changes)
    with pytest.raises(ValueError, match=complaint):
        Embodiment.from_dict(content)


@pytest.mark.parametrize(
    "numbers", [(2.0, 0.0, 1.0, 1.0), (0.0, float("nan"), 1.0, 1.0), (0, 0, 1, 0)]
)
def test_limits_that_cannot_be(numbers):
    with pytest.raises(ValueError, match="limits of x"):
        CommandField("x", *numbers, 1.0)


def test_fields_without_a_side_stay_in_the_mirror():
    both = replace(HANDY, commands=(*HANDY.commands, replace(GRASP, name="right_hand_closure")))
    command = np.arange(21, dtype=np.float32)
    mirrored = mirror_commands(both, command)
    assert mirrored[18:].tolist() == [18, 20, 19] and mirrored[:3].tolist() == [0, -1, -2]
