"""A released message as numbers from which a network can read its images: one row an image, in every class alike."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fl_privacy.attacks.gradient.label_recovery import Head, read_at, whole_counts
from fl_privacy.observation import Observation, Tensors
from fl_privacy.seeding import stream
from fl_privacy.weights import trainable

WIDTH = 32768
"""About how many numbers describe an image: longer tensors are hashed, each to its share of them."""
LEAST = 64
TINY = 1e-30


@dataclass(frozen=True)
class MessageFeatures:
    """What is read of a message of `batch` images, layer by layer.

    Each tensor is taken relative to its own size, because a gradient's says little but how well the model does; running
    statistics that are sent beside the weights are read as well. With a linear `head` (its name; None: no such layer)
    an image of label c is described by the head's row c and by the sum of the others: dL/dW = mean((p - y) h^T) has the
    features of images of label c in row c, whichever c is.

    Source: the hashing of long gradients is that of Wu et al. 2023 (arXiv 2210.10880), section 3.2; the rows are ours.
    """

    names: tuple[str, ...]
    head: str | None
    mean_features: Tensor
    classes: int
    batch: int

    def rows(self, payload: Tensors, labels: Tensor) -> Tensor:
        """One row (B, K) of features for every image of a message with these labels (B,), which lie side by side."""
        pieces = [(name, payload[name].flatten().expand(len(labels), -1)) for name in self._body()]
        ranks = torch.zeros(len(labels), 1, device=labels.device)
        known = [ranks]
        if self.head is not None:
            pieces += self._head_rows(payload, labels)
            counts = torch.bincount(labels, minlength=self.classes)[labels].float()
            hot = F.one_hot(labels, self.classes).float()
            known += [hot, counts[:, None] / self.batch - 1 / self.batch]
        ranks[:, 0] = _ranks(labels)
        share = max(LEAST, WIDTH // len(pieces))
        return torch.cat([*(_hashed(name, _unit(value), share) for name, value in pieces), *known], 1)

    def counts(self, payload: Tensors) -> Tensor:
        """What the head says of how many images have each label: (C, 3), the bias's slope and that along the features.

        Raises:
            ValueError: there is no head.
        """
        if self.head is None:
            raise ValueError("labels are read from a linear head, and this model has none")
        weight = payload[f"{self.head}.weight"]
        along, size = weight @ self.mean_features, weight.norm(dim=1)
        bias = payload.get(f"{self.head}.bias", along)
        return torch.stack([_unit(each[None])[0] for each in (bias, along, size)], 1)

    def _body(self) -> list[str]:
        return [name for name in self.names if self.head is None or not name.startswith(f"{self.head}.")]

    def _head_rows(self, payload: Tensors, labels: Tensor) -> list[tuple[str, Tensor]]:
        found = []
        for part in ("weight", "bias"):
            value = payload.get(f"{self.head}.{part}")
            if value is not None:
                flat = value.view(self.classes, -1)
                found += [(f"{part} own", flat[labels]), (f"{part} other", flat.sum(0) - flat[labels])]
        return found


def message_features(seen: Observation) -> MessageFeatures:
    """How messages of the observation's model are read; `read_at` finds its head at the attacker's own images."""
    assert seen.model is not None
    assert seen.public is not None
    sent = (name for name, value in seen.payload.items() if value.is_floating_point() and value.numel())
    names = tuple(dict.fromkeys([*trainable(seen.model), *sent]))
    head: Head | None = None
    with suppress(ValueError):
        head = read_at(seen, seen.public.inputs[:256])
    mean = torch.empty(0) if head is None else head.features.mean(0).float()
    device = next(iter(seen.payload.values())).device
    name = None if head is None else head.name
    return MessageFeatures(names, name, mean.to(device), seen.spec.classes, seen.spec.batch_size)


@dataclass(frozen=True)
class CountReader:
    """Labels from the numbers of `MessageFeatures.counts`: a line of them, the same for all classes but for a constant.

    It is fitted to messages of the attacker's own, so that it knows what a chain does to signs and sizes.
    """

    slope: Tensor
    constant: Tensor

    def labels(self, features: Tensor, batch: int) -> Tensor:
        """The labels (B,), sorted, from features (C, 3)."""
        counts = whole_counts((features @ self.slope + self.constant).double().cpu(), batch)
        return torch.repeat_interleave(torch.arange(len(counts)), counts.long()).to(features.device)


def fit_counts(features: Tensor, counts: Tensor) -> CountReader:
    """Least squares of counts (M, C) on features (M, C, 3), all classes together, with a constant for each."""
    middle, level = features.mean(0), counts.mean(0)
    x, y = (features - middle).flatten(0, 1).double(), (counts - level).flatten().double()
    slope = torch.linalg.lstsq(x.T @ x + 1e-6 * torch.eye(x.shape[1]).to(x), x.T @ y[:, None]).solution[:, 0].float()
    return CountReader(slope, level - middle @ slope)


def _ranks(labels: Tensor) -> Tensor:
    """Where each image stands among those of its label, from -0.5 to 0.5: 0 where it is the only one."""
    same = labels[:, None] == labels
    before = same.tril(-1).sum(1).float()
    of = same.sum(1).float()
    return (before - (of - 1) / 2) / of


def _unit(value: Tensor) -> Tensor:
    """Rows (N, K) of length 1."""
    lengths: Tensor = value.norm(dim=1, keepdim=True)
    return value / lengths.clamp_min(TINY)


def _hashed(name: str, value: Tensor, size: int) -> Tensor:
    """Rows (N, K) as they are, or where they are longer than `size` summed at random places with random signs."""
    if value.shape[1] <= size:
        return value
    rng = stream(0, "hash", name)
    place = torch.randint(size, (value.shape[1],), generator=rng).to(value.device)
    sign = (torch.randint(2, (value.shape[1],), generator=rng) * 2 - 1).to(value)
    summed: Tensor = torch.zeros(len(value), size).to(value).index_add_(1, place, value * sign)
    return summed
