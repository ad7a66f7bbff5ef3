"""What training scores: action tokens, status and slots."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from bridge.contract import Status
from policy.model.action_codec import BINS, ActionCodec
from policy.model.vla import Output
from policy.training.batches import Batch

# Weights were chosen by trial. Slow bands carry the motion; the base velocity decides where the
# robot goes.
BAND_WEIGHTS = (1.0, 0.7, 0.5, 0.35, 0.25, 0.2)
VELOCITY_WEIGHT = 4.0
# Neighbouring bins are nearly as right as the right one: classification with a histogram about the
# target (Imani and White 2018, arXiv:1806.04613).
NEIGHBOURS = ((-2, 0.05), (-1, 0.2), (0, 0.5), (1, 0.2), (2, 0.05))
# Of the losses, by name.
WEIGHTS = {"action": 1.0, "status": 0.3, "slots": 0.5, "velocity": 1.0, "location": 0.5}
# How far, in cells, a location is blurred: pictures are shifted by a pixel, objects have size.
LOCATION_BLUR = 0.6


def token_weights(codec: ActionCodec) -> Tensor:
    """(6, 18) weights of the tokens' losses, with mean one."""
    dimensions = torch.ones(codec.step.shape[1])
    dimensions[codec.velocities] = VELOCITY_WEIGHT
    weights = torch.tensor(BAND_WEIGHTS).unsqueeze(1) * dimensions
    return weights / weights.mean()


def action_loss(logits: Tensor, tokens: Tensor, codec: ActionCodec) -> Tensor:
    """Cross-entropy of logits (B, 6, 18, 256) with tokens (B, 6, 18), blurred a little."""
    near = torch.stack([(tokens + i).clamp(0, BINS - 1) for i, _ in NEIGHBOURS], dim=-1)
    shares = torch.tensor([share for _, share in NEIGHBOURS])
    right = (logits.gather(-1, near) * shares).sum(-1)
    return ((torch.logsumexp(logits, dim=-1) - right) * token_weights(codec)).mean()


def chunk_loss(predicted: Tensor, commands: Tensor, codec: ActionCodec) -> Tensor:
    """L1 between chunks (B, 16, 18), in units of each dimension's range."""
    weights = token_weights(codec)[0]
    weights = weights / weights.mean()
    scale = codec.step[0] * (BINS / 8)
    return ((predicted - commands).abs() / scale * weights).mean()


def status_weights(status: Tensor) -> Tensor:
    """(4,) weights that lift rare statuses, by the square root of their rarity."""
    counts = torch.bincount(status.flatten().long(), minlength=len(Status)).float()
    weights = (counts.sum() / counts.clamp(min=1)).sqrt()
    return (weights / weights[counts > 0].min()).clamp(max=5.0)


def losses(output: Output, batch: Batch, codec: ActionCodec, weights: Tensor) -> dict[str, Tensor]:
    """Every loss by name, and their weighted sum as "total". `weights` as of `status_weights`."""
    if output.bands.dim() == 4:
        action = action_loss(output.bands, codec.encode(batch.commands), codec)
    else:
        action = chunk_loss(output.bands, batch.commands, codec)
    return _with_total(
        {
            "action": action,
            "status": F.cross_entropy(output.status, batch.status, weight=weights),
            "slots": slots_loss(output.slots, batch.slots),
            "velocity": F.smooth_l1_loss(
                output.velocity, mean_velocity(batch.commands, codec), beta=0.2
            ),
            "location": location_loss(output.target_location, batch.target_location),
        }
    )


def perception_losses(location: Tensor, slots: list[Tensor], batch: Batch) -> dict[str, Tensor]:
    """What scores instruction and image encoder alone, and the weighted sum as "total"."""
    asked = location_loss(location, batch.target_location)
    return _with_total({"slots": slots_loss(slots, batch.slots), "location": asked})


def _with_total(found: dict[str, Tensor]) -> dict[str, Tensor]:
    total = sum((WEIGHTS[name] * loss for name, loss in found.items()), torch.zeros(()))
    return found | {"total": total}


def slots_loss(slots: list[Tensor], classes: Tensor) -> Tensor:
    """Sum over the slots of the cross-entropies of logits (B, ...) with classes (B, S)."""
    losses = [F.cross_entropy(logits, classes[:, i]) for i, logits in enumerate(slots)]
    return sum(losses, torch.zeros(()))


def location_loss(logits: Tensor, location: Tensor) -> Tensor:
    """Cross-entropy of (B, cells + 1) logits with where the named object is, (B, 2) shares.

    -1 is nowhere, the last logit; samples with NaN count nothing.
    """
    side = math.isqrt(logits.shape[1] - 1)
    asked = ~location[:, 0].isnan()
    logits, location = logits[asked], location[asked]
    centres = (torch.arange(side) + 0.5) / side
    away = (centres - location.unsqueeze(-1)) * side / LOCATION_BLUR  # (B, column or row, side)
    near = torch.softmax(-0.5 * away.square(), dim=-1)
    cells = (near[:, 1].unsqueeze(2) * near[:, 0].unsqueeze(1)).flatten(1)
    visible = (location[:, :1] >= 0).to(cells.dtype)
    right = torch.cat([cells * visible, 1 - visible], dim=1)
    return F.cross_entropy(logits, right) if len(logits) else logits.sum()


def mean_velocity(commands: Tensor, codec: ActionCodec) -> Tensor:
    """Mean base velocity (B, 3) of chunks, -1 to 1 over the range of the bins."""
    first_band = codec.coefficients(commands)[:, 0]
    levels = (first_band - codec.origin[0]) / (codec.step[0] * (BINS / 2)) - 1
    return levels[:, codec.velocities]
