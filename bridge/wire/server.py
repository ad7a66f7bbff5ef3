"""The policy server: answers observations with chunks over a ZeroMQ socket."""

from __future__ import annotations

import logging
import secrets
import signal
import threading
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import FrameType

import numpy as np
import zmq

from bridge.contract import Policy, UserError, check_instruction
from bridge.embodiment import Embodiment
from bridge.wire import messages, sockets
from bridge.wire.keys import ServerKeys, authenticator, check_secured, secure_server
from bridge.wire.messages import ServerInfo

_MAX_MESSAGE_BYTES = 8 << 20
_MAX_SESSIONS = 64
_MAX_MESSAGES_AT_ONCE = 64
_POLL_MS = 100  # how late a signal may be noticed

_log = logging.getLogger(__name__)


def serve_policy(
    policy: Policy,
    body: Embodiment,
    address: str,
    info: ServerInfo,
    ready: Callable[[str], object] | None = None,
    keys: ServerKeys | None = None,
) -> None:
    """Serves a `policy` for `body` until SIGINT, SIGTERM or SIGHUP, at an ipc or loopback address.

    With `keys` it may be any address of this machine. `ready` is called with the address in use
    (which resolves a port given as *) once clients can connect. Raises UserError for an address
    that is taken or unusable, or that leads off this machine without keys.
    """
    address = sockets.local_address(address, encrypted=keys is not None)
    with _bound_router(address, keys) as router, stop_on_signals() as stopping:
        if ready is not None:
            ready(router.getsockopt_string(zmq.LAST_ENDPOINT))
        _Server(policy, body, info, router).run(stopping)


@dataclass
class _Session:
    """What the server keeps of one client: nothing that an answer depends on."""

    id: str
    last_sequence: int = 0
    answered: int = 0
    dropped: int = 0


class _Server:
    def __init__(
        self, policy: Policy, body: Embodiment, info: ServerInfo, router: zmq.Socket[bytes]
    ) -> None:
        self._policy, self._body = policy, body
        self._info = info
        self._router = router
        self._sessions: dict[bytes, _Session] = {}

    def run(self, stopping: threading.Event) -> None:
        self._router.rcvtimeo = _POLL_MS
        while not stopping.is_set():
            arrived = self._receive()
            for place, (peer, frames) in enumerate(arrived, start=1):
                if stopping.is_set():
                    break
                superseded = any(other == peer for other, _ in arrived[place:])
                reply = self._reply_to(peer, frames, superseded)
                if reply:
                    self._send(peer, reply)

    def _receive(self) -> list[tuple[bytes, list[bytes]]]:
        """Peer and frames of what has arrived, as far as it is not too much at once.

        Waits for the first, but not for long.
        """
        arrived: list[tuple[bytes, list[bytes]]] = []
        size = 0
        while len(arrived) < _MAX_MESSAGES_AT_ONCE and size < _MAX_MESSAGE_BYTES:
            try:
                peer, *frames = sockets.receive(self._router)
            except zmq.Again:
                break
            arrived.append((peer, frames))
            size += sum(map(len, frames))
            if not int(self._router.get(zmq.EVENTS)) & zmq.POLLIN:
                break
        return arrived

    def _send(self, peer: bytes, frames: list[bytes]) -> None:
        try:
            sockets.send(self._router, [peer, *frames])
        except zmq.ZMQError as error:
            # Gone, or too slow to read: the policy waits for nobody.
            _log.info("a reply was not taken: %s", error.strerror)

    def _reply_to(self, peer: bytes, frames: list[bytes], superseded: bool) -> list[bytes] | None:
        session = self._sessions.pop(peer, None)
        if session is not None:
            self._sessions[peer] = session  # the last one heard stands last
        try:
            request, arrays = messages.unpack_request(frames)
        except messages.WireError as error:
            return _fault(session.id if session else "", -1, str(error))
        if isinstance(request, messages.Hello):
            return self._greet(peer, request)
        if session is None or request.session != session.id:
            sequence = getattr(request, "sequence", -1)
            over = "this session is over: connect again"
            return _fault(request.session, sequence, over, over=True)
        if isinstance(request, messages.Goodbye):
            del self._sessions[peer]
            return None
        if request.sequence <= session.last_sequence or (
            superseded and isinstance(request, messages.Act)
        ):
            session.dropped += 1
            return None
        session.last_sequence = request.sequence
        session.answered += 1
        return self._carry_out(request, arrays)

    def _carry_out(
        self, request: messages.Act | messages.Reset, arrays: list[np.ndarray]
    ) -> list[bytes]:
        session, sequence = request.session, request.sequence
        try:
            if isinstance(request, messages.Reset):
                self._policy.reset()
                return messages.pack(messages.Done(session=session, sequence=sequence))
            instruction = check_instruction(request.instruction)
            seen = messages.observation_of(request, arrays, self._body)
            chunk = self._policy.act(instruction, seen)
            return messages.pack_chunk(session, sequence, chunk, self._body)
        except (UserError, messages.WireError) as error:
            message = str(error)
        except Exception as error:  # one bad request must not end the sessions of others
            _log.exception("the policy failed")
            message = f"the policy failed ({type(error).__name__}): read the server's log"
        return _fault(session, sequence, message)

    def _greet(self, peer: bytes, hello: messages.Hello) -> list[bytes]:
        welcome = messages.Welcome(
            session=secrets.token_hex(8),
            protocol=messages.PROTOCOL,
            embodiment=self._body,
            model_id=self._info.model_id,
            normalisation_id=self._info.normalisation_id,
        )
        refusal = messages.mismatch(hello, welcome)
        if refusal is not None:
            return messages.pack(refusal)
        if len(self._sessions) >= _MAX_SESSIONS:
            # Clients that vanished said no goodbye; the one silent for longest makes room.
            del self._sessions[next(iter(self._sessions))]
        self._sessions[peer] = _Session(welcome.session)
        return messages.pack(welcome)


def _fault(session: str, sequence: int, message: str, over: bool = False) -> list[bytes]:
    line = messages.one_line(message)
    return messages.pack(
        messages.Fault(session=session, sequence=sequence, message=line, over=over)
    )


@contextmanager
def _bound_router(address: str, keys: ServerKeys | None) -> Generator[zmq.Socket[bytes]]:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    with ExitStack() as undo:
        undo.callback(context.term)
        if keys is not None:
            undo.enter_context(authenticator(context, keys))
        router = undo.enter_context(context.socket(zmq.ROUTER))
        sockets.set_options(router, address)
        router.setsockopt(zmq.MAXMSGSIZE, _MAX_MESSAGE_BYTES)
        router.setsockopt(zmq.ROUTER_MANDATORY, 1)
        if keys is not None:
            secure_server(router, keys)
        sockets.bind(router, address)
        if keys is not None:
            check_secured(router)
        if (file := sockets.ipc_file(address)) is not None:
            undo.callback(file.unlink, missing_ok=True)
            undo.callback(router.close)
        yield router


@contextmanager
def stop_on_signals() -> Generator[threading.Event]:
    """An event that SIGINT, SIGTERM and SIGHUP set; their handlers are put back afterwards.

    SIGHUP stays ignored where it is, as by nohup.
    """
    stopping = threading.Event()

    def stop(_number: int, _frame: FrameType | None) -> None:
        stopping.set()

    if threading.current_thread() is not threading.main_thread():
        yield stopping  # Python delivers signals to the main thread alone
        return
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield stopping
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
