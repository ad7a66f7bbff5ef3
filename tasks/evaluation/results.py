"""Measured figures: how sure a rate is, and the files that keep every figure with its origin."""

from __future__ import annotations

import datetime
import math
import os
import platform
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bridge.contract import UserError
from bridge.files import check_writable, read_json, write_json
from bridge.locks import turn_in

Z_95 = 1.959964  # two-sided 95 % quantile of the normal distribution


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """Wilson's score interval (low, high) of a success rate; (0, 1) when nothing was tried.

    Source: E. B. Wilson, JASA 22 (1927). Stays inside 0..1 and is honest near 0 and 1.
    """
    if not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes in {trials} trials")
    if trials == 0:
        return 0.0, 1.0
    rate, weight = successes / trials, Z_95 * Z_95 / trials
    centre = rate + weight / 2
    half = Z_95 * math.sqrt(rate * (1 - rate) / trials + weight / (4 * trials))
    low, high = (centre - half) / (1 + weight), (centre + half) / (1 + weight)
    return max(low, 0.0), min(high, 1.0)


def paired_difference(
    first: Sequence[bool], second: Sequence[bool]
) -> tuple[float, tuple[float, float]]:
    """How much more often `first` succeeded than `second` in the same trials, with its interval.

    Source: R. G. Newcombe, Statistics in Medicine 17 (1998) 2635, method 10: Wilson's intervals
    of both rates, squared and added, less what the two have in common.
    """
    n = len(first)
    if n != len(second) or not n:
        raise ValueError(f"{n} trials against {len(second)}")
    pairs = Counter(zip(map(bool, first), map(bool, second), strict=True))
    both, one = pairs[True, True], pairs[True, False]
    other, none = pairs[False, True], pairs[False, False]
    p, q = (both + one) / n, (both + other) / n
    p_low, p_high = wilson_interval(both + one, n)
    q_low, q_high = wilson_interval(both + other, n)
    spread = (both + one) * (other + none) * (both + other) * (one + none)
    common = both * none - one * other
    if common > 0:
        common = max(common - n / 2, 0)  # a correction for continuity
    phi = common / math.sqrt(spread) if spread else 0.0

    def reach(a: float, b: float) -> float:
        return math.sqrt(max(a * a - 2 * phi * a * b + b * b, 0.0))

    below, above = reach(p - p_low, q_high - q), reach(p_high - p, q - q_low)
    return p - q, (p - q - below, p - q + above)


def write_results(
    path: str | Path,
    figures: Mapping[str, Any],
    command: str,
    about: Mapping[str, Any] | None = None,
) -> None:
    """Merges `figures` into a results file, with the command that measured them.

    `command`, `commit`, `machine` and `date` at the top are those of the latest measurement;
    `sources` keeps the same four for each figure, because several commands fill one file, and what
    else there is to say `about` the measurement, such as model, embodiment, seed and tries.
    """
    path, source = Path(path), source_of(command)
    with turn_in(path.parent):
        kept = read_results(path)
        told = dict.fromkeys(figures, source | dict(about or {}))
        write_json(
            path,
            {
                **source,
                "figures": {**kept.get("figures", {}), **figures},
                "sources": {**kept.get("sources", {}), **told},
            },
        )


def source_of(command: str) -> dict[str, str]:
    """Where a measurement of this moment comes from: command, commit, machine, date."""
    return {
        "command": command,
        "commit": _commit(),
        "machine": _machine(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def check_results(path: Path) -> None:
    """UserError, before anything is measured, unless figures can be kept in a file."""
    if path.is_dir():
        raise UserError(f"{path} is a folder: name a file for the figures")
    read_results(path)
    check_writable(path.parent)


def read_figures(path: str | Path) -> dict[str, Any]:
    """The figures of a results file; none if there is no such file."""
    return read_results(path).get("figures", {})


def read_results(path: str | Path) -> dict[str, Any]:
    """All that a results file holds; nothing if there is no such file."""
    path = Path(path)
    if not path.exists():
        return {}
    return read_json(path, "repair or delete it, then measure again", dict[str, Any])


def _commit() -> str:
    """The last commit that changed the code that measures, "-dirty" when code differs from it.

    Documents do not measure: else the first figure that is written would dirty all others, and
    to commit it would make another commit of the same code.
    """

    def git(*words: str) -> subprocess.CompletedProcess[str]:
        here = Path(__file__).parent
        return subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, timeout=10)

    documents = (":(top,exclude)docs", ":(top,exclude,glob)*.md")
    try:
        told = git("log", "-1", "--abbrev=12", "--format=%h", "--", ":/", *documents)
        commit = told.stdout.strip()
        dirty = git("diff", "--quiet", "HEAD", "--", ":/", *documents).returncode
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return f"{commit}{'-dirty' if dirty else ''}" if commit else "unknown"


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
