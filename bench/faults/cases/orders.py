"""Faults of people: orders that cross each other, and commanders who fall silent."""

from __future__ import annotations

import itertools
import signal
import time
from functools import partial

from bench.faults.programs import (
    ANSWER_S,
    scripted_commander,
    scripted_server,
    simulated,
    walking_robot,
)
from bench.faults.rig import (
    WAIT_S,
    FaultTrial,
    Rig,
    await_true,
    command,
    levels,
    refusal,
    seen,
    upright,
    walking,
)
from bench.faults.trace import FaultOutcome, breaches_of, verdict
from bridge.blackbox.recording import read_recording
from bridge.control.safety import Level
from bridge.operator.client import Operator
from bridge.operator.messages import BEAT_S, STALE_S

ORDERS = ("pause", "stop", "release")
NOTHING = "nothing is paused"
AFTER_S = 1.0


def give(rig: Rig, order: str) -> None:
    """Gives an order, again while it is refused for a stop that has just been."""
    await_true(lambda: "ask again" not in refusal(getattr(rig.operator, order)))


def in_order(orders: tuple[str, ...], trial: FaultTrial) -> FaultOutcome:
    """Pause, stop and release in some order, then resume: what a stop ended stays ended."""
    with walking_robot(trial) as rig:
        stopped = 0
        for order in orders:
            give(rig, order)
            if order == "stop":
                rig.at(Level.SAFE_STAND)
                stopped = len(rig.noted)
        end = Level.HOLD if orders.index("release") > orders.index("stop") else Level.SAFE_STAND
        rig.at(end)
        give(rig, "resume")
        read = rig.until(lambda now: NOTHING in now.cause)
        after = rig.rest(AFTER_S)
    return rig.outcome(
        f"{end.name} after {', '.join(orders)}; a resume moved nothing",
        read.cause,
        "the rest of the walk",
        at_that_level=levels(after) == {end},
        never_ran_after_the_stop=Level.RUN not in levels(rig.noted[stopped:]),
        upright=upright(rig.noted),
    )


def pause_alone(trial: FaultTrial) -> FaultOutcome:
    """Pause, release, resume, and no stop among them: the robot walks on, each time."""
    with walking_robot(trial) as rig:
        for _ in range(2):
            give(rig, "pause")
            rig.until(lambda now: now.level == Level.HOLD and now.instruction == "")
            give(rig, "release")
            held = rig.rest(AFTER_S)
            give(rig, "resume")
            read = rig.until(walking)
    return rig.outcome(
        "held while it was paused, a release included, and walked on when resumed",
        f"instruction {read.instruction!r}",
        held=levels(held[5:]) == {Level.HOLD},
        upright=upright(rig.noted),
    )


def stop_in_a_stop(trial: FaultTrial) -> FaultOutcome:
    """Two people stop it, one while it obeys the other: a release that knows of one is void."""
    with walking_robot(trial) as rig, Operator(trial.robot_address, "bert", WAIT_S) as bert:
        rig.operator.stop()
        rig.at(Level.SAFE_STAND)
        known = rig.operator.stops
        bert.stop()
        told = _refused_for_good(rig, known)
        still = rig.rest(AFTER_S)
        read = rig.at(Level.SAFE_STAND)
        stood = rig.node.loop.safety.counters["stands"]
        give(rig, "release")
        rig.at(Level.HOLD)
    return rig.outcome(
        "one SAFE_STAND, until a release that knew of both stops",
        f"{read.cause} / {told}",
        "the rest of the walk",
        stood_once=stood == 1,
        standing_on=levels(still) == {Level.SAFE_STAND},
        upright=upright(rig.noted),
    )


def late_release(trial: FaultTrial) -> FaultOutcome:
    """A release asked before a stop comes after it: it does not undo what it did not know of."""
    with walking_robot(trial) as rig:
        known = rig.operator.stops
        rig.operator.stop()
        read = rig.at(Level.SAFE_STAND)
        told = _refused_for_good(rig, known)
        still = rig.rest(AFTER_S)
    return rig.outcome(
        "stayed in SAFE_STAND",
        f"{read.cause} / {told}",
        "the rest of the walk",
        standing_on=levels(still) == {Level.SAFE_STAND},
        upright=upright(rig.noted),
    )


def cut_in_a_stand(trial: FaultTrial) -> FaultOutcome:
    """A cut while it comes to a safe stand, then another stop: brakes, and nothing milder."""
    with walking_robot(trial) as rig:
        rig.operator.stop()
        rig.at(Level.SAFE_STAND)
        rig.operator.cut()
        read = rig.at(Level.DAMP)
        rig.operator.stop()
        after = rig.rest(AFTER_S)
    return rig.outcome(
        "SAFE_STAND, then DAMP; a stop does not make it milder",
        read.cause,
        "the walk: a robot that only brakes falls",
        braking_on=levels(after) == {Level.DAMP},
    )


def commander_lost(number: int, trial: FaultTrial) -> FaultOutcome:
    """The commander's process is suspended, or killed, in mid-walk: its lease ends as promised."""
    policy, box = trial.policy_address, trial.folder / "box"
    with (
        scripted_server(policy),
        simulated(trial, "--connect", policy) as robot,
        Operator(trial.robot_address, "anna", ANSWER_S) as anna,
        scripted_commander(trial.robot_address) as bert,
    ):
        seen(anna, lambda now: walking(now) and now.commander == "bert")
        begun_s = time.monotonic()
        bert.send_signal(number)
        read = seen(anna, lambda now: now.commander == "" and now.level == Level.HOLD)
        took_s = time.monotonic() - begun_s
        command(anna, "walk")
        seen(anna, walking)
        bert.send_signal(signal.SIGCONT)
        since = seen(anna, lambda now: True).time_s
        last = seen(anna, lambda now: now.time_s > since + AFTER_S)
        robot.send_signal(signal.SIGTERM)
        status = robot.wait(WAIT_S)
    [*_, file] = sorted(box.glob("recording-*.npz"))
    wrong = breaches_of(read_recording(file))
    wrong += ["the lease ended early"] * (took_s < STALE_S - 2 * BEAT_S)
    wrong += [f"exit status {status}"] * (status != 0)
    wrong += ["the lost commander commands"] * (last.commander != "anna")
    return verdict(
        wrong,
        f"HOLD {took_s:.1f} s after the commander fell silent; walked on for the next one",
        read.cause,
        "the rest of the first walk",
    )


FAULTS = {
    **{
        f"orders_{'_'.join(orders)}": partial(in_order, orders)
        for orders in itertools.permutations(ORDERS)
    },
    "orders_pause_alone": pause_alone,
    "orders_stop_in_a_stop": stop_in_a_stop,
    "orders_late_release": late_release,
    "orders_cut_in_a_stand": cut_in_a_stand,
    "lease_suspended": partial(commander_lost, signal.SIGSTOP),
    "lease_killed": partial(commander_lost, signal.SIGKILL),
}


def _refused_for_good(rig: Rig, stops: int) -> str:
    """What a release that names an old stop is told, once no stop has just been."""
    rig.rest(0.6)
    return refusal(lambda: rig.operator.release(stops))
