"""Faults of the answers: values, shapes, types and frames that no policy should send."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial

import numpy as np
import zmq

from bench.doubles import ELBOW
from bench.faults.endless import announce_and_garble
from bench.faults.peer import FRAMES, GIBIBYTE
from bench.faults.programs import frames_server, scripted_server, walking_robot
from bench.faults.rig import FaultTrial, Rig, levels, robot_at_work, upright
from bench.faults.trace import FaultOutcome
from bench.footprint import footprint_of
from bridge.control.safety import Level
from robots.g1.embodiment import G1

QUIET_S = 1.0
MOST_MB = 500.0

_GARBAGE: dict[str, Callable[[], list[bytes]]] = {
    "truncated": lambda: [b"\x83\xa4type\xa4stop"],
    "random": lambda: [os.urandom(4000)],
    "empty": lambda: [b""],
    "nested": lambda: [b"\x91" * 8000],
}


def refused(kind: str, trial: FaultTrial) -> FaultOutcome:
    """Answers that are none, from mid-walk on: all are rejected, then the robot stands."""
    place = trial.policy_address
    with frames_server(place), robot_at_work(trial, place) as rig:
        rig.walk(kind)
        if kind in _GARBAGE:
            _throw_at_operator_port(rig, _GARBAGE[kind]())
        read = rig.at(Level.SAFE_STAND)
        after = rig.rest(QUIET_S)
    rejected = read.counters["rejected"]
    return rig.outcome(
        f"rejected {rejected} answers whole, then SAFE_STAND",
        read.cause,
        "the rest of the walk: the operator asks again",
        counted=rejected >= 1,
        stood_for_a_reason="contract" in read.cause or "silent" in read.cause,
        standing_on=levels(after) == {Level.SAFE_STAND},
        upright=upright(rig.noted),
    )


def clamped(kind: str, trial: FaultTrial) -> FaultOutcome:
    """Finite answers beyond all limits, from mid-walk on: they are clamped, and counted."""
    with walking_robot(trial, kind) as rig:
        during = rig.rest(3.0)
        read = rig.until(lambda seen: True)
    elbow = np.array([command[ELBOW] for command in rig.robot.sent if command is not None])
    limits = G1.limits
    fastest = np.abs(np.diff(elbow)).max() * 50
    return rig.outcome(
        f"walked on; its elbow went to {elbow.max():.2f} rad at {fastest:.1f} rad/s at most",
        f"{read.counters['clamped']} values clamped, {read.counters['slowed']} slowed",
        counted=read.counters["slowed" if kind == "step" else "clamped"] > 0,
        kept_running=levels(during) == {Level.RUN},
        moved_within=elbow.max() <= limits.high[ELBOW] and fastest <= limits.rate[ELBOW] + 1e-3,
        upright=upright(rig.noted),
    )


def gibibyte_from_the_server(trial: FaultTrial) -> FaultOutcome:
    """The server sends a frame of 1 GiB in mid-walk: refused before it is read."""
    place = trial.policy_address
    with frames_server(place), robot_at_work(trial, place) as rig:
        before = footprint_of()
        rig.walk("gibibyte")
        read = rig.at(Level.SAFE_STAND)
        after = rig.rest(QUIET_S)
        # The most, because what was read may have been given back.
        grown_mb = footprint_of().most_memory_mb - before.most_memory_mb
    return rig.outcome(
        f"broke the connection, HOLD, SAFE_STAND; {grown_mb:.0f} MB more memory at most",
        read.cause,
        "the rest of the walk: the operator asks again",
        never_read=grown_mb < MOST_MB,
        standing_on=levels(after) == {Level.SAFE_STAND},
        upright=upright(rig.noted),
    )


def gibibyte_to_the_server(trial: FaultTrial) -> FaultOutcome:
    """A stranger sends the server 1 GiB, and garbage, while a robot walks by it."""
    with scripted_server("tcp://127.0.0.1:*") as server, robot_at_work(trial, server.said) as rig:
        rig.walk()
        announce_and_garble(server.said, GIBIBYTE)
        during = rig.rest(2.0)
        read = rig.until(lambda seen: True)
        most_mb = footprint_of(server.pid).most_memory_mb
    return rig.outcome(
        "walked on",
        read.cause or f"{read.chunk_rate_hz:.1f} chunks a second",
        server_took_little_memory=most_mb < MOST_MB,
        kept_running=levels(during) == {Level.RUN},
        upright=upright(rig.noted),
    )


FAULTS = {
    **{f"values_{kind}": partial(refused, kind) for kind in FRAMES if kind != "gibibyte"},
    **{f"values_{kind}": partial(clamped, kind) for kind in ("huge", "step")},
    "values_gibibyte": gibibyte_from_the_server,
    "values_gibibyte_to_the_server": gibibyte_to_the_server,
}


def _throw_at_operator_port(rig: Rig, frames: list[bytes]) -> None:
    """The same garbage where operators speak: counted there, and no more."""
    port = rig.node.port
    known = port.counters["malformed_messages"]
    with zmq.Context() as context:
        for address in (port.addresses.commands, port.addresses.stop):
            with context.socket(zmq.DEALER) as stranger:
                stranger.linger = 1000
                stranger.connect(address)
                stranger.send_multipart(frames)
    rig.await_true(lambda: port.counters["malformed_messages"] >= known + 2)
