"""A policy server as a process of our own: started, waited for, ended."""

from __future__ import annotations

import select
import subprocess
import tempfile
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bridge.contract import UserError

START_S = 60.0
END_S = 10.0


@contextmanager
def child_server(
    command_at: Callable[[str], Sequence[str]], name: str = "policy server"
) -> Generator[str, None, None]:
    """Yields the address of a server that was started for this block, once it answers there.

    `command_at` gives the command line that serves at an address; the process prints a line when
    it is ready. Raises UserError with its last words if it ends instead.
    """
    with tempfile.TemporaryDirectory(prefix="hitogata-") as folder:
        address, log = f"ipc://{folder}/policy.sock", Path(folder, "log")
        with log.open("wb") as errors:
            server = subprocess.Popen(command_at(address), stdout=subprocess.PIPE, stderr=errors)
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


def _end(server: subprocess.Popen[bytes]) -> None:
    server.terminate()
    try:
        server.wait(END_S)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
    if server.stdout is not None:
        server.stdout.close()
