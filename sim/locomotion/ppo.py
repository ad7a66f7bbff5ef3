"""PPO as walker training needs it: an actor that is its own mirror image, steps of steady size.

PPO: Schulman et al. 2017, arXiv:1707.06347, as in rsl-rl, with advantages by GAE (Schulman et al.
2016, arXiv:1506.02438).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from rsl_rl.algorithms import PPO
from rsl_rl.models import MLPModel

from bridge.symmetry import joint_mirror
from robots.g1.embodiment import G1
from robots.g1.facts import N_LEG_WAIST_JOINTS
from robots.g1.walker import OBSERVATION_DIM


def mirror_maps() -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Index and sign of every number of an action and of an observation in the mirror image."""
    joint, joint_sign = joint_mirror(G1)
    body, body_sign = joint[:N_LEG_WAIST_JOINTS], joint_sign[:N_LEG_WAIST_JOINTS]
    # angular velocity, gravity, velocity command, clock (half a cycle on), joints, rates, action
    index = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
    sign = [-1.0, 1, -1, 1, -1, 1, 1, -1, -1, -1, -1]
    for part, part_sign in ((joint, joint_sign), (joint, joint_sign), (body, body_sign)):
        index += list(part + len(index))
        sign += list(part_sign)
    index += [len(index), len(index) + 1]  # height, torso pitch
    sign += [1.0, 1.0]
    assert len(index) == OBSERVATION_DIM

    def tensors(i: Any, s: Any) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.as_tensor(np.array(i)), torch.as_tensor(np.array(s, dtype=np.float32))

    return {"action": tensors(body, body_sign), "observation": tensors(index, sign)}


class MirrorSymmetric(torch.nn.Module):
    """The mean of a network and its mirror image: left and right are one skill, learned once.

    Mirror symmetry as a loss: Yu et al. 2018, arXiv:1801.08093; as a network: Abdolhosseini et al.
    2019, "On Learning Symmetric Locomotion". Appending mirrored samples to a batch instead (Mittal
    et al. 2024, arXiv:2403.04359) gives them likelihoods that are not theirs; with this small
    exploration that hid what was learned.
    """

    observation_index: torch.Tensor
    observation_sign: torch.Tensor
    action_index: torch.Tensor
    action_sign: torch.Tensor

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network
        for name, (index, sign) in mirror_maps().items():
            self.register_buffer(f"{name}_index", index, persistent=False)
            self.register_buffer(f"{name}_sign", sign, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n = x.shape[0]
        image = x[:, self.observation_index] * self.observation_sign
        both = self.network(torch.cat([x, image]))
        return 0.5 * (both[:n] + both[n:][:, self.action_index] * self.action_sign)


class SymmetricActor(MLPModel):
    """rsl-rl's MLP actor, made mirror-symmetric, starting at the bare reference gait."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        with torch.no_grad():
            # A small last layer: Andrychowicz et al. 2021, arXiv:2006.05990.
            self.mlp[-1].weight.mul_(0.01)
            self.mlp[-1].bias.zero_()
        self.mlp = MirrorSymmetric(self.mlp)


class SteadyPPO(PPO):
    """PPO whose actor's step size follows the divergence of a whole update, once per update.

    After the penalty that follows the divergence (Heess et al. 2017, arXiv:1707.02286). Adapted at
    every minibatch, as by rsl-rl, the step collapses to its floor within each update. The critic
    keeps its step size: one that learns as slowly as a good actor must judges it wrongly. Factors
    and bounds were chosen by trial.
    """

    kl_low: float  # set by train_walker from its configuration
    kl_high: float

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        parts = (self.actor, self.critic)
        groups = [{"params": list(part.parameters())} for part in parts]
        self.optimizer = torch.optim.Adam(groups, lr=self.learning_rate)

    def update(self) -> dict[str, float]:
        self.optimizer.param_groups[0]["lr"] = self.learning_rate
        observations = self.storage.observations.flatten(0, 1)[::8].clone()
        assert self.storage.distribution_params is not None
        old = tuple(p.flatten(0, 1)[::8].clone() for p in self.storage.distribution_params)
        losses = super().update()
        if not next(self.actor.parameters()).requires_grad:
            return losses
        with torch.no_grad():
            self.actor(observations, stochastic_output=True)
            kl = self.actor.get_kl_divergence(old, self.actor.output_distribution_params).mean()
        if kl > self.kl_high:
            self.learning_rate = max(1e-5, self.learning_rate / 1.2)
        elif kl < self.kl_low:
            self.learning_rate = min(2e-3, self.learning_rate * 1.2)
        return losses | {"kl": float(kl)}
