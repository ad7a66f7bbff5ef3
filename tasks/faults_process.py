"""Faults around the robot's own process: it is told to end, or somebody watches and never reads."""

from __future__ import annotations

import signal
import time
from functools import partial
from pathlib import Path

import numpy as np

from bridge.contract import N_JOINTS
from bridge.recording import Recording, read_recording
from bridge.safety import Level
from tasks.fault_rig import (
    WAIT_S,
    levels,
    policy_address,
    robot_at_work,
    robot_process,
    running,
    scripted_server,
    seen,
    upright,
)
from tasks.fault_trace import Outcome, breaches_of, verdict

GRAVITY_Z = 2 * N_JOINTS + 5
WHILE_S = 2.0


def ended(number: int, folder: Path) -> Outcome:
    """The robot's program is told to end, in mid-walk."""
    with robot_process(folder) as (robot, operator):
        robot.send_signal(number)
        read = seen(operator, lambda now: now.level == Level.SAFE_STAND)
        status = robot.wait(WAIT_S)
    [*_, last] = sorted((folder / "box").glob("recording-*.npz"))
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


def stalled_viewer(folder: Path) -> Outcome:
    """A viewer is suspended while telemetry is published."""
    place = policy_address(folder)
    with scripted_server(place), robot_at_work(folder, place) as rig:
        rig.walk()
        with running("tasks.fault_peer", "viewer", rig.station.port.addresses.telemetry) as viewer:
            before_s, _ = _timed(rig)
            viewer.send_signal(signal.SIGSTOP)
            during_s, during = _timed(rig)
            read = rig.until(lambda now: True)
    return rig.outcome(
        f"walked on: {WHILE_S:g} s took {before_s:.2f} s before, {during_s:.2f} s with it",
        f"{read.loop_overruns} overruns in all; another viewer misses nothing",
        "what the suspended viewer did not read",
        not_slowed=during_s < 2 * before_s + 2,
        kept_running=levels(during) == {Level.RUN},
        upright=upright(rig.noted),
    )


FAULTS = {
    "process_sigint": partial(ended, signal.SIGINT),
    "process_sigterm": partial(ended, signal.SIGTERM),
    "process_stalled_viewer": stalled_viewer,
}


def _timed(rig):
    begun = time.monotonic()
    periods = rig.rest(WHILE_S)
    return time.monotonic() - begun, periods


def _stood_up(kept: Recording) -> bool:
    """Whether gravity pointed down at the feet to the end."""
    return bool((kept.state[kept.has_state][:, GRAVITY_Z] < -np.cos(0.5)).all())
