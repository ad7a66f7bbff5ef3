"""Sockets between robot and policy server: their addresses, their options, and what goes through.

Without keys an address is a file or a port of this machine alone.
"""

from __future__ import annotations

import ipaddress
import os
import socket as unix
import sys
from collections.abc import Sequence
from pathlib import Path

import zmq

from bridge.contract import UserError
from bridge.wire import flood

# What is older than a few control periods is of no use to anybody.
_QUEUE = 4
# sockaddr_un has 108 bytes on Linux and 104 on macOS, with a zero at the end.
LONGEST_IPC = 107 if sys.platform == "linux" else 103
_MORE = int(zmq.SNDMORE | zmq.NOBLOCK)

Frames = Sequence[bytes]


def local_address(address: str, encrypted: bool = False) -> str:
    """The address in ZeroMQ's spelling; UserError when it leaves this machine unencrypted."""
    scheme, _, place = address.partition("://")
    if scheme == "ipc" and place:
        return address
    host, _, port = place.rpartition(":")
    if scheme == "tcp" and host and (port == "*" or port.isdecimal()):
        host = "127.0.0.1" if host == "localhost" else host
        if encrypted or _is_loopback(host):
            return f"tcp://{host}:{port}"
        raise UserError(
            f"{address} may leave this machine, and without keys nothing on the wire is encrypted:"
            " make keys at both ends (hitogata keys --help) and give --keys FOLDER, or use"
            " ipc:///tmp/hitogata.sock or tcp://127.0.0.1:5555"
        )
    raise UserError(
        f"{address or 'nothing'} is no address: use ipc:///tmp/hitogata.sock or"
        " tcp://127.0.0.1:5555"
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False  # a name or an interface: it may lead anywhere


def ipc_file(address: str) -> Path | None:
    """The socket file of an ipc address."""
    scheme, _, path = address.partition("://")
    return Path(path) if scheme == "ipc" else None


def bind(socket: zmq.Socket[bytes], address: str) -> None:
    """Listens at an address that must be free, else UserError; other users cannot reach a file."""
    _refuse_long_ipc(address)
    _refuse_taken_ipc(address)
    try:
        socket.bind(address)
    except zmq.ZMQError as error:
        raise UserError(
            f"cannot listen at {address} ({error.strerror}): choose another address"
        ) from error
    if (file := ipc_file(address)) is not None and file.is_socket():
        file.chmod(0o600)


def connect(socket: zmq.Socket[bytes], address: str) -> None:
    """Begins to connect; UserError when the address is none."""
    try:
        socket.connect(address)
    except zmq.ZMQError as error:
        raise UserError(f"{address} is no address ({error.strerror}): choose another") from error


def _refuse_long_ipc(address: str) -> None:
    file = ipc_file(address)
    if file is not None and len(os.fsencode(file)) > LONGEST_IPC:
        raise UserError(
            f"{address} is longer than the {LONGEST_IPC} bytes that a socket's file may have:"
            " choose a shorter one, such as ipc:///tmp/hitogata.sock"
        )


def _refuse_taken_ipc(address: str) -> None:
    """ZeroMQ takes a socket file over without a word, even from a process that is alive."""
    file = ipc_file(address)
    if file is None or not file.exists():
        return
    with unix.socket(unix.AF_UNIX) as probe:
        try:
            probe.connect(str(file))
        except OSError:
            return  # left over by a process that was killed
    raise UserError(f"{address} is taken, somebody already listens there: end it or choose another")


def set_options(socket: zmq.Socket[bytes], address: str) -> None:
    """The options both ends share: short queues, no lingering, no patience with strangers."""
    socket.linger = 0
    socket.sndhwm = socket.rcvhwm = _QUEUE
    socket.setsockopt(zmq.HANDSHAKE_IVL, 2000)
    socket.setsockopt(zmq.IPV6, int("[" in address))


def watch_peer(socket: zmq.Socket[bytes]) -> None:
    """A heartbeat: a peer that falls silent counts as gone at both ends.

    libzmq (up to 4.3.5) aborts the process when a heartbeat falls due at a peer that filled the
    receive queue and vanished (https://github.com/zeromq/libzmq/issues/4364). So this end's queue
    has no bound, and whoever owns the socket must read all that comes.
    """
    socket.rcvhwm = 0
    socket.setsockopt(zmq.HEARTBEAT_IVL, 200)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 600)
    socket.setsockopt(zmq.HEARTBEAT_TTL, 600)


def send(socket: zmq.Socket[bytes], frames: Frames) -> None:
    """Sends a message or raises ZMQError; waits for nobody. Cheaper than send_multipart."""
    first, flags = frames[0], _MORE if len(frames) > 1 else zmq.NOBLOCK
    try:
        socket.send(first, flags)
    except zmq.Again:
        socket.poll(0, zmq.POLLOUT)  # libzmq looks for new room now and then, and when polled
        socket.send(first, flags)
    for frame in frames[1:-1]:
        socket.send(frame, _MORE)
    if len(frames) > 1:
        socket.send(frames[-1], zmq.NOBLOCK)


def receive(socket: zmq.Socket[bytes], flags: int = 0) -> list[bytes]:
    """The frames of the next message, or ZMQError. In half the time of recv_multipart."""
    frame = first = socket.recv(flags, copy=False)
    frames = [frame.bytes]
    while frame.more:
        frame = socket.recv(copy=False)
        frames.append(frame.bytes)
    flood.taken(first, sum(map(len, frames)), len(frames))
    return frames
