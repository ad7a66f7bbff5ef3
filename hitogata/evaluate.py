"""`hitogata evaluate`: measures success over many scenes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import arg

from bridge.wire.client import Connection, RemotePolicy
from hitogata.policies import BUNDLE, policy_address, torch_policies
from robots.g1.embodiment import G1
from tasks.evaluation.evaluate import EvaluateConfig, heldout_drop
from tasks.evaluation.evaluate import evaluate as evaluate_policy
from tasks.evaluation.results import command_line, read_figures, write_results


def evaluate(
    config: Annotated[EvaluateConfig, arg(name="")] = EvaluateConfig(),
    bundle: Path = BUNDLE,
    server: Annotated[Connection, arg(name="")] = Connection(),
    blind: Literal["text", "image"] | None = None,
    checkpoint: Path | None = None,
    expert: bool = False,
    out: Path = Path("out/evaluate"),
    results: Path = Path("docs/results/chain.json"),
) -> None:
    """Measures success over many scenes that no collection uses.

    Example: hitogata evaluate --families go_to --episodes 100

    Args:
        bundle: The exported policy to serve, in a process of its own.
        blind: Withhold the words or the picture, as a baseline.
        checkpoint: Evaluate this run in torch, in float32, instead of a bundle; give the
            families of which `int8_drop` shall tell: --families go_to.
        expert: Evaluate the scripted experts instead of a policy; writes no results.
        out: Folder for report.html, a row of every episode and a picture.
        results: File of figures to which these are added.
    """

    def drops(known: Mapping[str, float], new: Mapping[str, float]) -> dict[str, float]:
        """Differences that the new figures change."""
        rates = {key for key in new if key.endswith("_success")}
        found = heldout_drop(known) if rates and not config.baseline else {}
        compared = {"fp32_success", "go_to_success"}
        if rates & compared and compared <= set(known):
            found["int8_drop"] = known["fp32_success"] - known["go_to_success"]
        return found

    name = "fp32" if checkpoint else blind and f"no_{blind}"
    config = dataclasses.replace(config, baseline=config.baseline or name)
    known = {} if expert else read_figures(results)
    if expert or checkpoint or config.floor:
        policy = torch_policies(checkpoint) if checkpoint else None
        figures = evaluate_policy(policy, config, out, known)
    else:
        options = ("--blind", blind) if blind else ()
        keys = server.client_keys()
        with policy_address(server.connect, bundle, *options) as address:
            policies = partial(RemotePolicy, address, G1, keys=keys)
            figures = evaluate_policy(policies, config, out, known)
    for key, value in figures.items():
        print(f"{key:32} {value}")
    if not expert:
        figures |= drops(known | figures, figures)
        write_results(results, figures, command_line())
