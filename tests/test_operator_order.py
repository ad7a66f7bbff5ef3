"""Whatever operators do, in whatever order and however late it arrives: what was stopped stays so.

A robot's node and its operator port, whose sockets are lists here, are driven by hypothesis.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from bridge.control.loop import ControlLoop
from bridge.control.safety import Level, Safety
from bridge.operator import messages as wire
from bridge.operator.port import OperatorPort
from bridge.robot_node import RobotNode
from robots.g1.embodiment import ARM_POS, PERIOD_S
from tests.test_control_loop import Mailbox, Puppet
from tests.test_safety import BODY, UPRIGHT, body

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
        seen.joint_pos_rad[ARM_POS] = self.joints
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


WISHES: tuple[tuple[type[wire.Leased], dict[str, Any]], ...] = (
    (wire.Instruct, {"text": "walk"}),
    (wire.Pause, {}),
    (wire.Resume, {}),
    (wire.Release, {}),
    (wire.NewScene, {"seed": 7}),
)


class Operators(RuleBasedStateMachine):
    """`asked` numbers each wish when it is made, what happened when it happened, by one count."""

    @initialize()
    def begin(self) -> None:
        self.robot, self.link = Tumbler(), Mailbox()
        clock = lambda: self.robot.time_s  # noqa: E731
        self.loop = ControlLoop(self.robot, self.link, Safety(BODY), clock)
        self.folder = tempfile.TemporaryDirectory()
        place = f"ipc://{Path(self.folder.name, 'robot.sock')}"
        self.port = OperatorPort(place, BODY, simulated=True, clock=clock)
        self.commands, self.halts = Inbox(self._answered), Inbox(self._halted)
        self.port._commands, self.port._stop = self.commands, self.halts  # type: ignore[assignment]
        self.node = RobotNode(self.loop, self.port, Box(), new_scene=self.robot.new_scene)  # type: ignore[arg-type]
        self.people = [Person("a"), Person("b")]
        self.count, self.level = 0, Level.HOLD
        self.asked: dict[tuple[str, int], tuple[type, int]] = {}
        self.done: dict[type, int] = {}
        self.stopped = self.latched = self.ended = -1
        self.walk()

    def teardown(self) -> None:
        if hasattr(self, "port"):
            self.port.close()
            self.folder.cleanup()

    @property
    def person(self) -> Person:
        """Who commands, or tries to."""
        return self.people[0]

    def _next(self) -> int:
        self.count += 1
        return self.count

    # --- the robot ---

    def _answered(self, peer: bytes, reply: wire.AnyReply) -> None:
        person = next(person for person in self.people if person.peer == peer)
        person.unread.append(reply)
        kind, asked = self.asked[person.name, reply.sequence]
        if isinstance(reply, wire.Accepted):
            self.done[kind] = max(asked, self.done.get(kind, -1))
            if kind in (wire.Leave, wire.NewScene):
                self.ended = asked

    def _halted(self, peer: bytes, reply: wire.Acknowledged) -> None:
        self.stopped = self.latched = self._next()

    def _period(self) -> None:
        if self.link.questions and not self.link.trouble:
            self.link.answer(self.link.questions[-1][1].time_s)
            self.link.questions.clear()
        commander = self.port.commander
        level = self.node.step().order.level
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
        for _ in range(3):  # to be asked for, and to be answered
            self._period()
        person.read()

    def _command(self, kind: type[wire.Leased], **content: Any) -> None:
        """The commander's wish, which is on its way."""
        if issubclass(kind, wire.Moving):
            content["stops"] = self.person.stops
        self._ask(self.person, kind, epoch=self.person.epoch, **content)

    @rule(wishes=st.lists(st.sampled_from(WISHES), min_size=1, max_size=3))
    def ask_and_wait_for_the_network(self, wishes: list[Any]) -> None:
        for kind, content in wishes:
            self._command(kind, **content)

    @rule(text=st.sampled_from(["walk", "walk", "walk", "stop"]))
    def instruct(self, text: str) -> None:
        self._command(wire.Instruct, text=text)
        self.what_was_on_its_way_arrives()

    @rule()
    def pause(self) -> None:
        self._command(wire.Pause)
        self.what_was_on_its_way_arrives()

    @rule()
    def resume(self) -> None:
        self._command(wire.Resume)
        self.what_was_on_its_way_arrives()

    @rule()
    def release(self) -> None:
        self._command(wire.Release)
        self.what_was_on_its_way_arrives()

    @rule()
    def what_was_on_its_way_arrives(self) -> None:
        self._deliver(self.person)

    @rule()
    def take_over(self) -> None:
        """The other one leads from now on; what the first asked may still be on its way."""
        self._ask(self.person, wire.Leave, epoch=self.person.epoch)
        self._deliver(self.person)
        self.people.reverse()
        terms = {"protocol": wire.PROTOCOL, "embodiment": BODY, "name": "somebody"}
        self._ask(self.person, wire.Claim, **terms)
        self._deliver(self.person)

    @rule(kind=st.sampled_from([wire.Stop, wire.Stop, wire.Cut]))
    def stop(self, kind: type[wire.Halt]) -> None:
        self.halts.arrived.append((b"anyone", wire.pack(kind(sequence=1))))
        self.time_passes(40, beating=True)

    @rule()
    def walk(self) -> None:
        """As operators mostly do: claim, release, instruct, and wait until it walks."""
        self.take_over()
        for _ in range(2):  # one that lies gets up first
            self.release()
            self.time_passes(2 * RISING_PERIODS, beating=True)
        self.instruct("walk")
        self.time_passes(10, beating=True)

    # --- the rest of the world ---

    @rule(periods=st.integers(1, 60), beating=st.booleans())
    def time_passes(self, periods: int, beating: bool) -> None:
        """With `beating` the lease is kept, unless something is late: beats do not pass it."""
        for period in range(periods):
            if beating and period % 20 == 0:
                self._command(wire.Beat)
                if len(self.person.on_its_way) == 1:
                    self.commands.arrived.append((self.person.peer, self.person.on_its_way.pop()))
            self._period()
        if beating:
            self.person.read()

    @rule()
    def the_server_is_lost_or_back(self) -> None:
        self.link.session += bool(self.link.trouble)
        self.link.trouble = "" if self.link.trouble else "nobody answers"
        self.link.reset()

    @rule()
    def the_robot_falls(self) -> None:
        self.robot.gravity = LYING
        self.time_passes(10, beating=True)

    @rule(seconds=st.sampled_from([0.1, 0.3, 0.6, 3.0]))
    def the_loop_hangs(self, seconds: float) -> None:
        self.robot.steps += round(seconds / PERIOD_S)
        self._period()


TestOperators = Operators.TestCase
TestOperators.settings = settings(
    max_examples=100, stateful_step_count=40, deadline=None, derandomize=True
)


@given(
    early=st.lists(st.sampled_from(WISHES), max_size=3),
    halt=st.sampled_from(["stop", "cut", "hang", "fall", "leave"]),
    late=st.lists(st.sampled_from(["arrives", "instruct", "release", "resume"]), max_size=3),
)
@settings(max_examples=200, deadline=None, derandomize=True)
def test_what_was_asked_before_a_halt_does_not_undo_it(early, halt, late) -> None:
    """The machine above where it matters most: wishes before a halt, and after it."""
    machine = Operators()
    machine.begin()
    machine.ask_and_wait_for_the_network(early)
    halts = {
        "stop": lambda: machine.stop(wire.Stop),
        "cut": lambda: machine.stop(wire.Cut),
        "hang": lambda: machine.the_loop_hangs(0.6),
        "fall": machine.the_robot_falls,
        "leave": machine.take_over,
    }
    halts[halt]()
    wishes = {
        "arrives": machine.what_was_on_its_way_arrives,
        "instruct": lambda: machine.instruct("walk"),
        "release": machine.release,
        "resume": machine.resume,
    }
    for wish in late:
        wishes[wish]()
    machine.teardown()


def test_operators_do_get_it_to_walk() -> None:
    """Or the machine above would prove nothing."""
    machine = Operators()
    machine.begin()
    assert machine.level == Level.RUN
    machine.stop(wire.Stop)
    assert machine.level == Level.SAFE_STAND
    machine.walk()
    assert machine.level == Level.RUN
    machine.the_robot_falls()
    assert machine.level == Level.DAMP
    machine.walk()
    assert machine.level == Level.RUN
    machine.teardown()
