"""What a server makes of its clients' messages: pure functions of tensors by name, in the order given."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fl_privacy.observation import Tensors


def weighted_mean(payloads: Sequence[Tensors], weights: Sequence[float]) -> Tensors:
    """The weighted mean, name by name, added up in double precision and cast back to each tensor's own type.

    Raises:
        ValueError: there is no payload, or no weight above 0.
    """
    total = sum(weights)
    if not payloads or total <= 0:
        raise ValueError(f"a mean needs payloads with weights above 0, not {len(payloads)} with {list(weights)}")
    return _weighted_sum(payloads, [weight / total for weight in weights])


def client_sum(payloads: Sequence[Tensors]) -> Tensors:
    """The sum over clients, which is all that secure aggregation shows a server.

    Raises:
        ValueError: there is no payload.

    Source: Bonawitz et al. 2017, Practical secure aggregation, section 2.
    """
    if not payloads:
        raise ValueError("a sum over clients needs at least one")
    return _weighted_sum(payloads, [1.0] * len(payloads))


def _weighted_sum(payloads: Sequence[Tensors], weights: Sequence[float]) -> Tensors:
    added = {}
    for name, first in payloads[0].items():
        acc = torch.zeros_like(first, dtype=torch.float64)
        for payload, weight in zip(payloads, weights, strict=True):
            acc += payload[name].double() * weight
        added[name] = acc.to(first.dtype)
    return added
