"""Ends connections that bring far more than they finish, before this process is full of it.

libzmq (up to 4.3.5) bounds a frame (MAXMSGSIZE) and counts whole messages (RCVHWM), but keeps the
frames of a message that has no last one without any bound: two bytes on the wire may cost 64 of
memory. So one thread per process looks, a hundred times a second, at every connection of the
sockets given to it. What a connection has brought beyond the messages that were taken from it is

tcp     known to the byte (tcp_info). When all of them together hold more than MOST_BYTES, the one
        that holds most ends; so it does from SUSPECT_BYTES on when the memory of the process has
        grown by MOST_GROWTH since
others  not told by the kernel: one ends that has been busy for some looks without a message while
        the memory has grown so; such a peer is a process of this user, and may fail but hardly
        hides

Of more than MOST_CONNECTIONS the one that has been silent for longest ends, and of those from which
no message ever came before all others. An ended connection is one that broke, to both ends.
Without Linux' /proc nothing is looked at.
"""

from __future__ import annotations

import logging
import mmap
import os
import socket as unix
import struct
import sys
import threading
import time
from array import array
from pathlib import Path
from typing import Any

import zmq
from zmq.utils.monitor import recv_monitor_message

if sys.platform == "win32":  # where nothing is looked at
    MOST_CONNECTIONS = 256
else:
    import resource
    from fcntl import ioctl
    from termios import FIONREAD

    MOST_CONNECTIONS = min(256, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4)

MOST_BYTES = 32 << 20
SUSPECT_BYTES = 256 << 10
MOST_GROWTH = 16 << 20
LOOK_S = 0.01
# What libzmq puts around each frame, encryption included, at most.
_AROUND_A_FRAME = 64
# What heartbeats bring in a look, where there are any.
_HEARTBEATS = 5
# Where bytes are not told, a look that finds so many unread counts two up, another one down: more
# than heartbeats that wait while libzmq is busy with another one.
_UNREAD_BYTES = 1024
_BUSY = 4
# Looks after which memory is free again that an ended one had.
_REST = 3
_SO_COOKIE = 57
_RECEIVED_AT = struct.Struct("@Q"), 128  # tcpi_bytes_received in tcp_info, linux/tcp.h
_PEER_PROCESS = struct.Struct("3i")  # pid, uid, gid
_AT_ONCE = 1 << 20
_PAGE = mmap.PAGESIZE
_STATM = Path("/proc/self/statm")

_ENDLESS = "it sends a message that does not end"

_log = logging.getLogger(__name__)


class _Connection:
    """One connection, by its descriptor, which belongs to libzmq and may be gone at any time."""

    def __init__(self, fd: int, address: str, beats: bool, memory: int) -> None:
        self.fd, self.address = fd, address
        self.held = 0  # bytes, by the last look; where they are not told, those found unread
        self.taken = 0  # by the socket's own thread
        self.spoke, self.heard_s = False, time.monotonic()
        self._line = unix.socket(fileno=fd)
        self.counted = self._line.family != unix.AF_UNIX
        try:
            self._cookie = self._line.getsockopt(unix.SOL_SOCKET, _SO_COOKIE, 8)
            self.peer = self._peer()
        except OSError:  # its peer is gone, and libzmq may not know yet
            self.forget()
            raise
        self._memory = memory
        self._beats = _HEARTBEATS if beats else 0
        self._accounted = self._seen_taken = self._busy = 0
        self._ended = False

    def forget(self) -> None:
        """Leaves the descriptor to libzmq."""
        self._line.detach()

    def alive(self) -> bool:
        try:
            return self._line.getsockopt(unix.SOL_SOCKET, _SO_COOKIE, 8) == self._cookie
        except OSError:
            return False

    def look(self, memory: int, before: int) -> bool:
        """Whether it ends for itself; of the process' memory, now and at the last look."""
        taken, self._seen_taken = self.taken - self._seen_taken, self.taken
        if taken:
            self.spoke, self.heard_s = True, time.monotonic()
        try:
            if self.counted:
                self.held = self._bytes_held(taken)
                return False
            suspect = self._suspected(taken)
        except OSError:
            return False  # it is gone
        if not suspect:
            self._memory = before
        return suspect and memory - self._memory > MOST_GROWTH

    def _bytes_held(self, taken: int) -> int:
        info = self._line.getsockopt(unix.IPPROTO_TCP, unix.TCP_INFO, 256)
        received: int = _RECEIVED_AT[0].unpack_from(info, _RECEIVED_AT[1])[0]
        self._accounted = min(self._accounted + taken + self._beats, received)
        return received - self._accounted

    def _suspected(self, taken: int) -> bool:
        unread = array("i", [0])
        ioctl(self.fd, FIONREAD, unread)
        busy = unread[0] > _UNREAD_BYTES and not taken
        self._busy = min(self._busy + 2, 2 * _BUSY) if busy else max(self._busy - 1, 0)
        self.held = self.held + unread[0] if self._busy else 0
        return self._busy >= _BUSY

    def end(self, why: str) -> None:
        """Breaks it, unless it is gone and its descriptor means another one."""
        try:
            with unix.socket(fileno=os.dup(self.fd)) as line:
                if line.getsockopt(unix.SOL_SOCKET, _SO_COOKIE, 8) != self._cookie:
                    return
                if not self._ended:
                    self._ended = True
                    _log.warning("%s was cut off from %s: %s", self.peer, self.address, why)
                    line.shutdown(unix.SHUT_RDWR)
                while line.recv(_AT_ONCE, unix.MSG_DONTWAIT):  # or libzmq would
                    pass
        except OSError:
            return

    def _peer(self) -> str:
        if self.counted:
            host, port = self._line.getpeername()[:2]
            return f"{host} port {port}"
        size = _PEER_PROCESS.size
        told = self._line.getsockopt(unix.SOL_SOCKET, unix.SO_PEERCRED, size)
        return f"process {_PEER_PROCESS.unpack(told)[0]}"


class _Guard:
    """The connections of this process, and the thread that looks at them while there are any."""

    def __init__(self) -> None:
        self.connections: dict[int, _Connection] = {}
        self._monitors: dict[zmq.Socket[Any], tuple[zmq.Socket[Any], str, bool]] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._calm = 0  # memory when little was held
        self._rest = 0

    def watch(self, socket: zmq.Socket[Any], address: str, beats: bool) -> None:
        monitor = socket.get_monitor_socket(zmq.EVENT_ACCEPTED | zmq.EVENT_CONNECTED)
        with self._lock:
            self._monitors[socket] = (monitor, address, beats)
            self._start()

    def release(self, context: zmq.Context[Any]) -> None:
        with self._lock:
            for socket in self._of(context):
                monitor, *_ = self._monitors.pop(socket)
                socket.disable_monitor()
                monitor.close()

    def _of(self, context: zmq.Context[Any]) -> list[zmq.Socket[Any]]:
        return [socket for socket in self._monitors if socket.context is context]  # pyright: ignore[reportUnknownMemberType]

    def add(self, fd: int, address: str) -> None:
        with self._lock:
            self._add(fd, address, True, _memory())
            self._start()

    def _add(self, fd: int, address: str, beats: bool, memory: int) -> None:
        if (older := self.connections.pop(fd, None)) is not None:
            older.forget()
        try:
            self.connections[fd] = _Connection(fd, address, beats, memory)
        except OSError:
            return  # it is gone already

    def _start(self) -> None:
        if self._thread is None and _STATM.exists():
            self._thread = threading.Thread(target=self._run, name="flood", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        self._calm = before = _memory()
        while True:
            time.sleep(LOOK_S)
            with self._lock:
                if not (self._monitors or self.connections):
                    self._thread = None
                    return
                memory = _memory()
                self._look(memory, before)
                before = memory

    def _look(self, memory: int, before: int) -> None:
        for socket, (monitor, address, beats) in list(self._monitors.items()):
            try:
                while int(monitor.get(zmq.EVENTS)) & zmq.POLLIN:
                    self._add(int(recv_monitor_message(monitor)["value"]), address, beats, before)
            except zmq.ZMQError:  # its context ended without a release
                del self._monitors[socket]
        suspects: list[_Connection] = []
        for connection in list(self.connections.values()):
            if not connection.alive():
                self.connections.pop(connection.fd).forget()
            elif connection.look(memory, before):
                suspects.append(connection)
        self._rest -= 1
        if suspects and self._rest <= 0:
            max(suspects, key=lambda each: each.held).end(_ENDLESS)
            self._rest = _REST
        self._judge(memory)

    def _judge(self, memory: int) -> None:
        """Those whose bytes are counted, together; and how many there are of all."""
        counted = [each for each in self.connections.values() if each.counted]
        held = sum(each.held for each in counted)
        if held <= SUSPECT_BYTES:
            self._calm = memory
        elif held > MOST_BYTES or memory - self._calm > MOST_GROWTH:
            max(counted, key=lambda each: each.held).end(_ENDLESS)
        if len(self.connections) > MOST_CONNECTIONS:
            silent = min(self.connections.values(), key=lambda each: (each.spoke, each.heard_s))
            silent.end(f"more than {MOST_CONNECTIONS} are connected, and it was silent for longest")


_guard = _Guard()


def _begin_anew() -> None:
    """A fork has no threads, and its parent's connections are not its own."""
    global _guard
    for connection in _guard.connections.values():
        connection.forget()
    _guard = _Guard()


if hasattr(os, "register_at_fork"):  # where there are forks
    os.register_at_fork(after_in_child=_begin_anew)


def watch(socket: zmq.Socket[Any], address: str, beats: bool = False) -> None:
    """Looks at all connections of a socket, before it is bound or connected, until `release`.

    `beats`: whether its peers send heartbeats (ZMQ_HEARTBEAT_IVL).
    """
    _guard.watch(socket, address, beats)


def release(context: zmq.Context[Any]) -> None:
    """Ends `watch` of all sockets of a context, before they are closed."""
    _guard.release(context)


def watch_connection(fd: int, address: str) -> None:
    """Looks at the connection of a socket with heartbeats, by the descriptor its monitor tells."""
    _guard.add(fd, address)


def taken(first: zmq.Frame, size: int, frames: int) -> None:
    """A message was taken from a socket, of so many bytes; `first` is a frame of it."""
    try:
        descriptor = int(first.get(zmq.SRCFD))
    except zmq.ZMQError:  # it came through no socket of the system's, as inproc does
        return
    connection = _guard.connections.get(descriptor)
    if connection is not None:
        connection.taken += size + frames * _AROUND_A_FRAME


def _memory() -> int:
    """The resident memory of this process, in bytes."""
    return int(_STATM.read_bytes().split()[1]) * _PAGE
