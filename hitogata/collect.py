"""`hitogata collect`: records demonstrations."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from bridge.ranges import NonNegativeInt, Seed, Workers
from hitogata.policies import policies_of
from tasks.demonstrations.collect import collect as collect_episodes
from tasks.demonstrations.record import RecordConfig


def collect(
    config: Annotated[RecordConfig, arg(name="")] = RecordConfig(),
    out: Path = Path("data/demos"),
    episodes: NonNegativeInt = 400,
    families: tuple[str, ...] = (),
    seed: Seed = 0,
    processes: Workers = 2,
    policy: Path | None = None,
) -> None:
    """Records demonstrations into a LeRobot data set; goes on where it was stopped.

    Example: hitogata collect --out data/demos --episodes 400

    Args:
        out: Folder of the data set.
        episodes: How many it shall have in the end.
        families: Which tasks; without any all of the catalogue, and those of --tasks.
        seed: Another seed, other scenes; no evaluation uses them.
        processes: Episodes at a time.
        policy: Let this run or bundle act, and the expert label what it would have done.
    """
    acting = policies_of(policy) if policy else None
    frames = collect_episodes(out, episodes, families, seed, processes, acting, config)
    print(f"{frames} frames added to {out}")
