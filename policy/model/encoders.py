"""Encoders of the policy: instruction, image and state as vectors and tokens.

Shapes: B batch, W word width, D trunk width, S slots.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bridge.embodiment import Camera, Embodiment
from policy.model.quantize import QuantLinear

# The text encoder's output: word pieces per instruction, and the width of their states.
MAX_TOKENS = 24
STATE_WIDTH = 384

# A state further than this from its mean, in deviations, is clipped.
MAX_DEVIATION = 5.0
# What an uncertain reading is sharpened by once training has ended; chosen by trial.
SHARPNESS = 6.0
# Keypoints that the image encoder finds at once.
KEYPOINTS = 16
# Rhythms in elapsed time, among them that of waving. The slow ones tell how long it has been.
TIME_FREQUENCIES_HZ = (0.05, 0.1, 0.2, 0.5, 0.8, 1.6)
# Wavelengths in which odometry enters, coarse to fine.
PLACE_WAVELENGTHS_M = (8.0, 4.0, 2.0, 1.0)
YAW_HARMONICS = (0.25, 0.5, 1.0, 2.0)
N_CONTEXT_FEATURES = (
    2 * len(TIME_FREQUENCIES_HZ) + 4 * len(PLACE_WAVELENGTHS_M) + 2 * len(YAW_HARMONICS)
)


class InstructionEncoder(nn.Module):
    """Reads an instruction: one attention pooling per slot, then what each slot says.

    Nothing but the probabilities of the slots' values reaches the word vector, so a wording that
    is read rightly acts exactly like the wordings of training. Outside training a reading is taken
    for its likeliest value: no one ever trained on half a red and half an orange ball. A `prior`
    on the values can make it another one (policy/runtime/disambiguation.py). Without slots the
    pooled states are the word vector's source.
    """

    def __init__(
        self, hidden: int, word_width: int, slot_sizes: tuple[int, ...], dropout: float
    ) -> None:
        super().__init__()
        pools = max(1, len(slot_sizes))
        self.dropout = nn.Dropout(dropout)
        self.first = QuantLinear(STATE_WIDTH, hidden)
        self.second = QuantLinear(hidden, hidden)
        self.attention = nn.Linear(hidden, pools)
        self.slots = nn.ModuleList(nn.Linear(hidden, size) for size in slot_sizes)
        self.meaning = nn.Linear(sum(slot_sizes) or hidden, word_width)
        # Other words shall differ strongly from the first step on, or images are read without them.
        nn.init.normal_(self.meaning.weight, std=1.0 if slot_sizes else hidden**-0.5)
        self.output = QuantLinear(word_width, word_width)
        self.norm = nn.LayerNorm(word_width)

    def forward(
        self, states: Tensor, mask: Tensor, prior: Tensor | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """(B, 24, 384) and bool (B, 24) to a word vector (B, W) and (B, classes) per slot.

        `prior` (B, all classes) is added to the logits of all slots, one slot after another.
        """
        x = F.gelu(self.first(self.dropout(states)))
        x = self.dropout(F.gelu(self.second(x)))
        scores = self.attention(x).masked_fill(~mask.unsqueeze(-1), -1e4)
        pooled = torch.softmax(scores, dim=1).transpose(1, 2) @ x
        logits = [layer(pooled[:, i]) for i, layer in enumerate(self.slots)]
        if prior is not None and logits:
            parts = prior.split([layer.shape[-1] for layer in logits], dim=-1)
            logits = [layer + part for layer, part in zip(logits, parts, strict=True)]
        source = pooled[:, 0]
        if logits:
            sharpness = 1.0 if self.training else SHARPNESS
            source = torch.cat([torch.softmax(sharpness * s, dim=-1) for s in logits], dim=-1)
        hidden = F.gelu(self.meaning(source)).unsqueeze(1)
        return self.norm(self.output(hidden)).squeeze(1), logits


class FiLM(nn.Module):
    """Scales and shifts channels (B, C, H, W) by a word vector.

    Feature-wise linear modulation: Perez et al. 2018, arXiv:1709.07871.
    """

    def __init__(self, word_width: int, channels: int) -> None:
        super().__init__()
        self.scale_shift = QuantLinear(word_width, 2 * channels)

    def forward(self, x: Tensor, word: Tensor) -> Tensor:
        parts = self.scale_shift(word.unsqueeze(1)).transpose(1, 2).unsqueeze(-1)
        scale, shift = parts.chunk(2, dim=1)
        return torch.addcmul(shift, x, 1 + scale)


class ImageEncoder(nn.Module):
    """Convolutions conditioned on the word vector at every stage: which colour, which shape.

    A stem of three strides of two, then residual blocks on a 12 x 12 grid; 3 x 3 patches of it make
    4 x 4 tokens. Coordinates are added to the channels of the grid (after CoordConv, Liu et al.
    2018, arXiv:1807.03247): the bearing of an object is where it is seen. Before the patches goes
    one token of keypoints, each the spatial softmax of a channel (Levine et al. 2016,
    arXiv:1504.00702) with its strength. The first is trained to be the object that is named.
    """

    grid: Tensor

    def __init__(
        self,
        camera: Camera,
        widths: tuple[int, ...],
        blocks: int,
        token_width: int,
        word_width: int,
    ) -> None:
        super().__init__()
        assert camera.height == camera.width, "the grid is square"
        width = widths[-1]
        inputs = (3, *widths[:-1])
        self.stem = nn.ModuleList(
            nn.Conv2d(i, o, 3, stride=2, padding=1) for i, o in zip(inputs, widths, strict=True)
        )
        self.blocks = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(blocks))
        stages = (*widths, *[width] * blocks)
        self.films = nn.ModuleList(FiLM(word_width, stage) for stage in stages)
        self.norms = nn.ModuleList(nn.GroupNorm(8, stage) for stage in stages[1:])
        self.coordinates = nn.Conv2d(2, width, 1, bias=False)
        self.patches = nn.Conv2d(width, token_width, 3, stride=3)
        cells = camera.height // 2 ** len(widths)
        patches = (cells // 3) ** 2
        self.tokens = 1 + patches
        self.positions = nn.Parameter(torch.randn(patches, token_width) * 0.1)
        self.keypoints = nn.Conv2d(width, KEYPOINTS, 1)
        # Sharp enough from the start that a keypoint moves with what is seen.
        nn.init.normal_(self.keypoints.weight, std=2 * width**-0.5)
        self.nowhere = nn.Parameter(torch.zeros(1))
        self.keypoint_token = nn.Linear(3 * KEYPOINTS, token_width)
        self.token_film = QuantLinear(word_width, token_width)
        line = torch.linspace(-1, 1, cells)
        grid = torch.stack(torch.meshgrid(line, line, indexing="ij"))
        self.register_buffer("grid", grid.unsqueeze(0), persistent=False)
        for convolution in (*self.stem, *self.blocks, self.patches):
            convolution.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def forward(self, image: Tensor, word: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 96, 96, 3) uint8, or the same range in float, to tokens (B, 17, D).

        Also the logits (B, 145) of where the named object is: a cell of 12 x 12, or nowhere.
        """
        x, scores = self._features(image, word)
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = tokens + self.positions + self.token_film(word.unsqueeze(1))
        return torch.cat([self._keypoint_token(scores), tokens], dim=1), self._named(scores)

    def find(self, image: Tensor, word: Tensor) -> Tensor:
        """The logits (B, 145) of where the named object is, without the tokens."""
        return self._named(self._features(image, word)[1])

    def _features(self, image: Tensor, word: Tensor) -> tuple[Tensor, Tensor]:
        """The grid's channels (B, C, 12, 12) and the keypoints' scores of cells (B, 16, 144)."""
        x = image.permute(0, 3, 1, 2).float() / 127.5 - 1
        stem, blocks = len(self.stem), len(self.blocks)
        for i, convolution in enumerate(self.stem):
            x = convolution(x)
            if i > 0:
                x = self.norms[i - 1](x)
            if i == stem - 1:
                x = x + self.coordinates(self.grid)
            x = F.relu(self.films[i](x, word))
        for i in range(blocks):
            y = self.norms[stem - 1 + i](self.blocks[i](x))
            x = x + F.relu(self.films[stem + i](y, word))
        return x, self.keypoints(x).flatten(2)

    def _named(self, scores: Tensor) -> Tensor:
        return torch.cat([scores[:, 0], self.nowhere.expand(len(scores), 1)], dim=1)

    def _keypoint_token(self, scores: Tensor) -> Tensor:
        """Expected position and score of each keypoint, as one token (B, 1, D)."""
        share = torch.softmax(scores, dim=-1)
        where = share @ self.grid.flatten(2).transpose(1, 2)
        strength = (share * scores).sum(-1)
        found = torch.cat([3 * where.flatten(1), strength], dim=-1)
        return self.keypoint_token(found.unsqueeze(1))


class StateEncoder(nn.Module):
    """The state as one token. Normalisation is inside: `mean` and `deviation` are buffers.

    The word vector modulates it as `FiLM` does an image.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, body: Embodiment, width: int, word_width: int) -> None:
        super().__init__()
        self.context, size = body.context, len(body.state_names)
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("deviation", torch.ones(size))
        self.first = nn.Linear(size + N_CONTEXT_FEATURES, width)
        self.film = QuantLinear(word_width, 2 * width)
        self.second = QuantLinear(width, width)

    def forward(self, state: Tensor, word: Tensor) -> Tensor:
        """(B, 86) to (B, 1, D)."""
        normal = (state - self.mean) / self.deviation
        normal = normal.clamp(-MAX_DEVIATION, MAX_DEVIATION)
        features = torch.cat([normal, context_features(state[:, self.context])], dim=-1)
        scale, shift = self.film(word.unsqueeze(1)).chunk(2, dim=-1)
        hidden = self.first(features.unsqueeze(1)) * (1 + scale) + shift
        return self.second(F.silu(hidden))


def context_features(context: Tensor) -> Tensor:
    """Elapsed time and odometry (B, 4) as waves of several lengths (B, N_CONTEXT_FEATURES).

    Fourier features: Tancik et al. 2020, arXiv:2006.10739; the lengths were chosen by hand.
    """
    elapsed_s, place_m, yaw_rad = context[:, :1], context[:, 1:3], context[:, 3:]
    phases = [
        *(2 * math.pi * frequency * elapsed_s for frequency in TIME_FREQUENCIES_HZ),
        *(2 * math.pi / wavelength * place_m for wavelength in PLACE_WAVELENGTHS_M),
        *(harmonic * yaw_rad for harmonic in YAW_HARMONICS),
    ]
    phase = torch.cat(phases, dim=-1)
    return torch.cat([phase.sin(), phase.cos()], dim=-1)
