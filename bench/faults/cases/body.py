"""Faults of the body and its computer: a frozen camera, clocks that jump, a late loop, a fall."""

from __future__ import annotations

import time
from functools import partial

from bench.faults.programs import walking_robot
from bench.faults.rig import FaultTrial, Noted, levels, upright
from bench.faults.trace import FaultOutcome
from bridge.control.safety import Level

HOUR_S = 3600.0
LATE_S = 0.4
SHOVE_M_S = 4.0


def frozen_camera(trial: FaultTrial) -> FaultOutcome:
    """The camera shows the same picture for over half a second."""
    with walking_robot(trial, render=True) as rig:
        began_s = rig.noted[-1].time_s
        rig.robot.frozen = True
        read = rig.at(Level.HOLD)
        rig.at(Level.SAFE_STAND)
        after = rig.rest(1.0)
    hold = rig.first(Level.HOLD, began_s)
    late_s = hold.time_s - rig.robot.picture_at_s if hold else float("inf")
    return rig.outcome(
        f"HOLD after {late_s:.2f} s of the same picture, then SAFE_STAND",
        read.cause,
        "the rest of the walk: the operator asks again",
        in_time=0.5 <= late_s <= 0.7,
        camera_told="camera has frozen" in read.cause,
        upright=upright(after),
    )


def clock(jump_s: float, trial: FaultTrial) -> FaultOutcome:
    """The wall clock jumps by an hour in mid-walk: nothing of ours goes by it."""
    honest = time.time
    with walking_robot(trial) as rig:
        time.time = lambda: honest() + jump_s
        try:
            during = rig.rest(2.0)
            read = rig.until(lambda seen: True)
            rig.node.recorder.write("the clock has jumped")
        finally:
            time.time = honest
    return rig.outcome(
        "walked on",
        read.cause or f"{read.chunk_rate_hz:.1f} chunks a second",
        kept_running=levels(during) == {Level.RUN},
        upright=upright(rig.noted),
        recorded=not rig.node.recorder.trouble,
    )


def overrun(trial: FaultTrial) -> FaultOutcome:
    """The control loop is kept from its work for many periods, three times."""
    with walking_robot(trial) as rig:
        before = rig.pace.overruns
        during: list[Noted] = []
        for _ in range(3):
            rig.robot.late_s = LATE_S
            during += rig.rest(0.6)
        read = rig.until(lambda seen: True)
        missed = rig.pace.overruns - before
    return rig.outcome(
        f"missed {missed} periods and never hurried to catch up; walked on",
        read.cause or f"loop_overruns {read.loop_overruns}",
        counted=missed >= 3 * int(LATE_S * 50 / 2) and read.loop_overruns >= missed,
        kept_running=levels(during) == {Level.RUN},
        upright=upright(rig.noted),
    )


def fall(trial: FaultTrial) -> FaultOutcome:
    """A shove throws the robot over: motors only brake, and nobody releases it as it lies."""
    with walking_robot(trial) as rig:
        rig.robot.push_m_s = SHOVE_M_S
        rig.at(Level.DAMP)
        rig.rest(1.0)
        rig.operator.release()
        after = rig.rest(1.0)
        read = rig.at(Level.DAMP)
    first = rig.first(Level.DAMP)
    moved = [n.level for n in rig.noted if first and n.time_s >= first.time_s]
    return rig.outcome(
        "DAMP as it fell; still DAMP after a release",
        read.cause,
        "the walk; the black box has the fall",
        braked_from_the_fall_on=set(moved) == {Level.DAMP},
        lying=not after[-1].upright,
        recorded=bool(list((trial.folder / "box").glob("recording-*.npz"))),
    )


FAULTS = {
    "body_frozen_camera": frozen_camera,
    "body_clock_forward": partial(clock, HOUR_S),
    "body_clock_back": partial(clock, -HOUR_S),
    "body_overrun": overrun,
    "body_fall": fall,
}
