"""Walks, steps and turns by an amount, and stopping."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from math import radians
from pathlib import Path

import numpy as np

from bridge.contract import Status
from robots.g1.embodiment import ARM_HOME_RAD, STAND_COMMAND, VEL_X
from tasks.expert import (
    FORWARD_M_S,
    SLOWEST_M_S,
    SLOWEST_RAD_S,
    Context,
    ExpertState,
    ExpertTarget,
    approach,
    come_to_stand,
    duration_s,
    limited,
)
from tasks.language.grammar import pick
from tasks.language.intent import AMOUNTS, SLOTS, Intent
from tasks.success import MOST_DRIFT_M, PrivilegedState, Success
from tasks.task import Skill, Task

# Which way each skill leads: x forward, y left. Turns: their sign.
DIRECTIONS = {
    "walk_forward": (1.0, 0.0),
    "walk_backward": (-1.0, 0.0),
    "step_left": (0.0, 1.0),
    "step_right": (0.0, -1.0),
}
TURNS = {"turn_left": 1.0, "turn_right": -1.0}
WALKED = tuple(a for a in AMOUNTS if a.startswith("distance") and a != "distance_0.3")
STEPPED = ("distance_0.3", "distance_0.5", "distance_1")
TURNED = tuple(a for a in AMOUNTS if a.startswith("angle"))
# How far, when nothing is said.
WALK_M, STEP_M, TURN_DEG = 1.0, 0.3, 90.0

BACKWARD_M_S = {"slowly": 0.25, None: 0.35, "quickly": 0.4}
SIDEWAYS_M_S = {"slowly": 0.25, None: 0.3, "quickly": 0.3}
TURN_RAD_S = {"slowly": 0.4, None: 0.6, "quickly": 0.8}
WALK_STOP_M = 0.08
TURN_STOP_RAD = 0.08

RELATIVE_TOLERANCE = 0.25
# A quarter of a small amount is less than a footstep: these are the least tolerances.
LEAST_TOLERANCE_M = 0.15
LEAST_TOLERANCE_RAD = np.deg2rad(12)
MOST_ASIDE_M = 0.3
MOST_ASKEW_RAD = np.deg2rad(25)

# Half the width that a walking robot needs, and how far before its feet an object must stay.
WAY_HALF_WIDTH_M = 0.5
WAY_MARGIN_M = 0.5


def distance_m(meaning: Intent) -> float:
    """How far a walk or a step goes, by default if nothing is said."""
    return meaning.number("distance", STEP_M if is_aside(meaning) else WALK_M)


def angle_rad(meaning: Intent) -> float:
    """How far a turn goes, by default if nothing is said; always positive."""
    return radians(meaning.number("angle", TURN_DEG))


def is_aside(meaning: Intent) -> bool:
    """Whether it is a step to the side."""
    return meaning.skill.startswith("step")


# --- the expert -------------------------------------------------------------------------------


def walk(meaning: Intent, moment: ExpertState) -> ExpertTarget:
    """Along the first heading, or sideways to it, by odometry; the other errors are corrected."""
    x, y, yaw = moment.odometry
    aside, sign = is_aside(meaning), sum(DIRECTIONS[meaning.skill])
    along, across = (y, x) if aside else (x, y)
    remaining = distance_m(meaning) - sign * along
    if remaining < WALK_STOP_M:
        return come_to_stand(moment)
    speeds = SIDEWAYS_M_S if aside else FORWARD_M_S if sign > 0 else BACKWARD_M_S
    forth = sign * approach(remaining, speeds[meaning.manner], SLOWEST_M_S, 1.2)
    correction = limited(-1.2 * across, 0.25)
    rate = limited(-1.5 * yaw, 0.6)
    velocity = (correction, forth, rate) if aside else (forth, correction, rate)
    return ExpertTarget(velocity, ARM_HOME_RAD, Status.ACTING)


def turn(meaning: Intent, moment: ExpertState) -> ExpertTarget:
    """On the spot, by odometry, ever slower towards the end."""
    sign = TURNS[meaning.skill]
    remaining = angle_rad(meaning) - sign * moment.odometry[2]
    if remaining < TURN_STOP_RAD:
        return come_to_stand(moment)
    rate = sign * approach(remaining, TURN_RAD_S[meaning.manner], SLOWEST_RAD_S, 1.5)
    return ExpertTarget((0.0, 0.0, rate), ARM_HOME_RAD, Status.ACTING)


def stop(meaning: Intent, moment: ExpertState) -> ExpertTarget:
    """Comes to a stand."""
    return come_to_stand(moment)


# --- success ----------------------------------------------------------------------------------


class Walked(Success):
    """The distance along the first heading, or sideways to it, not far beside it nor askew."""

    def is_success(self, truth: PrivilegedState) -> bool:
        off, aside, askew = self._errors(truth)
        distance = distance_m(self.meaning)
        return (
            truth.standing()
            and off <= max(RELATIVE_TOLERANCE * distance, LEAST_TOLERANCE_M)
            and aside <= max(RELATIVE_TOLERANCE * distance, MOST_ASIDE_M)
            and askew <= MOST_ASKEW_RAD
        )

    def remaining(self, truth: PrivilegedState) -> float:
        return sum(self._errors(truth))

    def _errors(self, truth: PrivilegedState) -> tuple[float, float, float]:
        """How far it is off along the way and beside it, m, and off the first heading, rad."""
        forward, left, yaw = self.displacement(truth)
        sign = sum(DIRECTIONS[self.meaning.skill])
        along, across = (left, forward) if is_aside(self.meaning) else (forward, left)
        return abs(sign * along - distance_m(self.meaning)), abs(across), abs(yaw)


class Turned(Success):
    """The angle, about where it began."""

    def is_success(self, truth: PrivilegedState) -> bool:
        off, drift = self._errors(truth)
        tolerance = max(RELATIVE_TOLERANCE * angle_rad(self.meaning), LEAST_TOLERANCE_RAD)
        return truth.standing() and off <= tolerance and drift < MOST_DRIFT_M

    def remaining(self, truth: PrivilegedState) -> float:
        return sum(self._errors(truth))

    def _errors(self, truth: PrivilegedState) -> tuple[float, float]:
        """How far it is off the angle, rad, and off its place, m."""
        forward, left, yaw = self.displacement(truth)
        off = abs(TURNS[self.meaning.skill] * yaw - angle_rad(self.meaning))
        return off, float(np.hypot(forward, left))


class StoodStill(Success):
    """A stand not far from where it was told."""

    def is_success(self, truth: PrivilegedState) -> bool:
        return truth.standing() and self.stayed(truth)


# --- labels and scenes ------------------------------------------------------------------------


def any_stretch(meaning: Intent, context: Context, lost: bool, rng: np.random.Generator) -> Context:
    """The context at any stage of a walk or a step."""
    aside, sign = is_aside(meaning), sum(DIRECTIONS[meaning.skill])
    distance = _progress(distance_m(meaning), 0.15, rng)
    along, across = sign * distance, rng.normal(0, 0.06)
    x, y = (across, along) if aside else (along, across)
    speed = 0.4 if meaning.skill == "walk_forward" else 0.2
    odometry = np.array([x, y, rng.normal(0, 0.1)])
    return replace(context, elapsed_s=duration_s(distance, speed, rng), odometry=odometry)


def any_angle(meaning: Intent, context: Context, lost: bool, rng: np.random.Generator) -> Context:
    """The context at any stage of a turn."""
    angle = _progress(angle_rad(meaning), 0.25, rng)
    odometry = np.array([*rng.normal(0, 0.06, 2), TURNS[meaning.skill] * angle])
    return replace(context, elapsed_s=duration_s(angle, 0.5, rng), odometry=odometry)


def _progress(amount: float, spread: float, rng: np.random.Generator) -> float:
    """How much of an amount is behind: anything, but more often nearly all of it."""
    if rng.random() < 0.5:
        return float(rng.uniform(-0.03, 1.1) * amount)
    return float(amount + rng.normal(0, spread))


def in_the_way(meaning: Intent, xy_m: Sequence[float]) -> bool:
    """Whether an object at (x, y) in the heading frame stands where a walk will lead."""
    x, y = DIRECTIONS[meaning.skill]
    along, across = x * xy_m[0] + y * xy_m[1], x * xy_m[1] - y * xy_m[0]
    return 0 < along < distance_m(meaning) + WAY_MARGIN_M and abs(across) < WAY_HALF_WIDTH_M


def moving(rng: np.random.Generator) -> np.ndarray:
    """(18,) a walk forward: there must be something to stop."""
    command = STAND_COMMAND.copy()
    command[VEL_X] = rng.uniform(0.3, 0.6)
    return command


def _slots(amounts: tuple[str, ...]) -> Callable[[np.random.Generator], dict[str, str]]:
    def sample(rng: np.random.Generator) -> dict[str, str]:
        slots = {"amount": pick(amounts, rng)} if rng.random() < 0.7 else {}
        return slots | ({"manner": pick(SLOTS["manner"], rng)} if rng.random() < 0.2 else {})

    return sample


_skill = partial(Skill, label_share=0.15 / 7)
_walk = partial(
    _skill,
    expert=walk,
    success=Walked,
    time_limit_s=lambda meaning: 6.0 + distance_m(meaning) / 0.1,
    label_start=any_stretch,
    in_the_way=in_the_way,
)
_turn = partial(
    _skill,
    expert=turn,
    success=Turned,
    time_limit_s=lambda meaning: 6.0 + angle_rad(meaning) / 0.2,
    sample_slots=_slots(TURNED),
    label_start=any_angle,
)

TASK = Task(
    name="walk",
    summary="walk, step or turn by an amount; stop",
    skills=(
        _walk("walk_forward", sample_slots=_slots(WALKED)),
        _walk("walk_backward", sample_slots=_slots(WALKED)),
        _walk("step_left", sample_slots=_slots(STEPPED)),
        _walk("step_right", sample_slots=_slots(STEPPED)),
        _turn("turn_left"),
        _turn("turn_right"),
        _skill("stop", stop, StoodStill, 6.0, start_command=moving),
    ),
    words=Path(__file__).parent / "en" / "walk.toml",
    share=0.18,
)
