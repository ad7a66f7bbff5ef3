"""Strangers at WebSocket servers: they neither end the listener, nor fill it."""

from __future__ import annotations

import errno
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect
from websockets.sync.server import ServerConnection, serve

from bridge.wire.listener import MOST_FRAGMENTS, MOST_WAITING, Arriving, Listener

WAIT_S = 20.0


def echo(connection: ServerConnection) -> None:
    for message in connection:
        connection.send(message)


@contextmanager
def served(listener: Listener) -> Iterator[int]:
    with serve(echo, sock=listener, create_connection=Arriving, open_timeout=WAIT_S) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        server.shutdown()
        thread.join(WAIT_S)
        assert not thread.is_alive()


def opened(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), WAIT_S)


def refused(listener: Listener) -> None:
    with pytest.raises(OSError, match="descriptor"):
        listener.accept()


def echoes(port: int) -> bool:
    with connect(f"ws://127.0.0.1:{port}", open_timeout=WAIT_S) as line:
        line.send("here")
        return line.recv(WAIT_S) == "here"


def test_a_listener_outlasts_a_process_without_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    listener = Listener("127.0.0.1", 0)
    fails = [errno.EMFILE, errno.ENFILE, errno.ECONNABORTED]
    accept = socket.socket.accept

    def failing(this: socket.socket) -> object:
        if fails:
            raise OSError(fails.pop(0), "")
        return accept(this)

    monkeypatch.setattr(socket.socket, "accept", failing)
    with served(listener) as port:
        assert echoes(port) and not fails


def test_the_newest_gets_in_however_many_are_silent() -> None:
    with served(Listener("127.0.0.1", 0)) as port, ExitStack() as stack:
        silent = [stack.enter_context(opened(port)) for _ in range(MOST_WAITING + 3)]
        assert echoes(port)
        assert all(line.recv(1) == b"" for line in silent[:3]), "the oldest have gone"


def test_who_waits_for_an_answer_is_not_pushed_out() -> None:
    with Listener("127.0.0.1", 0, of_one=2) as listener, ExitStack() as stack:
        port = listener.getsockname()[1]
        for _ in range(2):
            stack.enter_context(opened(port))
            listener.heard(stack.enter_context(listener.accept()[0]))
        third = stack.enter_context(opened(port))
        accepted = threading.Thread(target=refused, args=(listener,))
        accepted.start()
        assert third.recv(1) == b"", "no place"
        listener.close()
        accepted.join(WAIT_S)


def test_a_message_in_frames_without_number_ends_its_connection() -> None:
    def pieces() -> Iterator[str]:
        yield "a"
        while True:
            yield ""

    with served(Listener("127.0.0.1", 0)) as port:
        with (
            connect(f"ws://127.0.0.1:{port}") as line,
            pytest.raises(ConnectionClosed, match="1009"),
        ):
            line.send(pieces())
        with connect(f"ws://127.0.0.1:{port}") as line:
            line.send("ab"[i % 2] for i in range(MOST_FRAGMENTS // 2))
            assert line.recv(WAIT_S) == "ab" * (MOST_FRAGMENTS // 4)
