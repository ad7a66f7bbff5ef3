"""Strangers at every door: messages that never end, more connections than a process can have."""

from __future__ import annotations

import resource
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial

from websockets.exceptions import WebSocketException
from websockets.sync.client import ClientConnection

from bench.faults.endless import Relay, send_without_end, stranger
from bench.faults.foreign import (
    fill_in_pieces,
    gr00t_line,
    gr00t_request,
    openpi_request,
    page_told,
    web_line,
)
from bench.faults.programs import Child, console_process, peer, scripted_server, walking_robot
from bench.faults.rig import WAIT_S, FaultTrial, Rig, await_true, levels, robot_at_work, upright
from bench.faults.trace import FaultOutcome, verdict
from bench.footprint import footprint_of
from bridge.control.safety import Level
from bridge.operator.client import Operator

FRAME_BYTES, MOST_SENT_BYTES = 1000, 1 << 30
MOST_MB = 200.0
# More than a listener keeps, or than a process has descriptors left for.
CROWD, DESCRIPTORS_LEFT = 300, 16


def endless_to_server(trial: FaultTrial) -> FaultOutcome:
    """A stranger sends the policy server a message that never ends."""
    with scripted_server("tcp://127.0.0.1:*") as server, robot_at_work(trial, server.said) as rig:
        rig.walk()
        grown_mb = _grown(lambda: _flood(server.said, b"DEALER"), server.pid)
        return _walks_on(rig, grown_mb)


def endless_to_robot(door: str, trial: FaultTrial) -> FaultOutcome:
    """A stranger sends the robot a message that never ends: it walks on, and obeys a stop."""
    with walking_robot(trial) as rig:
        kind = b"SUB" if door == "telemetry" else b"DEALER"
        address = getattr(rig.node.port.addresses, door)
        grown_mb = _grown(lambda: _flood(address, kind))
        return _walks_on(rig, grown_mb)


def endless_answer(trial: FaultTrial) -> FaultOutcome:
    """The policy server's answer never ends: the link breaks, and the robot stands."""
    front = f"ipc://{trial.folder}/front.sock"
    with (
        scripted_server(trial.policy_address) as server,
        Relay(front, trial.policy_address) as relay,
        robot_at_work(trial, front) as rig,
    ):
        rig.walk()
        grown_mb = _grown(lambda: relay.flood(FRAME_BYTES, MOST_SENT_BYTES))
        server.kill()  # or the link is back before anybody has read that it broke
        read = rig.at(Level.SAFE_STAND)
        after = rig.rest(1.0)
    return rig.outcome(
        f"broke the connection after {grown_mb:.0f} MB at most, HOLD, SAFE_STAND",
        read.cause,
        "the rest of the walk: the operator asks again",
        little_memory_taken=grown_mb < MOST_MB,
        standing_on=levels(after) == {Level.SAFE_STAND},
        upright=upright(rig.noted),
    )


def endless_to_operator(door: str, trial: FaultTrial) -> FaultOutcome:
    """What an operator gets of the robot never ends: it loses that line, and others may stop."""
    front = f"ipc://{trial.folder}/front.sock"
    doors = ("", ".stop", ".telemetry")
    with walking_robot(trial) as rig, ExitStack() as stack:
        relays = {
            each: stack.enter_context(Relay(front + each, trial.robot_address + each))
            for each in doors
        }
        bert = stack.enter_context(Operator(front, "bert", WAIT_S))
        rig.await_true(lambda: bert.telemetry(0.5) is not None)
        grown_mb = _grown(lambda: relays[door].flood(FRAME_BYTES, MOST_SENT_BYTES))
        return _walks_on(rig, grown_mb)


def endless_to_foreign(wire: str, trial: FaultTrial) -> FaultOutcome:
    """A client of another wire sends a message that never ends: others are answered on."""
    with _foreign(wire) as (server, ask):
        flood = partial(_flood, server.said, b"DEALER") if wire == "gr00t" else None
        flood = flood or partial(fill_in_pieces, server.said)
        grown_mb = _grown(flood, server.pid)
        answered = ask()
    wrong = [] if grown_mb < MOST_MB else [f"the server grew by {grown_mb:.0f} MB"]
    wrong += [] if answered else ["another client was not answered"]
    return verdict(wrong, "takes no part", f"another client is answered; {grown_mb:.0f} MB more")


def endless_to_console(trial: FaultTrial) -> FaultOutcome:
    """A page sends the console a message that never ends: another page stops the robot."""
    with walking_robot(trial) as rig, _console(trial) as (console, place):
        grown_mb = _grown(lambda: fill_in_pieces(f"ws://{place}/live"), console.pid)
        return _stopped_by_page(rig, place, grown_mb)


def crowd_at_console(trial: FaultTrial) -> FaultOutcome:
    """The console has no descriptors left to accept anybody: a page gets in and stops the robot."""
    with walking_robot(trial) as rig, _console(trial) as (console, place), ExitStack() as crowd:
        _fill(console, place, crowd)
        return _stopped_by_page(rig, place)


def crowd_at_openpi(trial: FaultTrial) -> FaultOutcome:
    """A server of openpi's wire has no descriptors left to accept anybody: a client is answered."""
    with _foreign("openpi") as (server, ask), ExitStack() as crowd:
        _fill(server, server.said.partition("://")[2], crowd)
        answered = ask()
    wrong = [] if answered else ["a client was not answered"]
    return verdict(wrong, "takes no part", f"a client is answered after {CROWD} silent strangers")


def crowd_at_stop(trial: FaultTrial) -> FaultOutcome:
    """Silent strangers crowd at the robot's stop door: they push out nobody, and a stop gets in."""
    with walking_robot(trial) as rig, ExitStack() as crowd:
        for _ in range(CROWD):
            line = crowd.enter_context(socket.socket(socket.AF_UNIX))
            line.connect(rig.node.port.addresses.stop.removeprefix("ipc://"))
        rig.rest(1.0)
        with Operator(trial.robot_address, "bert", WAIT_S) as bert:
            bert.stop()
        read = rig.at(Level.SAFE_STAND)
        kept = rig.node.loop.link.session == 1
    robot = f"walked on past {CROWD} strangers, until stopped: SAFE_STAND"
    return _stood(rig, read.cause, robot, link_kept=kept, commander_kept=read.commander == "anna")


FAULTS = {
    "endless_to_server": endless_to_server,
    **{f"endless_to_{d}": partial(endless_to_robot, d) for d in ("commands", "stop", "telemetry")},
    "endless_answer": endless_answer,
    "endless_to_operator": partial(endless_to_operator, ""),
    "endless_to_viewer": partial(endless_to_operator, ".telemetry"),
    **{f"endless_to_{wire}": partial(endless_to_foreign, wire) for wire in ("gr00t", "openpi")},
    "endless_to_console": endless_to_console,
    "crowd_at_console": crowd_at_console,
    "crowd_at_openpi": crowd_at_openpi,
    "crowd_at_stop": crowd_at_stop,
}


@contextmanager
def _console(trial: FaultTrial) -> Iterator[tuple[Child, str]]:
    """A console of the trial's robot, and where its page is."""
    with console_process(trial, "--connect", trial.robot_address) as found:
        yield found


@contextmanager
def _foreign(wire: str) -> Iterator[tuple[Child, Callable[[], bool]]]:
    """A server of another wire, and what asks it as a client would: whether it is answered."""

    def ask_gr00t() -> bool:
        with gr00t_line(server.said) as line:
            line.send_multipart([b"", gr00t_request()])
            return b"error" not in line.recv_multipart()[-1][:16]

    def ask_openpi() -> bool:
        with _patient_line(server.said) as line:
            line.recv(WAIT_S)  # the metadata
            line.send(openpi_request())
            return isinstance(line.recv(WAIT_S), bytes)

    scheme, ask = ("tcp", ask_gr00t) if wire == "gr00t" else ("ws", ask_openpi)
    with peer(wire, f"{scheme}://127.0.0.1:0") as server:
        yield server, ask


def _flood(address: str, kind: bytes) -> None:
    with stranger(address, kind) as line:
        send_without_end(line, FRAME_BYTES, MOST_SENT_BYTES)


def _grown(act: Callable[[], object], process: int | None = None) -> float:
    """How much more memory than ever before a process took meanwhile, in MB."""
    before_mb = footprint_of(process).most_memory_mb
    act()
    return footprint_of(process).most_memory_mb - before_mb


def _walks_on(rig: Rig, grown_mb: float) -> FaultOutcome:
    """A robot that has not noticed, and that can be stopped."""
    during = rig.rest(1.0)
    with Operator(rig.operator.address, "carl", WAIT_S) as carl:
        carl.stop()
    read = rig.at(Level.SAFE_STAND)
    return rig.outcome(
        f"walked on, and stopped when told; the message ended after {grown_mb:.0f} MB at most",
        read.cause,
        little_memory_taken=grown_mb < MOST_MB,
        kept_running=levels(during) == {Level.RUN},
        upright=upright(rig.noted),
    )


def _fill(process: Child, place: str, crowd: ExitStack) -> None:
    """Lets strangers connect to a process that has few descriptors left, and say nothing."""
    few = footprint_of(process.pid).files + DESCRIPTORS_LEFT
    _, hard = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (few, hard))
    host, _, port = place.rpartition(":")
    for _ in range(CROWD):
        crowd.enter_context(socket.create_connection((host, int(port)), WAIT_S))


def _patient_line(address: str) -> ClientConnection:
    """A connection, at the first try or at a later one: strangers may push a newcomer out."""
    lines: list[ClientConnection] = []

    def opened() -> bool:
        with suppress(WebSocketException, OSError):
            lines.append(web_line(address))
        return bool(lines)

    await_true(opened)
    return lines[0]


def _stopped_by_page(rig: Rig, place: str, grown_mb: float = 0.0) -> FaultOutcome:
    """A page that opens now stops the robot."""
    with _patient_line(f"ws://{place}/live") as page:
        fault = page_told(page, "stop")
    read = rig.at(Level.SAFE_STAND)
    return _stood(
        rig,
        read.cause,
        "walked on until a page stopped it: SAFE_STAND",
        page_told=not fault,
        little_memory_taken=grown_mb < MOST_MB,
    )


def _stood(rig: Rig, cause: str, robot: str, **facts: bool) -> FaultOutcome:
    before = [noted.level for noted in rig.noted if noted.level < Level.SAFE_STAND]
    return rig.outcome(
        robot,
        cause,
        "the rest of the walk",
        stopped_by_an_operator="operator stopped" in cause,
        walked_until_then=Level.RUN in before[-5:],
        upright=upright(rig.noted),
        **facts,
    )
