"""Faults of the robot's driver: it blocks, fails, or says what cannot be."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from bench.faults.programs import walking_robot
from bench.faults.rig import FaultTrial, Rig, levels, upright
from bench.faults.trace import FaultOutcome
from bridge.contract import COMMAND_TIMEOUT_S, Observation
from bridge.control.safety import Level
from robots.g1.embodiment import PERIOD_S, STATE_FIELDS

AFTER_S = 1.5
BLOCKED_S = 0.6
BUS = "the bus is gone"


@dataclass(frozen=True)
class Seen:
    """What a driver says instead of the truth, and what robot and operator shall make of it."""

    say: Callable[[Observation], Observation]
    level: Level
    told: str = ""


def blocks(trial: FaultTrial) -> FaultOutcome:
    """The driver's `observe` blocks in mid-walk: its motors brake by themselves meanwhile."""
    with walking_robot(trial) as rig:
        robot, done = rig.robot, []

        def observe() -> Observation:
            if not done:
                done.append(True)
                time.sleep(BLOCKED_S)
                for _ in range(round((BLOCKED_S - COMMAND_TIMEOUT_S) / PERIOD_S)):
                    robot.damp()
            return type(robot).observe(robot)

        begun = len(rig.noted)
        with _instead(rig, observe=observe):
            rig.await_true(lambda: bool(done))
            read = rig.until(lambda now: now.level >= Level.SAFE_STAND)
            after = rig.rest(AFTER_S)
    late = [noted.level for noted in rig.noted[begun:]]
    first = next(i for i, level in enumerate(late) if level > Level.RUN)
    return rig.outcome(
        f"braked by itself for {BLOCKED_S - COMMAND_TIMEOUT_S:g} s, then {Level(late[first]).name}",
        read.cause,
        "the rest of the walk: the operator looks, and asks again",
        latched_at_once=late[first] >= Level.SAFE_STAND,
        never_walked_on=min(late[first:]) >= Level.SAFE_STAND,
        standing_on_or_braked=min(levels(after)) >= Level.SAFE_STAND,
    )


def fails(methods: tuple[str, ...], trial: FaultTrial) -> FaultOutcome:
    """Calls of the driver raise from mid-walk on: the robot brakes, and the loop goes on."""
    with walking_robot(trial) as rig:
        with _instead(rig, **dict.fromkeys(methods, _fail)):
            read = rig.until(lambda now: now.level == Level.DAMP and BUS in now.cause)
            during = rig.rest(AFTER_S)
        after = rig.rest(AFTER_S)
        told = rig.until(lambda now: now.time_s > read.time_s)
    return rig.outcome(
        "HOLD, DAMP" if methods == ("observe",) else "DAMP at once",
        read.cause,
        "the walk: a robot that only brakes falls",
        loop_goes_on=len(during) > 0 and told.level == Level.DAMP,
        stays_when_the_driver_is_back=levels(after) == {Level.DAMP},
    )


def cannot_begin(trial: FaultTrial) -> FaultOutcome:
    """The driver refuses to begin another instruction: the robot holds until one begins."""
    with walking_robot(trial) as rig:
        with _instead(rig, begin_instruction=_fail):
            rig.operator.instruct("walk")
            read = rig.until(lambda now: BUS in now.cause)
            rig.rest(0.5)
            held = rig.rest(1.0)
        rig.walk()
    return rig.outcome(
        "held, upright, and walked again once it could begin",
        read.cause,
        "the instruction: the operator asks again",
        held=levels(held) == {Level.HOLD},
        upright=upright(rig.noted),
    )


def says(kind: str, trial: FaultTrial) -> FaultOutcome:
    """The driver says what cannot be, or nothing that we know, from mid-walk on."""
    strange = SAID[kind]
    with walking_robot(trial) as rig:
        robot = rig.robot
        with _instead(rig, observe=lambda: strange.say(type(robot).observe(robot))):
            if strange.level > Level.RUN:
                read = rig.at(strange.level)
            during = rig.rest(AFTER_S)
            if strange.level == Level.RUN:
                read = rig.until(lambda now: True)
        after = rig.rest(AFTER_S)
    return rig.outcome(
        "walked on" if strange.level == Level.RUN else strange.level.name,
        read.cause or f"{read.chunk_rate_hz:.1f} chunks a second",
        "nothing"
        if strange.level == Level.RUN
        else "the rest of the walk: the operator asks again",
        kept_its_level=levels(during) == levels(after) == {strange.level},
        operator_told=strange.told in read.cause,
        upright=strange.level == Level.DAMP or upright(rig.noted),
    )


def _with_state(field: str, value: float) -> Callable[[Observation], Observation]:
    def say(seen: Observation) -> Observation:
        state = seen.state.copy()
        state[STATE_FIELDS.index(field)] = value
        return replace(seen, state=state)

    return say


def _half_picture(seen: Observation) -> Observation:
    images = {name: image[::2, ::2].copy() for name, image in seen.images.items()}
    return replace(seen, images=images)


def _float_picture(seen: Observation) -> Observation:
    images = {name: image.astype(np.float32) for name, image in seen.images.items()}
    return replace(seen, images=images)


DRIVER = "driver fails"
SAID = {
    "driver_state_width": Seen(lambda s: replace(s, state=s.state[:-1]), Level.DAMP, DRIVER),
    "driver_picture_size": Seen(_half_picture, Level.RUN),
    "driver_picture_dtype": Seen(_float_picture, Level.DAMP, DRIVER),
    "numbers_joint": Seen(_with_state("left_elbow_rad", np.nan), Level.DAMP),
    "numbers_gravity": Seen(_with_state("gravity_z", np.nan), Level.DAMP),
    "numbers_stamp": Seen(lambda s: replace(s, time_s=np.nan), Level.DAMP),
    "numbers_picture_age": Seen(lambda s: replace(s, image_age_s=np.nan), Level.SAFE_STAND, "cam"),
}
FAULTS = {
    "driver_blocks": blocks,
    "driver_observe_fails": partial(fails, ("observe",)),
    "driver_command_fails": partial(fails, ("apply",)),
    "driver_all_fails": partial(fails, ("apply", "damp", "observe")),
    "driver_cannot_begin": cannot_begin,
    **{kind: partial(says, kind) for kind in SAID},
}


def _fail(*_: object) -> None:
    raise RuntimeError(BUS)


@contextmanager
def _instead(rig: Rig, **methods: Callable[..., object]) -> Iterator[None]:
    """Other methods of the robot's driver, for as long as the block lasts."""
    for name, method in methods.items():
        setattr(rig.robot, name, method)
    try:
        yield
    finally:
        for name in methods:
            delattr(rig.robot, name)
