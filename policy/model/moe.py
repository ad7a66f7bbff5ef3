"""Feed-forward by a mixture of experts: one that always works and two chosen of eight.

A shared expert beside routed ones is DeepSeekMoE's (Dai et al. 2024, arXiv:2401.06066); sigmoid
gates, and balance by a bias in place of a loss, are DeepSeek-V3's (2024, arXiv:2412.19437; the
bias: Wang et al. 2024, arXiv:2408.15664).

Shapes: T tokens, D width, F hidden width of an expert, E experts, K chosen per token.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from policy.model.quantize import QuantLinear, fake_quantize

# (mixture, tokens (B, L, D), router log-weights (B * L, E)) -> (B, L, D); see `MoE.export_experts`.
ExportExperts = Callable[["MoE", Tensor, Tensor], Tensor]
# What an expert that was not chosen has as its log-weight in an exported graph.
NOT_CHOSEN = -1e4


class SwiGLU(nn.Module):
    """The dense feed-forward silu(gate) * value (Shazeer 2020, arXiv:2002.05202): shared expert."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.up = QuantLinear(width, 2 * hidden, bias=False)
        self.down = QuantLinear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * value)


class MoE(nn.Module):
    """One shared expert plus `top_k` of `experts` routed ones, weighted by a sigmoid gate.

    The rows of `up` (E, 2F, D) alternate gate, value, gate, ... as QMoE's `swiglu_fusion=1` reads
    them (ONNX Runtime, docs/ContribOperators.md); `down` is (E, D, F). An expert is chosen by
    score + `selection_bias`, weighted by score alone. `rebalance` moves the bias of busy experts
    down and of idle ones up, in place of a loss. `expert_use` counts choices since it was zeroed.
    """

    selection_bias: Tensor
    expert_use: Tensor
    # Set by the exporter to write the routed experts as one operator. Without it an exported
    # graph computes every expert and weights those not chosen by zero.
    export_experts: ExportExperts | None = None

    def __init__(self, width: int, hidden: int, experts: int = 8, top_k: int = 2) -> None:
        super().__init__()
        assert width % 64 == 0 and hidden % 64 == 0, "eight-bit blocks are 64 wide"
        self.experts, self.top_k = experts, top_k
        self.quantized = False
        self.shared = SwiGLU(width, hidden)
        self.router = nn.Linear(width, experts, bias=False)
        self.up = nn.Parameter(torch.empty(experts, 2 * hidden, width))
        self.down = nn.Parameter(torch.empty(experts, width, hidden))
        nn.init.uniform_(self.up, -1 / math.sqrt(width), 1 / math.sqrt(width))
        nn.init.uniform_(self.down, -1 / math.sqrt(hidden), 1 / math.sqrt(hidden))
        self.register_buffer("selection_bias", torch.zeros(experts))
        self.register_buffer("expert_use", torch.zeros(experts))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, L, D) to (B, L, D), and the experts (B, L, K) int64 that each token chose."""
        tokens = x.flatten(0, 1)
        chosen, weights = self.route(tokens)
        if torch.onnx.is_in_onnx_export():
            mixed = self._exported(x, chosen, weights)
        else:
            mixed = self._sorted(tokens, chosen, weights).view_as(x)
        return self.shared(x) + mixed, chosen.unflatten(0, x.shape[:2])

    def route(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Chosen experts (T, K) int64 and their weights (T, K), which sum to one."""
        scores = torch.sigmoid(self.router(tokens))
        chosen = torch.topk(scores + self.selection_bias, self.top_k, dim=-1).indices
        weights = scores.gather(-1, chosen)
        return chosen, weights / weights.sum(-1, keepdim=True)

    def weights(self) -> tuple[Tensor, Tensor]:
        """`up` and `down` as the forward pass uses them."""
        if self.quantized:
            return fake_quantize(self.up), fake_quantize(self.down)
        return self.up, self.down

    def _sorted(self, tokens: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        """Every expert works once, on the tokens that chose it side by side."""
        order = chosen.flatten().argsort(stable=True)
        rows = order // self.top_k
        use = torch.bincount(chosen.flatten(), minlength=self.experts)
        if self.training:
            self.expert_use += use
        up, down = self.weights()
        # Gates first, then values: contiguous halves are what vector units want.
        up = up.unflatten(1, (-1, 2)).transpose(1, 2).flatten(1, 2)
        outputs = []
        for expert, share in enumerate(tokens[rows].split(use.tolist())):
            gate, value = (share @ up[expert].T).chunk(2, dim=-1)
            outputs.append((F.silu(gate) * value) @ down[expert].T)
        weighted = torch.cat(outputs) * weights.flatten()[order].unsqueeze(-1)
        return torch.zeros_like(tokens).index_add(0, rows, weighted)

    def _exported(self, x: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        log_weights = torch.full((*chosen.shape[:1], self.experts), NOT_CHOSEN, dtype=x.dtype)
        log_weights = log_weights.scatter(-1, chosen, weights.log())
        if self.export_experts is not None:
            return self.export_experts(self, x, log_weights)
        up, down = self.weights()
        hidden = torch.einsum("td,efd->etf", x.flatten(0, 1), up)
        gate, value = hidden.unflatten(-1, (-1, 2)).unbind(-1)
        outputs = torch.einsum("etf,edf->etd", F.silu(gate) * value, down)
        return (outputs * log_weights.exp().T.unsqueeze(-1)).sum(0).view_as(x)

    @torch.no_grad()
    def rebalance(self, use: Tensor, rate: float) -> None:
        """Moves the selection bias by `rate` towards even use, given (E,) recent counts."""
        self.selection_bias += rate * torch.sign(use.mean() - use)


def mixtures(model: nn.Module) -> list[MoE]:
    """All mixtures of a model, in order."""
    return [module for module in model.modules() if isinstance(module, MoE)]
