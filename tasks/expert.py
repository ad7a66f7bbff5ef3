"""Scripted experts: what a teacher would command, given the meaning of an instruction.

An expert is a pure function of one moment. It uses what the observation tells as well - the
objects in the camera's view, the command being executed, and the time and odometry since the
instruction began - so that an imitator can follow it: an object out of view is searched for by
turning left, never walked to by secret knowledge.

A chunk is made by rolling the moment forward: at each step the wish of a task, limited in its
rate from the command before, moves a simple model of the body.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import atan2, copysign, cos, hypot, pi, radians, sin

import numpy as np

from bridge.contract import Status
from robots.g1.embodiment import (
    ARM_HOME_RAD,
    ARMS,
    BASE_HEIGHT,
    CHUNK_HZ,
    CHUNK_STEPS,
    COMMAND_DIM,
    STANDING_HEIGHT_M,
)
from sim.world import WorldView
from tasks import arms
from tasks.language.intent import DEFAULT_SIDE, Meaning

Pose = tuple[float, float, float]  # x m, y m, yaw rad

STEP_S = 1.0 / CHUNK_HZ
# How much of a commanded speed the walker really makes.
RESPONSE = 0.8
# The most a command may change in one step of a chunk.
SPEED_STEP_M_S = 0.15
TURN_STEP_RAD_S = 0.25
# Faster arms throw a standing robot off its feet.
ARM_STEP_RAD = 0.14
# Below this the walker is commanded to stand, and an expert may call itself done.
STILL_M_S = 0.06
STILL_RAD_S = 0.1

FORWARD_M_S = {"slowly": 0.3, None: 0.5, "quickly": 0.7}
BACKWARD_M_S = {"slowly": 0.25, None: 0.35, "quickly": 0.4}
SIDEWAYS_M_S = {"slowly": 0.25, None: 0.3, "quickly": 0.3}
TURN_RAD_S = {"slowly": 0.4, None: 0.6, "quickly": 0.8}
# Slower commands make steps that lead nowhere.
SLOWEST_M_S = 0.25
SLOWEST_RAD_S = 0.35

SEARCH_RAD_S = 0.7
# A full turn and a little more, for odometry drifts.
SEARCH_LIMIT_RAD = 2 * pi * 1.1
STOP_M = 0.50
DONE_M = 0.56
BACK_OFF_M = 0.36
FACING_RAD = radians(9)
DONE_FACING_RAD = radians(15)
POINT_FACING_RAD = radians(20)
WALK_BEARING_RAD = radians(35)
AVOID_AHEAD_M = 1.1
AVOID_ASIDE_M = 0.42

RAISE_S = 2.2
WAVE_START_S = 1.6
WAVE_END_S = 7.0
ARM_REACHED_RAD = 0.25


@dataclass(frozen=True)
class Context:
    """What the robot remembers: time and odometry (x m, y m, yaw rad) since the instruction began,
    and the (18,) command being executed."""

    elapsed_s: float
    odometry: np.ndarray
    command: np.ndarray


@dataclass(frozen=True, slots=True)
class Seen:
    """The objects in the camera's view, (x m, y m, z m) in the heading frame, from the floor:
    those that the instruction may mean, and the others."""

    named: tuple[tuple[float, float, float], ...]
    others: tuple[tuple[float, float, float], ...]


@dataclass(frozen=True, slots=True)
class Moment:
    """Now, or a step of the rollout: what was seen from here, `ahead` (x m, y m, yaw rad) ago.

    Plain floats: a chunk is sixteen of these, and every recorded frame is labelled many times.
    """

    seen: Seen
    elapsed_s: float
    odometry: Pose
    velocity: tuple[float, float, float]
    arm_targets: np.ndarray
    ahead: Pose = (0.0, 0.0, 0.0)

    def place(self, thing: tuple[float, float, float]) -> tuple[float, float]:
        """Where a seen object is in the heading frame of this moment, m."""
        return _into_frame(thing[0], thing[1], self.ahead)

    def still(self) -> bool:
        """Whether the command in force is a stand: the one memory of having arrived."""
        vx, vy, rate = self.velocity
        return abs(vx) <= STILL_M_S and abs(vy) <= STILL_M_S and abs(rate) <= STILL_RAD_S

    def advanced(self, wish: Wish) -> Moment:
        """One chunk step later: the command follows the wish as fast as it may, the body it."""
        vx, vy, rate = self.velocity
        vx += _limited(wish.velocity[0] - vx, SPEED_STEP_M_S)
        vy += _limited(wish.velocity[1] - vy, SPEED_STEP_M_S)
        rate += _limited(wish.velocity[2] - rate, TURN_STEP_RAD_S)
        made = RESPONSE * STEP_S
        motion = (vx * made, vy * made, rate * made)
        return Moment(
            seen=self.seen,
            elapsed_s=self.elapsed_s + STEP_S,
            odometry=_compose(self.odometry, motion),
            velocity=(vx, vy, rate),
            arm_targets=_toward(self.arm_targets, wish.arms),
            ahead=_compose(self.ahead, motion),
        )


@dataclass(frozen=True, slots=True)
class Wish:
    """What a task wants at a moment: a velocity, (14,) arm targets, and what it says."""

    velocity: tuple[float, float, float]
    arms: np.ndarray
    status: Status


def act(meaning: Meaning, view: WorldView, context: Context) -> tuple[np.ndarray, Status]:
    """The expert's (CHUNK_STEPS, COMMAND_DIM) float32 commands and its status now."""
    wish_for = EXPERTS[meaning.action]
    x, y, yaw = (float(value) for value in context.odometry)
    vx, vy, rate = (float(value) for value in context.command[:BASE_HEIGHT])
    moment = Moment(
        seen=seen_objects(meaning, view),
        elapsed_s=float(context.elapsed_s),
        odometry=(x, y, yaw),
        velocity=(vx, vy, rate),
        arm_targets=np.asarray(context.command[ARMS], dtype=np.float64),
    )
    commands = np.empty((CHUNK_STEPS, COMMAND_DIM), dtype=np.float32)
    wish = wish_for(meaning, moment)
    status = wish.status
    for step in range(CHUNK_STEPS):
        moment = moment.advanced(wish)
        commands[step, :BASE_HEIGHT] = moment.velocity
        commands[step, ARMS] = moment.arm_targets
        wish = wish_for(meaning, moment)
    commands[:, BASE_HEIGHT] = STANDING_HEIGHT_M
    return commands, status


def matching(meaning: Meaning, view: WorldView) -> list[int]:
    """The objects, seen or not, that an instruction's colour and shape may mean."""
    return [
        i
        for i, (colour, shape) in enumerate(zip(view.colours, view.shapes, strict=True))
        if meaning.colour in (None, colour) and meaning.shape in (None, shape)
    ]


def seen_objects(meaning: Meaning, view: WorldView) -> Seen:
    named, others = [], []
    meant = matching(meaning, view)
    for i, (visible, place) in enumerate(zip(view.visible, view.object_pos_m, strict=True)):
        if visible:
            x, y, z = place.tolist()
            (named if i in meant else others).append((x, y, z))
    return Seen(tuple(named), tuple(others))


def _toward(now: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """A step on the straight line to a pose: all joints arrive together."""
    if now is goal:
        return goal
    gap = goal - now
    largest = float(np.abs(gap).max())
    return goal if largest <= ARM_STEP_RAD else now + gap * (ARM_STEP_RAD / largest)


def _compose(pose: Pose, motion: Pose) -> Pose:
    x, y, yaw = pose
    c, s = cos(yaw), sin(yaw)
    return x + c * motion[0] - s * motion[1], y + s * motion[0] + c * motion[1], yaw + motion[2]


def _into_frame(x: float, y: float, frame: Pose) -> tuple[float, float]:
    dx, dy = x - frame[0], y - frame[1]
    c, s = cos(frame[2]), sin(frame[2])
    return c * dx + s * dy, -s * dx + c * dy


def _limited(value: float, limit: float) -> float:
    return limit if value > limit else -limit if value < -limit else value


def _approach(remaining: float, speed: float, slowest: float, gain: float) -> float:
    """A speed that falls with what remains, but never below what the walker can make."""
    return min(speed, max(slowest, gain * remaining))


# --- standing ---------------------------------------------------------------------------------


def _stand(status: Status) -> Wish:
    return Wish((0.0, 0.0, 0.0), ARM_HOME_RAD, status)


def stop(meaning: Meaning, moment: Moment) -> Wish:
    return _stand(Status.DONE if moment.still() else Status.ACTING)


def refuse(meaning: Meaning, moment: Moment) -> Wish:
    return _stand(Status.REFUSED)


# --- walk by words ----------------------------------------------------------------------------

WALK_STOP_M = 0.08
TURN_STOP_RAD = 0.08


def walk(meaning: Meaning, moment: Moment) -> Wish:
    """Along the first heading, or sideways to it, by odometry; the other errors are corrected."""
    x, y, yaw = moment.odometry
    amount = meaning.distance_m
    aside, back = meaning.action.startswith("step"), meaning.action == "walk_backward"
    sign = -1.0 if back or meaning.action == "step_right" else 1.0
    along, across = (y, x) if aside else (x, y)
    remaining = amount - sign * along
    if remaining < WALK_STOP_M:
        return _stand(Status.DONE if moment.still() else Status.ACTING)
    speeds = SIDEWAYS_M_S if aside else BACKWARD_M_S if back else FORWARD_M_S
    forth = sign * _approach(remaining, speeds[meaning.manner], SLOWEST_M_S, 1.2)
    correction = _limited(-1.2 * across, 0.25)
    rate = _limited(-1.5 * yaw, 0.6)
    velocity = (correction, forth, rate) if aside else (forth, correction, rate)
    return Wish(velocity, ARM_HOME_RAD, Status.ACTING)


def turn(meaning: Meaning, moment: Moment) -> Wish:
    sign = 1.0 if meaning.action == "turn_left" else -1.0
    remaining = meaning.angle_rad - sign * moment.odometry[2]
    if remaining < TURN_STOP_RAD:
        return _stand(Status.DONE if moment.still() else Status.ACTING)
    rate = sign * _approach(remaining, TURN_RAD_S[meaning.manner], SLOWEST_RAD_S, 1.5)
    return Wish((0.0, 0.0, rate), ARM_HOME_RAD, Status.ACTING)


# --- objects ----------------------------------------------------------------------------------


def _search(moment: Moment) -> Wish:
    if moment.odometry[2] > SEARCH_LIMIT_RAD:
        return _stand(Status.REFUSED)
    return Wish((0.0, 0.0, SEARCH_RAD_S), ARM_HOME_RAD, Status.ACTING)


def _without_target(moment: Moment) -> Wish:
    """When several objects in view may be meant, or none is in view."""
    return _stand(Status.AMBIGUOUS) if moment.seen.named else _search(moment)


def go_to(meaning: Meaning, moment: Moment) -> Wish:
    """Turns to the object, walks to it and stops half a metre before its centre."""
    named = moment.seen.named
    if len(named) != 1:
        return _without_target(moment)
    x, y = moment.place(named[0])
    distance, bearing = hypot(x, y), atan2(y, x)
    if moment.still() and distance < DONE_M and abs(bearing) < DONE_FACING_RAD:
        return _stand(Status.DONE)
    forward, aside = 0.0, 0.0
    if distance < BACK_OFF_M:
        forward = -SLOWEST_M_S
    elif distance >= STOP_M:
        top = min(FORWARD_M_S[meaning.manner] + 0.1, 0.7)
        ahead = max(0.0, 1.0 - abs(bearing) / WALK_BEARING_RAD)
        forward = _approach(distance - STOP_M, top, SLOWEST_M_S, 0.9) * min(1.0, 1.5 * ahead)
        aside = _avoidance(moment, distance, bearing) if ahead > 0 else 0.0
    return Wish((forward, aside, _turning(bearing, forward)), ARM_HOME_RAD, Status.ACTING)


def _turning(bearing: float, forward: float = 0.0) -> float:
    """A turn toward a bearing, rad/s. On the spot it ends a little off, and never creeps."""
    rate = _limited(1.4 * bearing, SEARCH_RAD_S)
    if forward > 0.0:
        return rate
    if abs(bearing) < FACING_RAD:
        return 0.0
    return copysign(max(abs(rate), SLOWEST_RAD_S), rate)


def _avoidance(moment: Moment, distance: float, bearing: float) -> float:
    """A mild sidestep (m/s, left positive) away from other visible objects on the way."""
    aside = 0.0
    for thing in moment.seen.others:
        x, y = _into_frame(*moment.place(thing), (0.0, 0.0, bearing))
        if 0.0 < x < min(AVOID_AHEAD_M, distance) and abs(y) < AVOID_ASIDE_M:
            aside -= copysign(0.25 * (1.0 - abs(y) / AVOID_ASIDE_M) + 0.05, y)
    return _limited(aside, 0.25)


# --- gestures ---------------------------------------------------------------------------------


def _sides(meaning: Meaning) -> tuple[str, ...]:
    return arms.SIDES if meaning.side == "both" else (meaning.side or DEFAULT_SIDE,)


def _reached(moment: Moment, goal: np.ndarray) -> bool:
    return bool(np.abs(moment.arm_targets - goal).max() < ARM_REACHED_RAD)


def raise_hand(meaning: Meaning, moment: Moment) -> Wish:
    goal = arms.raised(_sides(meaning))
    done = moment.elapsed_s > RAISE_S and _reached(moment, goal)
    return Wish((0.0, 0.0, 0.0), goal, Status.DONE if done else Status.ACTING)


def lower_arms(meaning: Meaning, moment: Moment) -> Wish:
    done = moment.elapsed_s > RAISE_S and _reached(moment, ARM_HOME_RAD)
    return _stand(Status.DONE if done else Status.ACTING)


def wave(meaning: Meaning, moment: Moment) -> Wish:
    """Raises the hand, swings it by the clock of the instruction, and lowers it again."""
    if moment.elapsed_s > WAVE_END_S:
        return _stand(Status.DONE)
    phase_s = moment.elapsed_s - WAVE_START_S
    goal = arms.waving(_sides(meaning), phase_s)
    return Wish((0.0, 0.0, 0.0), goal, Status.ACTING)


def point_at(meaning: Meaning, moment: Moment) -> Wish:
    """Turns until the object is well ahead, then stretches the arm toward it."""
    named = moment.seen.named
    if len(named) != 1:
        return _without_target(moment)
    x, y = moment.place(named[0])
    bearing = atan2(y, x)
    target = (x, y, named[0][2] - STANDING_HEIGHT_M)
    goal = arms.both_arms({side: arms.pointing(side, target) for side in _sides(meaning)})
    resting = moment.still() and abs(bearing) < POINT_FACING_RAD
    rate = 0.0 if resting else _turning(bearing)
    done = rate == 0.0 and moment.still() and _reached(moment, goal)
    return Wish((0.0, 0.0, rate), goal, Status.DONE if done else Status.ACTING)


EXPERTS: dict[str, Callable[[Meaning, Moment], Wish]] = {
    "stop": stop,
    "walk_forward": walk,
    "walk_backward": walk,
    "step_left": walk,
    "step_right": walk,
    "turn_left": turn,
    "turn_right": turn,
    "go_to": go_to,
    "raise_hand": raise_hand,
    "wave": wave,
    "point_at": point_at,
    "lower_arms": lower_arms,
    "unknown": refuse,
}
