"""The robot's side of its operators: who commands it, what they ask, and what they get to see.

One operator at a time holds a lease and commands; the others watch. Anyone may stop the robot.
Nothing here blocks the control loop, and no call does more than a bounded amount of work.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import msgspec
import zmq

from bridge.contract import UserError, check_instruction
from bridge.embodiment import Embodiment
from bridge.operator import messages as wire
from bridge.wire import flood
from bridge.wire.keys import ServerKeys, authenticator
from bridge.wire.messages import WireError, one_line

# What one call of `poll` reads from a socket at most; a message has two frames.
_FRAMES_AT_ONCE = 64
# What was asked in the moment of a stop, or while the loop slept, was asked without looking.
_GUARD_S = 0.5


@dataclass(frozen=True)
class Instructed:
    """The commander begins another instruction; `text` is checked."""

    text: str


@dataclass(frozen=True)
class Stopped:
    """Someone asks for a safe stand."""


@dataclass(frozen=True)
class MotorsCut:
    """Someone asks that the motors only brake."""


@dataclass(frozen=True)
class Released:
    """The commander ends a latched level."""


@dataclass(frozen=True)
class Paused:
    """The commander lets the robot hold."""


@dataclass(frozen=True)
class Resumed:
    """The commander ends a pause."""


@dataclass(frozen=True)
class SceneAsked:
    """The commander wants another scene of a simulated robot."""

    seed: int


@dataclass(frozen=True)
class CommanderLost:
    """Nobody commands any more: `name` left, or has been silent for too long."""

    name: str


Event = Instructed | Stopped | MotorsCut | Released | Paused | Resumed | SceneAsked | CommanderLost


@dataclass
class _Lease:
    """Who commands, since when, and what was heard last."""

    session: str
    epoch: int
    name: str
    since_s: float
    heard_s: float
    sequence: int
    answer: wire.AnyReply


class OperatorPort:
    """Where operators reach a robot `body`; for one thread, the control loop's.

    Raises UserError for an address that is taken, unusable, or leads off this machine without
    `keys`; with them only the allowed connect, even to watch. `counters` tells what was refused or
    ignored. `stops` is the number of the last stop: those of operators are counted here, the
    robot's own by whoever sees them. `clock` is monotonic, in seconds.
    """

    def __init__(
        self,
        address: str,
        body: Embodiment,
        simulated: bool = False,
        clock: Callable[[], float] = time.monotonic,
        keys: ServerKeys | None = None,
    ) -> None:
        self.addresses = wire.addresses_of(address, encrypted=keys is not None)
        self.counters = {"malformed_messages": 0, "refused_commands": 0, "repeated_commands": 0}
        self.stops = 0
        self._body, self._simulated, self._clock = body, simulated, clock
        self._lease: _Lease | None = None
        self._epoch = 0
        self._polled_s = clock()
        self._guarded_s = self._woken_s = float("-inf")
        self._bound: list[str] = []
        self._context, self._keys = wire.make_context(), keys
        self._judging = ExitStack()
        try:
            if keys is not None:
                self._judging.enter_context(authenticator(self._context, keys))
            self._stop = _Inbox(self._listen(zmq.ROUTER, self.addresses.stop, stops=True))
            self._commands = _Inbox(self._listen(zmq.ROUTER, self.addresses.commands))
            self._telemetry = self._listen(zmq.PUB, self.addresses.telemetry)
        except BaseException:
            self.close()
            raise

    @property
    def commander(self) -> str:
        """Who holds the lease, or nobody: ""."""
        return self._lease.name if self._lease else ""

    def poll(self) -> list[Event]:
        """What operators asked since the last call: stops first, then commands in their order."""
        now_s = self._clock()
        events: list[Event] = list(self._halts(now_s))
        if now_s - self._polled_s > wire.STALE_S:
            self._guarded_s = now_s
        for peer, frame in self._commands.receive():
            try:
                request = wire.unpack(wire.REQUESTS, frame)
            except WireError:
                self.counters["malformed_messages"] += 1
                continue
            reply, caused = self._carry_out(request, now_s)
            self._answer(self._commands, peer, reply)
            events += caused
        if self._lease is not None and now_s - self._lease.heard_s > wire.STALE_S:
            events += self._end_lease()
        self._polled_s = now_s
        return events

    def sleep(self, seconds: float) -> None:
        """Sleeps between two control periods; a stop does not wait for the next, and ends it.

        So does garbage at the stop socket, but no more than twice a second.
        """
        until_s = time.monotonic() + seconds
        if until_s - self._woken_s > _GUARD_S and self._stop.wait(seconds):
            self._woken_s = time.monotonic()
            return
        time.sleep(max(0.0, until_s - time.monotonic()))

    def publish(self, telemetry: wire.Telemetry) -> None:
        """Shows a moment to whoever watches; a viewer that cannot keep up misses it."""
        self._telemetry.send(wire.pack_telemetry(telemetry), zmq.NOBLOCK)

    def close(self) -> None:
        """Closes the sockets; safe to call again."""
        if not self._context.closed:
            self._judging.close()
            wire.close(self._context)
            for address in self._bound:
                wire.remove_ipc(address)

    def __enter__(self) -> OperatorPort:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _listen(self, kind: int, address: str, stops: bool = False) -> wire.Socket:
        socket = wire.listen(self._context, kind, address, stops, self._keys)
        self._bound.append(address)
        return socket

    def _halts(self, now_s: float) -> set[Stopped | MotorsCut]:
        """Stop and cut, each once however often it was asked."""
        asked: set[Stopped | MotorsCut] = set()
        for peer, frame in self._stop.receive():
            try:
                halt = wire.unpack(wire.HALTS, frame)
            except WireError:
                self.counters["malformed_messages"] += 1
                continue
            asked.add(MotorsCut() if isinstance(halt, wire.Cut) else Stopped())
            self.stops, self._guarded_s = self.stops + 1, now_s
            self._answer(self._stop, peer, wire.Acknowledged(sequence=halt.sequence))
        return asked

    def _answer(self, inbox: _Inbox, peer: bytes, reply: wire.AnyReply | wire.Acknowledged) -> None:
        inbox.answer(peer, msgspec.structs.replace(reply, stops=self.stops))

    def _carry_out(
        self, request: wire.AnyRequest, now_s: float
    ) -> tuple[wire.AnyReply, list[Event]]:
        if isinstance(request, wire.Claim):
            return self._grant(request, now_s), []
        lease, sequence = self._lease, request.sequence
        if lease is None or (request.session, request.epoch) != (lease.session, lease.epoch):
            self.counters["refused_commands"] += 1
            return self._busy(sequence, now_s), []
        if sequence <= lease.sequence:
            return self._repeat(lease, sequence), []
        lease.sequence, lease.heard_s = sequence, now_s
        caused: list[Event] = []
        try:
            caused = self._events(request, now_s)
            lease.answer = wire.Accepted(sequence=sequence)
        except UserError as error:
            self.counters["refused_commands"] += 1
            lease.answer = wire.Denied(sequence=sequence, message=str(error))
        return lease.answer, caused

    def _events(self, request: wire.AnyCommand, now_s: float) -> list[Event]:
        """What a command of the commander means to the loop, or UserError."""
        if isinstance(request, wire.Beat):
            return []
        if isinstance(request, wire.Leave):
            return self._end_lease()
        if isinstance(request, wire.Pause):
            return [Paused()]
        if now_s - self._guarded_s < _GUARD_S:
            raise UserError("the robot has just been stopped, or was busy: look, then ask again")
        if request.stops != self.stops:
            raise UserError("the robot has been stopped since: look, then ask again")
        if isinstance(request, wire.Instruct):
            return [Instructed(check_instruction(request.text))]
        if isinstance(request, wire.Resume):
            return [Resumed()]
        if isinstance(request, wire.Release):
            return [Released()]
        if not self._simulated:
            raise UserError("a real robot has no other scenes: carry it there")
        return [SceneAsked(request.seed)]

    def _grant(self, claim: wire.Claim, now_s: float) -> wire.AnyReply:
        sequence = claim.sequence
        if (denied := self._mismatch(claim)) is not None:
            return wire.Denied(sequence=sequence, message=denied)
        held = self._lease
        if held is not None and held.session != claim.session:
            self.counters["refused_commands"] += 1
            return self._busy(sequence, now_s)
        if held is not None and sequence <= held.sequence:
            return self._repeat(held, sequence)
        self._epoch += 1
        since_s = held.since_s if held else now_s
        name = one_line(claim.name) or "somebody"
        lease = wire.Lease(sequence=sequence, epoch=self._epoch)
        self._lease = _Lease(claim.session, self._epoch, name, since_s, now_s, sequence, lease)
        return lease

    def _mismatch(self, claim: wire.Claim) -> str | None:
        """What the asker and the robot do not share, and the remedy."""
        if claim.protocol != wire.PROTOCOL:
            return (
                f"protocol version differs, {claim.protocol} here and {wire.PROTOCOL} at the robot:"
                " install the same release of hitogata on both sides"
            )
        if claim.embodiment and (found := claim.embodiment.difference(self._body)):
            return (
                f"{found.term} differs, {found.ours} here and {found.theirs} at the robot:"
                " start a console for this robot"
            )
        return None

    def _repeat(self, lease: _Lease, sequence: int) -> wire.AnyReply:
        """What was done is not done again; who asks for the last answer again missed it."""
        self.counters["repeated_commands"] += 1
        if sequence == lease.sequence:
            return lease.answer
        return wire.Denied(sequence=sequence, message="this command came before")

    def _busy(self, sequence: int, now_s: float) -> wire.Busy:
        held_s = now_s - self._lease.since_s if self._lease else 0.0
        return wire.Busy(sequence=sequence, holder=self.commander, held_s=held_s)

    def _end_lease(self) -> list[Event]:
        name, self._lease = self.commander, None
        return [CommanderLost(name)]


class _Inbox:
    """Messages of a ROUTER socket, taken frame by frame: none can cost more than its share."""

    def __init__(self, socket: wire.Socket) -> None:
        self._socket = socket
        self._frames: list[bytes] = []

    def wait(self, seconds: float) -> bool:
        """Waits for a message, with a resolution of 1 ms; whether there is one."""
        return bool(self._socket.poll(int(1000 * seconds)))

    def receive(self) -> Iterator[tuple[bytes, bytes]]:
        """Peer and frame of the messages that have arrived; of a wrong form, an empty frame."""
        for _ in range(_FRAMES_AT_ONCE):
            try:
                frame = self._socket.recv(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            flood.taken(frame, len(frame), 1)
            if len(self._frames) < 3:
                self._frames.append(frame.bytes)
            if not frame.more:
                frames, self._frames = self._frames, []
                yield frames[0], frames[1] if len(frames) == 2 else b""

    def answer(self, peer: bytes, reply: wire.AnyReply | wire.Acknowledged) -> None:
        """Answers, unless the peer is gone or does not read."""
        try:
            self._socket.send_multipart([peer, wire.pack(reply)], zmq.NOBLOCK)
        except zmq.ZMQError:
            return  # the robot waits for nobody
