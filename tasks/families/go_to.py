"""Going to an object: standing half a metre before it, facing it."""

from __future__ import annotations

from math import atan2, copysign, hypot, radians
from pathlib import Path
from typing import Any

import numpy as np

from bridge.contract import Status
from robots.g1.embodiment import ARM_HOME_RAD
from tasks.expert import (
    FORWARD_M_S,
    SLOWEST_M_S,
    ExpertState,
    ExpertTarget,
    approach,
    into_frame,
    limited,
    stand,
    turning,
    without_target,
)
from tasks.language.grammar import pick
from tasks.language.intent import SLOTS, Intent
from tasks.success import PrivilegedState, Success
from tasks.task import Skill, Task

STOP_M = 0.50
DONE_M = 0.56
BACK_OFF_M = 0.36
DONE_FACING_RAD = radians(15)
WALK_BEARING_RAD = radians(35)
AVOID_AHEAD_M = 1.1
AVOID_ASIDE_M = 0.42

GOAL_M = 0.6
GOAL_FACING_RAD = np.deg2rad(25)


def go_to(meaning: Intent, moment: ExpertState) -> ExpertTarget:
    """Turns to the object, walks to it and stops half a metre before its centre."""
    named = moment.seen.named
    if len(named) != 1:
        return without_target(moment)
    x, y = moment.place(named[0])
    distance, bearing = hypot(x, y), atan2(y, x)
    if moment.still() and distance < DONE_M and abs(bearing) < DONE_FACING_RAD:
        return stand(Status.DONE)
    forward, aside = 0.0, 0.0
    if distance < BACK_OFF_M:
        forward = -SLOWEST_M_S
    elif distance >= STOP_M:
        top = min(FORWARD_M_S[meaning.manner] + 0.1, 0.7)
        ahead = max(0.0, 1.0 - abs(bearing) / WALK_BEARING_RAD)
        forward = approach(distance - STOP_M, top, SLOWEST_M_S, 0.9) * min(1.0, 1.5 * ahead)
        aside = _avoidance(moment, distance, bearing) if ahead > 0 else 0.0
    return ExpertTarget((forward, aside, turning(bearing, forward)), ARM_HOME_RAD, Status.ACTING)


def _avoidance(moment: ExpertState, distance: float, bearing: float) -> float:
    """A mild sidestep (m/s, left positive) away from other visible objects on the way."""
    aside = 0.0
    for thing in moment.seen.others:
        x, y = into_frame(*moment.place(thing), (0.0, 0.0, bearing))
        if 0.0 < x < min(AVOID_AHEAD_M, distance) and abs(y) < AVOID_ASIDE_M:
            aside -= copysign(0.25 * (1.0 - abs(y) / AVOID_ASIDE_M) + 0.05, y)
    return limited(aside, 0.25)


class AtObject(Success):
    """Standing before the object, facing it, and before no other until then; nothing knocked."""

    @property
    def failed(self) -> bool:
        return super().failed or self.knocked

    def is_success(self, truth: PrivilegedState) -> bool:
        target = self.target()
        return target is not None and truth.standing() and _before(truth, target)

    def is_mistaken(self, truth: PrivilegedState) -> bool:
        before = [_before(truth, i) for i in range(len(self.scene.objects))]
        return truth.standing() and any(before) and not self.is_success(truth)

    def remaining(self, truth: PrivilegedState) -> float:
        target = self.target()
        if target is None:
            return 0.0
        distance, bearing = truth.distance_bearing(target)
        return max(0.0, distance - GOAL_M) + max(0.0, abs(bearing) - GOAL_FACING_RAD)

    def reached(self) -> dict[str, Any]:
        """Colour and shape of the object asked for and of the nearest one at the end.

        Of that again if it was reached.
        """
        target, nearest = self.target(), self.nearest()
        if target is None or nearest is None:
            return {}
        asked, near = (
            {"colour": thing.colour, "shape": thing.shape}
            for thing in (self.scene.objects[i] for i in (target, nearest[0]))
        )
        reached = near if nearest[1] < GOAL_M else None
        return {"asked": asked, "nearest": near, "nearest_m": nearest[1], "reached": reached}


def _before(truth: PrivilegedState, index: int) -> bool:
    distance, bearing = truth.distance_bearing(index)
    return distance < GOAL_M and abs(bearing) < GOAL_FACING_RAD


def _manner(rng: np.random.Generator) -> dict[str, str]:
    return {"manner": pick(SLOTS["manner"], rng)} if rng.random() < 0.2 else {}


TASK = Task(
    name="go_to",
    summary="stand before the object named by colour and shape, facing it",
    skills=(
        Skill(
            "go_to",
            go_to,
            AtObject,
            time_limit_s=40.0,
            names_object=True,
            sample_slots=_manner,
            label_share=0.42,
            absent_share=0.084,
        ),
    ),
    words=Path(__file__).parent / "en" / "go_to.toml",
    # What needs eyes needs most pictures.
    share=0.6,
)
