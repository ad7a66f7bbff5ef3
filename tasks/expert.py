"""Scripted experts: what a teacher would command, given the meaning of an instruction.

An expert is a pure function of one moment; those of the tasks are in tasks/families. It uses what
the observation tells as well - the objects in the camera's view, the command being executed, and
the time and odometry since the instruction began - so that an imitator can follow it: an object out
of view is searched for by turning left, never walked to by secret knowledge.

A chunk is made by rolling the moment forward: at each step the target of a task, limited in its
rate from the command before, moves a simple model of the body.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import copysign, cos, pi, radians, sin

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
from tasks.language.intent import Intent

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
# Slower commands make steps that lead nowhere.
SLOWEST_M_S = 0.25
SLOWEST_RAD_S = 0.35

SEARCH_RAD_S = 0.7
# A full turn and a little more, for odometry drifts.
SEARCH_LIMIT_RAD = 2 * pi * 1.1
FACING_RAD = radians(9)
# The longest that a label imagines an instruction to have been carried out.
MOST_ELAPSED_S = 9.1


@dataclass(frozen=True)
class Context:
    """What the robot remembers: time and odometry since the instruction began, and its command.

    `odometry` is x m, y m, yaw rad; `command` (18,) is being executed.
    """

    elapsed_s: float
    odometry: np.ndarray
    command: np.ndarray


@dataclass(frozen=True, slots=True)
class Detections:
    """The objects in the camera's view: those that the instruction may mean, and the others.

    Each is x, y, z m in the heading frame, from the floor.
    """

    named: tuple[tuple[float, float, float], ...]
    others: tuple[tuple[float, float, float], ...]


@dataclass(frozen=True, slots=True)
class ExpertState:
    """Now, or a step of the rollout: what was seen from here, `ahead` (x m, y m, yaw rad) ago.

    Plain floats: a chunk is sixteen of these, and every recorded frame is labelled many times.
    """

    seen: Detections
    elapsed_s: float
    odometry: Pose
    velocity: tuple[float, float, float]
    arm_targets: np.ndarray
    ahead: Pose = (0.0, 0.0, 0.0)

    def place(self, thing: tuple[float, float, float]) -> tuple[float, float]:
        """Where a seen object is in the heading frame of this moment, m."""
        return into_frame(thing[0], thing[1], self.ahead)

    def still(self) -> bool:
        """Whether the command in force is a stand: the one memory of having arrived."""
        vx, vy, rate = self.velocity
        return abs(vx) <= STILL_M_S and abs(vy) <= STILL_M_S and abs(rate) <= STILL_RAD_S

    def advanced(self, target: ExpertTarget) -> ExpertState:
        """One chunk step later: the command follows the target as fast as it may, the body it."""
        vx, vy, rate = self.velocity
        vx += limited(target.velocity[0] - vx, SPEED_STEP_M_S)
        vy += limited(target.velocity[1] - vy, SPEED_STEP_M_S)
        rate += limited(target.velocity[2] - rate, TURN_STEP_RAD_S)
        made = RESPONSE * STEP_S
        motion = (vx * made, vy * made, rate * made)
        return ExpertState(
            seen=self.seen,
            elapsed_s=self.elapsed_s + STEP_S,
            odometry=_compose(self.odometry, motion),
            velocity=(vx, vy, rate),
            arm_targets=_toward(self.arm_targets, target.arms),
            ahead=_compose(self.ahead, motion),
        )


@dataclass(frozen=True, slots=True)
class ExpertTarget:
    """What a task wants at a moment: a velocity, (14,) arm targets, and what it says."""

    velocity: tuple[float, float, float]
    arms: np.ndarray
    status: Status


Expert = Callable[[Intent, ExpertState], ExpertTarget]


def act(
    expert: Expert, meaning: Intent, view: WorldView, context: Context
) -> tuple[np.ndarray, Status]:
    """An expert's (CHUNK_STEPS, COMMAND_DIM) float32 commands and its status now."""
    x, y, yaw = (float(value) for value in context.odometry)
    vx, vy, rate = (float(value) for value in context.command[:BASE_HEIGHT])
    moment = ExpertState(
        seen=seen_objects(meaning, view),
        elapsed_s=float(context.elapsed_s),
        odometry=(x, y, yaw),
        velocity=(vx, vy, rate),
        arm_targets=np.asarray(context.command[ARMS], dtype=np.float64),
    )
    commands = np.empty((CHUNK_STEPS, COMMAND_DIM), dtype=np.float32)
    target = expert(meaning, moment)
    status = target.status
    for step in range(CHUNK_STEPS):
        moment = moment.advanced(target)
        commands[step, :BASE_HEIGHT] = moment.velocity
        commands[step, ARMS] = moment.arm_targets
        target = expert(meaning, moment)
    commands[:, BASE_HEIGHT] = STANDING_HEIGHT_M
    return commands, status


def matching(meaning: Intent, view: WorldView) -> list[int]:
    """The objects, seen or not, that an instruction's colour and shape may mean."""
    return [
        i
        for i, (colour, shape) in enumerate(zip(view.colours, view.shapes, strict=True))
        if meaning.colour in (None, colour) and meaning.shape in (None, shape)
    ]


def seen_objects(meaning: Intent, view: WorldView) -> Detections:
    """What the camera sees, by whether the instruction may mean it."""
    named, others = [], []
    meant = matching(meaning, view)
    for i, (visible, position) in enumerate(zip(view.visible, view.object_pos_m, strict=True)):
        if visible:
            x, y, z = position.tolist()
            (named if i in meant else others).append((x, y, z))
    return Detections(tuple(named), tuple(others))


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


def into_frame(x: float, y: float, frame: Pose) -> tuple[float, float]:
    """A point in the frame of another pose, m."""
    dx, dy = x - frame[0], y - frame[1]
    c, s = cos(frame[2]), sin(frame[2])
    return c * dx + s * dy, -s * dx + c * dy


def limited(value: float, limit: float) -> float:
    """The value, or the nearest within +-limit."""
    return limit if value > limit else -limit if value < -limit else value


def approach(remaining: float, speed: float, slowest: float, gain: float) -> float:
    """A speed that falls with what remains, but never below what the walker can make."""
    return min(speed, max(slowest, gain * remaining))


# --- targets that tasks share -----------------------------------------------------------------


def stand(status: Status) -> ExpertTarget:
    """No step, arms at home."""
    return ExpertTarget((0.0, 0.0, 0.0), ARM_HOME_RAD, status)


def come_to_stand(moment: ExpertState) -> ExpertTarget:
    """Done once the command in force is a stand."""
    return stand(Status.DONE if moment.still() else Status.ACTING)


def refuse(meaning: Intent, moment: ExpertState) -> ExpertTarget:
    """Stands, and says that it will not."""
    return stand(Status.REFUSED)


def search(moment: ExpertState) -> ExpertTarget:
    """Turns to the left until the object is seen; refuses after a whole turn."""
    if moment.odometry[2] > SEARCH_LIMIT_RAD:
        return stand(Status.REFUSED)
    return ExpertTarget((0.0, 0.0, SEARCH_RAD_S), ARM_HOME_RAD, Status.ACTING)


def without_target(moment: ExpertState) -> ExpertTarget:
    """When several objects in view may be meant, or none is in view."""
    return stand(Status.AMBIGUOUS) if moment.seen.named else search(moment)


def turning(bearing: float, forward: float = 0.0) -> float:
    """A turn toward a bearing, rad/s. On the spot it ends a little off, and never creeps."""
    rate = limited(1.4 * bearing, SEARCH_RAD_S)
    if forward > 0.0:
        return rate
    if abs(bearing) < FACING_RAD:
        return 0.0
    return copysign(max(abs(rate), SLOWEST_RAD_S), rate)


# --- when a label's instruction began ---------------------------------------------------------


def any_time(meaning: Intent, context: Context, lost: bool, rng: np.random.Generator) -> Context:
    """The context, had the instruction been given at any time before, on the spot."""
    elapsed_s = rng.uniform(0.0, MOST_ELAPSED_S)
    return replace(context, elapsed_s=elapsed_s, odometry=rng.normal(0, 0.03, 3))


def any_search(meaning: Intent, context: Context, lost: bool, rng: np.random.Generator) -> Context:
    """The context at any stage of a search, of one that ends as well, if the object is `lost`."""
    if not lost:
        return context
    yaw = rng.uniform(0.0, 1.25 * SEARCH_LIMIT_RAD)
    odometry = np.array([*rng.normal(0, 0.15, 2), yaw])
    return replace(context, elapsed_s=duration_s(yaw, 0.8 * SEARCH_RAD_S, rng), odometry=odometry)


def duration_s(amount: float, speed: float, rng: np.random.Generator) -> float:
    """A time within which an amount may have been done at about this speed."""
    return float(max(amount, 0.0) / speed * rng.uniform(0.8, 1.5) + rng.uniform(0, 2))
