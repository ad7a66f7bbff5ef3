"""Faults of the policy server: it dies, comes back, comes back as another, hangs, slows down."""

from __future__ import annotations

import os
import signal
import statistics
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager

from bench.faults.programs import bundle_server, scripted_server
from bench.faults.rig import FaultTrial, Rig, levels, robot_at_work, upright
from bench.faults.trace import FaultOutcome
from bridge.contract import UserError
from bridge.control.safety import Level
from bridge.operator.messages import Telemetry
from robots.g1.embodiment import CHUNK_S

WALK = "walk forward three metres"
UPRIGHT_S = 10.0
QUIET_S = 1.5
STOPPED_S = 10.0
HOLD_WITHIN_S, STAND_AFTER_S = 0.05, 0.5
RECONNECT_S = 1.0
_SLOWER, _SLICE_S = 3, 0.03


def killed(trial: FaultTrial) -> FaultOutcome:
    """kill -9 of the server in mid-walk."""
    place = trial.policy_address
    with bundle_server(trial) as server, robot_at_work(trial, place, render=True) as rig:
        rig.walk(WALK)
        server.kill()
        read = _read_standing(rig)
        after = rig.rest(UPRIGHT_S)
        late_s, stood_s = _ladder(rig)
    return rig.outcome(
        f"played its chunk out, HOLD {1000 * late_s:.0f} ms after, SAFE_STAND"
        f" {1000 * stood_s:.0f} ms later; upright {UPRIGHT_S:g} s later",
        read.cause,
        "the rest of the walk: the operator asks again",
        held_in_time=0 <= late_s <= HOLD_WITHIN_S,
        stood_in_time=abs(stood_s - STAND_AFTER_S) <= HOLD_WITHIN_S,
        upright=upright(after),
        standing_on=levels(after) == {Level.SAFE_STAND},
        told_of_the_server="hitogata serve" in read.cause,
    )


def restarted(trial: FaultTrial) -> FaultOutcome:
    """The same model comes back after a kill: joined at once, obeyed only once released."""
    with _killed_and_back(trial) as rig:
        took_s = _reconnected(rig)
        quiet = rig.rest(QUIET_S)
        read = rig.at(Level.SAFE_STAND)
        rig.resume()
    return rig.outcome(
        f"reconnected in {took_s:.2f} s, stayed in SAFE_STAND until released, then walked on",
        read.cause,
        "nothing: the instruction stands",
        in_time=took_s <= RECONNECT_S,
        never_resumed_by_itself=levels(quiet) == {Level.SAFE_STAND},
        upright=upright(rig.noted),
    )


def replaced(trial: FaultTrial) -> FaultOutcome:
    """Another model comes back after a kill: refused, and so is a release."""
    return _refused(trial, "--model-id", "script here and stranger", "the first model is")


def swapped_statistics(trial: FaultTrial) -> FaultOutcome:
    """The server comes back with the normalisation statistics of another training."""
    values = "normalisation differs, script here and stranger"
    return _refused(trial, "--normalisation-id", values, "the first statistics are")


def another_body(trial: FaultTrial) -> FaultOutcome:
    """The server comes back with a policy for another kind of robot."""
    values = "command field 19 differs, nothing here and torso_pitch_rad at the server"
    return _refused(trial, "--body", values, "a policy for this robot is")


def suspended(trial: FaultTrial) -> FaultOutcome:
    """SIGSTOP for ten seconds, then SIGCONT: what the server says afterwards is void."""
    place = trial.policy_address
    with scripted_server(place) as server, robot_at_work(trial, place) as rig:
        rig.walk()
        begun = time.monotonic()
        server.send_signal(signal.SIGSTOP)
        read = _read_standing(rig)
        time.sleep(max(0.0, begun + STOPPED_S - time.monotonic()))
        accepted = rig.node.loop.chunk
        server.send_signal(signal.SIGCONT)
        _reconnected(rig)
        quiet = rig.rest(QUIET_S)
        same = rig.node.loop.chunk is accepted
        rig.resume()
    return rig.outcome(
        "HOLD, SAFE_STAND; late answers were dropped; walked on once released",
        read.cause,
        "nothing: the instruction stands",
        no_late_answer_played=same and levels(quiet) == {Level.SAFE_STAND},
        upright=upright(rig.noted),
    )


def slow(trial: FaultTrial) -> FaultOutcome:
    """Inference three times slower: the server has a third of its time."""
    place = trial.policy_address
    with bundle_server(trial) as server, robot_at_work(trial, place, render=True) as rig:
        rig.walk(WALK)
        rig.rest(1.0)
        before_ms, _ = _median_latency_ms(rig)
        begun = len(rig.noted)
        with _slowed(server.pid):
            rig.rest(0.5)
            slow_ms, read = _median_latency_ms(rig)
            during = rig.noted[begun:]
    return rig.outcome(
        "walked on: its next chunk still came before the last one had ended",
        f"policy {before_ms:.0f} ms before, {slow_ms:.0f} ms now;"
        f" {read.chunk_rate_hz:.1f} chunks a second",
        slower=slow_ms > before_ms,
        kept_running=levels(during) == {Level.RUN},
        upright=upright(rig.noted),
    )


FAULTS = {
    "server_killed": killed,
    "server_restarted": restarted,
    "server_replaced": replaced,
    "server_suspended": suspended,
    "server_slow": slow,
    "server_another_body": another_body,
    "model_swapped_statistics": swapped_statistics,
}


@contextmanager
def _killed_and_back(trial: FaultTrial, *options: str) -> Generator[Rig]:
    """A robot whose server was killed in mid-walk, and whose server is another from now on."""
    place = trial.policy_address
    with ExitStack() as stack:
        server = stack.enter_context(scripted_server(place))
        rig = stack.enter_context(robot_at_work(trial, place))
        rig.walk()
        server.kill()
        rig.at(Level.SAFE_STAND)
        server.wait()
        stack.enter_context(scripted_server(place, *options))
        yield rig


def _refused(trial: FaultTrial, option: str, both_values: str, what: str) -> FaultOutcome:
    """The server comes back a stranger by one option: the robot stands, a release included."""
    with _killed_and_back(trial, option, "stranger") as rig:
        read = rig.until(lambda seen: "differs" in seen.cause)
        rig.operator.release()
        quiet = rig.rest(QUIET_S)
    return rig.outcome(
        "stayed in SAFE_STAND, a release included",
        read.cause,
        f"the rest of the walk, until {what} back",
        both_values_told=both_values in read.cause,
        standing_on=levels(quiet) == {Level.SAFE_STAND},
        upright=upright(rig.noted),
    )


def _read_standing(rig: Rig) -> Telemetry:
    """What the operator reads once the robot stands and its link has noticed as well."""
    return rig.until(lambda seen: seen.level == Level.SAFE_STAND and "server" in seen.cause)


def _ladder(rig: Rig) -> tuple[float, float]:
    """How long after the chunk's end HOLD came, and how long after it SAFE_STAND."""
    chunk = rig.node.loop.chunk
    if chunk is None:
        raise UserError("no chunk was ever played: look at the server")
    ran = max(noted.time_s for noted in rig.noted if noted.level == Level.RUN)
    hold, stand = rig.first(Level.HOLD, ran), rig.first(Level.SAFE_STAND, ran)
    if hold is None or stand is None:
        raise UserError(f"no HOLD and SAFE_STAND after {ran:.2f} s: {rig.noted[-1]}")
    return hold.time_s - (chunk.observed_at_s + CHUNK_S), stand.time_s - hold.time_s


def _reconnected(rig: Rig) -> float:
    """Seconds until the link has another session than the first."""
    begun = time.monotonic()
    link = rig.node.loop.link
    rig.await_true(lambda: link.session > 1 and not link.trouble)
    return time.monotonic() - begun


@contextmanager
def _slowed(process: int) -> Iterator[None]:
    """Lets a process run for a third of the time."""
    ended = threading.Event()

    def alternate() -> None:
        while not ended.is_set():
            os.kill(process, signal.SIGSTOP)
            time.sleep(_SLICE_S * (_SLOWER - 1) / _SLOWER)
            os.kill(process, signal.SIGCONT)
            time.sleep(_SLICE_S / _SLOWER)

    thread = threading.Thread(target=alternate)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _median_latency_ms(rig: Rig) -> tuple[float, Telemetry]:
    """Of a second and a half, and the last that was read of them."""
    latencies_ms, ended_s = [], time.monotonic() + 1.5
    while True:
        read = rig.until(lambda seen: seen.policy_latency_ms is not None)
        latencies_ms.append(read.policy_latency_ms or 0.0)
        if time.monotonic() > ended_s:
            return statistics.median(latencies_ms), read
