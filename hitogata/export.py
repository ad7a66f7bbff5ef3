"""`hitogata export`: writes a run as an 8-bit ONNX bundle."""

from __future__ import annotations

from pathlib import Path

from tyro.conf import Positional

from bridge.ranges import PositiveInt
from policy.export.bundle_writer import export_bundle
from policy.export.parity import describe_parity
from policy.export.samples import data_of_run, recorded_samples
from policy.training.checkpoint import load_model, read_numbers
from tasks.evaluation.results import command_line


def export(
    run: Positional[Path],
    out: Path = Path("runs/bundle"),
    data: tuple[Path, ...] = (),
    samples: PositiveInt = 200,
) -> None:
    """Writes a trained policy as an 8-bit ONNX bundle, and compares it with the checkpoint.

    Example: hitogata export runs/policy --out runs/bundle

    Args:
        run: Folder written by `hitogata train`.
        out: Folder of the bundle.
        data: Data sets for the comparison, instead of those of the training.
        samples: Recorded observations on which the two are compared.
    """
    model = load_model(run)
    seen = recorded_samples(list(data) or data_of_run(run), samples)
    numbers = read_numbers(run)
    provenance = {key: numbers[key] for key in ("step", "samples", "frames", "seed")}
    manifest = export_bundle(model, out, seen, provenance | {"command": command_line()})
    print(describe_parity(manifest.parity))
    print(f"{out}: model {manifest.model_id}, {manifest.quantization['size_ratio']:.2f}x of fp32")
