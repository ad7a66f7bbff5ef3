"""Policies that the commands use: the shipped bundle, served by a process of our own, or a run."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path

from assets import asset_path
from bridge.contract import Policy
from bridge.files import sha256_of
from bridge.process import child_server

BUNDLE = asset_path("models/bundle")
# -P: no file of the folder in which a user happens to be is taken for a module of ours.
HITOGATA = (sys.executable, "-P", "-m", "hitogata")


def serving(bundle: Path, *options: str) -> AbstractContextManager[str]:
    """The address of a bundle served by a process of our own, with options of `serve`."""

    def command_at(address: str) -> list[str]:
        return [*HITOGATA, "serve", str(bundle), "--address", address, *options]

    return child_server(command_at)


def policy_address(connect: str | None, bundle: Path, *options: str) -> AbstractContextManager[str]:
    """The address of a server that is there already, or else of one of our own."""
    return nullcontext(connect) if connect else serving(bundle, *options)


def policies_of(path: Path) -> Callable[[], Policy]:
    """Makes policies of a bundle or a run's checkpoint, in whichever process calls it."""
    from policy.runtime.bundle import is_bundle
    from policy.runtime.onnx_policy import OnnxPolicy

    if is_bundle(path):
        return partial(OnnxPolicy, path, threads=1)
    return torch_policies(path)


def checkpoint_id(checkpoint: Path) -> str:
    """A name for the weights of a run's checkpoint, as a bundle has its model id."""
    from policy.training.checkpoint import CHECKPOINT_FILE, read_numbers

    read_numbers(checkpoint)  # UserError for what is none
    file = checkpoint / CHECKPOINT_FILE if checkpoint.is_dir() else checkpoint
    return f"checkpoint {sha256_of(file)[:12]}"


def torch_policies(checkpoint: Path, threads: int = 1) -> Callable[[], Policy]:
    """Makes float32 policies of a checkpoint, in whichever process calls it."""
    from policy.training.torch_policy import TorchPolicy

    return partial(TorchPolicy, checkpoint, threads)
