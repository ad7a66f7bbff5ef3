"""Whatever operators do, in whatever order and however late it arrives: what was stopped stays so.

A robot's station and its operator port, whose sockets are lists here, are driven by hypothesis.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from bridge.contract import contract_hash
from bridge.control.loop import PERIOD_S, ControlLoop
from bridge.control.safety import Level, Safety
from bridge.operator import messages as wire
from bridge.operator.port import OperatorPort
from bridge.robot_node import Station
from tests.test_control_loop import Mailbox, Puppet
from tests.test_safety import LIMITS, UPRIGHT, body

LYING = np.array([1, 0, 0], np.float32)
RISING_PERIODS = 10


class Box:
    """A black box that keeps nothing."""

    def __init__(self) -> None:
        self.counters: dict[str, int] = {}
        self.trouble = ""

    def add(self, moment: Any) -> None: ...

    def write(self, reason: str) -> None: ...


class Inbox:
    """What has arrived at a socket, and who hears of the answers."""

    def __init__(self, hear: Any) -> None:
        self.arrived: list[tuple[bytes, bytes]] = []
        self.answer = hear

    def receive(self) -> Iterator[tuple[bytes, bytes]]:
        while self.arrived:
            yield self.arrived.pop(0)


class Tumbler(Puppet):
    """A puppet that can fall, and gets up in a few periods."""

    def __init__(self) -> None:
        super().__init__()
        self.gravity, self.risen = UPRIGHT, 0

    def observe(self):
        seen = body(self.time_s, gravity=self.gravity)
        seen.joint_pos_rad[-14:] = self.joints
        return seen

    def get_up(self) -> bool | None:
        self.steps += 1
        self.risen += 1
        if self.risen < RISING_PERIODS:
            return None
        self.gravity, self.risen = UPRIGHT, 0
        return True

    def new_scene(self, seed: int) -> None:
        self.gravity, self.risen = UPRIGHT, 0


class Person:
    """An operator: what it asked and what of that is still on its way, what it was answered."""

    def __init__(self, name: str) -> None:
        self.name, self.session, self.peer = name, name * 16, name.encode()
        self.sequence = self.stops = 0
        self.epoch = 0
        self.on_its_way: list[bytes] = []
        self.unread: list[wire.AnyReply] = []

    def read(self) -> None:
        for reply in self.unread:
            self.stops = reply.stops
            if isinstance(reply, wire.Lease):
                self.epoch = reply.epoch
        self.unread = []


PEOPLE = st.integers(0, 1)
ORDERS: dict[str, tuple[type[wire.Leased], dict[str, Any]]] = {
    "walk": (wire.Instruct, {"text": "walk"}),
    "stop": (wire.Instruct, {"text": "stop"}),
    "pause": (wire.Pause, {}),
    "resume": (wire.Resume, {}),
    "release": (wire.Release, {}),
    "scene": (wire.NewScene, {"seed": 7}),
}


class Operators(RuleBasedStateMachine):
    """`asked` numbers each wish when it is made, what happened when it happened, by one count."""

    @initialize()
    def begin(self) -> None:
        self.robot, self.link = Tumbler(), Mailbox()
        clock = lambda: self.robot.time_s  # noqa: E731
        self.loop = ControlLoop(self.robot, self.link, Safety(LIMITS), clock)
        self.folder = tempfile.TemporaryDirectory()
        place = f"ipc://{Path(self.folder.name, 'robot.sock')}"
        self.port = OperatorPort(place, simulated=True, clock=clock)
        self.commands, self.halts = Inbox(self._answered), Inbox(self._halted)
        self.port._commands, self.port._stop = self.commands, self.halts  # type: ignore[assignment]
        self.station = Station(self.loop, self.port, Box(), new_scene=self.robot.new_scene)  # type: ignore[arg-type]
        self.people = [Person("a"), Person("b")]
        self.count, self.level = 0, Level.HOLD
        self.asked: dict[tuple[str, int], tuple[type, int]] = {}
        self.done: dict[type, int] = {}
        self.stopped = self.latched = self.ended = -1

    def teardown(self) -> None:
        if hasattr(self, "port"):
            self.port.close()
            self.folder.cleanup()

    def _next(self) -> int:
        self.count += 1
        return self.count

    # --- the robot ---

    def _answered(self, peer: bytes, reply: wire.AnyReply) -> None:
        person = next(person for person in self.people if person.peer == peer)
        person.unread.append(reply)
        kind, asked = self.asked[person.name, reply.sequence]
        if isinstance(reply, wire.Done):
            self.done[kind] = max(asked, self.done.get(kind, -1))
            if kind in (wire.Leave, wire.NewScene):
                self.ended = self._next()

    def _halted(self, peer: bytes, reply: wire.Acknowledged) -> None:
        self.stopped = self.latched = self._next()

    def _period(self) -> None:
        if self.link.questions and not self.link.trouble:
            self.link.answer(self.link.questions[-1][1].time_s)
            self.link.questions.clear()
        commander = self.port.commander
        level = self.station.period().order.level
        if commander and not self.port.commander:
            self.ended = self._next()
        if level > Level.HOLD and level > self.level:
            self.latched = self._next()
        self.level = level
        if level == Level.RUN:
            release, instruct = (self.done.get(kind, -1) for kind in (wire.Release, wire.Instruct))
            assert self.latched == -1 or release > self.latched, "no release asked since"
            assert instruct > max(self.stopped, self.ended), "no instruction asked since"

    # --- people ---

    def _ask(self, person: Person, kind: type[wire.Request], **content: Any) -> None:
        person.sequence += 1
        self.asked[person.name, person.sequence] = (kind, self._next())
        terms = {"session": person.session, "sequence": person.sequence, **content}
        person.on_its_way.append(wire.pack(kind(**terms)))

    def _deliver(self, person: Person) -> None:
        self.commands.arrived += [(person.peer, frame) for frame in person.on_its_way]
        person.on_its_way = []
        self._period()
        person.read()

    def _command(self, who: int, late: bool, kind: type[wire.Leased], **content: Any) -> None:
        person = self.people[who]
        if issubclass(kind, wire.Moving):
            content["stops"] = person.stops
        self._ask(person, kind, epoch=person.epoch, **content)
        if not late:
            self._deliver(person)

    def claim(self, who: int) -> None:
        terms = {"protocol": wire.PROTOCOL, "contract": contract_hash(), "name": "somebody"}
        self._ask(self.people[who], wire.Claim, **terms)
        self._deliver(self.people[who])

    @rule(who=PEOPLE, late=st.booleans(), order=st.sampled_from(list(ORDERS)))
    def command(self, who: int, late: bool, order: str) -> None:
        self._command(who, late, ORDERS[order][0], **ORDERS[order][1])

    @rule(who=PEOPLE)
    def take_over(self, who: int) -> None:
        self._command(1 - who, False, wire.Leave)
        self.claim(who)

    @rule(who=PEOPLE)
    def what_was_on_its_way_arrives(self, who: int) -> None:
        self._deliver(self.people[who])

    @rule(kind=st.sampled_from([wire.Stop, wire.Stop, wire.Cut]))
    def stop(self, kind: type[wire.Halt]) -> None:
        self.halts.arrived.append((b"anyone", wire.pack(kind(sequence=1))))
        self.time_passes(40, beating=True)

    @rule(who=PEOPLE)
    def walk(self, who: int) -> None:
        """As operators mostly do: claim, release, instruct, and wait until it walks."""
        self.take_over(who)
        for _ in range(2):  # one that lies gets up first
            self._command(who, False, wire.Release)
            self.time_passes(2 * RISING_PERIODS, beating=True)
        self._command(who, False, wire.Instruct, text="walk")
        self.time_passes(10, beating=True)

    # --- the rest of the world ---

    @rule(periods=st.integers(1, 100), beating=st.booleans())
    def time_passes(self, periods: int, beating: bool) -> None:
        for period in range(periods):
            if beating and period % 20 == 0:
                for person in self.people:
                    if not person.on_its_way:
                        self._command(self.people.index(person), True, wire.Beat)
                        self.commands.arrived.append((person.peer, person.on_its_way.pop()))
            self._period()
            for person in self.people if beating else ():
                person.read()

    @rule()
    def the_server_is_lost_or_back(self) -> None:
        self.link.session += bool(self.link.trouble)
        self.link.trouble = "" if self.link.trouble else "nobody answers"
        self.link.reset()

    @rule()
    def the_robot_falls(self) -> None:
        self.robot.gravity = LYING
        self.time_passes(10, beating=True)

    @rule(seconds=st.floats(0.1, 3.0))
    def the_loop_hangs(self, seconds: float) -> None:
        self.robot.steps += round(seconds / PERIOD_S)


TestOperators = Operators.TestCase
TestOperators.settings = settings(
    max_examples=200, stateful_step_count=30, deadline=None, derandomize=True
)


def test_operators_do_get_it_to_walk() -> None:
    """Or the machine above would prove nothing."""
    machine = Operators()
    machine.begin()
    machine.walk(0)
    assert machine.level == Level.RUN
    machine.stop(wire.Stop)
    assert machine.level == Level.SAFE_STAND
    machine.walk(0)
    assert machine.level == Level.RUN
    machine.the_robot_falls()
    machine.time_passes(50, beating=True)
    assert machine.level == Level.DAMP
    machine.walk(0)
    assert machine.level == Level.RUN
    machine.teardown()
