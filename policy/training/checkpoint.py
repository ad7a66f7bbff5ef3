"""Checkpoints: one safetensors file with all tensors of a training run, its numbers as JSON inside.

One file, replaced in one step, so a killed run finds either the old checkpoint or the new one.
Tensors are named `model.*` (being trained), `average.*` (their moving average, which is what acts)
and `optimizer.*`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from bridge.contract import UserError
from bridge.embodiment import Embodiment
from bridge.files import write_bytes
from policy.model.vla import Model, ModelConfig
from policy.runtime.legacy import current_name, embodiment_of

CHECKPOINT_FILE = "checkpoint.safetensors"
MODEL, AVERAGE, OPTIMIZER = "model.", "average.", "optimizer."
_METADATA_KEY = "hitogata"
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


def save_checkpoint(
    path: Path,
    model: Model,
    average: Model,
    optimizer: torch.optim.Optimizer | None,
    numbers: dict[str, Any],
) -> None:
    """Writes everything that training needs to go on as if it had not stopped."""
    tensors = _prefixed(MODEL, model.state_dict()) | _prefixed(AVERAGE, average.state_dict())
    if optimizer is not None:
        tensors |= _prefixed(OPTIMIZER, _moments(model, optimizer))
    about = {"config": model.config.to_dict(), "embodiment": model.embodiment.to_dict()}
    content = about | numbers
    metadata = {_METADATA_KEY: json.dumps(content)}
    write_bytes(path, save({k: v.contiguous() for k, v in tensors.items()}, metadata))


def load_checkpoint(
    path: Path, model: Model, average: Model, optimizer: torch.optim.Optimizer
) -> dict[str, Any]:
    """Fills a run with what `save_checkpoint` wrote, and returns its numbers."""
    tensors, numbers = _read(path, (MODEL, AVERAGE, OPTIMIZER))
    model.load_state_dict(_unprefixed(MODEL, tensors))
    average.load_state_dict(_unprefixed(AVERAGE, tensors))
    moments = _unprefixed(OPTIMIZER, tensors)
    for name, parameter in model.named_parameters():
        if f"{name}.step" in moments:
            # In the parameter's memory layout: the fused optimizer reads both side by side.
            optimizer.state[parameter] = {
                key: torch.empty_like(parameter).detach().copy_(moments[f"{name}.{key}"])
                for key in _MOMENTS[1:]
            } | {"step": moments[f"{name}.step"]}
    return numbers


def load_model(path: Path) -> Model:
    """The averaged model of a checkpoint file, or of a run's folder, in evaluation mode."""
    tensors, numbers = _read(path, (AVERAGE,))
    model = Model(ModelConfig.from_dict(numbers["config"]), numbers["embodiment"])
    model.load_state_dict(_unprefixed(AVERAGE, tensors))
    return model.eval()


def read_numbers(path: Path) -> dict[str, Any]:
    """What a checkpoint says of itself: config, embodiment, step, elapsed_s, samples and so on."""
    return _read(path, ())[1]


def _read(path: Path, prefixes: tuple[str, ...]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    path = Path(path)
    file = path / CHECKPOINT_FILE if path.is_dir() else path
    if not file.is_file():
        raise UserError(f"there is no checkpoint at {path}: train one with `hitogata train`")
    try:
        with safe_open(file, "pt") as content:
            numbers = json.loads((content.metadata() or {})[_METADATA_KEY])
            numbers["config"] = {current_name(k): v for k, v in numbers["config"].items()}
            names = [name for name in content.keys() if name.startswith(prefixes)]  # noqa: SIM118
            tensors = {current_name(n): content.get_tensor(n) for n in names} if prefixes else {}
    except (SafetensorError, KeyError, ValueError) as error:
        raise UserError(f"{file} is no checkpoint of hitogata: choose another file") from error
    named = numbers.get("embodiment")
    try:
        body = Embodiment.from_dict(named) if named else embodiment_of(numbers.get("contract"))
    except (ValueError, UserError) as error:
        raise UserError(f"{file} cannot be used: {error}") from error
    return tensors, numbers | {"embodiment": body}


def _moments(model: Model, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {
        f"{name}.{key}": optimizer.state[parameter][key]
        for name, parameter in model.named_parameters()
        if parameter in optimizer.state
        for key in _MOMENTS
    }


def _prefixed(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    # A clone each, because safetensors refuses tensors that share memory.
    return {prefix + name: tensor.detach().clone() for name, tensor in tensors.items()}


def _unprefixed(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
