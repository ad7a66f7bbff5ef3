"""Processes of our own: started, waited for, ended, and never left behind."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bridge.contract import UserError
from bridge.wire import sockets

START_S = 60.0
END_S = 10.0
_PARENT = "HITOGATA_PARENT"
_LOOK_S = 0.2
_ROOM = 40  # bytes for names below the folder of temporary files


def child_environment() -> dict[str, str]:
    """The environment of a child that ends when this process does, if it calls `follow_parent`."""
    return {**os.environ, _PARENT: str(os.getpid())}


def follow_parent() -> None:
    """Sends this process SIGTERM once its parent is gone, even by kill -9, if it was so begun.

    A look at the parent's number now and then works on every Unix. Linux' PR_SET_PDEATHSIG would
    also come when only the thread that started us ends.
    """
    parent = os.environ.pop(_PARENT, "")

    def watch() -> None:
        while str(os.getppid()) == parent:
            time.sleep(_LOOK_S)
        os.kill(os.getpid(), signal.SIGTERM)

    if parent:
        threading.Thread(target=watch, name="parent", daemon=True).start()


@contextmanager
def child_server(
    command_at: Callable[[str], Sequence[str]], name: str = "policy server"
) -> Generator[str, None, None]:
    """Yields the address of a server that was started for this block, once it answers there.

    `command_at` gives the command line that serves at an address; the process prints a line when
    it is ready. Raises UserError with its last words if it ends instead.
    """
    with tempfile.TemporaryDirectory(prefix="hitogata-", dir=_short_place()) as folder:
        address, log = f"ipc://{folder}/policy.sock", Path(folder, "log")
        with log.open("wb") as errors:
            server = subprocess.Popen(
                command_at(address),
                stdout=subprocess.PIPE,
                stderr=errors,
                env=child_environment(),
            )
        assert server.stdout is not None
        try:
            ready, _, _ = select.select([server.stdout], [], [], START_S)
            if not (ready and server.stdout.readline()):
                told = log.read_text(encoding="utf-8", errors="replace").strip()
                last = (told or f"silent for {START_S:g} s").splitlines()[-1]
                raise UserError(f"{name}: {last.removeprefix('hitogata: ')}")
            yield address
        finally:
            _end(server)


def _short_place() -> str:
    """The folder for temporary files, or /tmp where sockets in it would have too long a name."""
    place = tempfile.gettempdir()
    return place if len(os.fsencode(place)) <= sockets.LONGEST_IPC - _ROOM else "/tmp"


def _end(server: subprocess.Popen[bytes]) -> None:
    server.terminate()
    try:
        server.wait(END_S)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
    if server.stdout is not None:
        server.stdout.close()
