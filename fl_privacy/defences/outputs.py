"""Defences on model outputs (N, classes): a user who only needs an answer need not send ten exact numbers.

All act on the last axis of every released tensor. Those that quantise pass gradients straight through, so that an
adaptive adversary can train a decoder through the law it knows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fl_privacy.defences.base import DEFENCES, Defence
from fl_privacy.defences.straight_through import straight_through
from fl_privacy.observation import Tensors


def _each(payload: Tensors, change: Callable[[Tensor], Tensor]) -> Tensors:
    """Change every tensor's last axis; a single number is treated as one class."""
    rows = {name: value.view(1) if value.dim() == 0 else value for name, value in payload.items()}
    return {name: change(row).view(payload[name].shape) for name, row in rows.items()}


def _decimals(payload: Tensors, decimals: int, to_whole: Callable[[Tensor], Tensor]) -> Tensors:
    def quantise(value: Tensor) -> Tensor:
        # float64 inside: float32 cannot hold 7 decimals times 10^7
        quantised = (to_whole(value.detach().double() * 10**decimals) / 10**decimals).to(value.dtype)
        return straight_through(value, quantised)

    return _each(payload, quantise)


def _check_decimals(decimals: int | None) -> None:
    if decimals is not None and not 0 <= decimals <= 15:
        raise ValueError(f"decimals must be from 0 to 15, or nothing for no change, not {decimals}")


@DEFENCES.register("rounding", outputs_only=True)
@dataclass(frozen=True)
class Rounding(Defence):
    """Rounds every output to `decimals` places, halves to even; None changes nothing.

    Source: Malekzadeh and Gündüz, appendix I.1.
    """

    decimals: int | None = None

    def __post_init__(self) -> None:
        _check_decimals(self.decimals)

    def on_release(self, payload: Tensors, rng: torch.Generator) -> Tensors:
        return payload if self.decimals is None else _decimals(payload, self.decimals, torch.round)


@DEFENCES.register("truncation", outputs_only=True)
@dataclass(frozen=True)
class Truncation(Defence):
    """Cuts every output off after `decimals` places, towards zero; None changes nothing."""

    decimals: int | None = None

    def __post_init__(self) -> None:
        _check_decimals(self.decimals)

    def on_release(self, payload: Tensors, rng: torch.Generator) -> Tensors:
        return payload if self.decimals is None else _decimals(payload, self.decimals, torch.trunc)


@DEFENCES.register("softmax", outputs_only=True)
@dataclass(frozen=True)
class Softmax(Defence):
    """Releases probabilities instead of logits: one degree of freedom less, and bounded."""

    def on_release(self, payload: Tensors, rng: torch.Generator) -> Tensors:
        return _each(payload, lambda value: value.softmax(-1))


@DEFENCES.register("sigmoid", outputs_only=True)
@dataclass(frozen=True)
class Sigmoid(Defence):
    """Releases for each output by itself how likely it is: every number is bounded, and none hangs on another."""

    def on_release(self, payload: Tensors, rng: torch.Generator) -> Tensors:
        return _each(payload, torch.sigmoid)


@DEFENCES.register("temperature", outputs_only=True)
@dataclass(frozen=True)
class Temperature(Defence):
    """Divides logits by `temperature`; 1 changes nothing. It hides nothing until softmax and rounding follow."""

    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.temperature < float("inf"):
            raise ValueError(f"temperature must be a finite number above 0 (1 changes nothing), not {self.temperature}")

    def on_release(self, payload: Tensors, rng: torch.Generator) -> Tensors:
        if self.temperature == 1:
            return payload
        return {name: value / self.temperature for name, value in payload.items()}


@DEFENCES.register("top_k", outputs_only=True)
@dataclass(frozen=True)
class TopK(Defence):
    """Keeps the `k` largest outputs of each row and sets the others to `fill`; None or all classes change nothing.

    Of equal values the first are kept. `fill=0` suits probabilities; for logits choose a value below them, such as -30.
    """

    k: int | None = None
    fill: float = 0.0

    def __post_init__(self) -> None:
        if self.k is not None and self.k < 1:
            raise ValueError(f"k must be at least 1, or nothing for no change, not {self.k}")

    def on_release(self, payload: Tensors, rng: torch.Generator) -> Tensors:
        k = self.k
        if k is None:
            return payload

        def keep(value: Tensor) -> Tensor:
            rank = value.detach().argsort(dim=-1, descending=True, stable=True).argsort(-1)
            return value.masked_fill(rank >= k, self.fill)

        return _each(payload, keep)


@DEFENCES.register("arg_max", outputs_only=True)
@dataclass(frozen=True)
class ArgMax(Defence):
    """Releases the predicted class and nothing more: a row of zeros with a single one (the first of equal values)."""

    def on_release(self, payload: Tensors, rng: torch.Generator) -> Tensors:
        def one_hot(value: Tensor) -> Tensor:
            if value.shape[-1] == 0:
                return value
            hot = torch.zeros_like(value).scatter_(-1, value.argmax(-1, keepdim=True), 1)
            return straight_through(value, hot)

        return _each(payload, one_hot)
