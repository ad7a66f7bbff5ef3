"""The examination of the bridge as a command: round trips, and how soon a stop is obeyed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.endurance.fuzz import fuzz as fuzz_ends
from bench.endurance.load import LoadConfig, put_load
from bench.endurance.soak import SoakConfig
from bench.endurance.soak import soak as soak_robot
from bench.faults.report import bench_faults
from bench.latency import chunk_figures, record_observations
from bench.round_trip import rtt_figures
from bench.stop import stop_figures
from bridge.contract import UserError
from bridge.ranges import PositiveFloat, PositiveInt
from bridge.wire.client import RemotePolicy
from hitogata.policies import BUNDLE, HITOGATA, serving
from robots.g1.embodiment import G1
from tasks.evaluation.results import check_results, command_line, write_results

CHUNKS = 200

# Figure, what it tells, and the most that it shall be.
ROWS = (
    ("rtt_added_p50_ms", "what a round trip adds to raw ZeroMQ's of the same bytes, p50 ms", 0.15),
    ("rtt_added_p99_ms", "p99 ms", 0.5),
    ("rtt_share_of_chunk", "the p50 as a share of the time from observation to chunk", 0.03),
    ("openpi_rtt_ratio", "round trip over tcp against our openpi WebSocket server, p50", 1.0),
    ("stop_p99_ms", "stop to first safe command, in process, p99 ms", 20.0),
    ("stop_curve_p99_ms", "stop to first safe command, with keys over tcp, p99 ms", 100.0),
    ("stops_failed", "stops without a safe stand, the robot a walking one on rails", 0.0),
    ("stops_left_out", "stops left out: the robot no longer walked", 0.0),
)


def bench_bridge(
    round_trips: PositiveInt = 2000,
    stops: PositiveInt = 200,
    faults: bool = False,
    only: tuple[str, ...] = (),
    soak: PositiveFloat | None = None,
    load: PositiveFloat | None = None,
    fuzz: PositiveInt | None = None,
    results: Path = Path("docs/results/bridge.json"),
) -> None:
    """Measures the wire to the policy and the way of a stop; give it a machine that rests.

    Example: hitogata bench bridge --round-trips 2000

    The exit status is 1 when a figure is worse than what is promised of it.

    Args:
        round_trips: How many of each kind, in short blocks that take turns.
        stops: How often the robot is stopped in mid-walk, for each way.
        faults: Try all faults on a simulated robot instead.
        only: Try these faults instead.
        soak: Let a simulated robot work among random faults for so many minutes instead, as 30.
        load: Ask one server from 16 clients for so many seconds instead, as 300.
        fuzz: Send so many mutated messages to each end instead, as 100000.
        results: File of figures to which these are added.
    """
    check_results(results)
    lasting = any(each is not None for each in (soak, load, fuzz))
    if faults or only:
        bench_faults(HITOGATA, only, results)
    if lasting:
        bench_endurance(soak, load, fuzz, results)
    if faults or only or lasting:
        return
    figures = wire_figures(round_trips) | stop_figures(stops)
    write_results(results, figures, command_line())
    missed = [key for key, _, most in ROWS if not figures[key] <= most]
    table = Table("figure", "", "at most", "measured", "")
    for key, what, most in ROWS:
        kept = "MISSED" if key in missed else "ok"
        table.add_row(key, what, f"{most:g}", f"{figures[key]:.3g}", kept)
    Console().print(table)
    if failed := figures["stops_failed"]:
        raise UserError(f"{failed} stops had no safe stand: do not run this on a robot")
    if missed:
        print(f"hitogata: missed {', '.join(missed)}", file=sys.stderr)
        sys.exit(1)


def wire_figures(round_trips: int) -> dict[str, float]:
    """Round trips, and what they add to a chunk of the shipped bundle through its server."""
    figures = rtt_figures(round_trips)
    with serving(BUNDLE) as address, RemotePolicy(address, G1) as policy:
        figures |= chunk_figures(policy, record_observations(), CHUNKS, "_beside_rtt")
    figures["rtt_share_of_chunk"] = figures["rtt_added_p50_ms"] / figures["chunk_p50_ms_beside_rtt"]
    return figures


def bench_endurance(
    minutes: float | None, seconds: float | None, frames: int | None, results: Path
) -> None:
    """Soaks a robot, loads a server, mutates frames: whatever is not None. UserError if any fails.

    What was measured stands among the figures all the same.
    """
    figures: dict[str, Any] = {}
    try:
        if minutes is not None:
            figures["soak"] = soak_robot(HITOGATA, SoakConfig(minutes))
        if seconds is not None:
            figures["load"] = put_load(HITOGATA, LoadConfig(seconds=seconds))
        if frames is not None:
            figures["fuzz"] = fuzz_ends(HITOGATA, frames)
    finally:
        for name, found in figures.items():
            for key, value in found.items():
                print(f"{name:6} {key:24} {value}")
        if figures:
            write_results(results, figures, command_line())
    if minutes is not None and not figures["soak"]["passed"]:
        raise UserError(f"the soak failed: {figures['soak']['robot']}")
    if seconds is not None and (starved := figures["load"]["starved"]):
        raise UserError(f"{starved} clients starved: give the server more threads or a machine")
