"""Split learning: what a client and a computational server compute for one mini-batch."""

from __future__ import annotations

import copy
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fl_privacy.defences.base import Chain
from fl_privacy.defences.learning import Companion, learns
from fl_privacy.observation import Tensors
from fl_privacy.optimiser_state import load_optimiser_state, optimiser_state
from fl_privacy.seeding import seeded
from fl_privacy.split.cutting import cut, rejoin
from fl_privacy.split.rules import SplitRules

ACTIVATION = "activation"
SERVED_AT_ONCE = 50  # images: with 500 the maps of the split CNN leave the cache, and it takes 1.6 times as long


class Link(Protocol):
    """What carries a mini-batch between client and server. The server segment itself is the local one."""

    def step(self, activation: Tensor, labels: Tensor) -> tuple[Tensor, float]:
        """Train on released activations (B, ...) and labels (B,): their gradient (B, ...) and the loss."""

    def forward(self, activation: Tensor) -> Tensor:
        """U-shape, first half: the server segment's outputs (B, ...)."""

    def backward(self, gradient: Tensor) -> Tensor:
        """U-shape, second half: from the gradient of those outputs to that of the activations; the server steps."""


class ServerSegment:
    """The server's part of the model with its optimiser.

    With `at_once` False it descends when `settle` is called, or at the next pass: the client has its gradient sooner.
    """

    def __init__(self, module: nn.Sequential, rules: SplitRules, seed: int = 0, at_once: bool = True) -> None:
        self.module, self.seed, self.served = module.train(rules.train_server), seed, 0
        self.optimiser = rules.stepper(list(module.parameters()) if rules.train_server else [])
        module.zero_grad()
        self.at_once, self._due = at_once, False
        self._pending: tuple[Tensor, Tensor] | None = None

    def step(self, activation: Tensor, labels: Tensor) -> tuple[Tensor, float]:
        activation = activation.detach().requires_grad_()
        loss = F.cross_entropy(self._run(activation), labels)
        return self._descend(activation, loss, None), float(loss.detach())

    def forward(self, activation: Tensor) -> Tensor:
        activation = activation.detach().requires_grad_()
        outputs = self._run(activation)
        self._pending = (activation, outputs)
        return outputs.detach().clone()

    def backward(self, gradient: Tensor) -> Tensor:
        if self._pending is None:
            raise RuntimeError("backward without a forward before it: a U-shaped step is forward, then backward")
        (activation, outputs), self._pending = self._pending, None
        return self._descend(activation, outputs, gradient)

    def settle(self) -> None:
        """Descend by the gradients of the last pass, unless that is done."""
        if self._due and self.optimiser is not None:
            self.optimiser.step()
            self.optimiser.zero_grad()
        self._due = False

    def kept(self) -> tuple[Tensors, int]:
        """What it has beside its weights: the optimiser's state, and how many passes it has served."""
        self.settle()
        return optimiser_state(self.optimiser), self.served

    def go_on(self, optimiser: Tensors, served: int) -> None:
        """Take up what `kept` gave."""
        load_optimiser_state(self.optimiser, optimiser)
        self.served = served

    def _run(self, activation: Tensor) -> Tensor:
        self.settle()
        self.served += 1
        with seeded(self.seed, "server", self.served):
            outputs: Tensor = self.module(activation.clone())  # a first stage may work in place
        return outputs

    def _descend(self, activation: Tensor, value: Tensor, gradient: Tensor | None) -> Tensor:
        torch.autograd.backward(value, gradient)
        self._due = True
        if self.at_once:
            self.settle()
        assert activation.grad is not None
        return activation.grad


class ClientSegment:
    """A client's part of the model (front, and head in the U-shape) with its optimiser."""

    def __init__(self, front: nn.Sequential, head: nn.Sequential, rules: SplitRules) -> None:
        self.front, self.head, self.rules = front, head, rules
        self.owned = rejoin(front, head).train(rules.train_client)
        parameters = list(self.owned.parameters()) if rules.train_client else []
        self.optimiser = rules.stepper(parameters)
        self.companion: Companion | None = None

    def accompanied(self, chain: Chain, x: Tensor, seed: int) -> Chain:
        """The chain with what its members learn beside this segment, begun at images x (B, C, H, W) by `seed`.

        The chain itself where no member learns.
        """
        if self.companion is None and learns(chain):
            with torch.no_grad():
                released = copy.deepcopy(self.front).eval()(x[:1])
            self.companion = Companion(chain, x.shape[1:], released.shape[1:], seed)
            self.companion.modules.to(x.device)
        return chain if self.companion is None else self.companion.chain

    def release(self, x: Tensor, chain: Chain, seed: int) -> tuple[Tensor, Tensor]:
        """The activations (B, ...) of x (B, C, H, W) before and after the chain, both differentiable."""
        with torch.set_grad_enabled(self.rules.train_client), seeded(seed, "front"):
            clean = self.front(x)
        return clean, chain.on_release({ACTIVATION: clean}, seed)[ACTIVATION]

    def respond(self, outputs: Tensor, labels: Tensor, seed: int) -> tuple[Tensor, float]:
        """U-shape: the gradient of the server's outputs (B, ...) and the loss; the head keeps its own gradients."""
        outputs = outputs.detach().requires_grad_()
        with seeded(seed, "head"):
            loss = F.cross_entropy(self.head(outputs.clone()), labels)
        torch.autograd.backward(loss)
        assert outputs.grad is not None
        return outputs.grad, float(loss.detach())

    def descend(self, x: Tensor, clean: Tensor, released: Tensor, gradient: Tensor, chain: Chain) -> None:
        """Step on the server's gradient of the released activations plus the chain's own terms.

        A front whose weights are all frozen has nothing to learn from either, unless defences learn beside it.
        """
        if self.optimiser is None and self.companion is None:
            return
        values, gradients = [released], [gradient]
        extra = chain.extra_loss(x, clean if self.rules.penalise == "clean" else released)
        if extra is not None:
            values, gradients = [released, extra], [gradient, torch.ones_like(extra)]
        if released.requires_grad:
            torch.autograd.backward(values, gradients)
        if self.optimiser is not None:
            self.optimiser.step()
        if self.companion is not None:
            self.companion.step()

    @torch.no_grad()
    def serve(self, x: Tensor, chain: Chain, seed: int) -> Tensor:
        """What a trained client releases for x (N, C, H, W): activations (N, ...) of eval mode through the chain."""
        self.owned.eval()
        if self.companion is not None:
            self.companion.modules.eval()
        clean = torch.cat([self.front(part) for part in torch.split(x, SERVED_AT_ONCE)])
        released = chain.on_release({ACTIVATION: clean}, seed)[ACTIVATION]
        self.owned.train(self.rules.train_client)
        if self.companion is not None:
            self.companion.modules.train()
        return released

    def forget(self) -> None:
        """Drop the gradients of the last step."""
        self.owned.zero_grad()
        if self.companion is not None:
            self.companion.modules.zero_grad()


class BlackBox:
    """A client segment that answers and shows nothing else: images (N, C, H, W) to clean activations (N, ...)."""

    def __init__(self, front: nn.Module) -> None:
        self._front = copy.deepcopy(front).eval()

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        device = next((parameter.device for parameter in self._front.parameters()), images.device)
        activation: Tensor = self._front(images.to(device))
        return activation


def segments(model: nn.Module, rules: SplitRules) -> tuple[ClientSegment, nn.Sequential]:
    """Cut a model by the rules: what the client holds, and the server's module. Both share the model's weights."""
    parts = cut(model, *rules.cut)
    head = parts[2] if len(parts) == 3 else nn.Sequential()
    return ClientSegment(parts[0], head, rules), parts[1]


def client_step(client: ClientSegment, x: Tensor, y: Tensor, chain: Chain, link: Link, seed: int) -> float:
    """One mini-batch of split training: x (B, C, H, W) in [0, 1], y (B,) int64; returns the task loss.

    `seed` names this (experiment, client, round, step): noise and dropout draw from it. With the empty chain and the
    local link both segments step exactly as the uncut model under plain training would.

    Source: Gupta and Raskar 2018, algorithms 1 and 3; Titcombe et al. 2021, algorithm 1.
    """
    client.forget()
    chain = client.accompanied(chain, x, seed)
    clean, released = client.release(x, chain, seed)
    if client.rules.labels == "server":
        gradient, loss = link.step(released.detach(), y)
    else:
        outputs = link.forward(released.detach())
        downwards, loss = client.respond(outputs, y, seed)
        gradient = link.backward(downwards)
    client.descend(x, clean, released, gradient, chain)
    return loss
