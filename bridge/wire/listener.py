"""A TCP listener for WebSocket servers, which strangers can neither end nor fill.

The accept loop of websockets ends for ever at its first error, as when the process has no
descriptor left, and begins a thread for whoever connects. So errors stay in here, and connections
that have not been let in are few: of the silent ones, the newest pushes out the oldest.
"""

from __future__ import annotations

import errno
import socket
import threading
import time
from contextlib import suppress
from typing import Any

from websockets.frames import CloseCode, Frame
from websockets.sync.server import ServerConnection

# Connections that have not been let in yet, in all.
MOST_WAITING = 64
# Frames of one message. The library bounds their bytes, of which they need have none.
MOST_FRAGMENTS = 64
_LOOK_S, _REST_S = 0.1, 0.02
_FULL = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Listener(socket.socket):
    """Listens at a host and a port, or raises OSError.

    At most `of_one` connections of one address wait to be let in, and MOST_WAITING in all, but
    addresses that were let in before always find a place. Those that asked for something, as a
    wrong token does, wait for their answer and are not pushed out.
    """

    def __init__(self, host: str, port: int, of_one: int = MOST_WAITING) -> None:
        super().__init__(socket.AF_INET6 if ":" in host else socket.AF_INET)
        self._of_one = of_one
        self._silent: dict[socket.socket, str] = {}  # the first has been so for longest
        self._asking: dict[socket.socket, str] = {}
        self._known: set[str] = set()
        self._lock = threading.Lock()
        try:
            self.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.bind((host, port))
            self.listen(MOST_WAITING)
        except OSError:
            self.close()
            raise
        self.settimeout(_LOOK_S)  # to notice that it was closed

    def accept(self) -> tuple[socket.socket, Any]:
        """The next connection that finds a place; OSError only once this is closed."""
        while True:
            try:
                line, address = super().accept()
            except TimeoutError:
                continue
            except OSError as error:
                if self.fileno() < 0:
                    raise
                if error.errno in _FULL:
                    self._make_room()
                time.sleep(_REST_S)
                continue
            if self._finds_place(line, address[0]):
                return line, address
            line.close()

    def heard(self, line: socket.socket) -> None:
        """A connection has asked for something."""
        with self._lock:
            if line in self._silent:
                self._asking[line] = self._silent.pop(line)

    def let_in(self, line: socket.socket) -> None:
        """A connection is no stranger any more."""
        with self._lock:
            self._known.update(each[line] for each in (self._silent, self._asking) if line in each)
        self.gone(line)

    def gone(self, line: socket.socket) -> None:
        """A connection waits no longer; the second time nothing happens."""
        with self._lock:
            self._silent.pop(line, None)
            self._asking.pop(line, None)

    def _finds_place(self, line: socket.socket, host: str) -> bool:
        with self._lock:
            waiting = self._silent | self._asking
            if list(waiting.values()).count(host) >= self._of_one:
                silent = [each for each, other in self._silent.items() if other == host]
            elif len(waiting) >= MOST_WAITING and host not in self._known:
                silent = list(self._silent)
            else:
                self._silent[line] = host
                return True
            if silent:
                self._end(silent[0])
                self._silent[line] = host
            return bool(silent)

    def _make_room(self) -> None:
        with self._lock:
            if self._silent:
                self._end(next(iter(self._silent)))

    def _end(self, line: socket.socket) -> None:
        """The thread that reads it will close it."""
        del self._silent[line]
        with suppress(OSError):  # it is gone already
            line.shutdown(socket.SHUT_RDWR)


class Arriving(ServerConnection):
    """A connection that waits at its Listener until its handshake is over, or before.

    A message in more than MOST_FRAGMENTS frames ends it.
    """

    _fragments = 0

    def handshake(self, *parts: Any, **options: Any) -> None:
        try:
            super().handshake(*parts, **options)
        finally:
            listener = self.server.socket
            assert isinstance(listener, Listener)
            listener.gone(self.socket)

    def process_event(self, event: Any) -> None:
        if isinstance(event, Frame):
            self._fragments = 0 if event.fin else self._fragments + 1
            if self._fragments > MOST_FRAGMENTS:
                self.protocol.fail(CloseCode.MESSAGE_TOO_BIG, "a message in too many frames")
                return
        super().process_event(event)
