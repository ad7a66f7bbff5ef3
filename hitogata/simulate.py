"""`hitogata simulate`: a simulated robot that waits for its operators."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from bridge.control.policy_link import PolicyLink
from bridge.supervisor import is_supervised, supervise
from bridge.wire.client import Connection
from hitogata.policies import BUNDLE, HITOGATA, policy_address
from robots.g1.embodiment import G1
from sim.live import SimulateConfig, run_live

CONNECT_S = 60.0


def simulate(
    config: Annotated[SimulateConfig, arg(name="")] = SimulateConfig(),
    bundle: Path = BUNDLE,
    server: Annotated[Connection, arg(name="")] = Connection(),
    supervised: bool = False,
) -> None:
    """Runs a simulated robot that waits for its operators.

    Example: hitogata simulate --seed 7 --address tcp://127.0.0.1:5760

    Args:
        bundle: The exported policy to serve, in a process of its own.
        supervised: Watch the loop from another process, which starts it anew when it dies or hangs.
    """
    if supervised and not is_supervised():
        report = partial(print, "hitogata:", file=sys.stderr, flush=True)
        sys.exit(supervise([*HITOGATA, *sys.argv[1:]], report))
    keys = server.client_keys()
    with (
        policy_address(server.connect, bundle) as address,
        PolicyLink(address, G1, keys=keys) as link,
    ):
        link.wait_connected(CONNECT_S)
        run_live(link, config, lambda place: print(f"robot at {place}", flush=True))
