"""The images of a batch, as the first linear layer's gradient holds them: its rows over its bias's gradient."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fl_privacy.attacks.base import ATTACKS, Attack, Capabilities, check_ranges
from fl_privacy.attacks.gradient.matching import adversary_copy
from fl_privacy.attacks.gradient.released import Released, released
from fl_privacy.observation import ChannelName, Observation, Reconstruction
from fl_privacy.seeding import seeded, stream

Array = NDArray[np.float64]


@dataclass(frozen=True)
class FirstLayer:
    """A linear layer that takes the pixels themselves, each times `scale` plus `shift` (pixels,)."""

    name: str
    scale: Array
    shift: Array


@ATTACKS.register("linear_layer")
@dataclass(frozen=True)
class LinearLayer(Attack):
    """The exact images that a first linear layer with a bias took; no labels.

    Row i of dL/dW is the sum over the batch of d_i x, and dL/db_i that of d_i. Of one image every row over its bias's
    gradient is the image, and least squares joins them. Of a batch a row is an image only where its neuron has a slope
    for that image alone, as happens behind a ReLU: two such rows agree, and rows of mixtures do not. Images in which
    `agree` rows agree within `errors` standard errors are exact; places that stay open are filled by the rows that are
    nearest to an image. No images where none is exact.

    The loss is the share of the gradient, as a norm, that no combination of the images explains.

    Source: Phong et al. 2018 (IEEE TIFS 13(5)), section 3; Fowl et al. 2022 (arXiv 2110.13057), for batches.
    """

    channels: ClassVar[frozenset[ChannelName]] = frozenset({ChannelName.GRADIENT, ChannelName.UPDATE})
    needs: ClassVar[frozenset[str]] = frozenset({"model"})
    capabilities: ClassVar[Capabilities] = Capabilities()

    agree: int = 2
    errors: float = 10.0

    def __post_init__(self) -> None:
        check_ranges(self, at_least_one=("agree",), above_zero=("errors",))

    def reconstruct(self, seen: Sequence[Observation], rng: torch.Generator) -> list[Reconstruction]:
        """Read each observation.

        Raises:
            ValueError: the model's first linear layer takes no pixels, or has no trained bias.
        """
        return [self._read(each) for each in seen]

    def loss(self, seen: Observation, inputs: Tensor, labels: Tensor) -> float:
        """The part of [dL/dW dL/db] outside the span of the images (B, C, H, W), relative to all of it."""
        return unexplained(pixel_rows(first_layer(seen), released(seen)), inputs.double().flatten(1).cpu().numpy())

    def _read(self, seen: Observation) -> Reconstruction:
        start, batch, shape = time.perf_counter(), seen.spec.batch_size, seen.spec.image_shape
        layer, gradient = first_layer(seen), released(seen)
        rows = pixel_rows(layer, gradient)
        if batch == 1:
            images = (rows[:, -1] @ rows[:, :-1] / max(float(np.square(rows[:, -1]).sum()), 1e-300))[None]
        else:
            images = self._of_a_batch(rows, row_errors(layer, gradient), batch)
        if not len(images):
            return Reconstruction(seconds=time.perf_counter() - start)
        inputs = torch.from_numpy(images).float().clamp(0, 1).view(batch, *shape)
        loss = unexplained(rows, inputs.double().flatten(1).numpy())
        return Reconstruction(inputs=inputs, loss=loss, iterations=1, seconds=time.perf_counter() - start)

    def _of_a_batch(self, rows: Array, errors: tuple[Array, float], batch: int) -> Array:
        """The images (B, pixels), exact ones first, or none (0, pixels) where no rows agree."""
        weight_error, bias_error = errors
        size = np.abs(rows[:, -1])
        order = np.argsort(-size)[: np.count_nonzero(size > self.errors * bias_error)]
        ratios, sizes = rows[order, :-1] / rows[order, -1:], size[order]
        spread = np.hypot(weight_error, bias_error) / sizes  # root mean square error of a pixel, by row
        exact: list[tuple[int, Array]] = []
        single: list[tuple[float, Array]] = []
        left = np.ones(len(order), dtype=bool)
        for at in range(len(order)):
            if not left[at]:
                continue
            apart = np.sqrt(np.square(ratios - ratios[at]).mean(1))
            mine = left & (apart < self.errors * np.hypot(spread, spread[at]))
            left &= ~mine
            together = np.average(ratios[mine], axis=0, weights=sizes[mine] ** 2)
            outside = float(np.square(together - together.clip(0, 1)).mean())
            if mine.sum() >= self.agree:
                exact.append((int(mine.sum()), together))
            else:
                single.append((outside, together))
        if not exact:
            return np.zeros((0, rows.shape[1] - 1))
        grey = [(np.inf, np.full(rows.shape[1] - 1, 0.5))] * batch
        best = sorted(exact, key=lambda pair: -pair[0]) + sorted([*single, *grey], key=lambda pair: pair[0])
        return np.stack([image for _, image in best[:batch]])


def first_layer(seen: Observation) -> FirstLayer:
    """The linear layer that takes an observation's pixels, found by what reaches it.

    Raises:
        ValueError: there is none with a trained weight and bias.
    """
    assert seen.model is not None
    model = adversary_copy(seen.model, seen.spec.training_mode)
    taken: dict[str, Tensor] = {}
    names = [n for n, m in model.named_modules() if isinstance(m, nn.Linear) and f"{n}.bias" in seen.payload]
    hooks = [model.get_submodule(name).register_forward_pre_hook(partial(_taken, taken, name)) for name in names]
    device, size = next(model.parameters()).device, int(np.prod(seen.spec.image_shape))
    draws = torch.rand(2, *seen.spec.image_shape, generator=stream(0, "linear_layer"))
    probes = torch.cat([torch.zeros_like(draws[:1]), torch.ones_like(draws[:1]), draws])
    with torch.no_grad(), seeded(0, "attack", "forward"):
        model(probes.to(device))
    for hook in hooks:
        hook.remove()
    for name, values in taken.items():
        zero, one, *others = values.double().cpu()
        straight = values.shape == (len(probes), size) and all(
            torch.allclose(zero + (one - zero) * draw.double().flatten(), other, atol=1e-4)
            for draw, other in zip(draws, others, strict=True)
        )
        if straight and bool((one != zero).all()) and f"{name}.weight" in seen.payload:
            return FirstLayer(name, (one - zero).numpy(), zero.numpy())
    raise ValueError(
        "no linear layer with a trained bias takes the pixels themselves, so that none of its rows is an image: this "
        "attack reads models that begin with nn.Linear; for convolutions use 'peeling' or an attack that optimises"
    )


def _taken(taken: dict[str, Tensor], name: str, module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
    taken.setdefault(name, arguments[0])


def pixel_rows(layer: FirstLayer, gradient: Released) -> Array:
    """[dL/dW dL/db] (neurons, pixels + 1) as if the layer took pixels in [0, 1]."""
    weight, bias = gradient.gradients[f"{layer.name}.weight"], gradient.gradients[f"{layer.name}.bias"][:, None]
    return np.hstack([(weight - bias * layer.shift) / layer.scale, bias])


def row_errors(layer: FirstLayer, gradient: Released) -> tuple[Array, float]:
    """The standard error of an entry of those rows: root mean square over the pixels, and in the last column."""
    bias = gradient.deviations[f"{layer.name}.bias"]
    weight = np.hypot(gradient.deviations[f"{layer.name}.weight"], bias * layer.shift) / layer.scale
    return np.sqrt(np.mean(np.square(weight))), bias


def unexplained(rows: Array, images: Array) -> float:
    span, _ = np.linalg.qr(np.hstack([images, np.ones((len(images), 1))]).T)
    rest = rows - rows @ span @ span.T
    return float(np.linalg.norm(rest) / max(float(np.linalg.norm(rows)), 1e-300))
