"""Faults of company: two at one server, of each wire; more than it keeps; other kinds of robots."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import msgspec

from bench.doubles import STRANGER
from bench.faults.foreign import gr00t_line, gr00t_request, openpi_request, web_line
from bench.faults.programs import peer, scripted_server, walking_robot
from bench.faults.rig import (
    WAIT_S,
    FaultTrial,
    Rig,
    await_true,
    levels,
    refusal,
    robot_at_work,
    running_on,
    upright,
)
from bench.faults.trace import FaultOutcome, verdict
from bridge.control.policy_link import PolicyLink
from bridge.control.safety import Level
from robots.g1.embodiment import G1

WHILE_S, APART_S = 1.0, 0.2
ANOTHER = "another session"


def two_robots(trial: FaultTrial) -> FaultOutcome:
    """Two robots walk by one server; one is stopped, released and told anew: the other walks on."""
    place, second = trial.policy_address, replace(trial, folder=trial.folder / "second")
    second.folder.mkdir()
    with (
        scripted_server(place),
        robot_at_work(trial, place) as one,
        robot_at_work(second, place) as two,
    ):
        one.walk()
        two.walk()
        begun = len(one.noted)
        two.operator.stop()
        two.at(Level.SAFE_STAND)
        await_true(lambda: "ask again" not in refusal(two.operator.release))
        two.walk()
        read = one.until(lambda now: True)
        during = one.noted[begun:]
        wrong = two.forget()
    return one.outcome(
        "walked on, whatever the other did",
        read.cause or f"{read.chunk_rate_hz:.1f} chunks a second",
        kept_running=levels(during) == {Level.RUN},
        other_within_limits=not wrong,
        upright=upright(one.noted) and upright(two.noted),
    )


def two_foreign(wire: str, trial: FaultTrial) -> FaultOutcome:
    """Two clients of another wire take turns at one server: each has its own time and reset."""
    client = _gr00t_client if wire == "gr00t" else _openpi_client
    scheme = "tcp" if wire == "gr00t" else "ws"
    with (
        peer(wire, f"{scheme}://127.0.0.1:0") as server,
        client(server.said) as one,
        client(server.said) as two,
    ):
        first = [one("walk"), two("wave")]
        time.sleep(APART_S)
        later = [one("walk"), two("wave")]
        anew = one("sit")
        kept = two("wave")
    wrong = ["their time does not begin at nought"] * (max(first) > 0)
    wrong += ["one's turn resets the other"] * (min(later) < APART_S or kept < later[1])
    wrong += ["an instruction does not begin anew"] * (anew > 0)
    times = ", ".join(f"{each:.1f}" for each in (*later, kept))
    return verdict(wrong, "takes no part", f"each its own elapsed time: {times} s")


def push_out(rig: Rig, address: str) -> None:
    """Greets a server as so many others that it forgets the robot, and its link begins anew."""
    link, before = rig.node.loop.link, rig.node.loop.link.session
    with peer("crowd", address):
        rig.await_true(lambda: link.session != before)


def pushed_out(trial: FaultTrial) -> FaultOutcome:
    """So many others connect that the server forgets the robot: it is back, but waits."""
    with walking_robot(trial) as rig:
        push_out(rig, trial.policy_address)
        read = rig.until(lambda now: now.level == Level.SAFE_STAND and ANOTHER in now.cause)
        quiet = rig.rest(WHILE_S)
        rig.resume(running_on)
    return rig.outcome(
        "played its chunk out, HOLD, SAFE_STAND; reconnected, and walked on once released",
        read.cause,
        "nothing: the instruction stands",
        never_resumed_by_itself=levels(quiet) == {Level.SAFE_STAND},
        upright=upright(rig.noted),
    )


def two_kinds(trial: FaultTrial) -> FaultOutcome:
    """A robot of another kind comes to the server of one that walks: it is told what differs."""
    with walking_robot(trial) as rig:
        begun = len(rig.noted)
        with PolicyLink(trial.policy_address, STRANGER) as link:
            told = refusal(lambda: link.wait_connected(WAIT_S))
        rig.rest(WHILE_S)
        during = rig.noted[begun:]
    return rig.outcome(
        "walked on; the other was never answered",
        told,
        difference_told="command field 19 differs" in told,
        kept_running=levels(during) == {Level.RUN},
        upright=upright(rig.noted),
    )


FAULTS = {
    "clients_two_robots": two_robots,
    **{f"clients_two_{wire}": partial(two_foreign, wire) for wire in ("gr00t", "openpi")},
    "clients_pushed_out": pushed_out,
    "clients_two_kinds": two_kinds,
}


@contextmanager
def _gr00t_client(address: str) -> Iterator[Callable[[str], float]]:
    """Asks for a chunk to some words; the elapsed time that the policy was shown."""
    with gr00t_line(address) as line:

        def ask(words: str) -> float:
            line.send_multipart([b"", gr00t_request(words=words)])
            _, info = msgspec.msgpack.decode(line.recv_multipart()[-1])
            return _elapsed_s(info)

        yield ask


@contextmanager
def _openpi_client(address: str) -> Iterator[Callable[[str], float]]:
    """The same of a client that sends joints alone, so that the server counts its time."""
    with web_line(address) as line:
        line.recv(WAIT_S)  # the metadata

        def ask(words: str) -> float:
            line.send(openpi_request(words=words, width=len(G1.joints)))
            return _elapsed_s(msgspec.msgpack.decode(line.recv(WAIT_S)))  # type: ignore[arg-type]

        yield ask


def _elapsed_s(told: dict[str, Any]) -> float:
    return float(told["understood"]["elapsed_s"])
