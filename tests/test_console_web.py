"""The console's web server: who is let in, how often and how long, and what files look like."""

from __future__ import annotations

import gzip
import logging
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from bridge.compat.adapter import Endpoint
from bridge.contract import UserError
from console import web as console_web
from console.studio import Studio
from console.web import File, listen, web_server

ROOT = Path(__file__).parent.parent
WAIT_S = 60.0
TOKEN = "a token that nobody guesses"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def served(endpoint: Endpoint) -> Iterator[str]:
    """A server of one file and one connection that echoes."""

    def echo(connection: Any) -> None:
        for message in connection:
            connection.send(message)

    listener, gate = listen(endpoint)
    content = {"/": File(b"hello", "text/plain")}
    with web_server(listener, gate, lambda path, _: content.get(path), {"/live": echo}) as place:
        yield place


def fetched(place: str, **headers: str) -> tuple[int, bytes, dict[str, str]]:
    request = urllib.request.Request(place, headers=headers)
    opener = urllib.request.build_opener(_Stay)
    try:
        with opener.open(request, timeout=WAIT_S) as answer:
            return answer.status, answer.read(), dict(answer.headers)
    except urllib.error.HTTPError as error:
        return error.code, error.read(), dict(error.headers)


class _Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


def test_only_the_console_s_own_page_connects() -> None:
    port = free_port()
    with served(Endpoint(f"http://127.0.0.1:{port}")) as place:
        status, content, headers = fetched(place)
        assert (status, content) == (200, b"hello")
        assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
        assert fetched(f"{place}none")[0] == 404
        assert fetched(place, Host="evil.example")[0] == 403, "a name made to point here"
        line = f"ws://127.0.0.1:{port}/live"
        with connect(line, origin=f"http://127.0.0.1:{port}") as page:  # type: ignore[arg-type]
            page.send("hello")
            assert page.recv(WAIT_S) == "hello"
        with pytest.raises(InvalidStatus, match="403"):
            connect(line, origin="http://evil.example")  # type: ignore[arg-type]


def test_the_token_is_asked_once_and_then_a_cookie() -> None:
    port = free_port()
    with served(Endpoint(f"http://127.0.0.1:{port}", token=TOKEN)) as place:
        base = f"http://127.0.0.1:{port}/"
        assert fetched(base)[0] == 401
        assert fetched(f"{base}?token=wrong")[0] == 401
        status, _, headers = fetched(place.replace(" ", "%20"))
        assert status == 303 and headers["Location"] == "/"
        cookie = headers["Set-Cookie"]
        assert "HttpOnly" in cookie and "SameSite=Strict" in cookie and TOKEN not in cookie
        assert fetched(base, Cookie=cookie.split(";")[0])[1] == b"hello"
        with pytest.raises(InvalidStatus, match="401"):
            connect(f"ws://127.0.0.1:{port}/live")


@pytest.mark.parametrize(
    ("endpoint", "complaint"),
    [
        (Endpoint("http://0.0.0.0:8090"), "--exposed"),
        (Endpoint("http://0.0.0.0:8090", exposed=True), "--token-file"),
        (Endpoint("http://127.0.0.1:8090", token="short"), "longer"),
        (Endpoint("ftp://127.0.0.1"), "http://127.0.0.1:8090"),
    ],
)
def test_places_that_are_refused(endpoint: Endpoint, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        listen(endpoint)


def test_a_port_in_use_is_one_line_with_another_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        command = [sys.executable, "-m", "hitogata", "console"]
        command += ["--address", f"http://127.0.0.1:{port}"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert str(port) in done.stderr and f"--address http://127.0.0.1:{port + 1}" in done.stderr


# --- strangers ---


def opened(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=WAIT_S)


def closed(line: socket.socket) -> bool:
    """Whether the server closes the connection, without a word, before WAIT_S."""
    try:
        return line.recv(1) == b""
    except ConnectionResetError:
        return True


def test_who_shows_no_token_gets_few_connections_and_little_time(monkeypatch: Any) -> None:
    monkeypatch.setattr(console_web, "ASK_S", 3.0)
    monkeypatch.setattr(console_web, "MOST_OF_ONE", 4)
    port = free_port()
    with served(Endpoint(f"http://127.0.0.1:{port}", token=TOKEN)) as place, ExitStack() as stack:
        cookie = fetched(place.replace(" ", "%20"))[2]["Set-Cookie"].split(";")[0]
        line = f"ws://127.0.0.1:{port}/live"
        page = stack.enter_context(connect(line, additional_headers={"Cookie": cookie}))
        silent = [stack.enter_context(opened(port)) for _ in range(4)]
        stack.enter_context(opened(port))
        assert closed(silent[0]), "the fifth pushes out the first"
        page.send("still here")
        assert page.recv(WAIT_S) == "still here", "who was let in keeps the connection"
        assert all(closed(other) for other in silent), "they have asked for nothing in time"
        assert fetched(f"http://127.0.0.1:{port}/", Cookie=cookie)[1] == b"hello"


def test_wrong_tokens_are_answered_late_and_few_at_a_time(monkeypatch: Any) -> None:
    monkeypatch.setattr(console_web, "MOST_OF_ONE", 4)
    waiting, over = threading.Semaphore(0), threading.Event()

    def wait() -> None:
        waiting.release()
        assert over.wait(WAIT_S)

    monkeypatch.setattr(console_web, "_wait_after_guess", wait)
    port = free_port()
    with served(Endpoint(f"http://127.0.0.1:{port}", token=TOKEN)), ExitStack() as stack:
        guesses = [stack.enter_context(opened(port)) for _ in range(4)]
        for i, guess in enumerate(guesses):
            guess.sendall(f"GET /?token={i} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        assert all(waiting.acquire(timeout=WAIT_S) for _ in guesses)
        assert closed(stack.enter_context(opened(port))), "no guess beside these"
        over.set()
        assert all(b"401" in guess.recv(64) for guess in guesses)


def test_requests_that_are_none_are_refused_without_a_word_in_the_log(caplog: Any) -> None:
    with served(Endpoint(f"http://127.0.0.1:{free_port()}")) as place:
        port = int(place.rsplit(":", 1)[1].strip("/"))
        here = f"Host: 127.0.0.1:{port}\r\n"
        for path, hosts in (("/", here + here), ("//[", here), ("/", "Host: [\r\n")):
            with opened(port) as line:
                line.sendall(f"GET {path} HTTP/1.1\r\n{hosts}\r\n".encode())
                assert b" 400 " in line.recv(64), (path, hosts)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_on_this_machine_without_a_token_a_browser_opens_what_it_likes() -> None:
    with served(Endpoint(f"http://127.0.0.1:{free_port()}")) as place, ExitStack() as stack:
        port = int(place.rsplit(":", 1)[1].strip("/"))
        for _ in range(2 * console_web.MOST_OF_ONE):
            stack.enter_context(opened(port))
        assert fetched(place)[0] == 200


def test_browsers_that_read_nothing_are_given_up(monkeypatch: Any) -> None:
    monkeypatch.setattr(console_web, "STALL_S", 1)
    ended = threading.Event()
    much = bytes(64 << 20)

    def flood(connection: Any) -> None:
        try:
            connection.send(much)
        finally:
            ended.set()

    port = free_port()
    listener, gate = listen(Endpoint(f"http://127.0.0.1:{port}"))
    files = {"/": File(much, "text/plain")}
    upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    upgrade += "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"

    def serve_both() -> None:
        with web_server(listener, gate, lambda path, _: files.get(path), {"/live": flood}):
            for line, path, headers in ((file, "/", ""), (talk, "/live", upgrade)):
                asked = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{headers}\r\n"
                line.sendall(asked.encode())
                line.recv(1)
            assert ended.wait(WAIT_S)
        over.set()

    over = threading.Event()
    with opened(port) as file, opened(port) as talk:
        threading.Thread(target=serve_both, daemon=True).start()
        assert over.wait(2 * WAIT_S), "neither holds the server up when it ends"


# --- what is told, and what is sent ---


def test_faults_of_ours_are_told_and_noise_is_not(caplog: Any) -> None:
    def broken(_: Any) -> None:
        raise ZeroDivisionError("a fault of ours")

    listener, gate = listen(Endpoint(f"http://127.0.0.1:{free_port()}"))
    port = listener.getsockname()[1]
    with (
        caplog.at_level(logging.DEBUG),
        web_server(listener, gate, lambda *_: None, {"/live": broken}),
    ):
        with opened(port) as noise:
            noise.sendall(b"\x16\x03\x01 no request\r\n\r\n")
            assert closed(noise)
        with connect(f"ws://127.0.0.1:{port}/live") as page, pytest.raises(ConnectionClosed):
            page.recv(WAIT_S)
    [told] = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert "a fault of ours" in logging.Formatter().format(told)


def test_the_client_is_compressed_once_and_only_for_who_takes_it() -> None:
    studio = Studio()
    listener, gate = listen(Endpoint(f"http://127.0.0.1:{free_port()}"))
    with web_server(listener, gate, studio.file, {}) as place:
        wasm = f"{place}studio/web_client.wasm"
        _, plain, headers = fetched(wasm)
        assert "Content-Encoding" not in headers and plain[:4] == b"\0asm"
        for offer in ("gzip, deflate, br", "br;q=1.0, gzip;q=0.8", "*"):
            _, packed, headers = fetched(wasm, **{"Accept-Encoding": offer})
            assert headers["Content-Encoding"] == "gzip" and headers["Vary"] == "Accept-Encoding"
            assert len(packed) < len(plain) / 2
            assert gzip.decompress(packed) == plain
        for offer in ("br", "gzip;q=0", "identity"):
            assert fetched(wasm, **{"Accept-Encoding": offer})[1] == plain
    path = "/studio/web_client.js"
    assert studio.file(path, {}) is Studio().file(path, {}), "kept in memory"
