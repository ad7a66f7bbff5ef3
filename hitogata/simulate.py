"""`hitogata simulate`: a simulated robot that waits for its operators."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from bridge.control.policy_link import PolicyLink
from bridge.wire.client import Connection
from hitogata.policies import BUNDLE, policy_address
from robots.g1.embodiment import G1
from sim.live import SimulateConfig, run_live

CONNECT_S = 60.0


def simulate(
    config: Annotated[SimulateConfig, arg(name="")] = SimulateConfig(),
    bundle: Path = BUNDLE,
    server: Annotated[Connection, arg(name="")] = Connection(),
) -> None:
    """Runs a simulated robot that waits for its operators.

    Example: hitogata simulate --seed 7 --address tcp://127.0.0.1:5760

    Args:
        bundle: The exported policy to serve, in a process of its own.
    """
    keys = server.client_keys()
    with (
        policy_address(server.connect, bundle) as address,
        PolicyLink(address, G1, keys=keys) as link,
    ):
        link.wait_connected(CONNECT_S)
        run_live(link, config, lambda place: print(f"robot at {place}", flush=True))
