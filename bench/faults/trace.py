"""What came of a fault, and the proof: whether all that reached the motors was within limits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from bridge.blackbox.recording import Recording
from bridge.control.safety import Level
from bridge.embodiment import Limits
from robots.g1.embodiment import G1, N_JOINTS, PERIOD_S
from robots.g1.facts import joint_facts

# How far float32 takes a value, its rate and its rate's change beyond their limits.
_ROUNDING = (1e-6, 1e-4, 1e-2)


@dataclass(frozen=True)
class FaultOutcome:
    """What came of a fault: what the robot did, what its operator read, what was lost.

    `passed`: all that the fault claims holds, and nothing that is not finite or beyond the limits
    reached the motors. What does not hold is told first in `robot`.
    """

    passed: bool
    robot: str
    operator: str
    lost: str


def verdict(wrong: Sequence[str], robot: str, operator: str, lost: str = "nothing") -> FaultOutcome:
    """An outcome; it passed when nothing is wrong."""
    told = f"BUT {'; '.join(wrong)}. " if wrong else ""
    return FaultOutcome(not wrong, told + robot, " ".join(operator.split()), lost)


def breaches(sent: Sequence[np.ndarray | None], limits: Limits) -> list[str]:
    """What of a trace is not finite or beyond the limits; None is a period of brakes alone."""
    found: dict[str, None] = {}
    for part in _parts(sent):
        if not np.isfinite(part).all():
            found["a command was not finite"] = None
            continue
        value, rate, change = _ROUNDING
        rates = np.diff(part, axis=0) / PERIOD_S
        if (part < limits.low - value).any() or (part > limits.high + value).any():
            found["a command was beyond its range"] = None
        if (np.abs(rates) > limits.rate + rate).any():
            found["a command changed too fast"] = None
        if (np.abs(np.diff(rates, axis=0)) / PERIOD_S > limits.rate_change + change).any():
            found["a command's rate changed too fast"] = None
    return list(found)


def joint_breaches(targets: Sequence[np.ndarray]) -> list[str]:
    """What of the joint targets (29,) rad that the walker made of commands is no possible pose."""
    path = np.asarray(targets, np.float64).reshape(-1, N_JOINTS)
    low, high = joint_facts("range_rad").T
    if not np.isfinite(path).all():
        return ["a joint target was not finite"]
    outside = (path < low - _ROUNDING[0]) | (path > high + _ROUNDING[0])
    return ["a joint target was beyond its range"] if outside.any() else []


def breaches_of(recording: Recording) -> list[str]:
    """The same of what a black box kept."""
    levels = recording.level.tolist()
    sent = [None if b == Level.DAMP else a for a, b in zip(recording.sent, levels, strict=True)]
    return breaches(sent, G1.limits)


def _parts(sent: Sequence[np.ndarray | None]) -> Iterator[np.ndarray]:
    """The stretches between periods of brakes, after which commands begin where the joints are."""
    part: list[np.ndarray] = []
    for command in [*sent, None]:
        if command is not None:
            part.append(command)
        elif part:
            yield np.array(part, np.float64)
            part = []
