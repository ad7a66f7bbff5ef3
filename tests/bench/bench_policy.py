"""Time from observation to chunk, part by part: a bundle in ONNX Runtime against torch in float32.

Run it as `python -m tests.bench.bench_policy --checkpoint runs/policy`. Without a bundle and a
checkpoint it exports a model that was never trained, whose times are the same.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro

from bridge.contract import Observation
from policy.export.bundle_writer import export_bundle
from policy.export.parity import Reader, Sample
from policy.model.action_codec import BANDS
from policy.model.stages import TorchParts
from policy.model.vla import BANDS_PER_STEP, Model, ModelConfig
from policy.runtime.bundle import DECODE_FILE, PREFILL_FILE, WORDS_FILE
from policy.runtime.onnx_policy import GraphPolicy, OnnxParts, Parts
from policy.runtime.text_encoder import TextEncoder
from policy.training.checkpoint import load_model
from robots.g1.embodiment import CHUNK_STEPS, COMMAND_DIM, G1, STATE_DIM

INSTRUCTION = "walk to the red ball"
SLOTS = (("action", tuple("abcdefghijklm")), ("colour", tuple("abcdef")), ("shape", tuple("abcd")))


@dataclass(frozen=True)
class BenchConfig:
    """What is measured: a run's checkpoint (or an untrained model), and its bundle if there is."""

    checkpoint: Path | None = None
    bundle: Path | None = None
    chunks: int = 200
    threads: int = 2
    seed: int = 0


def main(config: BenchConfig) -> None:
    """Prints a table and one line of JSON."""
    torch.set_num_threads(config.threads)
    rng = np.random.default_rng(config.seed)
    model = load_model(config.checkpoint) if config.checkpoint else untrained_model(rng)
    observation = random_observation(rng)
    read = Reader(TextEncoder(threads=config.threads), G1, dict(model.config.slots))
    figures: dict[str, float] = {}
    print(f"{'ms, p50 / p95':<20}{'read':>16}{'prefill':>16}{'decode':>16}{'chunk':>16}")
    with bundle_of(model, observation, config) as bundle:
        graphs = {
            name: (bundle / name).read_bytes() for name in (WORDS_FILE, PREFILL_FILE, DECODE_FILE)
        }
        sides: dict[str, Parts] = {
            "8-bit": OnnxParts(graphs, config.threads),
            "torch": TorchParts(model),
        }
        for name, parts in sides.items():
            for tokens in (bands * COMMAND_DIM for bands in BANDS_PER_STEP):
                times = part_times_ms(parts, read, observation, tokens, config)
                p50, p95 = np.percentile(times, (50, 95), axis=0)
                cells = (f"{a:.2f} / {b:.2f}" for a, b in zip(p50, p95, strict=True))
                print(f"{f'{name}, {tokens} tokens':<20}" + "".join(f"{c:>16}" for c in cells))
                suffix = ("" if name == "8-bit" else "_torch") + (
                    "" if tokens == COMMAND_DIM else f"_{tokens}_tokens"
                )
                figures |= {f"chunk_p50_ms{suffix}": p50[-1], f"chunk_p95_ms{suffix}": p95[-1]}
    figures["chunk_speedup"] = figures["chunk_p50_ms_torch"] / figures["chunk_p50_ms"]
    print(json.dumps({key: round(float(value), 3) for key, value in figures.items()}))


def part_times_ms(
    parts: Parts,
    read: Reader,
    observation: Observation,
    tokens: int,
    config: BenchConfig,
) -> np.ndarray:
    """(chunks, 4) ms of read, prefill, decode, and of prefill and decode together.

    Reading an instruction is not part of a chunk's time: it happens once per instruction.
    """
    policy = GraphPolicy(parts, read.encoder, G1, read.slots, BANDS, tokens)
    image, state = observation.images["head"][None], observation.state[None]
    rows = []
    for _ in range(config.chunks + 10):
        start = time.perf_counter()
        word, _ = read(parts, INSTRUCTION)
        known = time.perf_counter()
        keys, values, *_ = parts.prefill(word, image, state)
        filled = time.perf_counter()
        policy.decode(keys, values)
        end = time.perf_counter()
        rows.append((known - start, filled - known, end - filled, end - known))
    return 1000 * np.array(rows[10:])


def untrained_model(rng: np.random.Generator) -> Model:
    """A model of the usual size, its action bins fitted to noise."""
    torch.manual_seed(int(rng.integers(2**31)))
    model = Model(ModelConfig(slots=SLOTS), G1).eval()
    model.codec.fit(rng.normal(size=(64, CHUNK_STEPS, COMMAND_DIM)).astype(np.float32))
    return model


def random_observation(rng: np.random.Generator) -> Observation:
    """Noise in every field."""
    image = rng.integers(0, 256, (96, 96, 3), dtype=np.uint8)
    return Observation(G1, 0.0, rng.normal(size=STATE_DIM).astype(np.float32), {"head": image})


@contextmanager
def bundle_of(model: Model, observation: Observation, config: BenchConfig) -> Iterator[Path]:
    """The bundle to measure, exported for the occasion where none was named."""
    if config.bundle:
        yield config.bundle
        return
    sample = Sample(INSTRUCTION, observation.images["head"], observation.state)
    with tempfile.TemporaryDirectory() as folder:
        export_bundle(model, Path(folder), [sample], {"made for": "a benchmark"})
        yield Path(folder)


if __name__ == "__main__":
    main(tyro.cli(BenchConfig))
