"""Eight-bit weights, block by block: rounded in training, packed for the exported graph.

A weight is (code - 128) * scale with one scale per block of input features, symmetric, so codes
run from 1 to 255. Training sees the rounded weight (Jacob et al. 2018, arXiv:1712.05877) and passes
gradients straight through (Bengio et al. 2013, arXiv:1308.3432).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# A size and a zero point that QMoE and MatMulNBits take (ONNX Runtime, docs/ContribOperators.md).
BLOCK = 64
MAX_CODE = 127
ZERO_POINT = 128


class Packed(NamedTuple):
    """`codes` (..., rows, columns) uint8 and `scales` (..., rows, columns / block) float32."""

    codes: Tensor
    scales: Tensor


def block_scales(weight: Tensor, block: int = BLOCK) -> Tensor:
    """Scales (..., columns / block) of a weight (..., columns); 1 for a block of zeros."""
    largest = weight.unflatten(-1, (-1, block)).abs().amax(-1)
    return torch.where(largest > 0, largest / MAX_CODE, torch.ones_like(largest))


def fake_quantize(weight: Tensor) -> Tensor:
    """The weight as its packed form will give it back; its gradient is that of the weight."""
    detached = weight.detach()
    scales = block_scales(detached).unsqueeze(-1)
    codes = (detached.unflatten(-1, (-1, BLOCK)) / scales).round_().clamp_(-MAX_CODE, MAX_CODE)
    rounded = (codes * scales).flatten(-2)
    return weight + (rounded - detached)


def pack(weight: Tensor, block: int = BLOCK) -> Packed:
    """Codes and scales of a weight (..., rows, columns), as QMoE and MatMulNBits read them."""
    weight = weight.detach()
    scales = block_scales(weight, block)
    codes = (weight.unflatten(-1, (-1, block)) / scales.unsqueeze(-1)).round()
    codes = codes.clamp(-MAX_CODE, MAX_CODE) + ZERO_POINT
    return Packed(codes.flatten(-2).to(torch.uint8), scales)


def unpack(packed: Packed) -> Tensor:
    """The float32 weight that `packed` stands for."""
    codes = packed.codes.float().unflatten(-1, (packed.scales.shape[-1], -1)) - ZERO_POINT
    return (codes * packed.scales.unsqueeze(-1)).flatten(-2)


@runtime_checkable
class Quantizable(Protocol):
    """A module whose weights are rounded to eight bits while `quantized` is set."""

    quantized: bool


class QuantLinear(nn.Linear):
    """A dense layer with an eight-bit weight once `quantized`; the bias stays float."""

    quantized = False

    def forward(self, input: Tensor) -> Tensor:
        weight = fake_quantize(self.weight) if self.quantized else self.weight
        return F.linear(input, weight, self.bias)


def quantizable(model: nn.Module) -> Iterator[tuple[str, Quantizable]]:
    """The modules of a model that take eight-bit weights, by name."""
    for name, module in model.named_modules():
        if isinstance(module, Quantizable):
            yield name, module


def set_quantized(model: nn.Module, quantized: bool) -> None:
    """Turns rounding on or off in all of a model's quantizable modules."""
    for _, module in quantizable(model):
        module.quantized = quantized
