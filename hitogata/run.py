"""`hitogata run`: carries out an instruction in simulation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from bridge.contract import check_instruction
from bridge.files import check_writable
from bridge.wire.client import Connection, RemotePolicy
from hitogata.policies import BUNDLE, policy_address
from robots.g1.embodiment import G1
from tasks.evaluation.run import RunConfig, carry_out, set_stage


def run(
    instruction: Positional[str],
    config: Annotated[RunConfig, arg(name="")] = RunConfig(),
    bundle: Path = BUNDLE,
    server: Annotated[Connection, arg(name="")] = Connection(),
) -> None:
    """Carries out an instruction in simulation and leaves a video.

    Example: hitogata run "walk to the red ball" --seed 7

    Args:
        instruction: What the robot is told, at most 1 KiB.
        bundle: The exported policy to serve, in a process of its own.
    """
    check_writable(config.out.parent)
    keys = server.client_keys()
    stage = set_stage(check_instruction(instruction), config)
    with (
        policy_address(server.connect, bundle) as address,
        RemotePolicy(address, G1, keys=keys) as policy,
    ):
        carry_out(stage, policy, config)
