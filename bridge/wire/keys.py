"""Keys by which a server and its clients know each other: their files, and CURVE on the sockets.

A folder is one end's identity: NAME.secret, which never leaves the machine, NAME.public, a copy of
which goes to the other ends, and in `allowed/` the public keys of the clients that this end serves.
"""

import contextlib
import logging
import os
import re
import stat
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import zmq
from zmq.auth.thread import ThreadAuthenticator

from bridge.contract import UserError
from bridge.files import write_bytes

FOLDER = Path("~/.config/hitogata/keys")
_DOMAIN = b"hitogata"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}")
_READABLE_BY_OTHERS, _WRITABLE_BY_OTHERS = 0o077, 0o022

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class KeyPair:
    """An end's own keys, in Z85."""

    name: str
    public: str
    secret: str = field(repr=False)


@dataclass(frozen=True)
class ServerKeys:
    """A server's own pair, and the folder of the clients that it allows.

    The folder is read anew for every client that connects; who is connected already stays.
    """

    own: KeyPair
    allowed: Path


@dataclass(frozen=True)
class ClientKeys:
    """A client's own pair, and the public key that its server must have."""

    own: KeyPair
    server_public: str


# --- files ---


def make_pair(folder: Path, name: str) -> Path:
    """Makes an end's pair in a folder that has none; the path of its public key."""
    folder = folder.expanduser()
    if not _NAME.fullmatch(name):
        raise UserError(f"{name!r} names no key: use up to 32 letters, digits, - and _")
    if found := sorted(folder.glob("*.secret")):
        raise UserError(f"{found[0]} is there already: use it, or choose another --folder")
    try:
        allowed = folder / "allowed"
        for missing in [path for path in (allowed, *allowed.parents) if not path.exists()][::-1]:
            missing.mkdir(mode=0o700)
    except OSError as error:
        raise UserError(
            f"could not make {folder} ({error.strerror}): choose another --folder"
        ) from error
    public, secret = zmq.curve_keypair()
    _write_key(folder / f"{name}.public", "public", public.decode(), name)
    _write_key(folder / f"{name}.secret", "secret", secret.decode(), name)
    return folder / f"{name}.public"


def allow(folder: Path, public_file: Path) -> Path:
    """Lets the holder of a public key connect to the server of a folder; the path of the copy."""
    name, key = _read_key(public_file.expanduser(), "public")
    copy = folder.expanduser() / "allowed" / f"{name}.public"
    if copy.exists() and _read_key(copy, "public")[1] != key:
        raise UserError(f"{copy} holds another key: remove it first if {name} has a new one")
    _write_key(copy, "public", key, name)
    return copy


def allowed_keys(folder: Path) -> dict[Path, str]:
    """Every public key file in a folder of allowed clients, with its key."""
    _refuse_others(folder, _WRITABLE_BY_OTHERS, "go-w")
    found: dict[Path, str] = {}
    for path in sorted(folder.glob("*.public")):
        _refuse_others(path, _WRITABLE_BY_OTHERS, "go-w")
        found[path] = _read_key(path, "public")[1]
    return found


def own_pair(folder: Path) -> KeyPair:
    """The one pair of a folder; UserError when others could read its secret."""
    found = sorted(folder.expanduser().glob("*.secret"))
    if not found:
        raise UserError(
            f"{folder} holds no key: make one with `hitogata keys make NAME --folder {folder}`"
        )
    if len(found) > 1:
        raise UserError(f"{folder} holds {len(found)} secret keys: leave one NAME.secret there")
    _refuse_others(found[0], _READABLE_BY_OTHERS, "600")
    name, secret = _read_key(found[0], "secret")
    return KeyPair(name, zmq.curve_public(secret.encode()).decode(), secret)


def server_keys(folder: Path) -> ServerKeys:
    """A server's keys from its folder; UserError unless at least one client is allowed."""
    allowed = folder.expanduser() / "allowed"
    keys = ServerKeys(own_pair(folder), allowed)
    if not allowed.is_dir() or not allowed_keys(allowed):
        raise UserError(
            f"{allowed} allows no client: bring the robot's NAME.public here and run"
            f" `hitogata keys allow NAME.public --folder {folder}`"
        )
    return keys


def client_keys(folder: Path, server_key: Path) -> ClientKeys:
    """A client's keys from its folder, for the server that holds `server_key`."""
    server_key = server_key.expanduser()
    public = _read_key(server_key, "public")[1]
    _refuse_others(server_key, _WRITABLE_BY_OTHERS, "go-w")
    return ClientKeys(own_pair(folder), public)


def _write_key(path: Path, kind: str, key: str, name: str) -> None:
    content = f"hitogata-{kind}-key {key} {name}\n".encode()
    write_bytes(path, content, mode=0o600 if kind == "secret" else 0o644)


def _read_key(path: Path, kind: Literal["public", "secret"]) -> tuple[str, str]:
    """Name and key of a key file, or UserError."""
    try:
        words = path.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"could not read the key {path} ({error}): choose a file written by"
            " `hitogata keys make`"
        ) from error
    if kind == "public" and words[:1] == ["hitogata-secret-key"]:
        raise UserError(f"{path} is a secret key, which stays where it is: give the NAME.public")
    if len(words) == 3 and words[0] == f"hitogata-{kind}-key":
        _, key, name = words
        if _is_key(key) and _NAME.fullmatch(name):
            return name, key
    raise UserError(f"{path} is no {kind} key: choose a file written by `hitogata keys make`")


def _is_key(text: str) -> bool:
    try:
        zmq.curve_public(text.encode())  # of any 32 bytes there is one
    except (ValueError, zmq.ZMQError):
        return False
    return True


def _refuse_others(path: Path, forbidden: int, remedy: str) -> None:
    """UserError where others own a path, have one of the `forbidden` rights, or can exchange it.

    As sshd does (StrictModes): whoever can write to a folder on the way puts another file there.
    """
    try:
        _refuse_mode(path, forbidden, remedy)
        for folder in path.resolve().parents:
            _refuse_mode(folder, _WRITABLE_BY_OTHERS, "go-w")
    except OSError as error:
        raise UserError(
            f"could not read {path} ({error.strerror}): choose another --keys"
        ) from error


def _refuse_mode(path: Path, forbidden: int, remedy: str) -> None:
    found = path.stat()
    if found.st_uid not in (0, os.geteuid()):
        raise UserError(f"{path} belongs to another user: run `chown {os.geteuid()} {path}`")
    # In a sticky folder, as /tmp is, nobody can exchange what is another's.
    if found.st_mode & forbidden and not (path.is_dir() and found.st_mode & stat.S_ISVTX):
        does = "read" if forbidden == _READABLE_BY_OTHERS else "change"
        raise UserError(f"other users can {does} {path}: run `chmod {remedy} {path}`")


# --- sockets ---


@contextlib.contextmanager
def authenticator(context: zmq.Context[Any], keys: ServerKeys) -> Generator[None, None, None]:
    """Judges, for all sockets of `context`, who may connect; enter it before they are bound."""
    judge = ThreadAuthenticator(context)
    # A callback, because configure_curve hides keys that it could not read, and reads them once.
    judge.configure_curve_callback(_DOMAIN.decode(), _AllowList(keys.allowed))
    judge.start()
    try:
        yield
    finally:
        judge.stop()


class _AllowList:
    """Answers pyzmq's question whether a client's key is allowed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def callback(self, domain: str, key: bytes) -> bool:
        try:
            names = [
                path.stem for path, k in allowed_keys(self._folder).items() if k == key.decode()
            ]
        except Exception as error:  # raised further, it would end the judge's thread
            _log.warning("nobody is allowed in: %s", error)
            return False
        _log.info("%s with the key %s", names[0] if names else "a stranger", key.decode())
        return bool(names)


def secure_server(socket: zmq.Socket[bytes], keys: ServerKeys) -> None:
    """Lets only the allowed connect; before bind, within `authenticator`."""
    socket.setsockopt(zmq.CURVE_SERVER, 1)
    socket.setsockopt(zmq.CURVE_SECRETKEY, keys.own.secret.encode())
    socket.setsockopt(zmq.ZAP_DOMAIN, _DOMAIN)
    # Without it, a socket whose authenticator is missing lets everybody in.
    socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)


def secure_client(socket: zmq.Socket[bytes], keys: ClientKeys) -> None:
    """Connects only to the server that proves the expected key."""
    socket.setsockopt(zmq.CURVE_PUBLICKEY, keys.own.public.encode())
    socket.setsockopt(zmq.CURVE_SECRETKEY, keys.own.secret.encode())
    socket.setsockopt(zmq.CURVE_SERVERKEY, keys.server_public.encode())


def check_secured(socket: zmq.Socket[bytes]) -> None:
    """Stops a server whose socket, once bound, would not encrypt."""
    if socket.getsockopt(zmq.MECHANISM) != zmq.CURVE:
        raise RuntimeError("the socket is not encrypted")
