"""A remote policy for a loop that never waits: asked and answered through a thread of its own."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from typing import Literal

from bridge.contract import ActionChunk, Observation, UserError
from bridge.control.loop import Rejected
from bridge.embodiment import Embodiment
from bridge.wire import messages as wire
from bridge.wire import sockets
from bridge.wire.client import MalformedReply, NoAnswer, PolicyUnavailable, RemotePolicy
from bridge.wire.keys import ClientKeys
from bridge.wire.messages import ServerInfo

_RETRY_S = 0.2
_CHECK_S = 0.05  # how often an idle connection is looked at
_CLOSE_S = 1.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LinkState:
    """How the link to a policy server stands; `line` is what an operator reads of it.

    Connecting: no server has answered yet. Lost: the one that did is gone or hangs. Refused: one is
    there, but of another protocol, body, model or key. Whatever fails is tried again for ever.
    """

    name: Literal["connecting", "connected", "lost", "refused"]
    line: str


class PolicyLink:
    """The policy served at `address` for the robot `body`, for a loop that must not wait.

    It reconnects by itself.

    A server that dies is noticed within 0.8 s by its silence on the heartbeat, one that leaves
    questions unanswered for `timeout_s` counts as hung. A question without an answer for
    `patience_s` is asked again, or the newest in its place: one lost message does not end the
    connection, and with it the walk. The model and normalisation of `expected`, else the first that
    answer, are the only ones ever accepted.

    `session` counts the connections: an answer always belongs to a question of the same session.
    `dropped` counts messages that were late, repeated or meant for others, of all connections.
    `trouble` is the state's line unless connected, then empty. All attributes are for reading.
    """

    state: LinkState
    session: int
    dropped: int
    trouble: str

    def __init__(
        self,
        address: str,
        body: Embodiment,
        expected: ServerInfo | None = None,
        keys: ClientKeys | None = None,
        timeout_s: float = 5.0,
        patience_s: float = 1.0,
    ) -> None:
        self.address = sockets.local_address(address, encrypted=keys is not None)
        self.session = self.dropped = 0
        self._body, self._expected, self._keys = body, expected, keys
        self._timeout_s, self._patience_s = timeout_s, patience_s
        self._turn = threading.Condition()
        self._closing = False
        self._epoch = 0  # what was asked in an earlier one is void
        self._question: tuple[str, Observation] | None = None
        self._answer: ActionChunk | Rejected | None = None
        self._reset_due = False
        with self._turn:
            self._enter(LinkState("connecting", f"connecting to {self.address}"))
        self._thread = threading.Thread(target=self._run, name="policy link", daemon=True)
        self._thread.start()

    def ask(self, instruction: str, observation: Observation) -> None:
        """Asks for a chunk; replaces a question not yet sent. Void unless connected.

        The observation's arrays must stay as they are.
        """
        with self._turn:
            if self.state.name == "connected":
                self._question = (instruction, observation)
                self._turn.notify_all()

    def take(self) -> ActionChunk | Rejected | None:
        """The newest answer, once. Rejected: a fault of the server, or no proper chunk."""
        with self._turn:
            answer, self._answer = self._answer, None
            return answer

    def reset(self) -> None:
        """Forgets questions and answers; the policy forgets before the next question."""
        with self._turn:
            self._forget()
            self._reset_due = True

    def wait_connected(self, timeout_s: float) -> None:
        """Returns once connected; UserError when refused, or after `timeout_s`."""
        with self._turn:
            self._turn.wait_for(lambda: self.state.name in ("connected", "refused"), timeout_s)
            if self.trouble:
                raise UserError(self.trouble)

    def close(self) -> None:
        """Ends the link within 1 s; a thread that waits for a hung server ends a little later."""
        with self._turn:
            self._closing = True
            self._forget()
            self._turn.notify_all()
        self._thread.join(_CLOSE_S)

    def __enter__(self) -> PolicyLink:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self) -> None:
        while not self._closing:
            try:
                with self._connected() as policy:
                    self._converse(policy)
            except MalformedReply as error:
                self._fail("refused", str(error))
            except PolicyUnavailable as error:
                self._fail("lost" if self.session else "connecting", str(error))
            except UserError as error:
                self._fail("refused", str(error))
            except Exception as error:  # a robot without its link could only be stopped
                _log.exception("the policy link failed")
                reason = f"the policy link failed ({type(error).__name__}): read the robot's log"
                self._fail("lost", reason)
            self._pause()

    def _connected(self) -> RemotePolicy:
        policy = RemotePolicy(
            self.address, self._body, self._expected, self._timeout_s, self._keys, self._patience_s
        )
        self._expected = policy.info
        with self._turn:
            self.session += 1
            self._enter(LinkState("connected", f"{policy.info.model_id} at {self.address}"))
        return policy

    def _converse(self, policy: RemotePolicy) -> None:
        """Answers questions until the link closes, or raises what ended the connection."""
        before = self.dropped
        while not self._closing:
            try:
                self._answer_next(policy)
            finally:
                self.dropped = before + policy.dropped

    def _answer_next(self, policy: RemotePolicy) -> None:
        with self._turn:
            if self._question is None:
                self._turn.wait(_CHECK_S)
            question, self._question = self._question, None
            reset, epoch = self._reset_due, self._epoch
            self._reset_due = self._reset_due and question is None
        if question is None:
            policy.check()
            return
        try:
            answer = self._answer_of(policy, *question, reset)
        except NoAnswer:
            self._ask_again(question, reset, epoch)
            return
        with self._turn:
            if epoch == self._epoch:
                self._answer = answer

    def _answer_of(
        self, policy: RemotePolicy, instruction: str, observation: Observation, reset: bool
    ) -> ActionChunk | Rejected:
        try:
            if reset:
                policy.reset()
            return policy.act(instruction, observation)
        except MalformedReply as error:
            return Rejected(str(error))
        except PolicyUnavailable:
            raise
        except UserError as error:
            return Rejected(wire.one_line(str(error)))

    def _ask_again(self, question: tuple[str, Observation], reset: bool, epoch: int) -> None:
        """Puts back what had no answer, unless it is void or a newer question waits."""
        with self._turn:
            self._reset_due = self._reset_due or reset
            if epoch == self._epoch and self._question is None:
                self._question = question

    def _fail(self, name: Literal["connecting", "lost", "refused"], line: str) -> None:
        with self._turn:
            self._forget()
            self._reset_due = True  # what the policy remembers is of another time
            self._enter(LinkState(name, line))

    def _enter(self, state: LinkState) -> None:
        self.state = state
        self.trouble = "" if state.name == "connected" else state.line
        self._turn.notify_all()

    def _forget(self) -> None:
        self._question = self._answer = None
        self._epoch += 1

    def _pause(self) -> None:
        """Waits before the next attempt."""
        with self._turn:
            self._turn.wait_for(lambda: self._closing, _RETRY_S)
