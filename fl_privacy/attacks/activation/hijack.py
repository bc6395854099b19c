"""FSHA: a malicious server of split learning that steers the clients' segment into a feature space of its own."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fl_privacy.split.segments import ServerSegment

PENALTY = 10.0


class Hijacker:
    """A `split.segments.Link` whose gradients train the client to answer like the attacker's own encoder.

    `encoder` (images (N, C, H, W) to activations of the client's shape) and `decoder` (back to images) are trained on
    the attacker's `public` images, and a critic of activations with a gradient penalty; what the client gets back is
    the gradient that makes the critic take its activations for the encoder's. `decoder` then reads the client's
    activations. `disguise` is the share, by norm, of the honest task's gradient from `honest` that is mixed in, so
    that a client who scrutinises them sees labels: 0 is the published attack.

    Source: Pasquini, Ateniese and Bernaschi 2021 (CCS, arXiv 2012.02670), section 3; the disguise is ours.
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        critic: nn.Module,
        public: Tensor,
        rng: torch.Generator,
        *,
        honest: ServerSegment | None = None,
        disguise: float = 0.0,
        learning_rate: float = 1e-3,
    ) -> None:
        if not 0 <= disguise < 1:
            raise ValueError(f"disguise is a share of at least 0 and below 1, not {disguise}")
        if disguise and honest is None:
            raise ValueError("a disguise mixes in the honest task's gradient: hand over the `honest` server segment")
        self.encoder, self.decoder, self.critic = encoder.train(), decoder.train(), critic.train()
        self.public, self.rng, self.honest, self.disguise = public, rng, honest, disguise
        self._autoencoder = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], learning_rate)
        self._judge = torch.optim.Adam(critic.parameters(), learning_rate, betas=(0.5, 0.9))

    def step(self, activation: Tensor, labels: Tensor) -> tuple[Tensor, float]:
        """The gradient (B, ...) by which the client is steered, and the loss that it is told."""
        own = self.public[torch.randint(len(self.public), (len(activation),), generator=self.rng)]
        feature = self._learn(own)
        self._judge_both(feature.detach(), activation.detach())
        seen = activation.detach().requires_grad_()
        (steering,) = torch.autograd.grad(-self.critic(seen).mean(), seen)
        if self.honest is None:
            return steering, 0.0
        task, loss = self.honest.step(activation, labels)
        if not self.disguise:
            return steering, loss
        scale = task.norm() / steering.norm().clamp_min(1e-12)
        return (1 - self.disguise) * scale * steering + self.disguise * task, loss

    def forward(self, activation: Tensor) -> Tensor:
        raise NotImplementedError("the U-shape is not attacked: its client holds the head and computes the loss")

    def backward(self, gradient: Tensor) -> Tensor:
        raise NotImplementedError("the U-shape is not attacked: its client holds the head and computes the loss")

    @torch.no_grad()
    def decode(self, activation: Tensor) -> Tensor:
        """What the activations (N, ...) of a steered client show: images (N, C, H, W) in [0, 1]."""
        images: Tensor = self.decoder(activation).clamp(0, 1)
        return images

    def _learn(self, own: Tensor) -> Tensor:
        """One step of the autoencoder on the attacker's images; their features."""
        self._autoencoder.zero_grad()
        feature: Tensor = self.encoder(own)
        torch.autograd.backward(F.mse_loss(self.decoder(feature), own))
        self._autoencoder.step()
        return feature

    def _judge_both(self, own: Tensor, private: Tensor) -> None:
        """One step of the critic: higher on the attacker's features, with slopes of norm one between the two."""
        mix = torch.rand(len(own), *[1] * (own.ndim - 1), generator=self.rng)
        between = (mix * own + (1 - mix) * private).requires_grad_()
        (slope,) = torch.autograd.grad(self.critic(between).sum(), between, create_graph=True)
        penalty = (slope.flatten(1).norm(dim=1) - 1).square().mean()
        loss = self.critic(private).mean() - self.critic(own).mean() + PENALTY * penalty
        self._judge.zero_grad()
        torch.autograd.backward(loss)
        self._judge.step()
