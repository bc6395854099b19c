"""SPEAR: the exact images of a small batch from a ReLU layer's gradient, whose rank and zeros are both known."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from fl_privacy.attacks.base import ATTACKS, Attack, Capabilities, check_ranges
from fl_privacy.attacks.gradient.closed_form import FirstLayer, first_layer, pixel_rows, row_errors, unexplained
from fl_privacy.attacks.gradient.released import Released, released
from fl_privacy.observation import ChannelName, Observation, Reconstruction
from fl_privacy.seeding import stream

ZERO = 1e-3
"""A slope below this share of its column's root mean square counts as zero."""
BEYOND_CHANCE = 0.1
"""The share of a layer's neurons that a column has to have as zeros beside those that it was made to have."""
DEGENERATE = 1e-4
"""Drawn rows whose pivots differ by more are off for two images at once, and fix no column."""
PARALLEL, INDEPENDENT = 1e-7, 1e-3
"""One less the cosine of directions that are the same; the part of a direction that is no combination of others."""
CONSISTENT = 0.99
"""The share of the slopes that are not zero whose neuron has to be on: rounding leaves a few undecided."""
BLOCK = 2048


@ATTACKS.register("spear")
@dataclass(frozen=True)
class Spear(Attack):
    """The exact images of a batch that a first linear layer with a bias took, where a ReLU follows; no labels.

    [dL/dW dL/db] = D [X 1] has the batch as its rank, which gives D up to an invertible matrix Q. A neuron that is off
    for an image has a zero in that image's column of D: B - 1 neurons that are off for the same image fix its column of
    Q, and chance draws such neurons in one of about 2^(B-1) / B tries. Columns are told from others by how many zeros
    they have; from Q the images follow by linear algebra, all at once. At most `tries` draws: enough up to batches of
    about 16. No images where not every column was found, as behind another activation or under noise.

    The loss is the share of the gradient, as a norm, that no combination of the images explains.

    Source: Dimitrov et al. 2024, SPEAR (arXiv 2403.03945), sections 3 and 4; ours draws from the neurons with weaker
    gradients, which are off more often.
    """

    channels: ClassVar[frozenset[ChannelName]] = frozenset({ChannelName.GRADIENT, ChannelName.UPDATE})
    needs: ClassVar[frozenset[str]] = frozenset({"model"})
    capabilities: ClassVar[Capabilities] = Capabilities()

    tries: int = 400_000

    def __post_init__(self) -> None:
        check_ranges(self, at_least_one=("tries",))

    def reconstruct(self, seen: Sequence[Observation], rng: torch.Generator) -> list[Reconstruction]:
        """Read each observation.

        Raises:
            ValueError: the model's first linear layer takes no pixels, has no trained bias, or is too small.
        """
        return [self._read(each) for each in seen]

    def loss(self, seen: Observation, inputs: Tensor, labels: Tensor) -> float:
        """The part of [dL/dW dL/db] outside the span of the images (B, C, H, W), relative to all of it."""
        return unexplained(pixel_rows(first_layer(seen), released(seen)), inputs.double().flatten(1).cpu().numpy())

    def _read(self, seen: Observation) -> Reconstruction:
        start, batch = time.perf_counter(), seen.spec.batch_size
        layer, gradient = first_layer(seen), released(seen)
        rows = pixel_rows(layer, gradient)
        if batch > min(rows.shape[0], rows.shape[1] - 1):
            raise ValueError(
                f"a first layer of {rows.shape[0]} neurons on {rows.shape[1] - 1} pixels has no rank of {batch}, so "
                "that the images of the batch cannot be told apart in it: use an attack that optimises, such as 'map'"
            )
        images = self._images(seen, layer, gradient, torch.from_numpy(rows))
        if images is None:
            return Reconstruction(seconds=time.perf_counter() - start)
        inputs = images.float().clamp(0, 1).view(batch, *seen.spec.image_shape)
        loss = unexplained(rows, inputs.double().flatten(1).numpy())
        return Reconstruction(inputs=inputs, loss=loss, iterations=1, seconds=time.perf_counter() - start)

    def _images(self, seen: Observation, layer: FirstLayer, gradient: Released, rows: Tensor) -> Tensor | None:
        """The images (B, pixels), or None where the rank is another or a column has not been found."""
        batch = seen.spec.batch_size
        sizes, right = torch.linalg.svd(rows, full_matrices=False)[1:]
        error, _ = row_errors(layer, gradient)
        if float(sizes[batch - 1]) <= 3 * float(error) * len(rows) ** 0.5:
            return None
        right, on = right[:batch], _switch(seen, layer)
        mixed = rows @ right.T

        def images_of(columns: Tensor) -> Tensor:
            whole: Tensor = torch.linalg.solve(columns, right)
            return whole[:, :-1] / whole[:, -1:]

        def possible(columns: Tensor) -> bool:
            """Whether every neuron that has a slope for an image is on for it."""
            return float(on(images_of(columns)).T[~_zeros(mixed, columns.T)].double().mean()) > CONSISTENT

        columns = sparse_columns(mixed, self.tries, stream(0, "spear"), possible)
        return None if columns is None else images_of(columns)


def _switch(seen: Observation, layer: FirstLayer) -> Callable[[Tensor], Tensor]:
    """A function from images (B, pixels) to which neurons of the layer are on for them, (B, m)."""
    assert seen.model is not None
    module = seen.model.get_submodule(layer.name)
    assert isinstance(module, nn.Linear)
    weight, bias = (value.detach().double().cpu() for value in (module.weight, module.bias))
    scale, shift = torch.from_numpy(layer.scale), torch.from_numpy(layer.shift)
    return lambda images: (images * scale + shift) @ weight.T + bias > 0


def sparse_columns(
    mixed: Tensor, tries: int, rng: torch.Generator, possible: Callable[[Tensor], bool]
) -> Tensor | None:
    """Q (B, B) of unit columns with sparse `mixed` Q, for `mixed` (m, B) = D Q^-1 with many zeros in every column of D.

    Columns come in any order and sign. Those with most zeros come first, because a sum of two columns has some too.
    None where `tries` draws of B - 1 rows have not shown columns that are `possible`.
    """
    batch = mixed.shape[1]
    size = mixed.norm(dim=1)
    mixed = mixed[size > 1e-5 * size.max()]  # a neuron that is off for all images says nothing
    if batch == 1 or len(mixed) < 2 * batch:
        return torch.ones(1, 1, dtype=mixed.dtype) if batch == 1 else None
    weaker = mixed[mixed.norm(dim=1).argsort()][: max(len(mixed) // 2, 2 * batch)]
    enough = batch - 1 + max(2, int(BEYOND_CHANCE * len(mixed)))
    pool = mixed.new_empty(0, batch)
    for _ in range(0, tries, BLOCK):
        chosen = torch.rand(BLOCK, len(weaker), generator=rng).topk(batch - 1, 1).indices
        basis, corner = torch.linalg.qr(weaker[chosen].mT, mode="complete")
        pivots = corner.diagonal(dim1=1, dim2=2).abs()
        candidates = basis[pivots.amin(1) > DEGENERATE * pivots.amax(1), :, -1]
        sparse = _sparsest(mixed, candidates[_zeros(mixed, candidates).sum(0) >= enough])
        pool = _sparsest(mixed, torch.cat([pool, *(_sharpened(mixed, each)[None] for each in sparse)]))
        found = _independent(pool)
        if len(found) == batch and possible(found.T):
            return found.T
    return None


def _zeros(mixed: Tensor, directions: Tensor) -> Tensor:
    """Which of `mixed` (m, B) times `directions` (n, B) are zeros: (m, n)."""
    values = (mixed @ directions.T).abs()
    return values < ZERO * values.square().mean(0).sqrt()


def _sharpened(mixed: Tensor, direction: Tensor) -> Tensor:
    """The direction (B,) that all rows of `mixed` which are zero along this one agree on best."""
    agreed: Tensor = torch.linalg.svd(mixed[_zeros(mixed, direction[None])[:, 0]]).Vh[-1]
    return agreed


def _sparsest(mixed: Tensor, directions: Tensor) -> Tensor:
    """The distinct ones of `directions` (n, B) with the most zeros, most first: eight times as many as there are."""
    order = _zeros(mixed, directions).sum(0).argsort(descending=True, stable=True)
    directions = directions[order]
    parallel = (directions @ directions.T).abs() > 1 - PARALLEL
    return directions[~parallel.tril(-1).any(1)][: 8 * mixed.shape[1]]


def _independent(directions: Tensor) -> Tensor:
    """Those of `directions` (n, B) that are no combination of the ones before them."""
    found = directions[:0]
    for new in directions:
        span = torch.linalg.qr(found.T)[0]
        if float((new - span @ (span.T @ new)).norm()) > INDEPENDENT:
            found = torch.cat([found, new[None]])
    return found
