"""A body as a value: its joints, what it can be commanded, what it senses, and how often.

Whatever is about one robot is found here by name. Two bodies are the same to a policy when their
`terms` are; limits, stance and symmetry belong to the body alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate, pairwise, zip_longest
from typing import Annotated, Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import ArrayLike, DTypeLike

_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
_Side = Annotated[int, msgspec.Meta(ge=1, le=2048)]
_Many = msgspec.Meta(max_length=256)
_Hz = Annotated[float, msgspec.Meta(gt=0, le=10_000)]

SAME_BODY = "use a policy that was trained for this robot"


@dataclass(frozen=True)
class Camera:
    """A camera by name and the size of its pictures in pixels."""

    name: _Name
    height: _Side
    width: _Side


@dataclass(frozen=True)
class Limb:
    """Joints that belong together, such as those of the left arm."""

    name: _Name
    joints: Annotated[tuple[_Name, ...], _Many]


@dataclass(frozen=True)
class CommandField:
    """One number of a command, in the unit that ends its name.

    `stand` is its value while the robot stands. It stays within `low` and `high`, changes by at
    most `rate` per second, and that by at most `rate_change` per second. A `velocity` comes to rest
    when the robot holds; `joint` names the joint whose target it is.
    """

    name: _Name
    stand: float
    low: float
    high: float
    rate: float
    rate_change: float
    joint: str = ""
    velocity: bool = False

    def __post_init__(self) -> None:
        if not (self.low <= self.stand <= self.high and self.rate > 0 and self.rate_change > 0):
            raise ValueError(f"the limits of {self.name} do not hold its value at stand")


@dataclass(frozen=True)
class Limits:
    """Limits of a whole command, (COMMANDS,) float64 each, and the period they are kept in.

    Units are those of the command's fields, for rates per second and per second squared.
    """

    low: np.ndarray
    high: np.ndarray
    rate: np.ndarray
    rate_change: np.ndarray
    period_s: float


class Difference(NamedTuple):
    """A term in which two bodies are not the same, and what each has there."""

    term: str
    ours: str
    theirs: str

    def __str__(self) -> str:
        return f"{self.term} differs, {self.ours} here and {self.theirs} there"


@dataclass(frozen=True)
class Embodiment:
    """One kind of robot. `joints` are those of its limbs, one limb after another.

    A state is one float32 vector: joint positions (rad) and velocities (rad/s) in the order of
    `joints`; angular velocity (rad/s) and gravity (a unit vector, (0, 0, -1) when upright) in the
    frame of the base's IMU; the command in execution; and, since the instruction began, seconds and
    odometry (x m, y m, yaw rad; continuous, with drift) in the base's heading frame of that moment.

    `flipped` are the joints and command fields that change their sign in a left-right mirror image.
    `knees` are the joints that are all bent when the robot kneels. A policy answers with
    `chunk_steps` commands at `chunk_hz`; a command is in force for one period of `control_hz`.
    """

    name: _Name
    limbs: Annotated[tuple[Limb, ...], _Many]
    commands: Annotated[tuple[CommandField, ...], _Many]
    cameras: Annotated[tuple[Camera, ...], msgspec.Meta(max_length=8)]
    flipped: Annotated[tuple[_Name, ...], msgspec.Meta(max_length=512)]
    knees: Annotated[tuple[_Name, ...], _Many]
    control_hz: _Hz
    chunk_hz: _Hz
    chunk_steps: Annotated[int, msgspec.Meta(ge=1, le=1024)]

    def __post_init__(self) -> None:
        named = [self.joints, self.command_names, [camera.name for camera in self.cameras]]
        for names in named:
            if len(set(names)) < len(names):
                raise ValueError(f"{self.name} has two of the same name among {', '.join(names)}")
        targets = [field.joint for field in self.commands if field.joint]
        for name in (*targets, *self.knees):
            if name not in self.joints:
                raise ValueError(f"{self.name} has no joint {name}")

    def __hash__(self) -> int:
        return hash(self.embodiment_hash)  # of the whole it would take as long as what it saves

    @staticmethod
    def from_dict(content: object) -> Embodiment:
        """The body that `to_dict` wrote, also after a trip through JSON; ValueError if none."""
        return msgspec.convert(content, Embodiment)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return msgspec.to_builtins(self)

    # --- names and places ---

    @cached_property
    def joints(self) -> tuple[str, ...]:
        return tuple(joint for limb in self.limbs for joint in limb.joints)

    @cached_property
    def command_names(self) -> tuple[str, ...]:
        return tuple(field.name for field in self.commands)

    @cached_property
    def state_names(self) -> tuple[str, ...]:
        angles = [joint.removesuffix("_joint") for joint in self.joints]
        return (
            *(f"{angle}_rad" for angle in angles),
            *(f"{angle}_rad_s" for angle in angles),
            *(f"base_ang_vel_{axis}_rad_s" for axis in "xyz"),
            *(f"gravity_{axis}" for axis in "xyz"),
            *(f"command_{name}" for name in self.command_names),
            *("elapsed_s", "odometry_x_m", "odometry_y_m", "odometry_yaw_rad"),
        )

    @cached_property
    def state_parts(self) -> dict[str, slice]:
        """Where each part of a state lies, by name, in order."""
        widths = {
            "joint_pos_rad": len(self.joints),
            "joint_vel_rad_s": len(self.joints),
            "base_ang_vel_rad_s": 3,
            "gravity": 3,
            "command": len(self.commands),
            "elapsed_s": 1,
            "odometry": 3,
        }
        ends = accumulate(widths.values(), initial=0)
        return {name: slice(*place) for name, place in zip(widths, pairwise(ends), strict=True)}

    @cached_property
    def context(self) -> slice:
        """The part of a state that counts from the start of an instruction."""
        return slice(self.state_parts["elapsed_s"].start, self.state_parts["odometry"].stop)

    def state(self, **parts: ArrayLike) -> np.ndarray:
        """(STATE,) float32 from its parts, named as in `state_parts`."""
        assert parts.keys() == self.state_parts.keys(), "a state has all of its parts"
        whole = np.empty(len(self.state_names), np.float32)
        for name, place in self.state_parts.items():
            whole[place] = parts[name]
        return whole

    def joint_index(self, names: Iterable[str]) -> np.ndarray:
        """Where the named joints stand among `joints`."""
        return np.array([self.joints.index(name) for name in names], np.intp)

    def command_index(self, name: str) -> int:
        """Where the named field stands in a command."""
        return self.command_names.index(name)

    @cached_property
    def velocities(self) -> np.ndarray:
        """Places in a command of what comes to rest when the robot holds."""
        return np.flatnonzero([field.velocity for field in self.commands])

    @cached_property
    def targets(self) -> np.ndarray:
        """Places in a command of what a joint is to follow."""
        return np.flatnonzero([bool(field.joint) for field in self.commands])

    @cached_property
    def target_joints(self) -> np.ndarray:
        """Places among `joints` of those that follow the `targets`, in their order."""
        return self.joint_index(field.joint for field in self.commands if field.joint)

    # --- numbers ---

    @cached_property
    def stand(self) -> np.ndarray:
        """(COMMANDS,) float32, the command of a robot that stands."""
        return _read_only([field.stand for field in self.commands], np.float32)

    @cached_property
    def limits(self) -> Limits:
        """The limits of a command."""
        bounds = {
            name: _read_only([getattr(field, name) for field in self.commands], np.float64)
            for name in ("low", "high", "rate", "rate_change")
        }
        return Limits(**bounds, period_s=self.period_s)

    @property
    def period_s(self) -> float:
        """How long a command is in force."""
        return 1 / self.control_hz

    @property
    def chunk_s(self) -> float:
        """How long a chunk lasts."""
        return self.chunk_steps / self.chunk_hz

    @property
    def chunk_shape(self) -> tuple[int, int]:
        """The shape of a chunk's commands."""
        return self.chunk_steps, len(self.commands)

    # --- comparison ---

    @cached_property
    def terms(self) -> Mapping[str, tuple[str, ...]]:
        """All that a policy for this body depends on, by kind."""
        return {
            "joint": self.joints,
            "command field": self.command_names,
            "state field": self.state_names,
            "control rate": (f"{self.control_hz:g} Hz",),
            "chunk rate": (f"{self.chunk_hz:g} Hz",),
            "chunk length": (f"{self.chunk_steps} steps",),
            "camera": tuple(f"{c.name} ({c.height}, {c.width})" for c in self.cameras),
        }

    @cached_property
    def embodiment_hash(self) -> str:
        """Twelve hex digits that change with any of the `terms`."""
        return hashlib.sha256(json.dumps(self.terms).encode()).hexdigest()[:12]

    def difference(self, other: Embodiment) -> Difference | None:
        """The first of the `terms` that is not the same in another body."""
        for term, ours in self.terms.items():
            pairs = zip_longest(ours, other.terms[term], fillvalue="nothing")
            for place, (mine, theirs) in enumerate(pairs, start=1):
                if mine != theirs:
                    return Difference(f"{term} {place}" if len(ours) > 1 else term, mine, theirs)
        return None

    def with_cameras(self, cameras: Iterable[Camera]) -> Embodiment:
        """This body with those of the cameras that it has, by name, in their sizes."""
        names = {camera.name for camera in self.cameras}
        return replace(self, cameras=tuple(c for c in cameras if c.name in names))

    def lacks(self, policy: Embodiment) -> Difference | None:
        """The first thing that a policy for the body `policy` would not find in this one.

        More cameras do no harm, nor do pictures of another size: they are scaled.
        """
        return self.with_cameras(policy.cameras).difference(policy)


def _read_only(values: list[float], dtype: DTypeLike) -> np.ndarray:
    array: np.ndarray = np.array(values, dtype)
    array.flags.writeable = False
    return array
