"""Left and right exchanged: by hand, and twice is as before."""

import numpy as np

from bridge.symmetry import joint_mirror, mirror_commands, mirror_states
from robots.g1.embodiment import COMMAND_FIELDS, G1, JOINT_NAMES, STATE_FIELDS


def test_a_mirrored_state_by_hand():
    state = np.arange(1, len(STATE_FIELDS) + 1, dtype=np.float32)
    mirrored = mirror_states(G1, state)
    seen = dict(zip(STATE_FIELDS, state, strict=True))
    found = dict(zip(STATE_FIELDS, mirrored, strict=True))
    assert found["left_hip_pitch_rad"] == seen["right_hip_pitch_rad"]
    assert found["right_shoulder_roll_rad_s"] == -seen["left_shoulder_roll_rad_s"]
    assert found["waist_yaw_rad"] == -seen["waist_yaw_rad"]
    assert found["waist_pitch_rad"] == seen["waist_pitch_rad"]
    assert found["command_base_vel_x_m_s"] == seen["command_base_vel_x_m_s"]
    for field in (
        *("base_ang_vel_x_rad_s", "base_ang_vel_z_rad_s", "gravity_y", "odometry_y_m"),
        *("odometry_yaw_rad", "command_base_vel_y_m_s", "command_base_yaw_rate_rad_s"),
    ):
        assert found[field] == -seen[field], field
    for field in ("base_ang_vel_y_rad_s", "gravity_x", "gravity_z", "odometry_x_m", "elapsed_s"):
        assert found[field] == seen[field], field


def test_mirrored_twice_is_as_before():
    rng = np.random.default_rng(0)
    states = rng.normal(size=(4, len(STATE_FIELDS))).astype(np.float32)
    commands = rng.normal(size=(4, 16, len(COMMAND_FIELDS))).astype(np.float32)
    assert np.array_equal(mirror_states(G1, mirror_states(G1, states)), states)
    assert np.array_equal(mirror_commands(G1, mirror_commands(G1, commands)), commands)
    index, _ = joint_mirror(G1)
    assert JOINT_NAMES[index[0]] == "right_hip_pitch_joint"
