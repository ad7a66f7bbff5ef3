"""A bad network on this machine: messages late, lost, doubled, damaged or out of order.

It stands between DEALER clients and a ROUTER server and disturbs whole messages, in either
direction; both ends keep their own sockets and notice nothing but its effects.
"""

from __future__ import annotations

import threading
import time
from collections import Counter

import numpy as np
import zmq
from zmq.utils.monitor import recv_monitor_message

from bench.faults.impairment import Direction, Frames, Impairment
from bridge.contract import UserError
from bridge.wire import sockets

_LOOK_S = 0.02  # how late a change of settings, or the end, may be noticed
_MOST_WAITING = 1000
_MAX_PEERS = 64

CALM = Impairment()

_Socket = zmq.Socket[bytes]


class ImpairmentProxy:
    """Lets clients that connect to `front_address` reach the server at `back_address`.

    `requests` and `replies` are the settings per direction, and may be assigned at any time; what
    is on its way keeps those that it entered with. The same seed and messages give the same
    accidents, client by client in the order in which they come. Each client has a connection of
    its own to the server; when the server breaks one, all clients lose theirs.

    `address` is the front's, with the port in use. `counters` tells what has happened to messages:
    lost, duplicated, reordered, truncated, corrupted, delivered.
    """

    def __init__(
        self,
        front_address: str,
        back_address: str,
        requests: Impairment = CALM,
        replies: Impairment = CALM,
        seed: int = 0,
    ) -> None:
        self.requests, self.replies = requests, replies
        self.counters: Counter[str] = Counter()
        self._back_address = sockets.local_address(back_address)
        self._seed, self._met = seed, 0
        self._peers: dict[bytes, _Peer] = {}
        self._context: zmq.Context[_Socket] = zmq.Context()
        self._ended = threading.Event()
        try:
            self._front = self._listen(sockets.local_address(front_address))
        except BaseException:
            self._context.destroy(linger=0)
            raise
        self.address = self._front.getsockopt_string(zmq.LAST_ENDPOINT)
        self._thread = threading.Thread(target=self._run, name="chaos", daemon=True)
        self._thread.start()

    def disturb(self, both: Impairment) -> None:
        """Gives both directions the same settings."""
        self.requests = self.replies = both

    def close(self) -> None:
        """Ends all connections; what is on its way is lost. Safe to call again."""
        self._ended.set()
        self._thread.join()

    def __enter__(self) -> ImpairmentProxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _listen(self, address: str) -> _Socket:
        front = self._context.socket(zmq.ROUTER)
        _set_options(front, address)
        sockets.bind(front, address)
        return front

    def _run(self) -> None:
        try:
            while not self._ended.is_set():
                self._wait()
                while (arrived := _received(self._front)) is not None:
                    name, *frames = arrived
                    self._peer(name).there.enter(frames, self.requests)
                for name, peer in self._peers.items():
                    self._carry(name, peer)
                if any(peer.broken() for peer in self._peers.values()):
                    self._break_all()
        finally:
            self._context.destroy(linger=0)

    def _wait(self) -> None:
        poller = zmq.Poller()
        for socket in (self._front, *(peer.socket for peer in self._peers.values())):
            poller.register(socket, zmq.POLLIN)
        ways: list[Direction] = []
        ways += [] if self.requests.stalled else [peer.there for peer in self._peers.values()]
        ways += [] if self.replies.stalled else [peer.back for peer in self._peers.values()]
        left_s = min((way.due_s for way in ways), default=np.inf) - time.monotonic()
        poller.poll(int(1000 * np.clip(left_s, 0.001, _LOOK_S)))

    def _carry(self, name: bytes, peer: _Peer) -> None:
        while (frames := _received(peer.socket)) is not None:
            peer.back.enter(frames, self.replies)
        if not self.requests.stalled:
            for frames in peer.there.leave():
                _send(peer.socket, frames)
        if not self.replies.stalled:
            for frames in peer.back.leave():
                _send(self._front, [name, *frames])

    def _peer(self, name: bytes) -> _Peer:
        """A client's own way to the server; of too many, the one silent for longest goes."""
        peer = self._peers.pop(name, None)
        if peer is None:
            if len(self._peers) >= _MAX_PEERS:
                self._peers.pop(next(iter(self._peers))).close()
            self._met += 1
            rngs = [np.random.default_rng((self._seed, self._met, way)) for way in range(2)]
            there, back = (Direction(rng, self.counters) for rng in rngs)
            peer = _Peer(self._context, self._back_address, there, back)
        self._peers[name] = peer
        return peer

    def _break_all(self) -> None:
        """A ROUTER cannot hang up on one client: it goes, and comes back for new ones."""
        for peer in self._peers.values():
            peer.close()
        self._peers.clear()
        self._front.close()
        while not self._ended.wait(_LOOK_S):
            try:
                self._front = self._listen(self.address)
                return
            except UserError:
                continue  # the closed socket still holds its address


class _Peer:
    """One client's connection to the server, and what is on its way in both directions."""

    def __init__(
        self, context: zmq.Context[_Socket], address: str, there: Direction, back: Direction
    ) -> None:
        self.there, self.back = there, back
        self.socket = context.socket(zmq.DEALER)
        _set_options(self.socket, address)
        self._monitor = self.socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        self.socket.connect(address)

    def broken(self) -> bool:
        return bool(self._monitor.poll(0)) and bool(recv_monitor_message(self._monitor))

    def close(self) -> None:
        self.socket.disable_monitor()
        self._monitor.close()
        self.socket.close()


def _set_options(socket: _Socket, address: str) -> None:
    sockets.set_options(socket, address)
    sockets.watch_peer(socket)
    socket.sndhwm = _MOST_WAITING  # what is lost is lost by chance


def _received(socket: _Socket) -> Frames | None:
    try:
        return socket.recv_multipart(zmq.NOBLOCK)
    except zmq.Again:
        return None


def _send(socket: _Socket, frames: Frames) -> None:
    try:
        socket.send_multipart(frames, zmq.NOBLOCK)
    except zmq.ZMQError:
        return  # whoever does not read loses it
