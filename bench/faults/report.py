"""The faults as a command: what the robot did in each, what its operator read, what was lost.

A row of the results tells of the first try at a commit. Tries at a commit that it knows already are
added to its `tries`, and change nothing else: what failed once has failed, until the code changes.
The first try at a commit that it does not know begins the row anew, behind the earlier tries.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.faults.catalogue import choose, purpose, try_fault
from bridge.contract import UserError
from tasks.evaluation.results import command_line, read_figures, source_of, write_results

RESULTS = Path("docs/results/bridge.json")


def bench_faults(
    hitogata: Sequence[str], only: Sequence[str] = (), results: Path = RESULTS
) -> None:
    """Tries faults, keeps each among the figures as it ends, and prints a table.

    UserError for a name that is not in the catalogue, or if any failed.
    """
    found: dict[str, dict[str, Any]] = {}
    for name in choose(only):
        began_s, source = time.monotonic(), source_of(command_line())
        outcome = try_fault(name, hitogata)
        seconds = round(time.monotonic() - began_s, 1)
        print(f"{'ok  ' if outcome.passed else 'FAIL'} {name:32} {purpose(name)}", flush=True)
        found[name] = asdict(outcome)
        known = read_figures(results).get("faults", {})
        row = tried_row(known.get(name), found[name], source, seconds)
        write_results(results, {"faults": known | {name: row}}, command_line())
    Console().print(faults_table(found))
    if failed := [name for name, outcome in found.items() if not outcome["passed"]]:
        raise UserError(f"{len(failed)} faults failed: read the lines of {', '.join(failed)}")


def tried_row(
    known: Mapping[str, Any] | None,
    outcome: Mapping[str, Any],
    source: Mapping[str, str],
    seconds: float,
) -> dict[str, Any]:
    """A fault's row after another try, which has an outcome: the first of each commit counts."""
    tries: list[dict[str, Any]] = list((known or {}).get("tries", ()))
    shown = outcome
    if known and any(each["commit"] == source["commit"] for each in tries):
        shown = {part: known[part] for part in outcome}
    return {**shown, "tries": [*tries, {**source, "passed": outcome["passed"], "seconds": seconds}]}


def faults_table(found: Mapping[str, Mapping[str, Any]]) -> Table:
    """A line for every fault."""
    table = Table(title="faults", show_lines=True)
    for heading in ("fault", "", "what the robot did", "what its operator read", "what was lost"):
        table.add_column(heading, overflow="fold")
    for name, outcome in found.items():
        passed = "ok" if outcome["passed"] else "FAILED"
        table.add_row(name, passed, outcome["robot"], outcome["operator"], outcome["lost"])
    return table
