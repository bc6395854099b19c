"""Client-side defences: hooks that are the identity until overridden, and the chain that runs them in order."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fl_privacy.observation import Tensors
from fl_privacy.registry import Registry
from fl_privacy.seeding import stream


class Defence:
    """A client-side defence. Concrete ones are frozen dataclasses: their fields are the settings."""

    def extra_loss(self, x: Tensor, released: Tensor) -> Tensor | None:
        """A term that joins the client's training loss: inputs (N, ...) and what is about to be released (N, ...).

        Returns a scalar tensor, or None for no term.
        """
        return None

    def without_noise(self, payload: Tensors) -> Tensors:
        """What is certain about `on_release`: the identity for pure noise, the same scaling for a clip.

        An adversary who knows that the defence is there applies it to its own guesses. Differentiable.
        """
        return payload

    def as_seen(self, payload: Tensors, released: Tensors) -> Tensors:
        """What is certain about `on_release` of `payload` for an adversary who has seen `released`.

        By default that is `without_noise`; a release may show more, as pruning shows which values it kept.
        """
        return self.without_noise(payload)

    @property
    def by_example(self) -> bool:
        """Whether it acts on the gradient of each example, in every step, by `on_example_gradients`."""
        return False

    @property
    def in_training(self) -> bool:
        """Whether it acts where a client computes its gradients, and so does nothing to whatever else is sent."""
        return self.by_example

    def on_gradient(self, gradient: Tensors, model: nn.Module, x: Tensor) -> Tensors:
        """The gradient of images x (B, C, H, W), as `model` gets them, by name; `in_training` says that it acts."""
        return gradient

    def on_example_gradients(self, gradients: Tensors, rng: torch.Generator) -> Tensors:
        """One gradient of examples' own (B, ...), by name; the mean unless overridden. `rng` is the round's stream."""
        return self.mean_of_examples(gradients)

    def mean_of_examples(self, gradients: Tensors) -> Tensors:
        """What is certain of `on_example_gradients`. Differentiable."""
        return {name: value.mean(0) for name, value in gradients.items()}

    def clipped_share(self, gradients: Tensors) -> float:
        """The share of examples whose gradients (B, ...) it scales down: known to the evaluator, in no message."""
        return 0.0

    @property
    def example_noise(self) -> float:
        """The deviation of its Gaussian noise on a sum over examples, over the most that one example adds; 0: none."""
        return 0.0

    @property
    def gaussian_scale(self) -> float:
        """The deviation of the independent Gaussian noise that it adds to every released value; 0: none."""
        return 0.0

    def norm_bound(self, before: float) -> float:
        """The largest L2 norm, over all tensors, of a release whose payload had at most `before`; infinite: none."""
        return math.inf

    def hidden_variance(self, released: Tensors) -> Tensors | None:
        """The variance of `released`, by name (0-d), that no second release of it shows: that of rounding to a grid.

        None where a second release is as random as the first.
        """
        return None

    def on_release(self, payload: Tensors, rng: torch.Generator) -> Tensors:
        """The last thing before the wire: same names and shapes out as in.

        `rng` is this defence's own stream for this client and round. Must stay differentiable in the payload where the
        defence is (split learning sends gradients back through it).
        """
        return payload


DEFENCES: Registry[type[Defence]] = Registry("defence")


@dataclasses.dataclass(frozen=True)
class Chain:
    """An ordered list of defences; the empty chain changes nothing. Each member draws from a stream of its own."""

    defences: tuple[Defence, ...] = ()

    def __post_init__(self) -> None:
        if sum(each.by_example for each in self.defences) > 1:
            raise ValueError(f"the chain '{self.label}' acts on examples' gradients twice: keep one of them")
        if self.by_example and not all(each.by_example or not each.in_training for each in self.defences):
            raise ValueError(
                f"the chain '{self.label}' looks at the images again once the noise for each example is added, which "
                "would end what that noise guarantees: keep one of the two"
            )

    def __bool__(self) -> bool:
        return bool(self.defences)

    def extra_loss(self, x: Tensor, released: Tensor) -> Tensor | None:
        """The sum of the members' terms, or None where no member has one."""
        terms = [term for d in self.defences if (term := d.extra_loss(x, released)) is not None]
        return torch.stack(terms).sum() if terms else None

    def on_release(self, payload: Tensors, seed: int) -> Tensors:
        """Run every member's `on_release`; `seed` names this (experiment, condition, round, client)."""
        for position, defence in enumerate(self.defences):
            payload = defence.on_release(payload, stream(seed, "on_release", position))
        return payload

    def without_noise(self, payload: Tensors) -> Tensors:
        """What is certain about the chain's release, for an adversary who knows the chain."""
        for defence in self.defences:
            payload = defence.without_noise(payload)
        return payload

    def as_seen(self, payload: Tensors, released: Tensors) -> Tensors:
        """What is certain about the chain's release of `payload`, for an adversary who has seen `released`."""
        for defence in self.defences:
            payload = defence.as_seen(payload, released)
        return payload

    @property
    def by_example(self) -> bool:
        """Whether a member acts on the gradients of single examples."""
        return any(defence.by_example for defence in self.defences)

    @property
    def in_training(self) -> bool:
        """Whether a member acts where a client computes its gradients."""
        return any(defence.in_training for defence in self.defences)

    def on_gradient(self, gradient: Tensors, model: nn.Module, x: Tensor) -> Tensors:
        """What the members make of the gradient of images x (B, C, H, W), as `model` gets them."""
        for defence in self.defences:
            gradient = defence.on_gradient(gradient, model, x)
        return gradient

    def on_example_gradients(self, gradients: Tensors, rng: torch.Generator) -> Tensors:
        """What the member that acts on examples' gradients (B, ...) makes of them."""
        return next(d for d in self.defences if d.by_example).on_example_gradients(gradients, rng)

    def mean_of_examples(self, gradients: Tensors) -> Tensors:
        """What is certain of it, for an adversary who knows the chain."""
        return next(d for d in self.defences if d.by_example).mean_of_examples(gradients)

    def clipped_share(self, gradients: Tensors) -> float:
        """The share of examples whose gradients (B, ...) it scales down."""
        return next(d for d in self.defences if d.by_example).clipped_share(gradients)

    @property
    def release_tells(self) -> bool:
        """Whether `as_seen` is another function for another release."""
        return any(type(defence).as_seen is not Defence.as_seen for defence in self.defences)

    def hidden_variance(self, released: Tensors) -> Tensors | None:
        """The sum of the members' hidden variances, or None where no member has one."""
        found = [variance for d in self.defences if (variance := d.hidden_variance(released)) is not None]
        return {name: torch.stack([each[name] for each in found]).sum() for name in released} if found else None

    @property
    def label(self) -> str:
        """How tables name this chain: 'none', or 'clip(norm=1.0) + gaussian_noise(scale=0.1)'."""
        return " + ".join(map(_label, self.defences)) or "none"


def _label(defence: Defence) -> str:
    name = DEFENCES.name_of(type(defence))
    if not dataclasses.is_dataclass(defence):
        return name
    settings = ", ".join(f"{f.name}={getattr(defence, f.name)}" for f in dataclasses.fields(defence))
    return f"{name}({settings})" if settings else name


def chain(specs: list[Mapping[str, Any]]) -> Chain:
    """Build a chain from [{'name': ..., setting: value, ...}, ...].

    Raises:
        UnknownName: no such defence or setting. ValueError: a value that does not fit.
    """
    return Chain(tuple(_defence(spec["name"], {k: v for k, v in spec.items() if k != "name"}) for spec in specs))


def _defence(name: str, settings: Mapping[str, Any]) -> Defence:
    made: object = DEFENCES.configure(name, settings)
    if not isinstance(made, Defence):
        raise ValueError(
            f"'{name}' is no defence: let its class derive from fl_privacy.Defence, whose hooks change nothing until "
            "they are overridden"
        )
    if type(made).__hash__ is None:
        raise ValueError(
            f"the defence '{name}' can be changed after it was made, and one law must hold for a whole run: write "
            "`@dataclasses.dataclass(frozen=True)` above its class"
        )
    return made
