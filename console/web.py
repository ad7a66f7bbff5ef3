"""The console's web server: who is let in, files, and connections that stay open.

By default it listens on this machine alone. Web pages of others are kept out even there: a request
must name this machine as its Host, and a connection must come from a page of the console (Origin).
Reached from elsewhere, every request needs the token: once as ?token=, which becomes a cookie that
scripts cannot read and other sites cannot send. Who has not shown it yet gets little: few
connections at a time, seconds for each, and a late answer to a wrong token.
"""

from __future__ import annotations

import ipaddress
import logging
import secrets
import socket
import struct
import threading
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import parse_qs, quote, urlsplit

from websockets.datastructures import Headers, MultipleValuesError
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.sync.server import ServerConnection, serve

from bridge.compat.adapter import LEAST_TOKEN, Endpoint
from bridge.contract import UserError
from bridge.wire.listener import MOST_WAITING, Arriving, Listener

ADDRESS = "http://127.0.0.1:8090"
MAX_MESSAGE_BYTES = 2 << 20
MOST_CONNECTIONS = 64
# A browser that reads nothing for this long is given up.
STALL_S = 10
# Connections that have not been let in yet: those of one address where a token is asked, the time
# they have to ask for something, and how late a wrong token is answered.
MOST_OF_ONE = 16
ASK_S, WRONG_TOKEN_S = 5.0, 1.0
_COOKIE = "hitogata_token"
# The scene's client shares memory between its threads, which browsers allow isolated pages alone.
_HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
POLICY = (
    "default-src 'self'; img-src 'self' blob: data:; connect-src 'self' ws: wss:;"
    " object-src 'none'; base-uri 'none'; frame-ancestors 'self'; form-action 'self'"
)


@dataclass(frozen=True)
class File:
    """What is answered at a path; `gzipped` is its content for browsers that take it so."""

    content: bytes
    media_type: str
    policy: str = POLICY
    gzipped: bytes = b""


# Path and query to a file, or None where there is none.
Files = Callable[[str, Mapping[str, list[str]]], File | None]
Talk = Callable[[ServerConnection], None]


def listen(endpoint: Endpoint) -> tuple[Listener, Gate]:
    """The socket of a console, and who is let in.

    UserError for a port that is taken, or for an address that leads off this machine without
    --exposed or without a good token.
    """
    host, port = endpoint.host_port(ADDRESS)
    gate = Gate(endpoint, local=ipaddress.ip_address(host).is_loopback)
    try:
        listener = Listener(host, port, MOST_WAITING if gate.token is None else MOST_OF_ONE)
    except OSError as error:
        raise UserError(
            f"port {port} of {host} cannot be used ({error.strerror}): end the program that has it,"
            f" or choose another, as in --address http://127.0.0.1:{port + 1}"
        ) from error
    _give_up_when_stalled(listener)  # which all inherit that it accepts
    return listener, gate


@contextmanager
def web_server(
    listener: Listener, gate: Gate, files: Files, talks: Mapping[str, Talk]
) -> Generator[str, None, None]:
    """Serves files, and connections at the paths of `talks`, as long as the block lasts.

    Yields the address for people.
    """
    seats = threading.Semaphore(MOST_CONNECTIONS)

    def greet(connection: ServerConnection, request: Request) -> Response | None:
        listener.heard(connection.socket)
        try:
            return answer(connection, request)
        except (MultipleValuesError, ValueError):  # two Hosts, or an address that is none
            return _line(HTTPStatus.BAD_REQUEST, "not understood")

    def answer(connection: ServerConnection, request: Request) -> Response | None:
        refusal = gate.refusal(request)
        if refusal is not None:
            return refusal
        listener.let_in(connection.socket)
        url = urlsplit(request.path)
        if url.path in talks:
            return gate.stranger(request)
        file = files(url.path, parse_qs(url.query, keep_blank_values=True))
        if file is None:
            return _line(HTTPStatus.NOT_FOUND, "not here")
        return _answer(HTTPStatus.OK, file, _takes_gzip(request))

    def isolate(_: ServerConnection, __: Request, response: Response) -> None:
        if response.status_code == HTTPStatus.SWITCHING_PROTOCOLS:
            response.headers.update(_HEADERS)

    def converse(connection: ServerConnection) -> None:
        if not seats.acquire(blocking=False):
            connection.close(1013, "too many pages")
            return
        try:
            assert connection.request is not None
            talks[urlsplit(connection.request.path).path](connection)
        except ConnectionClosed:
            pass  # a page may go at any time
        finally:
            seats.release()

    server = serve(
        converse,
        sock=listener,
        process_request=greet,
        process_response=isolate,
        compression=None,
        open_timeout=ASK_S,
        max_size=MAX_MESSAGE_BYTES,
        logger=_logger(),
        create_connection=Arriving,
    )
    with server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        host, port = listener.getsockname()[:2]
        yield _address(host, port, gate.token)
        server.shutdown()
        thread.join()


class Gate:
    """Whom the server answers."""

    def __init__(self, endpoint: Endpoint, local: bool) -> None:
        if endpoint.token is not None and len(endpoint.token) < LEAST_TOKEN:
            raise UserError(
                f"the token is shorter than {LEAST_TOKEN} characters: write a longer one, such as"
                f" {secrets.token_urlsafe(LEAST_TOKEN)}"
            )
        self.token = endpoint.token
        self._endpoint, self._local = endpoint, local

    def refusal(self, request: Request) -> Response | None:
        """What is answered to a request that is not for us, or whose sender lacks the token."""
        host = urlsplit(f"//{request.headers.get('Host', '')}").hostname or ""
        if self._local and not _is_here(host):
            return _line(HTTPStatus.FORBIDDEN, "use the address that the console printed")
        kept = _cookie(request)
        if self._endpoint.token is None or self._endpoint.authorizes(kept):
            return None
        url = urlsplit(request.path)
        given = parse_qs(url.query).get("token", [""])[0]
        if not (given and self._endpoint.authorizes(given)):
            if kept or given:
                _wait_after_guess()  # as a stranger still: guesses are few and slow
            return _line(HTTPStatus.UNAUTHORIZED, "open the address with ?token=TOKEN at its end")
        response = _line(HTTPStatus.SEE_OTHER, "go on")
        response.headers["Location"] = url.path
        response.headers["Set-Cookie"] = (
            f"{_COOKIE}={given.encode().hex()}; HttpOnly; SameSite=Strict; Path=/"
        )
        return response

    def stranger(self, request: Request) -> Response | None:
        """What is answered to a connection that a page of another site opens."""
        origin = request.headers.get("Origin")
        if origin is None or urlsplit(origin).netloc == request.headers.get("Host"):
            return None
        return _line(HTTPStatus.FORBIDDEN, "only the console's own page may connect")


def _wait_after_guess() -> None:
    time.sleep(WRONG_TOKEN_S)


def _is_here(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _cookie(request: Request) -> str:
    """The token of our cookie; those of other servers at this address may look like anything."""
    for part in ";".join(request.headers.get_all("Cookie")).split(";"):
        name, _, value = part.strip().partition("=")
        if name == _COOKIE:
            try:
                return bytes.fromhex(value).decode()
            except ValueError:
                return ""
    return ""


def _takes_gzip(request: Request) -> bool:
    for offer in ",".join(request.headers.get_all("Accept-Encoding")).split(","):
        coding, _, weight = offer.replace(" ", "").lower().partition(";q=")
        if coding in ("gzip", "*"):
            return not weight or weight.strip("0.") != ""
    return False


def _answer(status: HTTPStatus, file: File, takes_gzip: bool = False) -> Response:
    headers = Headers(_HEADERS)
    content = file.content
    if file.gzipped:
        headers["Vary"] = "Accept-Encoding"
    if file.gzipped and takes_gzip:
        headers["Content-Encoding"], content = "gzip", file.gzipped
    headers["Content-Type"] = file.media_type
    headers["Content-Length"] = str(len(content))
    headers["Content-Security-Policy"] = file.policy
    headers["Cache-Control"] = "no-cache"
    headers["Connection"] = "close"
    return Response(status.value, status.phrase, headers, content)


def _line(status: HTTPStatus, text: str) -> Response:
    return _answer(status, File(f"{text}\n".encode(), "text/plain; charset=utf-8"))


def _logger() -> logging.Logger:
    """Faults of ours are told; what strangers send that is no request is not worth a line."""
    logger = logging.getLogger(f"{__name__}.websockets")
    logger.setLevel(logging.WARNING)
    logger.addFilter(_is_ours)
    return logger


def _is_ours(record: logging.LogRecord) -> bool:
    # The second is the library's own, when a line is closed while it answers.
    return record.msg not in ("opening handshake failed", "unexpected internal error")


def _give_up_when_stalled(line: socket.socket) -> None:
    """A browser that stops reading blocks the thread that sends to it, for STALL_S at most."""
    limit = struct.pack("ll", STALL_S, 0)
    line.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)


def _address(host: str, port: int, token: str | None) -> str:
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{port}/" + (f"?token={quote(token, safe='')}" if token else "")
