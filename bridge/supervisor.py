"""A parent that only watches: a robot's control loop that dies or hangs is started anew.

The loop is a child process that beats once a control period, through a pipe. While it is away the
robot brakes by itself, as `bridge.contract.Robot` demands; when it is back nothing moves until an
operator claims it anew.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from bridge.process import child_environment
from bridge.wire.server import stop_on_signals

HUNG_S = 5.0  # another scene may take a second or two to build
START_S = 120.0  # until the first beat, and from the last to the end
_LOOK_S = 0.1
_PIPE = "HITOGATA_HEARTBEAT"


def is_supervised() -> bool:
    """Whether this process was started by a supervisor, and has not begun to beat."""
    return _PIPE in os.environ


class Heartbeat:
    """The loop's end of the pipe; of no effect in a process that nobody supervises."""

    def __init__(self) -> None:
        self._pipe = int(os.environ.pop(_PIPE, "-1"))
        if self._pipe >= 0:
            os.set_blocking(self._pipe, False)

    def beat(self) -> None:
        """One control period has passed."""
        if self._pipe >= 0:
            with suppress(OSError):  # nobody reads: the loop goes on
                os.write(self._pipe, b".")

    def close(self) -> None:
        """The loop has come to its end: what is put away after it takes its time."""
        if self._pipe >= 0:
            os.close(self._pipe)
            self._pipe = -1


def supervise(
    command: Sequence[str], report: Callable[[str], object], hung_s: float = HUNG_S
) -> int:
    """Runs a loop until it ends in order or never began to beat; returns its exit status.

    One that fails, is killed, or does not beat for `hung_s` is reported and started anew. SIGINT,
    SIGTERM and SIGHUP let it come to rest and end.
    """
    with stop_on_signals() as stopping:
        while True:
            status, worked, fate = _watch(command, hung_s, stopping)
            if status == 0 or not worked or stopping.is_set():
                return status if status >= 0 else 128 - status
            report(f"the control loop {fate}: it is started anew")


def _watch(
    command: Sequence[str], hung_s: float, stopping: threading.Event
) -> tuple[int, bool, str]:
    """One life of a loop: its exit status, whether it ever beat, and what ended it."""
    beats, pipe = os.pipe()
    environment = {**child_environment(), _PIPE: str(pipe)}
    loop = subprocess.Popen(command, pass_fds=(pipe,), env=environment)
    os.close(pipe)
    heard_s, fate = time.monotonic(), ""
    worked = closed = told = False
    while loop.poll() is None:
        if stopping.is_set() and not told:
            loop.terminate()
            told = True
        if closed:
            time.sleep(_LOOK_S)
        elif select.select([beats], [], [], _LOOK_S)[0]:
            closed = not os.read(beats, 4096)
            worked = worked or not closed
            heard_s = time.monotonic()
        patience_s = hung_s if worked and not closed else START_S
        if time.monotonic() - heard_s > patience_s:
            fate = f"was silent for {patience_s:g} s"
            loop.kill()
            loop.wait()
    os.close(beats)
    killed = loop.returncode < 0
    ended = f"was ended by {signal.Signals(-loop.returncode).name}" if killed else "failed"
    return loop.returncode, worked, fate or ended
