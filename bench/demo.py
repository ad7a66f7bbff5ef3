"""The demo on a fresh clone, as a newcomer would run it: how long it takes, how much memory."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from pathlib import Path

from bridge.contract import UserError

POLL_S = 0.2


def demo_figures(repository: Path) -> dict[str, float]:
    """Clones the last commit of `repository`, runs `make demo` there, and measures it.

    Seconds with installation included, and the most memory that its processes held together.
    """
    with tempfile.TemporaryDirectory(prefix="hitogata-demo-") as folder:
        clone = Path(folder, "clone")
        subprocess.run(["git", "clone", "--quiet", repository, clone], check=True)
        started, peak = time.monotonic(), 0
        demo = subprocess.Popen(["make", "demo"], cwd=clone, start_new_session=True)
        while demo.poll() is None:
            peak = max(peak, session_bytes(demo.pid))
            time.sleep(POLL_S)
        if demo.returncode:
            raise UserError("the demo failed: mend what it says above, commit, and measure again")
        return {"demo_s": time.monotonic() - started, "demo_peak_gb": peak / 1e9}


def session_bytes(session: int) -> int:
    """Memory of all processes of a session, shared pages counted once."""
    processes = [entry.name for entry in Path("/proc").iterdir() if _is_in(entry.name, session)]
    return sum(_memory_bytes(int(process)) for process in processes)


def _is_in(entry: str, session: int) -> bool:
    try:
        return entry.isdigit() and os.getsid(int(entry)) == session
    except ProcessLookupError:
        return False


def _memory_bytes(process: int) -> int:
    try:
        text = Path(f"/proc/{process}/smaps_rollup").read_text(encoding="utf-8")
    except OSError:
        return 0  # it has ended meanwhile
    lines = [line for line in text.splitlines() if line.startswith("Pss:")]
    return 1024 * int(lines[0].split()[1]) if lines else 0
