"""`hitogata console`: a page to talk to the robot."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from console.server import ConsoleConfig, open_console
from hitogata.policies import BUNDLE, HITOGATA


def console(
    config: Annotated[ConsoleConfig, arg(name="")] = ConsoleConfig(),
    bundle: Path = BUNDLE,
) -> None:
    """Opens a page from which to talk to the robot, and to see what it sees.

    Example: hitogata console --seed 7

    Args:
        bundle: The exported policy of the simulation.
    """
    simulate = [*HITOGATA, "simulate", "--bundle", str(bundle)]
    open_console(config, simulate, lambda page: print(f"console at {page}", flush=True))
