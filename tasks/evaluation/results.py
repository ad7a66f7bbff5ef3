"""Measured figures: how sure a rate is, and the files that keep every figure with its origin."""

from __future__ import annotations

import datetime
import math
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bridge.files import read_json, write_json

_Z_95 = 1.959964  # two-sided 95 % quantile of the normal distribution


def wilson_interval(successes: int, trials: int, z: float = _Z_95) -> tuple[float, float]:
    """Wilson's score interval (low, high) of a success rate; (0, 1) when nothing was tried.

    Source: E. B. Wilson, JASA 22 (1927). Stays inside 0..1 and is honest near 0 and 1.
    """
    if not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes in {trials} trials")
    if trials == 0:
        return 0.0, 1.0
    rate, weight = successes / trials, z * z / trials
    centre = rate + weight / 2
    half = z * math.sqrt(rate * (1 - rate) / trials + weight / (4 * trials))
    low, high = (centre - half) / (1 + weight), (centre + half) / (1 + weight)
    return max(low, 0.0), min(high, 1.0)


def write_results(path: str | Path, figures: Mapping[str, Any], command: str) -> None:
    """Merges `figures` into a results file, with the command that measured them.

    `command`, `commit`, `machine` and `date` at the top are those of the latest measurement;
    `sources` keeps the same four for each figure, because several commands fill one file.
    """
    path = Path(path)
    kept = _read(path)
    source = {
        "command": command,
        "commit": _commit(),
        "machine": _machine(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    write_json(
        path,
        {
            **source,
            "figures": {**kept.get("figures", {}), **figures},
            "sources": {**kept.get("sources", {}), **dict.fromkeys(figures, source)},
        },
    )


def read_figures(path: str | Path) -> dict[str, Any]:
    """The figures of a results file; none if there is no such file."""
    return _read(Path(path)).get("figures", {})


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    return read_json(path, "repair or delete it, then measure again", dict[str, Any])


def _commit() -> str:
    """The commit of the code that measures, with "-dirty" when files differ from it."""
    query = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        answer = subprocess.run(
            query, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return answer.stdout.strip() or "unknown"


def _machine() -> str:
    """Processor, cores that this process may use, and system, in one line."""
    processor = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                processor = line.split(":", 1)[1].strip()
                break
    except OSError:
        pass  # not Linux: the platform's own name will do
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{processor}, {cores} cores, {platform.system()} {platform.machine()}"


def command_line() -> str:
    """This process's command line, as kept beside every figure that it measures."""
    return shlex.join(["hitogata", *sys.argv[1:]])
