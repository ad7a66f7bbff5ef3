"""A policy that lives in another process, reached over a ZeroMQ socket."""

from __future__ import annotations

import errno
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import zmq
from zmq.utils.monitor import recv_monitor_message

from bridge.contract import ActionChunk, Observation, UserError, check_instruction
from bridge.embodiment import Embodiment
from bridge.pictures import as_known
from bridge.wire import messages as wire
from bridge.wire import sockets
from bridge.wire.keys import ClientKeys, client_keys, secure_client
from bridge.wire.messages import ServerInfo

_MAX_MESSAGE_BYTES = 1 << 20
_CONNECT_TIMEOUT_MS = 1000
_LOOK_MS = 50  # how late, beyond what the transport needs, a lost connection is noticed
_FLOOD = 1000  # messages at once that nobody asked for
_BROKEN = zmq.EVENT_CLOSED | zmq.EVENT_DISCONNECTED
_REFUSED = zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
_HANDSHAKE = zmq.EVENT_HANDSHAKE_SUCCEEDED | _REFUSED | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL

_Answer = TypeVar("_Answer", wire.Chunk, wire.Done)


class PolicyUnavailable(UserError):
    """No policy server answers: it is not there, it died, or it hangs."""


class NoAnswer(PolicyUnavailable):
    """One request has had no answer, which may be lost; the connection stands: ask again."""


class MalformedReply(PolicyUnavailable):
    """What answers does not keep the contract; the connection stands."""


@dataclass(frozen=True)
class Connection:
    """A policy server that runs already.

    Attributes:
        connect: Address of a server already running (hitogata serve), instead of a bundle.
        keys: Folder of this machine's keys (hitogata keys), for a server with keys.
        server_key: The public key of that server, a copy of its NAME.public.
    """

    connect: str | None = None
    keys: Path | None = None
    server_key: Path | None = None

    def client_keys(self) -> ClientKeys | None:
        """The keys to connect with, or None to connect without; UserError for half of them."""
        if self.keys is None and self.server_key is None:
            return None
        if self.connect is None or self.keys is None or self.server_key is None:
            raise UserError("a server with keys needs all of --connect, --keys and --server-key")
        return client_keys(self.keys, self.server_key)


class RemotePolicy:
    """The policy served at `address` for the robot `body`; a Policy, for one thread at a time.

    The handshake happens here: UserError when the server speaks another protocol, knows another
    body, runs another model or normalisation than `expected`, or does not take `keys`. A server
    that dies is noticed within 0.8 s by its silence on the heartbeat, one that leaves requests
    unanswered for `timeout_s` counts as hung; both raise PolicyUnavailable, as does one that has
    ended this session. A lost connection stays lost: make a new RemotePolicy. One answer is waited
    for no longer than `patience_s`, if that is less; then NoAnswer says that another request may be
    sent.

    `info` says which policy answers, `embodiment` which body and cameras it knows: the pictures of
    others are not sent, those of other sizes are scaled. `dropped` counts replies that were late,
    repeated, or meant for others.
    """

    info: ServerInfo
    embodiment: Embodiment

    def __init__(
        self,
        address: str,
        body: Embodiment,
        expected: ServerInfo | None = None,
        timeout_s: float = 5.0,
        keys: ClientKeys | None = None,
        patience_s: float = float("inf"),
    ) -> None:
        self.address = sockets.local_address(address, encrypted=keys is not None)
        self.dropped = 0
        self._timeout_s, self._patience_s = timeout_s, min(patience_s, timeout_s)
        self._waited_s = 0.0  # for answers, since the last one
        self._keys = keys
        self._session = ""
        self._sequence = 0
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        sockets.set_options(self._socket, self.address)
        sockets.watch_peer(self._socket)
        self._socket.setsockopt(zmq.MAXMSGSIZE, _MAX_MESSAGE_BYTES)
        self._socket.setsockopt(zmq.IMMEDIATE, 1)
        self._socket.setsockopt(zmq.CONNECT_TIMEOUT, _CONNECT_TIMEOUT_MS)
        if keys is not None:
            secure_client(self._socket, keys)
        # A robot must not find itself commanded again by whatever answers there next.
        self._socket.setsockopt(zmq.RECONNECT_IVL, -1)
        self._socket.rcvtimeo = _LOOK_MS
        self._monitor = self._socket.get_monitor_socket(_BROKEN | _HANDSHAKE)
        try:
            self._connect()
            self._shake_hands(body, expected)
        except BaseException:
            self.close()
            raise

    def act(self, instruction: str, observation: Observation) -> ActionChunk:
        """Asks for a chunk; UserError when the server cannot carry out this one request.

        MalformedReply when the answer is none: commands that are not finite, another shape, the
        stamp of another observation.
        """
        text = check_instruction(instruction)
        sequence = self._next_sequence()
        known = as_known(observation, self.embodiment)
        self._send(wire.pack_observation(self._session, sequence, text, known))
        message, arrays = self._await(wire.Chunk, sequence)
        try:
            chunk = wire.chunk_of(message, arrays, self.embodiment)
        except wire.WireError as error:
            raise self._malformed(error) from error
        if chunk.observed_at_s != observation.time_s:
            raise self._malformed(f"an answer to {chunk.observed_at_s}, not {observation.time_s} s")
        return chunk

    def reset(self) -> None:
        """Lets the policy forget what came before."""
        sequence = self._next_sequence()
        self._send(wire.pack(wire.Reset(session=self._session, sequence=sequence)))
        self._await(wire.Done, sequence)

    def check(self) -> None:
        """PolicyUnavailable once the connection is lost, without asking anything; never waits.

        What nobody asked for is dropped; MalformedReply when it does not end.
        """
        self._check_connection()
        for _ in range(_FLOOD):
            try:
                self._socket.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            self.dropped += 1
        raise self._malformed("it sends without being asked")

    def close(self) -> None:
        """Ends the session; safe to call again."""
        if self._socket.closed:
            return
        if self._session:
            try:
                self._send(wire.pack(wire.Goodbye(session=self._session)))
                self._socket.linger = 100  # ms, for the goodbye to leave
            except PolicyUnavailable:
                pass  # nobody is left to say goodbye to
        self._socket.disable_monitor()
        self._monitor.close()
        self._socket.close()
        self._context.term()

    def __enter__(self) -> RemotePolicy:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _connect(self) -> None:
        """Waits until the transport stands: with IMMEDIATE nothing can be sent before."""
        sockets.connect(self._socket, self.address)
        # Where nobody listens this ends at once; a server on a busy machine may need a while.
        if self._monitor.poll(int(self._timeout_s * 1000)):
            event = recv_monitor_message(self._monitor)
            if event["event"] == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                return
            # A server that hangs fails the handshake too, but does not close the connection.
            if event["event"] & _REFUSED or (
                event["event"] == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
                and event["value"] in (errno.EPIPE, errno.ECONNRESET)
            ):
                raise UserError(self._locked_out(event["event"]))
        raise PolicyUnavailable(
            f"no policy server answers at {self.address}: start one with"
            f" `hitogata serve BUNDLE --address {self.address}`"
        )

    def _locked_out(self, event: int) -> str:
        """Why the transport's own handshake failed."""
        if self._keys is None:
            return (
                f"{self.address} asks for keys, or is no policy server: give --keys FOLDER and"
                " --server-key FILE (hitogata keys --help)"
            )
        if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
            name = self._keys.own.name
            return (
                f"the server at {self.address} does not allow the key of {name}: bring"
                f" {name}.public there and run `hitogata keys allow {name}.public`"
            )
        return (
            f"what answers at {self.address} does not hold the key of --server-key, or has none:"
            " give the server's own NAME.public, and start it with `hitogata serve --keys FOLDER`"
        )

    def _shake_hands(self, body: Embodiment, expected: ServerInfo | None) -> None:
        hello = wire.Hello(
            protocol=wire.PROTOCOL,
            embodiment=body,
            model_id=expected.model_id if expected else None,
            normalisation_id=expected.normalisation_id if expected else None,
        )
        self._send(wire.pack(hello))
        received = self._receive(time.monotonic() + self._timeout_s)
        if received is None:
            raise self._no_answer(self._timeout_s)
        reply, _ = received
        if isinstance(reply, wire.Refused):
            raise UserError(wire.one_line(str(reply)))
        if not isinstance(reply, wire.Welcome):
            raise self._malformed(f"{type(reply).__name__} instead of Welcome")
        if (refused := wire.mismatch(hello, reply)) is not None:
            raise UserError(wire.one_line(str(refused)))
        self._session, self.embodiment = reply.session, reply.embodiment
        self.info = ServerInfo(wire.one_line(reply.model_id), wire.one_line(reply.normalisation_id))

    def _next_sequence(self) -> int:
        self._sequence += 1
        return self._sequence

    def _send(self, frames: list[bytes]) -> None:
        try:
            sockets.send(self._socket, frames)
        except zmq.Again as error:
            raise self._lost() from error

    def _await(self, kind: type[_Answer], sequence: int) -> tuple[_Answer, list[np.ndarray]]:
        """The answer to one request; whatever else arrives meanwhile is dropped and counted."""
        deadline = time.monotonic() + self._patience_s
        while (received := self._receive(deadline)) is not None:
            reply, arrays = received
            if isinstance(reply, (kind, wire.Fault)) and (
                (reply.session, reply.sequence) == (self._session, sequence)
            ):
                self._waited_s = 0.0
                if isinstance(reply, wire.Fault) and reply.over:
                    raise self._pushed_out()
                if isinstance(reply, wire.Fault):
                    raise UserError(wire.one_line(reply.message))
                return reply, arrays
            self.dropped += 1
        self._waited_s += self._patience_s
        raise self._no_answer(self._waited_s)

    def _receive(self, deadline: float) -> tuple[wire.Reply, list[np.ndarray]] | None:
        """The next reply, or None once the deadline has passed."""
        while time.monotonic() < deadline:
            try:
                return wire.unpack_reply(sockets.receive(self._socket))
            except wire.WireError as error:
                raise self._malformed(error) from error
            except zmq.Again:
                self._check_connection()
        return None

    def _check_connection(self) -> None:
        while self._monitor.poll(0):
            if recv_monitor_message(self._monitor)["event"] & _BROKEN:
                raise self._lost()

    def _no_answer(self, within_s: float) -> PolicyUnavailable:
        kind = NoAnswer if within_s < self._timeout_s else PolicyUnavailable
        return kind(
            f"the policy server at {self.address} gave no answer within {within_s:g} s:"
            " restart it with `hitogata serve`"
        )

    def _lost(self) -> PolicyUnavailable:
        return PolicyUnavailable(
            f"the policy server at {self.address} is gone: restart it with `hitogata serve`"
        )

    def _pushed_out(self) -> PolicyUnavailable:
        return PolicyUnavailable(
            f"the policy server at {self.address} has ended this session, as after a restart or"
            " many other clients: connect again"
        )

    def _malformed(self, detail: object) -> MalformedReply:
        return MalformedReply(
            f"what answers at {self.address} does not serve this contract"
            f" ({wire.one_line(str(detail))}): serve a bundle of this release with `hitogata serve`"
        )
