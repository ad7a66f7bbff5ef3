"""The model's three parts, each a module of its own: what is exported and what torch runs alike.

words      token states, prior       -> word vector, values of the slots, chances of all values
prefill    word vector, image, state -> cached keys and values, status, experts' shares, visibility
decode     a few bands and the cache -> their tokens, the chunk so far, the longer cache
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from policy.model.action_codec import BANDS
from policy.model.vla import Model
from policy.runtime.decoding import decode_bands

# Of words that nobody trained on, the head is surer than it should be: the temperature at which
# its chances tell what a reading may mean instead (Guo et al. 2017, arXiv:1706.04599; the value
# was chosen by trial).
OVERCONFIDENCE = 2.0


class _Part(nn.Module):
    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model


class Read(_Part):
    """The part that runs once per instruction; slots (1, S) are classes, 0 = not mentioned.

    `prior` (1, C) is added to the logits of all slots; `chances` (1, C) are what comes out.
    """

    def forward(self, states: Tensor, mask: Tensor, prior: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        word, slots = self.model.read(states, mask, prior)
        if not slots:
            return word, torch.zeros(len(word), 0, dtype=torch.int64), prior
        chances = [torch.softmax(logits / OVERCONFIDENCE, dim=-1) for logits in slots]
        classes = torch.stack([logits.argmax(-1) for logits in slots], dim=1)
        return word, classes, torch.cat(chances, dim=-1)


class Prefill(_Part):
    """The part that runs once per observation."""

    def forward(
        self, word: Tensor, image: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        return self.model.prefill(word, image, state)


class Decode(_Part):
    """The part that runs once per decoding step, up to the commands (1, 16, 18) in SI units.

    A chunk is the sum of its bands, so each step adds its own to `commands`.
    """

    def forward(
        self,
        bands: Tensor,
        previous: Tensor,
        known: Tensor,
        commands: Tensor,
        keys: Tensor,
        values: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        logits, keys, values = self.model.decode(bands, previous, known, keys, values)
        tokens = logits.argmax(-1)
        codec = self.model.codec
        coefficients = codec.origin[bands] + tokens * codec.step[bands]
        return tokens, commands + codec.basis[bands].T @ coefficients, keys, values


class TorchParts:
    """The parts run by torch, as `policy.runtime.onnx_policy.Parts`."""

    def __init__(self, model: Model) -> None:
        self.words, self.prefill, self.decode = (
            partial(_run, part(model)) for part in (Read, Prefill, Decode)
        )


@torch.inference_mode()
def _run(part: nn.Module, *inputs: np.ndarray) -> Sequence[np.ndarray]:
    return [output.numpy() for output in part(*map(torch.from_numpy, inputs))]


@torch.no_grad()
def act(
    model: Model,
    states: Tensor,
    mask: Tensor,
    image: Tensor,
    state: Tensor,
    bands_per_step: int = 1,
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Commands (B, T, C), status logits and slot logits for a batch of `example_inputs`."""
    word, slots = model.read(states, mask)
    if model.chunk_head is not None:
        tokens = torch.zeros(len(image), BANDS, model.dimensions, dtype=torch.long)
        known = torch.zeros(len(image), BANDS, dtype=torch.bool)
        output = model(states, mask, image, state, tokens, known)
        return output.bands, output.status, slots
    keys, values, status, *_ = model.prefill(word, image, state)
    _, commands = decode_bands(
        TorchParts(model).decode,
        keys.numpy(),
        values.numpy(),
        model.embodiment.chunk_shape,
        BANDS,
        bands_per_step,
        len(image),
    )
    return torch.from_numpy(commands), status, slots
