"""Faults around the robot's own process: it is told to end, or somebody watches and never reads."""

from __future__ import annotations

import signal
import time
from functools import partial

import numpy as np

from bench.faults.programs import peer, robot_process, walking_robot
from bench.faults.rig import WAIT_S, FaultTrial, Noted, Rig, levels, seen, upright
from bench.faults.trace import FaultOutcome, breaches_of, verdict
from bridge.blackbox.recording import Recording, read_recording
from bridge.control.safety import Level
from robots.g1.embodiment import STATE_FIELDS

GRAVITY_Z = STATE_FIELDS.index("gravity_z")
# What is published while it is stalled fills every buffer on the way to a viewer.
BEFORE_S, STALLED_S = 1.0, 3.0


def ended(number: int, trial: FaultTrial) -> FaultOutcome:
    """The robot's program is told to end, in mid-walk."""
    with robot_process(trial) as (robot, operator):
        robot.send_signal(number)
        read = seen(operator, lambda now: now.level == Level.SAFE_STAND)
        status = robot.wait(WAIT_S)
    [*_, last] = sorted((trial.folder / "box").glob("recording-*.npz"))
    kept = read_recording(last)
    wrong = breaches_of(kept)
    wrong += [f"exit status {status}"] if status else []
    wrong += [] if _stood_up(kept) else ["it did not end upright"]
    wrong += [] if kept.level[-1] == Level.SAFE_STAND else ["it did not end in SAFE_STAND"]
    return verdict(
        wrong,
        "came to rest, upright, and then ended with status 0",
        read.cause,
        f"the rest of the walk; the black box has the last {len(kept.time_s)} periods",
    )


def stalled_viewer(trial: FaultTrial) -> FaultOutcome:
    """A viewer is suspended while telemetry is published."""
    with (
        walking_robot(trial) as rig,
        peer("viewer", rig.node.port.addresses.telemetry) as viewer,
    ):
        before, _ = _timed(rig, BEFORE_S)
        viewer.send_signal(signal.SIGSTOP)
        with_it, during = _timed(rig, STALLED_S)
        read = rig.until(lambda now: True)
    return rig.outcome(
        f"walked on: a second of its time took {before:.2f} s before, {with_it:.2f} s with it",
        f"{read.loop_overruns} overruns in all; another viewer misses nothing",
        "what the suspended viewer did not read",
        not_slowed=with_it < 1.5 * before,
        kept_running=levels(during) == {Level.RUN},
        upright=upright(rig.noted),
    )


FAULTS = {
    "process_sigint": partial(ended, signal.SIGINT),
    "process_sigterm": partial(ended, signal.SIGTERM),
    "process_sighup": partial(ended, signal.SIGHUP),
    "process_stalled_viewer": stalled_viewer,
}


def _timed(rig: Rig, seconds: float) -> tuple[float, list[Noted]]:
    """How long a second of the robot's own time takes, and the periods of so many."""
    begun_s = time.monotonic()
    periods = rig.rest(seconds)
    return (time.monotonic() - begun_s) / seconds, periods


def _stood_up(kept: Recording) -> bool:
    """Whether gravity pointed down at the feet to the end."""
    return bool((kept.state[kept.has_state][:, GRAVITY_Z] < -np.cos(0.5)).all())
