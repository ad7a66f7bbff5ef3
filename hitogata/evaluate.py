"""`hitogata evaluate`: measures success over many scenes."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import arg

from bridge.contract import UserError
from bridge.wire.client import Connection, RemotePolicy
from hitogata.policies import BUNDLE, checkpoint_id, policy_address, torch_policies
from robots.g1.embodiment import G1
from tasks.evaluation.evaluate import EvaluateConfig, drops
from tasks.evaluation.evaluate import evaluate as evaluate_policy
from tasks.evaluation.results import (
    check_results,
    command_line,
    read_figures,
    read_results,
    write_results,
)


def evaluate(
    config: Annotated[EvaluateConfig, arg(name="")] = EvaluateConfig(),
    bundle: Path = BUNDLE,
    server: Annotated[Connection, arg(name="")] = Connection(),
    blind: Literal["text", "image"] | None = None,
    checkpoint: Path | None = None,
    expert: bool = False,
    out: Path = Path("out/evaluate"),
    results: Path | None = None,
) -> None:
    """Measures success over many scenes that no collection uses.

    Example: hitogata evaluate --families go_to --episodes 100

    Args:
        bundle: The exported policy to serve, in a process of its own.
        blind: Withhold the words or the picture, as a baseline.
        checkpoint: Evaluate this run in torch, in float32, instead of a bundle.
        expert: Evaluate the scripted experts instead of a policy; writes no results.
        out: Folder for report.html, a row of every episode and a picture.
        results: File of figures to which these are added; without one OUT/results.json.
    """
    policies = {
        "--expert": expert,
        "--checkpoint": checkpoint,
        "--floor": config.floor,
        "--connect": server.connect,
        "--blind": blind,
    }
    if len(given := [option for option, value in policies.items() if value]) > 1:
        raise UserError(f"{' and '.join(given)} exclude each other: give one of them")
    name = "fp32" if checkpoint else blind and f"no_{blind}"
    config = dataclasses.replace(config, baseline=config.baseline or name)
    results = results or out / "results.json"
    if not expert:
        check_results(results)
    known = {} if expert else read_figures(results)
    if expert or checkpoint or config.floor:
        policy = torch_policies(checkpoint) if checkpoint else None
        model = checkpoint_id(checkpoint) if checkpoint else config.floor or "experts"
        figures = evaluate_policy(policy, config, out, known, model)
    else:
        options = ("--blind", blind) if blind else ()
        keys = server.client_keys()
        with policy_address(server.connect, bundle, *options) as address:
            policies = partial(RemotePolicy, address, G1, keys=keys)
            with policies() as asked:
                model = asked.info.model_id
            figures = evaluate_policy(policies, config, out, known, model)
    for key, value in figures.items():
        if not key.endswith("_outcomes"):
            print(f"{key:32} {value}")
    if not expert:
        about = {
            "model_id": model,
            "embodiment": G1.embodiment_hash,
            "seed": config.seed,
            "tries": config.episodes,
            "families": list(config.families),
            "robot": str(config.robot) if config.robot else None,
        }
        write_results(results, figures, command_line(), about)
        for key, value in (changed := drops(read_results(results), config)).items():
            print(f"{key:32} {value}")
        write_results(results, changed, command_line(), about)
