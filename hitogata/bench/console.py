"""`hitogata bench console`: what open pages cost the loop."""

from __future__ import annotations

from pathlib import Path

from bench.console import console_figures, draw_figures, table_of
from bridge.files import write_bytes
from bridge.ranges import PositiveFloat
from hitogata.policies import BUNDLE, HITOGATA
from tasks.evaluation.results import check_results, command_line, write_results


def bench_console(
    seconds: PositiveFloat = 20.0,
    bundle: Path = BUNDLE,
    results: Path = Path("docs/results/console.json"),
) -> None:
    """Measures what pages cost the control loop; give it a machine that rests.

    Example: hitogata bench console --seconds 20

    Args:
        seconds: How long each number of pages is watched.
        bundle: The exported policy of the simulation.
        results: File of figures to which these are added; a picture is put beside it.
    """
    check_results(results)
    figures = console_figures(HITOGATA, bundle, seconds)
    print(table_of(figures))
    write_results(results, figures, command_line())
    write_bytes(results.with_suffix(".png"), draw_figures(figures))
