"""The gallery: a few instructions as small animations, and plots of the measured figures."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from tyro.conf import arg

from bridge.contract import Policy, UserError
from bridge.files import check_writable, write_bytes
from bridge.ranges import PositiveInt, check_ranges
from bridge.wire.client import Connection, RemotePolicy
from hitogata.policies import BUNDLE, policy_address
from robots.g1.embodiment import COMMAND_DIM, G1
from sim.render.video import write_animation
from tasks.catalogue import SHIPPED
from tasks.evaluation.evaluate import draw_success
from tasks.evaluation.results import read_figures
from tasks.evaluation.run import RunConfig, fitting_seeds, perform, set_stage, verdict
from tasks.language.parse import read_wording

# Name of the file, and what the robot is told.
INSTRUCTIONS = {
    "walk_to_the_red_ball": "walk to the red ball",
    "wave": "wave with your left hand",
    "walk_two_metres": "walk two metres forward",
    "point_at_the_blue_cube": "point at the blue cube",
}
MOST_BYTES = 2_000_000


@dataclass(frozen=True)
class GalleryConfig:
    """What is drawn and where.

    Attributes:
        out: Folder of the pictures.
        results: Folder of the measured figures.
        tries: Scenes to try an instruction in, until it is carried out; the last is kept otherwise.
        only: Names of the animations to make; all without any.
        resume: Make only the animations that are not there.
    """

    out: Path = Path("docs/images")
    results: Path = Path("docs/results")
    tries: PositiveInt = 5
    only: tuple[str, ...] = ()
    resume: bool = False


def gallery(
    config: Annotated[GalleryConfig, arg(name="")] = GalleryConfig(),
    bundle: Path = BUNDLE,
    server: Annotated[Connection, arg(name="")] = Connection(),
) -> None:
    """Carries out four instructions and leaves an animation of each, and plots of the figures.

    Example: hitogata gallery --out docs/images

    Args:
        bundle: The exported policy to serve, in a process of its own.
    """
    keys = server.client_keys()
    with (
        policy_address(server.connect, bundle) as address,
        RemotePolicy(address, G1, keys=keys) as policy,
    ):
        draw_gallery(policy, config)


def draw_gallery(policy: Policy, config: GalleryConfig) -> None:
    """Carries out every instruction, draws all pictures, and prints what came of each."""
    unknown = set(config.only) - set(INSTRUCTIONS)
    if unknown:
        raise UserError(f"no animation {min(unknown)!r}: choose from {', '.join(INSTRUCTIONS)}")
    check_ranges(config)
    check_writable(config.out)
    for name in config.only or INSTRUCTIONS:
        path = config.out / f"{name}.webp"
        if not (config.resume and path.exists()):
            _animate(policy, INSTRUCTIONS[name], path, config.tries)
    for path in write_plots(config.results, config.out):
        print(f"plot        {path}")


def _animate(policy: Policy, instruction: str, path: Path, tries: int) -> None:
    meaning = read_wording(instruction, SHIPPED.language)
    seeds = islice(fitting_seeds(meaning), tries)
    for number, seed in enumerate(seeds, 1):
        stage = set_stage(instruction, RunConfig(seed=seed))
        outcome, frames = perform(stage, policy)
        said = verdict(outcome, meaning)
        print(f"told        {instruction!r}, scene {number} of at most {tries}: {said}")
        if outcome.success or number == tries:
            write_animation(path, stage.world.model, frames, instruction, MOST_BYTES)
            print(f"animation   {path}, {path.stat().st_size / 1e6:.2f} MB")
            return
        stage.world.close()


def write_plots(results: Path, folder: Path) -> list[Path]:
    """A PNG for every kind of figure that the files in `results` hold; the paths written."""
    figures: dict[str, Any] = {}
    for path in sorted(results.glob("*.json")):
        figures |= read_figures(path)
    made = []
    if any(key.endswith(("_success_interval", "_both_interval")) for key in figures):
        made.append(folder / "success.png")
        write_bytes(made[-1], draw_success(figures))
    if "chunk_p50_ms" in figures:
        made.append(folder / "latency.png")
        write_bytes(made[-1], draw_latency(figures))
    return made


def draw_latency(figures: Mapping[str, Any]) -> bytes:
    """A PNG of the time from observation to chunk, by how many tokens a decoding step emits."""
    from matplotlib.figure import Figure

    start = "chunk_p50_ms"
    suffixes = [key.removeprefix(start) for key in figures if key.startswith(start)]
    places = np.arange(len(suffixes))
    picture = Figure(figsize=(1.6 + 1.4 * len(suffixes), 3.2), layout="constrained")
    axes = picture.subplots()
    for side, percentile, colour in ((-1, "p50", "#4477aa"), (1, "p95", "#ccbb44")):
        values = [figures.get(f"chunk_{percentile}_ms{suffix}", np.nan) for suffix in suffixes]
        axes.bar(places + 0.2 * side, values, 0.38, color=colour, label=percentile)
    words = [suffix.strip("_").replace("_", " ") or f"{COMMAND_DIM} tokens" for suffix in suffixes]
    axes.set_xticks(places, words)
    axes.set_ylabel("observation to chunk, ms")
    axes.legend()
    buffer = io.BytesIO()
    picture.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()
