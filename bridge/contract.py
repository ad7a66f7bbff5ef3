"""The contract between mind and body: every type, name, unit and rate that crosses the doorway.

SI units, float32, quaternions wxyz. Images are uint8 RGB, row 0 at the top.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from dataclasses import dataclass
from enum import IntEnum
from itertools import accumulate, pairwise
from typing import Protocol

import numpy as np

# The 29 actuated joints in the order of Unitree's SDK.
LEG_JOINTS = ("hip_pitch", "hip_roll", "hip_yaw", "knee", "ankle_pitch", "ankle_roll")
WAIST_JOINTS = ("waist_yaw", "waist_roll", "waist_pitch")
ARM_JOINTS = (
    "shoulder_pitch",
    "shoulder_roll",
    "shoulder_yaw",
    "elbow",
    "wrist_roll",
    "wrist_pitch",
    "wrist_yaw",
)
JOINT_NAMES: tuple[str, ...] = tuple(
    f"{name}_joint"
    for name in (
        *(f"{side}_{joint}" for side in ("left", "right") for joint in LEG_JOINTS),
        *WAIST_JOINTS,
        *(f"{side}_{joint}" for side in ("left", "right") for joint in ARM_JOINTS),
    )
)
N_JOINTS = len(JOINT_NAMES)
N_ARM_JOINTS = 2 * len(ARM_JOINTS)

# What the walker and the arms are asked: base velocity in the base's own heading frame, pelvis
# height above the floor, and the 14 arm joint targets.
COMMAND_FIELDS: tuple[str, ...] = (
    "base_vel_x_m_s",
    "base_vel_y_m_s",
    "base_yaw_rate_rad_s",
    "base_height_m",
    *(name.replace("_joint", "_rad") for name in JOINT_NAMES[-N_ARM_JOINTS:]),
)
COMMAND_DIM = len(COMMAND_FIELDS)
VEL_X, VEL_Y, YAW_RATE, BASE_HEIGHT = range(4)
ARMS = slice(4, COMMAND_DIM)

STANDING_HEIGHT_M = 0.76
ARM_HOME_RAD = np.array([0.2, 0.2, 0, 0.6, 0, 0, 0, 0.2, -0.2, 0, 0.6, 0, 0, 0], dtype=np.float32)
STAND_COMMAND = np.concatenate([[0, 0, 0, STANDING_HEIGHT_M], ARM_HOME_RAD]).astype(np.float32)

CHUNK_STEPS = 16
CHUNK_HZ = 10.0
CONTROL_HZ = 50.0
DAMP_KD_NMS_RAD = 8.0
IMAGE_SIZE = 96
INSTRUCTION_MAX_BYTES = 1024


class Status(IntEnum):
    """What the policy says of its instruction."""

    ACTING = 0
    DONE = 1
    REFUSED = 2
    AMBIGUOUS = 3


@dataclass(frozen=True)
class Observation:
    """What the body knows at one moment.

    Joint arrays are (29,) in the order of `JOINT_NAMES`. Angular velocity and gravity (a unit
    vector, (0, 0, -1) when upright) are (3,) in the pelvis IMU's frame. `command` (18,) is the one
    being executed. `elapsed_s` and `odometry` (x m, y m, yaw rad; continuous, not wrapped; with
    drift) count from the moment the instruction began, in the base's heading frame of that moment.
    `image` is (IMAGE_SIZE, IMAGE_SIZE, 3) uint8 from the head camera, taken `image_age_s` before;
    the age stays with the robot, it is not sent.
    """

    time_s: float
    joint_pos_rad: np.ndarray
    joint_vel_rad_s: np.ndarray
    base_ang_vel_rad_s: np.ndarray
    gravity: np.ndarray
    command: np.ndarray
    elapsed_s: float
    odometry: np.ndarray
    image: np.ndarray
    image_age_s: float = 0.0

    def state(self) -> np.ndarray:
        """All but time and image as one (STATE_DIM,) float32 vector, ordered as `STATE_FIELDS`."""
        return np.concatenate(
            [
                self.joint_pos_rad,
                self.joint_vel_rad_s,
                self.base_ang_vel_rad_s,
                self.gravity,
                self.command,
                [self.elapsed_s],
                self.odometry,
            ],
            dtype=np.float32,
            casting="same_kind",
        )

    @classmethod
    def from_state(cls, time_s: float, state: np.ndarray, image: np.ndarray) -> Observation:
        """The observation whose `state()` is `state` (STATE_DIM,)."""
        *body, elapsed_s, odometry = [state[part] for part in _STATE_PARTS]
        return cls(time_s, *body, elapsed_s=float(elapsed_s[0]), odometry=odometry, image=image)


STATE_FIELDS: tuple[str, ...] = (
    *(name.replace("_joint", "_rad") for name in JOINT_NAMES),
    *(name.replace("_joint", "_rad_s") for name in JOINT_NAMES),
    *(f"base_ang_vel_{axis}_rad_s" for axis in "xyz"),
    *(f"gravity_{axis}" for axis in "xyz"),
    *(f"command_{field}" for field in COMMAND_FIELDS),
    "elapsed_s",
    "odometry_x_m",
    "odometry_y_m",
    "odometry_yaw_rad",
)
STATE_DIM = len(STATE_FIELDS)
_STATE_ENDS = list(accumulate((N_JOINTS, N_JOINTS, 3, 3, COMMAND_DIM, 1, 3), initial=0))
_STATE_PARTS = [slice(*ends) for ends in pairwise(_STATE_ENDS)]
# The part of the state that counts from the start of an instruction: relabelling replaces it.
STATE_CONTEXT = slice(STATE_DIM - 4, STATE_DIM)


@dataclass(frozen=True)
class Thinking:
    """How a chunk came about, for people to see.

    `expert_use` is, per layer, the share of one in which each expert was chosen, empty for a policy
    without any; `tokens` were decoded in `steps`, 0 where nothing is decoded.
    """

    expert_use: tuple[tuple[float, ...], ...] = ()
    tokens: int = 0
    steps: int = 0


@dataclass(frozen=True)
class ActionChunk:
    """The policy's answer: (CHUNK_STEPS, COMMAND_DIM) commands at CHUNK_HZ from `observed_at_s`.

    `status_probability` belongs to `status`. `understood` is the policy's own reading of the
    instruction, slot name to value, for people to read.
    """

    observed_at_s: float
    commands: np.ndarray
    status: Status
    status_probability: float
    understood: dict[str, str]
    thinking: Thinking = Thinking()


class Policy(Protocol):
    """Anything that turns an instruction and an observation into a chunk of commands."""

    def act(self, instruction: str, observation: Observation) -> ActionChunk: ...

    def reset(self) -> None: ...


# How long motors may wait for a command; then they brake by themselves.
COMMAND_TIMEOUT_S = 0.1


class Robot(Protocol):
    """Anything with a body: simulated in real time or faster, or made of metal.

    A body must not go on as it was last told when nobody tells it anything any more: the loop may
    hang, be suspended or be killed, or wait for `observe`. So a driver damps, as `damp` does, once
    COMMAND_TIMEOUT_S have passed without `apply`, `hold` or `damp`, until one of them is called.
    It needs a watchdog for that which lives where the motors are, not in the loop's process.
    """

    def observe(self) -> Observation: ...

    def apply(self, command: np.ndarray) -> None:
        """Executes a (18,) command for one control period (1 / CONTROL_HZ).

        Whatever it raises ends in DAMP, and is told to the operator.
        """
        ...

    def hold(self) -> None:
        """Stands still for one control period, arms where they are."""
        ...

    def damp(self) -> None:
        """Lets the motors only brake for one control period: kp 0, kd DAMP_KD_NMS_RAD."""
        ...

    def begin_instruction(self) -> None:
        """Lets elapsed time and odometry count from now."""
        ...


class UserError(Exception):
    """A fault the user can mend; its one-line message names the remedy."""


def check_instruction(instruction: object) -> str:
    """The instruction without outer white space; UserError when it is not a line of text."""
    if not isinstance(instruction, str):
        raise UserError(
            f"an instruction is text, not {type(instruction).__name__}: write a sentence"
        )
    text = instruction.strip()
    if not text:
        raise UserError('the instruction is empty: say what to do, as in "walk to the red ball"')
    if not text.isprintable() and any(unicodedata.category(c) in ("Cc", "Cs") for c in text):
        raise UserError("the instruction holds control characters: write it as one line of text")
    if len(text.encode()) > INSTRUCTION_MAX_BYTES:
        raise UserError(
            f"the instruction is longer than {INSTRUCTION_MAX_BYTES} bytes: say it in fewer words"
        )
    return text


def contract_hash() -> str:
    """Twelve hex digits that change with any name, size or rate of the contract."""
    terms = [JOINT_NAMES, COMMAND_FIELDS, STATE_FIELDS, CHUNK_STEPS, CHUNK_HZ, IMAGE_SIZE]
    return hashlib.sha256(json.dumps(terms).encode()).hexdigest()[:12]
