"""`hitogata bench`: how fast the policy answers."""

from __future__ import annotations

from pathlib import Path

from bench.demo import demo_figures
from bench.latency import chunk_figures, record_observations
from bridge.ranges import PositiveInt, Workers
from bridge.wire.client import RemotePolicy
from hitogata.policies import BUNDLE, serving, torch_policies
from policy.runtime.bundle import load_manifest
from robots.g1.embodiment import G1
from tasks.evaluation.results import check_results, command_line, write_results


def bench(
    bundle: Path = BUNDLE,
    eager: bool = False,
    chunks: PositiveInt = 200,
    threads: Workers = 2,
    demo: Path | None = None,
    results: Path = Path("docs/results/chain.json"),
) -> None:
    """Measures the time from observation to chunk, through the server.

    Example: hitogata bench --eager

    Args:
        bundle: The exported policy.
        eager: Also run the same weights in eager torch, in float32, and compare.
        chunks: How many chunks are timed.
        threads: CPU threads of the policy.
        demo: Measure `make demo` on a fresh clone of this repository instead.
        results: File of figures to which these are added.
    """
    check_results(results)
    if demo:
        write_results(results, demo_figures(demo), command_line())
        return
    compared = torch_policies(bundle, threads) if eager else None
    manifest = load_manifest(bundle)
    quantization = manifest.quantization
    figures = {"int8_size_ratio": quantization["size_ratio"]}
    seen = record_observations()
    fewest, *_ = choices = quantization["tokens_per_step"]
    for tokens in choices:
        suffix = "" if tokens == fewest else f"_{tokens}_tokens"
        options = ("--tokens-per-step", str(tokens), "--threads", str(threads))
        with serving(bundle, *options) as address, RemotePolicy(address, G1) as policy:
            figures |= chunk_figures(policy, seen, chunks, suffix)
    if compared:
        figures |= chunk_figures(compared(), seen, chunks, "_torch")
        figures["chunk_speedup"] = figures["chunk_p50_ms_torch"] / figures["chunk_p50_ms"]
    for key, value in figures.items():
        print(f"{key:32} {value:.3g}")
    about = {"model_id": manifest.model_id, "embodiment": G1.embodiment_hash, "tries": chunks}
    write_results(results, figures, command_line(), about)
