"""The front door: one command, and the only place that puts the rooms together.

The options of a command are derived from a function's signature and the configs that it takes. The
functions are made on demand, because some rooms take seconds to import.
"""

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from assets import asset_path
from bridge.process import child_server
from bridge.wire.client import Connection, RemotePolicy
from hitogata.commandline import Command, dispatch, guarded, told
from bridge.contract import Policy, UserError, check_instruction
from bridge.wire.keys import make_keys, server_keys
from bridge.blackbox.replay import make_replay

BUNDLE = asset_path("models/bundle")


def main() -> None:
    """Runs the command line; a user's fault is one line on stderr and exit status 2."""
    guarded(lambda: dispatch(COMMANDS, sys.argv[1:]))


@contextlib.contextmanager
def serving(bundle: Path, *options: str) -> Iterator[str]:
    """The address of a bundle served by a process of our own, with options of `serve`."""

    def command_at(address: str) -> list[str]:
        command = [sys.executable, "-m", "hitogata", "serve", str(bundle)]
        return [*command, "--address", address, *options]

    with child_server(command_at) as address:
        yield address


def policy_address(
    connect: str | None, bundle: Path, *options: str
) -> contextlib.AbstractContextManager[str]:
    """The address of a server that is there already, or else of one of our own."""
    return contextlib.nullcontext(connect) if connect else serving(bundle, *options)


def make_run() -> Callable[..., None]:
    from tyro.conf import Positional, arg

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
        keys = server.client_keys()
        stage = set_stage(check_instruction(instruction), config)
        with (
            policy_address(server.connect, bundle) as address,
            RemotePolicy(address, keys=keys) as policy,
        ):
            carry_out(stage, policy, config)

    return run


def make_evaluate() -> Callable[..., None]:
    from tyro.conf import arg

    from tasks.evaluation.results import read_figures, write_results
    from tasks.evaluation.evaluate import EvaluateConfig, heldout_drop
    from tasks.evaluation.evaluate import evaluate as evaluate_policy

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
        if expert or checkpoint:
            policy = _torch_policies(checkpoint) if checkpoint else None
            figures = evaluate_policy(policy, config, out, known)
        else:
            options = ("--blind", blind) if blind else ()
            keys = server.client_keys()
            with policy_address(server.connect, bundle, *options) as address:
                policies = partial(RemotePolicy, address, keys=keys)
                figures = evaluate_policy(policies, config, out, known)
        for key, value in figures.items():
            print(f"{key:32} {value}")
        if not expert:
            figures |= drops(known | figures, figures)
            write_results(results, figures, told())

    return evaluate


def make_gallery() -> Callable[..., None]:
    from hitogata.gallery import make_gallery as make

    return make(policy_address, BUNDLE)


def make_collect() -> Callable[..., None]:
    from tyro.conf import arg

    from tasks.demonstrations.collect import collect as collect_episodes
    from tasks.demonstrations.record import RecordConfig

    def collect(
        config: Annotated[RecordConfig, arg(name="")] = RecordConfig(),
        out: Path = Path("data/demos"),
        episodes: int = 400,
        families: tuple[str, ...] = (),
        seed: int = 0,
        processes: int = 2,
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
        acting = _policies(policy) if policy else None
        frames = collect_episodes(out, episodes, families, seed, processes, acting, config)
        print(f"{frames} frames added to {out}")

    return collect


def make_train() -> Callable[..., None]:
    from hitogata.train import train

    return train


def make_export() -> Callable[..., None]:
    from hitogata.train import export

    return export


def make_serve() -> Callable[..., None]:
    from tyro.conf import Positional

    from bridge.compat import gr00t
    from bridge.compat import openpi
    from bridge.compat.adapter import Door, read_token
    from bridge.wire.server import ServerInfo, serve_policy
    from policy.runtime.onnx_policy import Blind, OnnxPolicy

    def serve(
        bundle: Positional[Path] = BUNDLE,
        wire: Literal["hitogata", "gr00t", "openpi"] = "hitogata",
        address: str | None = None,
        threads: int = 2,
        tokens_per_step: int | None = None,
        deadline_s: float | None = None,
        blind: Blind | None = None,
        strict_gpu: bool = False,
        keys: Path | None = None,
        token_file: Path | None = None,
        exposed: bool = False,
    ) -> None:
        """Serves a bundle until interrupted.

        Example: hitogata serve runs/bundle --address ipc:///tmp/hitogata.sock

        Args:
            bundle: Folder written by `hitogata export`.
            wire: Whose clients to answer: ours, GR00T's or openpi's.
            address: Where to listen: ipc:// or loopback tcp://, with keys any tcp://; for openpi
                ws://. Without one tcp://127.0.0.1:5757, for gr00t :5555, ws://127.0.0.1:8000.
            threads: CPU threads of the policy.
            tokens_per_step: Action tokens that one decoding step emits: 18, 36 or 108.
            deadline_s: After this time a chunk is answered as far as it is decoded.
            blind: Withhold the words or the picture from the policy, as a baseline.
            strict_gpu: Refuse to run any part on the CPU.
            keys: Folder of keys (hitogata keys): encrypt, and let in only who is allowed there.
            token_file: File with the token that clients of gr00t or openpi must present.
            exposed: Let gr00t or openpi be reached from other machines, unencrypted: needs a token.
        """
        if wire == "hitogata" and (token_file or exposed):
            raise UserError("--token-file and --exposed are for other wires: use --keys FOLDER")
        if wire != "hitogata" and keys:
            raise UserError(f"the wire of {wire} knows no keys: use --token-file FILE")
        door = Door(address, exposed, read_token(token_file) if token_file else None)
        pair = server_keys(keys) if keys else None
        policy = OnnxPolicy(bundle, threads, strict_gpu, tokens_per_step, blind, deadline_s)
        info = ServerInfo(policy.manifest.model_id, policy.manifest.normalisation_id)

        def ready(place: str) -> None:
            print(f"serving {bundle} at {place} on {policy.device}", flush=True)

        if wire == "hitogata":
            serve_policy(policy, address or "tcp://127.0.0.1:5757", info, ready, pair)
        else:
            serve_foreign = gr00t.serve_gr00t if wire == "gr00t" else openpi.serve_openpi
            serve_foreign(policy, door, info, ready)

    return serve


def make_walk() -> Callable[..., None]:
    from hitogata.walk import walk

    return walk


def make_bench() -> Callable[..., None]:
    from tasks.evaluation.results import write_results
    from policy.runtime.bundle import load_manifest
    from policy.training.torch_policy import TorchPolicy
    from policy.model.vla import TOKENS_PER_STEP
    from bench.latency import chunk_figures, record_observations
    from bench.demo import demo_figures

    def bench(
        bundle: Path = BUNDLE,
        checkpoint: Path | None = None,
        chunks: int = 200,
        threads: int = 2,
        demo: Path | None = None,
        results: Path = Path("docs/results/chain.json"),
    ) -> None:
        """Measures the time from observation to chunk, through the server.

        Example: hitogata bench --checkpoint runs/policy

        Args:
            bundle: The exported policy.
            checkpoint: The run it was exported from, to compare with torch in float32.
            chunks: How many chunks are timed.
            threads: CPU threads of the policy.
            demo: Measure `make demo` on a fresh clone of this repository instead.
            results: File of figures to which these are added.
        """
        if demo:
            write_results(results, demo_figures(demo), told())
            return
        figures = {"int8_size_ratio": load_manifest(bundle).quantization["size_ratio"]}
        seen = record_observations()
        for tokens in TOKENS_PER_STEP:
            suffix = "" if tokens == TOKENS_PER_STEP[0] else f"_{tokens}_tokens"
            options = ("--tokens-per-step", str(tokens), "--threads", str(threads))
            with serving(bundle, *options) as address, RemotePolicy(address) as policy:
                figures |= chunk_figures(policy, seen, chunks, suffix)
        if checkpoint:
            figures |= chunk_figures(TorchPolicy(checkpoint, threads), seen, chunks, "_torch")
            figures["chunk_speedup"] = figures["chunk_p50_ms_torch"] / figures["chunk_p50_ms"]
        for key, value in figures.items():
            print(f"{key:32} {value:.3g}")
        write_results(results, figures, told())

    return bench


def make_bench_walker() -> Callable[..., None]:
    from hitogata.bench_walker import bench_walker

    return bench_walker


def make_bench_bridge() -> Callable[..., None]:
    from hitogata.bench_bridge import bench_bridge

    return bench_bridge


def make_live() -> Callable[..., None]:
    from sim.live import make_simulate

    return make_simulate(policy_address, BUNDLE)


def make_bench_console() -> Callable[..., None]:
    from bench.console import make_bench_console as make

    return make(BUNDLE)


def make_console() -> Callable[..., None]:
    from console.console import make_console as make

    return make(BUNDLE)


def make_doctor() -> Callable[..., None]:
    from hitogata.doctor import doctor

    return doctor


def _policies(path: Path) -> Callable[[], Policy]:
    """Makes policies of a bundle or a run's checkpoint, in whichever process calls it."""
    from policy.runtime.bundle import is_bundle
    from policy.runtime.onnx_policy import OnnxPolicy

    if is_bundle(path):
        return partial(OnnxPolicy, path, threads=1)
    return _torch_policies(path)


def _torch_policies(checkpoint: Path) -> Callable[[], Policy]:
    """Makes float32 policies of a checkpoint, in whichever process calls it."""
    from policy.training.torch_policy import TorchPolicy

    return partial(TorchPolicy, checkpoint, threads=1)


COMMANDS = {
    "run": Command("carry out an instruction in simulation, and leave a video", make_run),
    "evaluate": Command("measure success over many scenes", make_evaluate),
    "gallery": Command("make the animations and plots of the README", make_gallery),
    "collect": Command("record demonstrations of the experts", make_collect),
    "train": Command("train the policy on demonstrations", make_train),
    "export": Command("write a trained policy as an 8-bit ONNX bundle", make_export),
    "serve": Command("serve a bundle over ZeroMQ or WebSocket", make_serve),
    "console": Command("talk to the robot in a browser, and see what it sees", make_console),
    "simulate": Command("run a simulated robot that waits for its operators", make_live),
    "walk": Command("train the walker", make_walk),
    "bench": Command("measure how fast the policy answers", make_bench),
    "bench console": Command("measure what open pages cost the robot's loop", make_bench_console),
    "bench walker": Command("examine walkers, ours and others'", make_bench_walker),
    "bench bridge": Command("measure round trips and stops against raw ZeroMQ", make_bench_bridge),
    "keys": Command("make and list the keys of a server and its clients", make_keys),
    "replay": Command("show what a recording of the black box holds", make_replay),
    "doctor": Command("show what this machine has and what is missing", make_doctor),
}

if __name__ == "__main__":
    main()
