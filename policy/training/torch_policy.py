"""A checkpoint as a policy: the model itself in torch, for training rounds and comparisons."""

from __future__ import annotations

from pathlib import Path

import torch

from policy.export.restore import restore_model
from policy.model.action_codec import BANDS
from policy.model.stages import TorchParts
from policy.runtime.bundle import is_bundle
from policy.runtime.onnx_policy import GraphPolicy
from policy.runtime.text_encoder import TextEncoder
from policy.training.checkpoint import load_model


class TorchPolicy(GraphPolicy):
    """The policy of a checkpoint, by torch in float32 on the CPU.

    Also that of a bundle, its weights as rounded as there.
    """

    def __init__(self, checkpoint: Path, threads: int = 2) -> None:
        torch.set_num_threads(threads)
        model = restore_model(checkpoint) if is_bundle(checkpoint) else load_model(checkpoint)
        super().__init__(
            TorchParts(model),
            TextEncoder(threads=threads),
            model.embodiment,
            dict(model.config.slots),
            BANDS,
        )
