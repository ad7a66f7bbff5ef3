"""The Unitree G1 with 29 joints as an embodiment, and the places of its parts by name."""

from __future__ import annotations

import numpy as np

from bridge.embodiment import Camera, CommandField, Embodiment, Limb
from robots.g1.facts import joint_facts

SIDES = ("left", "right")
LEG_JOINTS = ("hip_pitch", "hip_roll", "hip_yaw", "knee", "ankle_pitch", "ankle_roll")
WAIST_JOINTS = ("waist_yaw", "waist_roll", "waist_pitch")
ARM_JOINTS = (
    *("shoulder_pitch", "shoulder_roll", "shoulder_yaw", "elbow"),
    *("wrist_roll", "wrist_pitch", "wrist_yaw"),
)
N_ARM_JOINTS = 2 * len(ARM_JOINTS)

CONTROL_HZ, CHUNK_HZ, CHUNK_STEPS = 50.0, 10.0, 16
IMAGE_SIZE = 96
# Of all motors as they only brake; as create_damping_cmd of Unitree's unitree_rl_gym has it.
DAMP_KD_NMS_RAD = 8.0
STANDING_HEIGHT_M = 0.76
# Command ranges the walker is trained for: m/s, m/s, rad/s.
VELOCITY_LOW = np.array([-0.6, -0.4, -1.0], dtype=np.float32)
VELOCITY_HIGH = np.array([1.0, 0.4, 1.0], dtype=np.float32)
LOWEST_M, HIGHEST_M = 0.5, STANDING_HEIGHT_M
HEIGHT_RATE_M_S = 0.25
ARM_SPEED_RAD_S = 3.0
# What a command may change by within a second: four times and twice what tasks ask of base and
# arms, but no faster than legs can follow and the base can come to rest within HOLD's ramp.
VELOCITY_RATE = (6.0, 4.0, 8.0)
ARM_RATE_CHANGE_RAD_S2 = 40.0


def _joints(side: str, names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"{side}_{name}_joint" for name in names)


# In the order of Unitree's SDK.
_LIMBS = (
    *(Limb(f"{side}_leg", _joints(side, LEG_JOINTS)) for side in SIDES),
    Limb("waist", tuple(f"{name}_joint" for name in WAIST_JOINTS)),
    *(Limb(f"{side}_arm", _joints(side, ARM_JOINTS)) for side in SIDES),
)
JOINT_NAMES = tuple(joint for limb in _LIMBS for joint in limb.joints)
N_JOINTS = len(JOINT_NAMES)


def _command_fields() -> tuple[CommandField, ...]:
    """Base velocity in the base's heading frame, pelvis height over the floor, arm targets."""
    low, high = VELOCITY_LOW.tolist(), VELOCITY_HIGH.tolist()
    names = ("base_vel_x_m_s", "base_vel_y_m_s", "base_yaw_rate_rad_s")
    velocities = [
        CommandField(name, 0.0, low[i], high[i], rate, CONTROL_HZ * rate, velocity=True)
        for i, (name, rate) in enumerate(zip(names, VELOCITY_RATE, strict=True))
    ]
    rate = 2 * HEIGHT_RATE_M_S
    height = CommandField(
        "base_height_m", STANDING_HEIGHT_M, LOWEST_M, HIGHEST_M, rate, CONTROL_HZ * rate
    )
    home = dict(zip(JOINT_NAMES, joint_facts("home_rad").tolist(), strict=True))
    ends = dict(zip(JOINT_NAMES, joint_facts("range_rad").tolist(), strict=True))
    arms = [
        CommandField(
            name=joint.replace("_joint", "_rad"),
            stand=home[joint],
            low=ends[joint][0],
            high=ends[joint][1],
            rate=ARM_SPEED_RAD_S,
            rate_change=ARM_RATE_CHANGE_RAD_S2,
            joint=joint,
        )
        for limb in _LIMBS
        if limb.name.endswith("_arm")
        for joint in limb.joints
    ]
    return (*velocities, height, *arms)


def _flips(name: str) -> bool:
    """Whether what turns about the forward or vertical axis, or goes sideways, is named."""
    return any(part in name for part in ("roll", "yaw", "vel_y"))


def _make_g1() -> Embodiment:
    commands = _command_fields()
    names = (*JOINT_NAMES, *(field.name for field in commands))
    return Embodiment(
        name="unitree_g1",
        limbs=_LIMBS,
        commands=commands,
        cameras=(Camera("head", IMAGE_SIZE, IMAGE_SIZE),),
        flipped=tuple(filter(_flips, names)),
        knees=tuple(f"{side}_knee_joint" for side in SIDES),
        control_hz=CONTROL_HZ,
        chunk_hz=CHUNK_HZ,
        chunk_steps=CHUNK_STEPS,
    )


G1 = _make_g1()

COMMAND_FIELDS, COMMAND_DIM = G1.command_names, len(G1.commands)
VEL_X, VEL_Y, YAW_RATE, BASE_HEIGHT = map(G1.command_index, COMMAND_FIELDS[:4])
ARMS = slice(int(G1.targets[0]), int(G1.targets[-1]) + 1)
ARM_POS = slice(int(G1.target_joints[0]), int(G1.target_joints[-1]) + 1)
STAND_COMMAND = G1.stand
ARM_HOME_RAD = STAND_COMMAND[ARMS]
STATE_FIELDS, STATE_DIM, STATE_CONTEXT = G1.state_names, len(G1.state_names), G1.context
WAIST_PITCH = JOINT_NAMES.index("waist_pitch_joint")
KNEES = G1.joint_index(G1.knees)
PERIOD_S, CHUNK_S = G1.period_s, G1.chunk_s
