"""What an adversary holds, and what it makes of it. The victims' data are another type: `evaluation.Truth`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

Tensors = dict[str, Tensor]


class ChannelName(StrEnum):
    """What crosses the wire."""

    GRADIENT = "gradient"
    UPDATE = "update"
    ACTIVATION = "activation"
    OUTPUT = "output"


@dataclass(frozen=True, kw_only=True)
class LocalTraining:
    """Public facts of what a client does between receiving a model and sending; by default, one plain step on all.

    `epochs` over a message's examples in mini-batches of `batch_size` (0: all of them in one); `steps`, where not 0,
    says how many steps are taken instead, in as many epochs as they need. `optimiser` with `learning_rate` (0: not
    known), SGD's `momentum` and `weight_decay` as in torch; `proximal` is FedProx's pull to the received weights.
    `loss` of logits and labels; `normalise`: (means, deviations) a channel, applied before the model. `mode` 'eval':
    all modules of the model run in eval mode; 'train': each runs in the mode in which it is in the observation's model,
    as frozen batch normalisation beside training dropout does.

    Raises:
        ValueError: a setting is out of range, or Adam has a momentum.
    """

    epochs: int = 1
    batch_size: int = 0
    steps: int = 0
    optimiser: Literal["sgd", "adam"] = "sgd"
    learning_rate: float = 0.0
    momentum: float = 0.0
    weight_decay: float = 0.0
    proximal: float = 0.0
    loss: Literal["cross_entropy", "squared_error"] = "cross_entropy"
    normalise: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    mode: Literal["train", "eval"] = "train"

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ValueError(f"epochs must be at least 1, not {self.epochs}")
        for name in ("batch_size", "steps", "learning_rate", "momentum", "weight_decay", "proximal"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be at least 0 and finite, not {getattr(self, name)}")
        if self.momentum and self.optimiser == "adam":
            raise ValueError("momentum is SGD's: Adam has its own, so leave it out or take optimiser = 'sgd'")
        if self.normalise is not None and not all(each > 0 for each in self.normalise[1]):
            raise ValueError(f"normalise divides by its deviations, which must be above 0, not {self.normalise[1]}")

    def steps_on(self, examples: int) -> int:
        """How many steps are taken on that many examples."""
        return self.steps or self.epochs * -(-examples // (self.batch_size or examples))

    def passes_on(self, examples: int) -> int:
        """How many of the steps on that many examples one of them enters at most."""
        return -(-self.steps_on(examples) // -(-examples // (self.batch_size or examples)))

    def sends_gradient(self, examples: int) -> bool:
        """Whether what a client changes is its gradient of the cross entropy on all examples, times a number."""
        whole = self.steps_on(examples) == 1 and (self.batch_size or examples) >= examples
        plain = self.optimiser == "sgd" and not self.weight_decay and self.normalise is None
        return whole and plain and self.loss == "cross_entropy"


ONE_STEP = LocalTraining()
"""The gradient of all examples, once."""


@dataclass(frozen=True, kw_only=True)
class Spec:
    """Public facts of the protocol, known to every party: an adversary may use all of them.

    `image_shape` is (C, H, W); `batch_size` images enter one released message, in whatever mini-batches `local` has.
    """

    image_shape: tuple[int, int, int]
    classes: int
    batch_size: int
    local: LocalTraining = ONE_STEP

    @property
    def training_mode(self) -> bool:
        """False where every module of the clients' model runs in eval mode."""
        return self.local.mode == "train"


@dataclass(frozen=True)
class Images:
    """Images (N, C, H, W) in [0, 1] with labels (N,), or none: auxiliary data that the adversary owns."""

    inputs: Tensor
    labels: Tensor | None = None

    def __len__(self) -> int:
        return len(self.inputs)


class KnownDefence(Protocol):
    """What an adversary may know of the clients' defences: how they act, never what they drew."""

    def __bool__(self) -> bool:
        """Whether there is anything that defends."""
        ...

    def on_release(self, payload: Tensors, seed: int) -> Tensors:
        """The defences once more on a payload of the adversary's own, with the draws of `seed`."""
        ...

    def without_noise(self, payload: Tensors) -> Tensors:
        """What is certain about `on_release`: the same for a clip, the identity for noise. Differentiable."""
        ...

    def as_seen(self, payload: Tensors, released: Tensors) -> Tensors:
        """The same for an adversary who has seen `released`, which may show more, such as what was pruned."""
        ...

    @property
    def by_example(self) -> bool:
        """Whether the clients' gradients are made of those of single examples."""
        ...

    @property
    def in_training(self) -> bool:
        """Whether they act where a client computes its gradients."""
        ...

    def on_gradient(self, gradient: Tensors, model: nn.Module, x: Tensor) -> Tensors:
        """What they make of the gradient of images x (B, C, H, W), as `model` gets them."""
        ...

    def on_example_gradients(self, gradients: Tensors, rng: torch.Generator) -> Tensors:
        """The gradient that a client makes of examples' own (B, ...), with draws of `rng`."""
        ...

    def mean_of_examples(self, gradients: Tensors) -> Tensors:
        """What is certain about a gradient made of examples' own (B, ...), such as their clip. Differentiable."""
        ...

    @property
    def release_tells(self) -> bool:
        """Whether `as_seen` is another function for another release."""
        ...

    def hidden_variance(self, released: Tensors) -> Tensors | None:
        """The variance of `released`, by name (0-d), that no second release of it shows; None where there is none."""
        ...


@dataclass(frozen=True, kw_only=True)
class Observation:
    """All that an adversary holds about one released message.

    `payload` is as received, after the clients' defences: of `client` alone, or, where secure aggregation hides single
    messages, the mean over `client` and `others`, each of whom put in as many of the `spec.batch_size` examples.
    `model` is the adversary's own copy at that moment (None for a black box, which may come with `query` instead).
    `labels`, `public` and `defence` are there only where the threat model grants them; `defence` is the law of the
    chain, never its draws. `applied` is the label of the chain that the client says it ran; None where it says nothing.
    """

    channel: ChannelName
    payload: Tensors
    spec: Spec
    round: int
    client: int
    others: tuple[int, ...] = ()
    model: nn.Module | None = None
    query: Callable[[Tensor], Tensor] | None = None
    labels: Tensor | None = None
    public: Images | None = None
    defence: KnownDefence | None = None
    applied: str | None = None

    def __post_init__(self) -> None:
        if len(set(self.clients)) < len(self.clients) or self.spec.batch_size % len(self.clients):
            raise ValueError(
                f"a mean over clients {self.clients} needs each of them once, with as many of the message's "
                f"{self.spec.batch_size} examples as the others"
            )

    @property
    def clients(self) -> tuple[int, ...]:
        """Whose messages the payload is the mean of."""
        return (self.client, *self.others)

    @property
    def examples(self) -> int:
        """How many examples each client put in."""
        return self.spec.batch_size // len(self.clients)

    def to(self, device: torch.device) -> Observation:
        """The same observation with payload, labels and public data on `device` (the model is moved by the attack)."""
        public = self.public
        if public is not None:
            labels = None if public.labels is None else public.labels.to(device)
            public = Images(public.inputs.to(device), labels)
        return replace(
            self,
            payload={name: value.to(device) for name, value in self.payload.items()},
            labels=None if self.labels is None else self.labels.to(device),
            public=public,
        )


@dataclass(frozen=True, kw_only=True)
class Reconstruction:
    """An adversary's guess for one observation.

    `inputs` (N, C, H, W) in [0, 1] and `labels` (N,) int64: None where the attack recovers none, as label recovery has
    no images, and a closed form has nothing where it cannot be solved. `loss` is the attack's own objective at this
    guess, the only thing by which it may have chosen it; `trace` (T,) that objective over time. `bound` (N,): what
    could be known at best, the expected mean squared error an image of the best estimate, as the attack computes it at
    its own guess; None where it computes none. `winner`: the attack that made it, of those that one tries.
    """

    inputs: Tensor | None = None
    labels: Tensor | None = None
    bound: Tensor | None = None
    loss: float = float("nan")
    trace: Tensor = field(default_factory=lambda: torch.empty(0))
    iterations: int = 0
    seconds: float = 0.0
    winner: str = ""
