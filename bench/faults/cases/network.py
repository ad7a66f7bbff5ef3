"""Faults of the network between a robot and its policy: late, lost, doubled, out of order, mute."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from bench.faults.peer import OVERTAKEN
from bench.faults.programs import frames_server, scripted_server
from bench.faults.proxy import Impairment, ImpairmentProxy
from bench.faults.rig import FaultTrial, Noted, Rig, levels, robot_at_work, upright
from bench.faults.trace import FaultOutcome
from bridge.control.safety import Level
from robots.g1.embodiment import VEL_X

DISTURBED_S = 4.0
DELAY = Impairment(delay_s=0.25)  # of each way
LOSS = Impairment(loss=0.3)
DUPLICATES = Impairment(duplication=1.0)
MUTE = Impairment(loss=1.0)


def delay(trial: FaultTrial) -> FaultOutcome:
    """Every round trip takes half a second more."""
    with _network(trial) as (proxy, rig):
        proxy.disturb(DELAY)
        during = rig.rest(DISTURBED_S)
        read = rig.until(lambda seen: seen.policy_latency_ms is not None)
    return rig.outcome(
        "walked on: a chunk lasts longer than the delay, and steps already past are skipped",
        f"policy {read.policy_latency_ms or 0.0:.0f} ms, {read.chunk_rate_hz:.1f} chunks a second",
        kept_running=levels(during) == {Level.RUN},
        upright=upright(rig.noted),
    )


def loss(trial: FaultTrial) -> FaultOutcome:
    """Three messages of ten vanish."""
    with _network(trial) as (proxy, rig):
        proxy.disturb(LOSS)
        during = rig.rest(DISTURBED_S)
        read = rig.until(lambda seen: True)
        lost = proxy.counters["lost"]
    stood = Level.SAFE_STAND in levels(during)
    return rig.outcome(
        "held and stood safely when too much was lost" if stood else "walked on",
        read.cause or f"{read.chunk_rate_hz:.1f} chunks a second",
        f"{lost} messages of the network" + (", the rest of the walk" if stood else ""),
        some_lost=lost > 0,
        never_resumed_by_itself=_one_way(during),
        upright=upright(rig.noted),
    )


def duplicates(trial: FaultTrial) -> FaultOutcome:
    """Every message arrives twice: each is obeyed once."""
    with _network(trial) as (proxy, rig):
        proxy.disturb(DUPLICATES)
        during = rig.rest(DISTURBED_S)
        read = rig.until(lambda seen: True)
        dropped = read.counters["dropped_replies"]
    return rig.outcome(
        f"walked on: {dropped} second answers were dropped",
        read.cause or f"{read.chunk_rate_hz:.1f} chunks a second, none rejected",
        second_answers_dropped=dropped > 0,
        none_rejected=read.counters["rejected"] == 0,
        kept_running=levels(during) == {Level.RUN},
        upright=upright(rig.noted),
    )


def reordered(trial: FaultTrial) -> FaultOutcome:
    """Before and after every answer come those to the question before."""
    place = trial.policy_address
    with frames_server(place), robot_at_work(trial, place) as rig:
        rig.walk(OVERTAKEN)
        during = rig.rest(DISTURBED_S)
        read = rig.until(lambda seen: True)
    slowest_m_s = min(command[VEL_X] for command in rig.robot.sent if command is not None)
    return rig.outcome(
        "walked on: late answers, which would have turned it back, were dropped",
        read.cause or f"{read.chunk_rate_hz:.1f} chunks a second, none rejected",
        late_answers_came=read.counters["dropped_replies"] > 0,
        none_played=bool(slowest_m_s >= 0),
        none_rejected=read.counters["rejected"] == 0,
        kept_running=levels(during) == {Level.RUN},
        upright=upright(rig.noted),
    )


def half_open(trial: FaultTrial) -> FaultOutcome:
    """The server hears the robot, the robot hears nothing, and the connection stands."""
    with _network(trial) as (proxy, rig):
        proxy.replies = MUTE
        read = rig.until(lambda seen: seen.level == Level.SAFE_STAND and "answer" in seen.cause)
        after = rig.rest(1.0)
    return rig.outcome(
        "played its chunk out, HOLD, SAFE_STAND",
        read.cause,
        "the rest of the walk: the operator asks again",
        standing_on=levels(after) == {Level.SAFE_STAND},
        upright=upright(rig.noted),
    )


FAULTS = {
    "network_delay": delay,
    "network_loss": loss,
    "network_duplicates": duplicates,
    "network_reordered": reordered,
    "network_half_open": half_open,
}


@contextmanager
def _network(trial: FaultTrial) -> Iterator[tuple[ImpairmentProxy, Rig]]:
    """A robot that walks, with a bad network, still calm, between it and its policy."""
    front = f"ipc://{trial.folder}/network.sock"
    with (
        scripted_server(trial.policy_address),
        ImpairmentProxy(front, trial.policy_address) as proxy,
        robot_at_work(trial, front) as rig,
    ):
        rig.walk()
        yield proxy, rig


def _one_way(periods: list[Noted]) -> bool:
    """Whether no period after a safe stand is anything less."""
    stood = [noted.level for noted in periods if noted.level > Level.HOLD]
    first = next((i for i, n in enumerate(periods) if n.level > Level.HOLD), len(periods))
    return len(stood) == len(periods) - first
