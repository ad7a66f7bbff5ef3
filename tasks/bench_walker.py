"""The examination of walkers as a command: figures, table, picture and video."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from rich.console import Console
from tyro.conf import arg

from bridge.commandline import told
from bridge.files import write_bytes
from bridge.results import write_results
from sim.walk_bench import WalkBenchConfig, bench_walkers, examinees, record_runs
from sim.walk_report import draw_figures, figures_table
from sim.walk_speed import batch_ratio, step_ms
from tasks.video import write_poses_video


def bench_walker(
    config: Annotated[WalkBenchConfig, arg(name="")] = WalkBenchConfig(),
    results: Path = Path("docs/results/walker.json"),
    video: Path | None = None,
) -> None:
    """Examines walkers, ours and others', on two bodies, over the same commands and pushes.

    Example: hitogata bench walker --runs 200

    Args:
        results: File of figures to which these are added; a picture of them lies beside it.
        video: Also leave a video of every walker under the same commands.
    """
    walkers = [walker.name for walker in examinees(config)]
    figures = bench_walkers(config)
    figures |= {"step_ms": step_ms(config.walker), "batch_ratio": batch_ratio(config.walker)}
    write_results(results, figures, told())
    write_bytes(results.with_suffix(".png"), draw_figures(figures, config.bodies, walkers))
    Console().print(figures_table(figures, config.bodies, walkers))
    print(
        f"one step {figures['step_ms']:.3f} ms; worlds at {figures['batch_ratio']:.2f} of physics"
    )
    if video:
        write_poses_video(video, *record_runs(config))
