"""A network from what is read of a message to its images, trained on messages of the attacker's own."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from fl_privacy.seeding import seeded

SPANNING = 2048
"""How many rows the directions are taken from in which features are read."""
DECAYS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
OUTPUTS = 256
"""Directions among images in which the hidden layer corrects the linear one."""
DROPOUT = 0.5
LEARNING_RATE = 1e-3
PATIENCE = 2
TOGETHER = 64
"""Images a step."""


@dataclass(frozen=True)
class Examples:
    """Messages of the attacker's own: `rows` (M, B, K) of features, `images` (M, B, D), `labels` (M, B).

    Images of one label lie side by side, darker ones first. Those of one message that share a label can be told apart
    by nothing but themselves.
    """

    rows: Tensor
    images: Tensor
    labels: Tensor


class Inverter(nn.Module):
    """Features (..., K) to images (..., D): their leading components, a linear layer, and a correction to it."""

    def __init__(self, middle: Tensor, directions: Tensor, linear: Tensor, mean: Tensor) -> None:
        super().__init__()
        self.middle, self.directions, self.linear, self.mean = middle, directions, linear, mean
        self.hidden: nn.Module | None = None
        self.basis = torch.empty(0)

    def components(self, rows: Tensor) -> Tensor:
        """Features (..., K) to their leading components (..., r)."""
        return (rows - self.middle) @ self.directions

    def of_components(self, z: Tensor) -> Tensor:
        """Components (..., r) to images (..., D), which may leave [0, 1]."""
        images = self.mean + z @ self.linear
        return images if self.hidden is None else images + self.hidden(z) @ self.basis.T

    def forward(self, rows: Tensor) -> Tensor:
        return self.of_components(self.components(rows))


def fit_inverter(train: Examples, held: Examples, components: int, hidden: int, epochs: int, seed: int) -> Inverter:
    """Fit the linear layer by ridge regression, then the hidden one by Adam, each as `held` examples want it.

    The ridge is the best of five by the held examples' error. The hidden layer of `hidden` units starts at zero, and
    what it was after its best epoch of at most `epochs` is kept; nothing of it where no epoch helped.
    """
    rows, images = train.rows.flatten(0, 1), train.images.flatten(0, 1)
    middle, mean = rows.mean(0), images.mean(0)
    sample = rows[:: -(-len(rows) // SPANNING)] - middle
    values, vectors = torch.linalg.eigh(sample @ sample.T)
    kept = (values > 1e-6 * values.max().clamp_min(1e-30)).nonzero().flatten()[-components:]
    directions = sample.T @ vectors[:, kept] / values[kept].sqrt()
    z = (rows - middle) @ directions
    scale = z.square().sum(1).mean().sqrt().clamp_min(1e-30) / math.sqrt(max(len(kept), 1))
    z, directions = z / scale, directions / scale
    powers, turned = torch.linalg.eigh(z.T @ z / len(z))
    right = turned.T @ (z.T @ (images - mean) / len(z))
    best, least = None, math.inf
    for decay in DECAYS:
        tried = Inverter(middle, directions, turned @ (right / (powers.clamp_min(0) + decay)[:, None]), mean)
        error = held_error(tried, tried.components(held.rows), held)
        if best is None or error < least:
            best, least = tried, error
    assert best is not None
    return _with_hidden(best, least, z.view(*train.labels.shape, -1), train, held, hidden, epochs, seed)


def _with_hidden(
    inverter: Inverter, least: float, z: Tensor, train: Examples, held: Examples, hidden: int, epochs: int, seed: int
) -> Inverter:
    """`inverter` with a hidden layer where that lowers its error `least` on the held examples."""
    if not hidden or not epochs:
        return inverter
    with seeded(seed, "inverter"), torch.enable_grad():
        centred = train.images.flatten(0, 1) - inverter.mean
        count = min(OUTPUTS, *centred.shape)
        inverter.basis = torch.svd_lowrank(centred[: 4 * SPANNING], q=count)[2]
        last = nn.Linear(hidden, count)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        own = nn.Sequential(nn.Dropout(DROPOUT), nn.Linear(z.shape[-1], hidden), nn.GELU(), nn.Dropout(DROPOUT), last)
        inverter.hidden = own.to(z)
        optimiser = torch.optim.AdamW(own.parameters(), LEARNING_RATE, weight_decay=1e-2)
        kept, since, of_held = None, 0, inverter.components(held.rows)
        for _ in range(epochs):
            inverter.train()
            for part in torch.split(torch.randperm(len(z)), max(1, TOGETHER // z.shape[1])):
                _descend(inverter, optimiser, z[part], train, part)
            error = held_error(inverter.eval(), of_held, held)
            since += 1
            if error < least:
                least, kept, since = error, {n: v.clone() for n, v in own.state_dict().items()}, 0
            if since >= PATIENCE:
                break
    if kept is None:
        inverter.hidden = None
    else:
        own.load_state_dict(kept)
    return inverter


def _descend(inverter: Inverter, optimiser: torch.optim.Optimizer, z: Tensor, train: Examples, part: Tensor) -> None:
    guess = inverter.of_components(z)
    loss = F.mse_loss(guess, assigned(train.images[part], guess.detach(), train.labels[part]))
    optimiser.zero_grad()
    torch.autograd.backward(loss)
    optimiser.step()


@torch.no_grad()
def held_error(inverter: Inverter, z: Tensor, held: Examples) -> float:
    """The mean squared error a pixel on messages that no weight was fitted to, those of one label matched."""
    guess = inverter.of_components(z)
    return float(F.mse_loss(guess.clamp(0, 1), assigned(held.images, guess, held.labels)))


def assigned(images: Tensor, guesses: Tensor, labels: Tensor) -> Tensor:
    """`images` (M, B, D) in the order nearest to `guesses` (M, B, D) among those of one message and label (M, B).

    By the assignment of least squared error, so that a loss does not ask which of two images is the first.
    """
    if labels.shape[1] == 1:
        return images
    ordered = images.clone()
    for message, own in enumerate(labels):
        for label in own[1:][own[1:] == own[:-1]].unique():
            where = (own == label).nonzero().flatten()
            cost = torch.cdist(guesses[message, where], images[message, where]).square()
            _, columns = linear_sum_assignment(cost.cpu().numpy())
            ordered[message, where] = images[message, where[torch.from_numpy(columns).to(where.device)]]
    return ordered
