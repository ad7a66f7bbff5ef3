"""The policy: instruction, image and state into a small transformer that writes action tokens.

Shapes: B batch, W word width, D trunk width, L layers, H heads, P prefix positions (word, state,
image), S slots. A step has three parts, each a graph of its own when exported:

    read      instruction -> word vector and slots              once per instruction
    prefill   word, image, state -> cache, status, experts      once per observation
    decode    bands so far, cache -> the next bands             one to six times
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Any, NamedTuple

import torch
import torch.nn.functional as F
from annotated_types import Interval
from torch import Tensor, nn

from bridge.contract import Status, UserError
from bridge.embodiment import Embodiment
from bridge.ranges import PositiveInt
from policy.model.action_codec import BANDS, BINS, ActionCodec
from policy.model.encoders import (
    MAX_TOKENS,
    STATE_WIDTH,
    ImageEncoder,
    InstructionEncoder,
    StateEncoder,
)
from policy.model.moe import MoE
from policy.model.quantize import QuantLinear

# How many bands one decoding step may emit; after multi-token prediction (Gloeckle et al. 2024,
# arXiv:2404.19737), with no head of their own for the later ones.
BANDS_PER_STEP = (1, 2, BANDS)
HEADS = ("bands", "chunk")


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of the model. `slots` are the meaning of an instruction: (name, values) pairs.

    `head` "bands" decodes tokens; "chunk" regresses the whole chunk in one pass, a baseline.
    """

    slots: tuple[tuple[str, tuple[str, ...]], ...] = ()
    width: PositiveInt = 192
    layers: PositiveInt = 4
    heads: PositiveInt = 6
    hidden: PositiveInt = 128
    experts: PositiveInt = 8
    top_k: PositiveInt = 2
    word_width: PositiveInt = 128
    instruction_hidden: PositiveInt = 256
    image_widths: tuple[PositiveInt, ...] = (16, 32, 64)
    image_blocks: PositiveInt = 3
    bin_rank: PositiveInt = 32
    dropout: Annotated[float, Interval(ge=0, lt=1)] = 0.15
    head: str = "bands"

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise UserError(f"a width of {self.width} has no {self.heads} heads: take a multiple")
        if self.top_k > self.experts:
            raise UserError(f"of {self.experts} experts {self.top_k} cannot be chosen: take more")

    @property
    def slot_sizes(self) -> tuple[int, ...]:
        """Classes per slot: its values and, as class 0, "not mentioned"."""
        return tuple(len(values) + 1 for _, values in self.slots)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @staticmethod
    def from_dict(content: dict[str, Any]) -> ModelConfig:
        """The config that `to_dict` wrote, also after a trip through JSON."""
        slots = tuple((name, tuple(values)) for name, values in content["slots"])
        widths = tuple(content["image_widths"])
        return ModelConfig(**{**content, "slots": slots, "image_widths": widths})


class PrefillOutput(NamedTuple):
    """`keys` and `values` (L, B, H, P, D / H) of the prefix, `status` logits (B, 4).

    `experts` (B, L, E) is how often each expert of a layer was chosen, as shares of one.
    `visibility` (B,) in [0, 1] is how surely the object that is named is in view.
    """

    keys: Tensor
    values: Tensor
    status: Tensor
    experts: Tensor
    visibility: Tensor


class Decoded(NamedTuple):
    """`logits` (B, n, 18, 256) of n bands, and the cache with their keys and values appended."""

    logits: Tensor
    keys: Tensor
    values: Tensor


class Output(NamedTuple):
    """Everything that training scores.

    `bands` are logits (B, 6, 18, 256), or commands (B, 16, 18) for the chunk head; `slots` one
    (B, classes) per slot. `velocity` (B, 3) is the mean base velocity predicted from the image's
    first token alone, in units of half the bins' range: a short way for the gradient.
    `target_location` (B, 145) are logits of where the object that is named is, as of
    `ImageEncoder`. Both are auxiliary: they serve training alone.
    """

    bands: Tensor
    status: Tensor
    slots: list[Tensor]
    velocity: Tensor
    target_location: Tensor


class Attention(nn.Module):
    """Multi-head attention over cached positions and its own."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.inputs = QuantLinear(width, 3 * width)
        self.output = QuantLinear(width, width)

    def forward(
        self, x: Tensor, mask: Tensor, cache: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """x (B, n, D), mask (n, past + n) bool, True where a position may look."""
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in self.inputs(x).chunk(3, dim=-1)
        )
        if cache is not None:
            key = torch.cat([cache[0], key], dim=2)
            value = torch.cat([cache[1], value], dim=2)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.output(mixed.transpose(1, 2).flatten(2)), key, value


class Block(nn.Module):
    """A pre-norm transformer block (Xiong et al. 2020, arXiv:2002.04745) with a mixture of experts.

    The mixture takes the place of the feed-forward.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.width)
        self.attention = Attention(config.width, config.heads)
        self.experts_norm = nn.LayerNorm(config.width)
        self.experts = MoE(config.width, config.hidden, config.experts, config.top_k)

    def forward(
        self, x: Tensor, mask: Tensor, cache: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """x after the block, its keys and values, and the experts that each position chose."""
        mixed, keys, values = self.attention(self.attention_norm(x), mask, cache)
        x = x + mixed
        mixed, chosen = self.experts(self.experts_norm(x))
        return x + mixed, keys, values, chosen


class BandHead(nn.Module):
    """Logits over the bins of all (18) dimensions, through one low-rank table of bins.

    Neighbouring bins mean nearly the same, so a full matrix would be mostly idle weights.
    """

    def __init__(self, width: int, rank: int, dimensions: int) -> None:
        super().__init__()
        self.dimensions = dimensions
        self.project = QuantLinear(width, dimensions * rank)
        self.bins = nn.Linear(rank, BINS, bias=False)
        # Waves over the bins: a probability moves along the line from the first step on.
        centre = (torch.arange(BINS).unsqueeze(1) + 0.5) / BINS
        with torch.no_grad():
            self.bins.weight.copy_(0.5 * torch.cos(torch.pi * torch.arange(1, rank + 1) * centre))
        self.usual = nn.Parameter(torch.zeros(dimensions, BINS))

    def forward(self, x: Tensor) -> Tensor:
        """(B, n, D) to (B, n, 18, 256)."""
        return self.bins(self.project(x).unflatten(-1, (self.dimensions, -1))) + self.usual


class BandInputs(nn.Module):
    """What a band's position is given: which band it is, and the band before it where known.

    Bins lie on a line, so tokens enter as their levels in the range and a few waves of them.
    """

    def __init__(self, width: int, dimensions: int) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.randn(BANDS, width) * 0.5)
        self.unknown = nn.Parameter(torch.randn(BANDS, width) * 0.1)
        self.values = nn.Linear(dimensions * 7, width)

    def forward(self, bands: Tensor, previous: Tensor, known: Tensor) -> Tensor:
        """bands (n,), previous tokens (B, n, 18) int64, known (B, n) bool -> (B, n, D)."""
        level = previous.float() / (BINS / 2) - 1
        waves = [f(level * scale) for scale in (3, 12, 48) for f in (torch.sin, torch.cos)]
        values = self.values(torch.cat([level, *waves], dim=-1))
        weight = known.to(values.dtype).unsqueeze(-1)
        return self.positions[bands] + weight * values + (1 - weight) * self.unknown[bands]


class Model(nn.Module):
    """Instruction, picture of the first camera and state to an action chunk for the robot `body`.

    Sizes below are those of a G1. See the module's docstring.
    """

    def __init__(self, config: ModelConfig, body: Embodiment) -> None:
        super().__init__()
        assert config.head in HEADS and config.width % 64 == 0
        self.config, self.embodiment = config, body.with_cameras(body.cameras[:1])
        width, self.dimensions = config.width, len(body.commands)
        self.codec = ActionCodec(body)
        self.instruction_encoder = InstructionEncoder(
            config.instruction_hidden, config.word_width, config.slot_sizes, config.dropout
        )
        self.image_encoder = ImageEncoder(
            body.cameras[0], config.image_widths, config.image_blocks, width, config.word_width
        )
        self.state_encoder = StateEncoder(body, width, config.word_width)
        self.word_token = QuantLinear(config.word_width, width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(width)
        self.status = nn.Linear(width, len(Status))
        self.velocity_head = nn.Linear(width, len(body.velocities))
        self.band_inputs = BandInputs(width, self.dimensions)
        self.band_head, self.chunk_head = None, None
        if config.head == "bands":
            self.band_head = BandHead(width, config.bin_rank, self.dimensions)
        else:
            self.chunk_head = nn.Linear(BANDS * width, body.chunk_steps * self.dimensions)
        self.prefix_length = 2 + self.image_encoder.tokens

    def read(
        self, states: Tensor, mask: Tensor, prior: Tensor | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """Token states (B, 24, 384) and their mask to a word vector (B, W) and slot logits.

        `prior` (B, classes of all slots) is added to the logits.
        """
        return self.instruction_encoder(states, mask, prior)

    def prefix(self, word: Tensor, image: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Word vector, image (B, 96, 96, 3) uint8 and state (B, 86) as tokens (B, P, D).

        Also the logits (B, 145) of where the named object is.
        """
        word_token = self.word_token(word.unsqueeze(1))
        image_tokens, location = self.image_encoder(image, word)
        state_token = self.state_encoder(state, word)
        return torch.cat([word_token, state_token, image_tokens], dim=1), location

    def prefill(self, word: Tensor, image: Tensor, state: Tensor) -> PrefillOutput:
        """Everything that does not depend on tokens of the action."""
        x, location = self.prefix(word, image, state)
        mask = torch.ones(self.prefix_length, self.prefix_length, dtype=torch.bool)
        keys, values, experts = [], [], []
        for block in self.blocks:
            x, key, value, chosen = block(x, mask)
            keys.append(key)
            values.append(value)
            is_chosen = chosen.flatten(1).unsqueeze(-1) == torch.arange(self.config.experts)
            experts.append(is_chosen.to(x.dtype).mean(1))
        return PrefillOutput(
            torch.stack(keys),
            torch.stack(values),
            self._status(x),
            torch.stack(experts, dim=1),
            1 - torch.softmax(location, dim=-1)[:, -1],
        )

    def decode(
        self, bands: Tensor, previous: Tensor, known: Tensor, keys: Tensor, values: Tensor
    ) -> Decoded:
        """The next n bands at once, given the cache of the prefix and of all bands before them.

        `bands` (n,) int64 are their numbers; `previous` (B, n, 18) int64 holds the tokens of the
        band before each one, read only where `known` (B, n) bool says so.
        """
        x = self.band_inputs(bands, previous, known)
        causal = bands.unsqueeze(0) <= bands.unsqueeze(1)
        past = torch.ones_like(bands).bool().unsqueeze(1).expand(-1, keys.shape[3])
        mask = torch.cat([past, causal], dim=1)
        new_keys, new_values = [], []
        for block, key, value in zip(self.blocks, keys.unbind(0), values.unbind(0), strict=True):
            x, key, value, _ = block(x, mask, (key, value))
            new_keys.append(key)
            new_values.append(value)
        assert self.band_head is not None
        logits = self.band_head(self.norm(x))
        return Decoded(logits, torch.stack(new_keys), torch.stack(new_values))

    def forward(
        self,
        states: Tensor,
        mask: Tensor,
        image: Tensor,
        state: Tensor,
        tokens: Tensor,
        known: Tensor,
    ) -> Output:
        """Prefix and all six bands in one pass, with the true tokens (B, 6, 18) as input.

        `known` (B, 6) bool as in `decode`: which bands see the one before them.
        """
        word, slots = self.read(states, mask)
        previous = torch.cat([torch.zeros_like(tokens[:, :1]), tokens[:, :-1]], dim=1)
        bands = self.band_inputs(torch.arange(BANDS), previous, known)
        prefix, target_location = self.prefix(word, image, state)
        velocity = self.velocity_head(prefix[:, 2])
        x = torch.cat([prefix, bands], dim=1)
        visible = self._training_mask()
        for block in self.blocks:
            x, _, _, _ = block(x, visible)
        status = self._status(x)
        bands = self._bands(self.norm(x[:, self.prefix_length :]))
        return Output(bands, status, slots, velocity, target_location)

    def _status(self, x: Tensor) -> Tensor:
        # The state's position: it sees the whole prefix and is there in every graph.
        return self.status(self.norm(x[:, 1]))

    def _bands(self, x: Tensor) -> Tensor:
        if self.band_head is not None:
            return self.band_head(x)
        assert self.chunk_head is not None
        scale = self.codec.step[0] * (BINS / 8)
        stand = self.codec.origin[0] / 4 + scale
        return stand + scale * self.chunk_head(x.flatten(1)).unflatten(-1, (-1, self.dimensions))

    def _training_mask(self) -> Tensor:
        """The prefix sees itself; a band sees the prefix and the bands up to its own."""
        total = self.prefix_length + BANDS
        mask = torch.ones(total, total, dtype=torch.bool).tril()
        mask[: self.prefix_length, : self.prefix_length] = True
        return mask


def known_bands(bands_per_step: int) -> Tensor:
    """(6,) bool: which bands see the tokens of the band before, at this many bands a step."""
    assert bands_per_step in BANDS_PER_STEP
    bands = torch.arange(BANDS)
    return (bands % bands_per_step == 0) & (bands > 0)


def example_inputs(body: Embodiment, batch: int = 1) -> dict[str, Tensor]:
    """Zero inputs of `read` and `prefill` in their exact shapes and types."""
    camera = body.cameras[0]
    return {
        "states": torch.zeros(batch, MAX_TOKENS, STATE_WIDTH),
        "mask": torch.ones(batch, MAX_TOKENS, dtype=torch.bool),
        "image": torch.zeros(batch, camera.height, camera.width, 3, dtype=torch.uint8),
        "state": torch.zeros(batch, len(body.state_names)),
    }
