"""Differences between gradients in units of what images make of them: entries that move together count as one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor

from fl_privacy.attacks.gradient.matching import Matcher
from fl_privacy.attacks.kept import Kept

Whitening = Callable[[Tensor], Tensor]
"""Differences (V, P) between gradients to as many numbers, in no particular order."""

POWER = 0.7
"""1 would make all directions equal. Those in which images differ least say little until the others are explained."""
DAMPING = 1e-3
"""What is added to the factors' eigenvalues, as a share of their mean."""
SWEEPS = 2
LARGEST = 2048
"""Columns: a factor larger than that would cost more than the attack."""
LEAST = 1e-3
"""A layer that images move by less than this share of what they move all layers by counts as if it were that much."""
KEPT = 24
"""Label sets of messages, of which a model of 60,000 parameters needs 5 MB each."""


@dataclass(frozen=True)
class _Block:
    """A layer's weight (rows, columns) and bias side by side, as numbers of the gradient; whitened from both sides."""

    index: Tensor
    left: Tensor
    right: Tensor

    def __call__(self, differences: Tensor) -> Tensor:
        square = differences[:, self.index].view(len(differences), len(self.left), len(self.right))
        out: Tensor = self.left @ (square @ self.right)
        return out.flatten(1)


_kept: Kept[list[Whitening]] = Kept(KEPT)


def whitening(
    match: Matcher, images: Tensor, labels: Tensor, classes: int, shapes: Mapping[str, torch.Size]
) -> Whitening:
    """What whitens differences between gradients of parameters `shapes`, by name and in order, as images show it.

    `images` (N, C, H, W) are drawn from the attacker's prior, and `match` takes each of them as a victim, with one of
    the `labels` (B,) of the batch: rows of the head whose class is not among them are small, and count as much. A
    layer's weight and bias together are a matrix, whose covariance over images is taken to be a Kronecker product: its
    inverse root, to the power 0.7, multiplies the matrix from both sides. A bias moves all of its row, because
    activations have a mean far from zero, and rows share their features: without this, what all entries have in common
    hides what tells images apart. Parameters with no such matrix are divided by their size.

    Source: the factors are those of Martens and Grosse 2015 (arXiv 1503.05671), fitted as a matrix normal's (Dutilleul
    1999, Journal of Statistical Computation and Simulation 64); to whiten gradients by them in an attack is ours.
    """
    drawn = _centred(match, images, labels, classes)
    blocks = _kept.of(str(list(shapes.items())), [drawn], lambda: _blocks(drawn, shapes))
    return lambda differences: torch.cat([block(differences) for block in blocks], 1)


def _blocks(drawn: Tensor, shapes: Mapping[str, torch.Size]) -> list[Whitening]:
    """What whitens each layer, from gradients (N, P) around their mean."""
    least = max(LEAST * float(drawn.square().mean().sqrt()), 1e-12)
    ends = accumulate(shape.numel() for shape in shapes.values())
    starts = {name: end - shape.numel() for (name, shape), end in zip(shapes.items(), ends, strict=True)}
    blocks: list[Whitening] = []
    done: set[str] = set()
    for name, shape in shapes.items():
        bias = name.removesuffix("weight") + "bias"
        if name in done:
            continue
        index = (torch.arange(shape.numel()) + starts[name]).view(shape[0] if shape else 1, -1)
        if bias not in {name, *done} and shapes.get(bias) == shape[:1] and len(shape) > 1:
            index = torch.cat([index, torch.arange(shape[0])[:, None] + starts[bias]], 1)
            done.add(bias)
        done.add(name)
        blocks.append(_block(drawn, index.to(drawn.device), least))
    return blocks


def _centred(match: Matcher, images: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Gradients (N, P) of images, which take turns with the labels, around the mean of their label."""
    present = torch.unique(labels)
    mine = present[torch.arange(len(images), device=present.device) % len(present)]
    each = match(images.unsqueeze(1), F.one_hot(mine[:, None], classes).to(images)).detach().nan_to_num(0.0, 0.0, 0.0)
    for label in present.tolist():
        each[mine == label] -= each[mine == label].mean(0)
    return each


def _block(drawn: Tensor, index: Tensor, least: float) -> Whitening:
    matrices = drawn[:, index.flatten()].view(len(drawn), *index.shape)
    size = max(float(matrices.square().mean().sqrt()), least)
    rows, columns = index.shape
    if size == least or min(rows, columns) == 1 or max(rows, columns) > LARGEST:
        flat = index.flatten()
        return lambda differences: differences[:, flat] / size
    matrices, rows_of = matrices / size, _eigen(torch.eye(rows).to(drawn))
    for _ in range(SWEEPS):
        half = (_power(rows_of, -0.5) @ matrices).flatten(0, 1)
        columns_of = _eigen(half.T @ half / len(half))
        half = (matrices @ _power(columns_of, -0.5)).mT.flatten(0, 1)
        rows_of = _eigen(half.T @ half / len(half))
    left, right = _power(rows_of, -0.5 * POWER), _power(columns_of, -0.5 * POWER)
    unit = size * float((left @ matrices @ right).square().mean().sqrt())
    return _Block(index.flatten(), left, right / unit)


def _eigen(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Damped eigenvalues and eigenvectors."""
    values, vectors = torch.linalg.eigh(covariance)
    values = values.clamp_min(0.0)
    return values + DAMPING * values.mean(), vectors


def _power(eigen: tuple[Tensor, Tensor], power: float) -> Tensor:
    values, vectors = eigen
    return (vectors * values.pow(power)) @ vectors.T
