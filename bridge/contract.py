"""The contract between mind and body: the types that cross the doorway.

Joints, commands, cameras and rates are those of a robot's `Embodiment`. SI units, float32,
quaternions wxyz. Images are uint8 RGB, row 0 at the top.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Protocol

import numpy as np

from bridge.embodiment import Embodiment

INSTRUCTION_MAX_BYTES = 1024


class Status(IntEnum):
    """What the policy says of its instruction."""

    ACTING = 0
    DONE = 1
    REFUSED = 2
    AMBIGUOUS = 3


class Refusal(StrEnum):
    """Why a policy refuses: too many words, unknown ones, no such thing in sight, inability."""

    LENGTH = "length"
    WORDS = "words"
    UNSEEN = "unseen"
    UNABLE = "unable"


@dataclass(frozen=True)
class Observation:
    """What a body knows at one moment.

    `state` (STATE,) float32 has the parts that `Embodiment` describes, each also by name. `images`
    has a (H, W, 3) uint8 picture of each camera by its name, taken `image_age_s` before; the age
    stays with the robot, it is not sent.
    """

    embodiment: Embodiment
    time_s: float
    state: np.ndarray
    images: Mapping[str, np.ndarray]
    image_age_s: float = 0.0

    @property
    def joint_pos_rad(self) -> np.ndarray:
        """(JOINTS,)."""
        return self._part("joint_pos_rad")

    @property
    def joint_vel_rad_s(self) -> np.ndarray:
        """(JOINTS,)."""
        return self._part("joint_vel_rad_s")

    @property
    def base_ang_vel_rad_s(self) -> np.ndarray:
        """(3,) in the frame of the base's IMU."""
        return self._part("base_ang_vel_rad_s")

    @property
    def gravity(self) -> np.ndarray:
        """(3,) a unit vector in the frame of the base's IMU."""
        return self._part("gravity")

    @property
    def command(self) -> np.ndarray:
        """(COMMANDS,) the one being executed."""
        return self._part("command")

    @property
    def elapsed_s(self) -> float:
        """Since the instruction began."""
        return float(self._part("elapsed_s")[0])

    @property
    def odometry(self) -> np.ndarray:
        """(3,) x m, y m, yaw rad since the instruction began."""
        return self._part("odometry")

    def _part(self, name: str) -> np.ndarray:
        return self.state[self.embodiment.state_parts[name]]


@dataclass(frozen=True)
class InferenceStats:
    """How a chunk came about, for people to see.

    `expert_use` is, per layer, the share of one in which each expert was chosen, empty for a policy
    without any; `tokens` were decoded in `steps`, 0 where nothing is decoded.
    """

    expert_use: tuple[tuple[float, ...], ...] = ()
    tokens: int = 0
    steps: int = 0


@dataclass(frozen=True)
class ActionChunk:
    """The policy's answer: (STEPS, COMMANDS) commands at the chunk rate from `observed_at_s`.

    `status_probability` belongs to `status`. `understood` is the policy's own reading of the
    instruction, slot name to value, for people to read. `reason` is a Refusal where the status is
    one; "" where it is not told, as by earlier releases, or there is none.
    """

    observed_at_s: float
    commands: np.ndarray
    status: Status
    status_probability: float
    understood: dict[str, str]
    stats: InferenceStats = InferenceStats()
    reason: str = ""


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
        """Executes a (COMMANDS,) command for one control period.

        Whatever it raises ends in DAMP, and is told to the operator.
        """
        ...

    def hold(self) -> None:
        """Stands still for one control period, arms where they are."""
        ...

    def damp(self) -> None:
        """Lets the motors only brake for one control period: kp 0."""
        ...

    def begin_instruction(self) -> None:
        """Lets elapsed time and odometry count from now."""
        ...


class UserError(Exception):
    """A fault the user can mend; its one-line message names the remedy."""


def as_seen(text: str) -> str:
    """Text in Unicode's form NFKC, without characters of the category Cf, which nobody sees."""
    seen = "".join(c for c in text if unicodedata.category(c) != "Cf")
    return unicodedata.normalize("NFKC", seen)


def check_instruction(instruction: object) -> str:
    """The instruction as it is heard; UserError when it is not a line of text.

    That is without white space around it and without marks that nobody sees (those of zero width
    and of direction), in Unicode's form NFKC: letters of full width are plain ones.
    """
    if not isinstance(instruction, str):
        raise UserError(
            f"an instruction is text, not {type(instruction).__name__}: write a sentence"
        )
    text = instruction.strip()
    if not text.isprintable() and any(unicodedata.category(c) in _NO_LINE for c in text):
        raise UserError("the instruction holds control characters: write it as one line of text")
    _refuse_long(text)  # before it is read, and after: some characters become many
    text = as_seen(text).strip()
    _refuse_long(text)
    if not text:
        raise UserError('the instruction is empty: say what to do, as in "walk to the red ball"')
    for word in text.split() if not text.isascii() else ():
        _refuse_lookalike(word)
    return text


# Control characters, halves of surrogate pairs, separators of lines and paragraphs.
_NO_LINE = ("Cc", "Cs", "Zl", "Zp")
_LOOKALIKES = ("CYRILLIC", "GREEK")


def _refuse_long(text: str) -> None:
    if len(text.encode()) > INSTRUCTION_MAX_BYTES:
        raise UserError(
            f"the instruction is longer than {INSTRUCTION_MAX_BYTES} bytes: say it in fewer words"
        )


def _refuse_lookalike(word: str) -> None:
    """A word of two alphabets reads as one that people know, and is another."""
    names = [unicodedata.name(c, "") for c in word if c.isalpha()]
    foreign = [name for name in names if name.startswith(_LOOKALIKES)]
    if foreign and any(name.startswith("LATIN") for name in names):
        raise UserError(f"{word!r} holds a {foreign[0]} among Latin letters: type the word again")
