"""The faults as a command: what the robot did in each, what its operator read, what was lost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.faults.catalogue import choose, purpose, try_fault
from bridge.contract import UserError
from tasks.evaluation.results import command_line, read_figures, write_results

RESULTS = Path("docs/results/bridge.json")


def run_faults(hitogata: Sequence[str], only: Sequence[str] = ()) -> dict[str, dict[str, Any]]:
    """Tries these faults, or all; name -> passed, robot, operator, lost. Tells of each as it ends.

    UserError for a name that is not in the catalogue.
    """
    found: dict[str, dict[str, Any]] = {}
    for name in choose(only):
        outcome = try_fault(name, hitogata)
        print(f"{'ok  ' if outcome.passed else 'FAIL'} {name:32} {purpose(name)}", flush=True)
        found[name] = asdict(outcome)
    return found


def bench_faults(
    hitogata: Sequence[str], only: Sequence[str] = (), results: Path = RESULTS
) -> None:
    """Tries faults, prints a table and keeps it among the figures; UserError if any failed."""
    found = run_faults(hitogata, only)
    Console().print(faults_table(found))
    known = read_figures(results).get("faults", {})
    write_results(results, {"faults": known | found}, command_line())
    if failed := [name for name, outcome in found.items() if not outcome["passed"]]:
        raise UserError(f"{len(failed)} faults failed: read the lines of {', '.join(failed)}")


def faults_table(found: Mapping[str, Mapping[str, Any]]) -> Table:
    """A line for every fault."""
    table = Table(title="faults", show_lines=True)
    for heading in ("fault", "", "what the robot did", "what its operator read", "what was lost"):
        table.add_column(heading, overflow="fold")
    for name, outcome in found.items():
        passed = "ok" if outcome["passed"] else "FAILED"
        table.add_row(name, passed, outcome["robot"], outcome["operator"], outcome["lost"])
    return table
