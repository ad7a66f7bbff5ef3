"""A peer that speaks ZMTP byte by byte, and says of every frame that another one follows."""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress

from bridge.wire import sockets

_MORE, _LONG, _COMMAND = 0x01, 0x02, 0x04
_GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
_AT_ONCE = 1 << 20
_WAIT_S = 10.0


@contextmanager
def stranger(address: str, kind: bytes = b"DEALER") -> Iterator[socket.socket]:
    """A connection to what listens at an address, after the handshake of a socket of a kind."""
    with _opened(address) as line:
        shake_hands(line, kind)
        yield line


def shake_hands(line: socket.socket, kind: bytes) -> None:
    """Introduces a line as a socket of a kind, without encryption (ZMTP 3.0)."""
    line.sendall(_GREETING)
    line.recv(len(_GREETING), socket.MSG_WAITALL)
    ready = b"\x05READY\x0bSocket-Type" + struct.pack(">I", len(kind)) + kind
    line.sendall(bytes([_COMMAND, len(ready)]) + ready)
    line.recv(_AT_ONCE)  # the other's; and perhaps its first message


def framed(content: bytes, more: bool = False) -> bytes:
    """A frame as it travels."""
    long = len(content) > 255
    size = struct.pack(">Q" if long else "B", len(content))
    return bytes([_LONG * long + _MORE * more]) + size + content


def send_without_end(line: socket.socket, frame_bytes: int, most_bytes: int) -> int:
    """Sends frames of one message until the other ends the line; how many bytes it took."""
    frame = framed(bytes(frame_bytes), more=True)
    block = frame * max(1, _AT_ONCE // len(frame))
    sent = 0
    try:
        while sent < most_bytes:
            line.sendall(block)
            sent += len(block)
    except OSError:
        pass
    return sent


def announce_and_garble(address: str, frame_bytes: int) -> None:
    """The head of a frame of so many bytes, until it is cut off; then one who greets with noise."""
    with stranger(address) as line, suppress(ConnectionResetError):
        line.sendall(bytes([_LONG]) + struct.pack(">Q", frame_bytes) + bytes(1000))
        while line.recv(_AT_ONCE):
            pass
    with _opened(address) as line:
        line.sendall(os.urandom(10_000))


class Relay:
    """Passes on what two ends of an ipc address say, until the one that listens never ends.

    Who connects to `address` reaches whoever listens at `behind`.
    """

    def __init__(self, address: str, behind: str) -> None:
        self._behind = behind
        self._file = sockets.ipc_file(address)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self._file))
        self._listener.listen()
        self._lines: list[socket.socket] = []
        self._turn = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def flood(self, frame_bytes: int, most_bytes: int) -> int:
        """Sends all who connected a message without end; how many bytes were taken."""
        with self._turn:  # nothing of the other end comes in between
            return sum(send_without_end(line, frame_bytes, most_bytes) for line in self._lines)

    def close(self) -> None:
        """Ends all connections."""
        self._listener.close()
        for line in self._lines:
            with suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Relay:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _accept(self) -> None:
        with suppress(OSError):  # it was closed, or nobody is behind it any more
            while True:
                line, _ = self._listener.accept()
                beyond = _opened(self._behind)
                beyond.settimeout(None)
                with self._turn:
                    self._lines = [line]
                for ends in ((line, beyond, nullcontext()), (beyond, line, self._turn)):
                    threading.Thread(target=_pass_on, args=ends, daemon=True).start()


def _pass_on(
    source: socket.socket, sink: socket.socket, turn: AbstractContextManager[object]
) -> None:
    """libzmq hands over whole frames at once, as far as they are short."""
    with suppress(OSError):
        while content := source.recv(_AT_ONCE):
            with turn:
                sink.sendall(content)
    for line in (source, sink):
        with suppress(OSError):
            line.shutdown(socket.SHUT_RDWR)


def _opened(address: str) -> socket.socket:
    if (file := sockets.ipc_file(address)) is not None:
        line = socket.socket(socket.AF_UNIX)
        line.settimeout(_WAIT_S)
        line.connect(str(file))
        return line
    host, _, port = address.partition("://")[2].rpartition(":")
    return socket.create_connection((host.strip("[]"), int(port)), _WAIT_S)
