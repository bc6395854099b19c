"""How many images of each class a gradient averages, read from the last layer's bias."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import ClassVar

import torch
from torch import Tensor, nn

from fl_privacy.attacks.base import ATTACKS, Attack, Capabilities, check_ranges
from fl_privacy.attacks.gradient.matching import adversary_copy, gradient_unit, observed_gradient
from fl_privacy.attacks.gradient.released import rescales
from fl_privacy.attacks.inversion.priors import power_law
from fl_privacy.observation import ChannelName, Observation, Reconstruction
from fl_privacy.seeding import seeded, stream


@dataclass(frozen=True)
class Head:
    """The layer that gives the logits, at the adversary's own images: `logits` (N, C), `features` (N, F), float64."""

    name: str
    logits: Tensor
    features: Tensor

    @property
    def probabilities(self) -> Tensor:
        """Their mean, (C,)."""
        return self.logits.softmax(1).mean(0)


@ATTACKS.register("label_counts")
@dataclass(frozen=True)
class LabelCounts(Attack):
    """The labels of a batch, from the gradient of the last linear layer's bias; no images.

    dL/db = mean(p - y). Of one image the label is the only negative entry. Of B images n_c = B (mean p_c - dL/db_c),
    with mean p from public images, or from `images` draws of a power-law prior where there are none, rounded to whole
    counts that add up to B. Without a bias dL/dW = mean((p - y) h^T) takes its place, along the mean features of the
    same images. Where a known defence scales what is released, the scale that leaves the least misfit is taken.

    The loss is the misfit |dL/db - (mean p - n / B)| relative to |dL/db|. Labels come sorted.

    Source: Zhao et al. 2020, iDLG (arXiv 2001.02610), for one image; Wainakh et al. 2022, LLG (arXiv 2105.09369), and
    Geng et al. 2022 (arXiv 2110.09074), for batches.
    """

    channels: ClassVar[frozenset[ChannelName]] = frozenset({ChannelName.GRADIENT, ChannelName.UPDATE})
    needs: ClassVar[frozenset[str]] = frozenset({"model"})
    capabilities: ClassVar[Capabilities] = Capabilities(images=False, labels=True)

    images: int = 256

    def __post_init__(self) -> None:
        check_ranges(self, at_least_one=("images",))

    def reconstruct(self, seen: Sequence[Observation], rng: torch.Generator) -> list[Reconstruction]:
        """The labels of every observation; the adversary's images pass each model once.

        Raises:
            ValueError: the logits are not the output of a trained linear layer.
        """
        guesses: list[Reconstruction] = []
        for _, group in groupby(seen, key=lambda o: (id(o.model), o.spec, id(o.public))):
            victims, start = list(group), time.perf_counter()
            head = self._head(victims[0])
            found = [_labels(head, each) for each in victims]
            seconds = (time.perf_counter() - start) / len(victims)
            guesses += [Reconstruction(labels=y, loss=loss, iterations=1, seconds=seconds) for y, loss in found]
        return guesses

    def loss(self, seen: Observation, inputs: Tensor, labels: Tensor) -> float:
        """The misfit of the counts of labels (B,) int64, relative to the bias's gradient; images play no part in it."""
        head = self._head(seen)
        counts = torch.bincount(labels.cpu(), minlength=seen.spec.classes).double()
        slope = _bias_gradient(head, seen)
        toward = head.probabilities - counts / len(labels)
        scale = float(slope @ toward / toward.square().sum().clamp_min(1e-30)) if rescales(seen) else 1.0
        return _relative(slope - scale * toward, slope)

    def _head(self, seen: Observation) -> Head:
        images = power_law(seen.spec.image_shape).images(
            torch.randn(self.images, _size(seen), generator=stream(0, "label_counts"))
        )
        own = seen.public.inputs if seen.public is not None and len(seen.public) > 1 else images.clamp(0, 1)
        return read_at(seen, own)


def read_at(seen: Observation, images: Tensor, block: int = 256) -> Head:
    """The head of the observed model at images (N, C, H, W), in blocks; the last layer is found by what it gives.

    Raises:
        ValueError: the logits are not the output of a linear layer whose weight is in the payload.
    """
    assert seen.model is not None
    model = adversary_copy(seen.model, seen.spec.training_mode)
    calls: list[tuple[str, Tensor, Tensor]] = []
    hooks = [
        module.register_forward_hook(partial(_called, calls, name))
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and f"{name}.weight" in seen.payload
    ]
    device = next(model.parameters()).device
    names, given, taken = set[str](), [], []
    with torch.no_grad(), seeded(0, "attack", "forward"):
        for part in torch.split(images, block):
            calls.clear()
            logits = model(part.to(device))
            own = [call for call in calls if call[2].data_ptr() == logits.data_ptr() and call[2].dim() == 2]
            if not own:
                raise ValueError(
                    "the logits are not the output of a trained linear layer, whose bias would tell the labels: let "
                    "the model end in nn.Linear, or use an attack that finds labels by optimisation, such as 'grnn'"
                )
            names.add(own[-1][0])
            given.append(logits.double().cpu())
            taken.append(own[-1][1].double().cpu())
    for hook in hooks:
        hook.remove()
    return Head(names.pop(), torch.cat(given), torch.cat(taken))


def _called(
    calls: list[tuple[str, Tensor, Tensor]], name: str, module: nn.Module, taken: tuple[Tensor, ...], given: Tensor
) -> None:
    calls.append((name, taken[0], given))


def whole_counts(expected: Tensor, total: int) -> Tensor:
    """The whole numbers (C,) of at least 0 with sum `total` that are nearest to `expected` (C,).

    One at a time to the class that lacks most: for a sum of squares under such a constraint that is optimal.
    """
    counts = torch.zeros_like(expected)
    for _ in range(total):
        counts[int((expected - counts).argmax())] += 1
    return counts


SCALES = torch.logspace(0, -4, 400, dtype=torch.float64)


def _labels(head: Head, seen: Observation) -> tuple[Tensor, float]:
    slope, batch = _bias_gradient(head, seen), seen.spec.batch_size
    if batch == 1:
        label = slope.argmin()
        misfit = _relative(slope - (head.probabilities - nn.functional.one_hot(label, len(slope))), slope)
        return label.view(1), misfit
    best = None
    for scale in SCALES.tolist() if rescales(seen) else [1.0]:
        counts = whole_counts(batch * (head.probabilities - slope / scale), batch)
        misfit = _relative(slope - scale * (head.probabilities - counts / batch), slope)
        best = min(best, (misfit, counts), key=lambda pair: pair[0]) if best else (misfit, counts)
    assert best is not None
    return torch.repeat_interleave(torch.arange(len(slope)), best[1].long()), best[0]


def _bias_gradient(head: Head, seen: Observation) -> Tensor:
    """dL/db (C,), or what stands for it without a bias: dL/dW along the mean features."""
    observed_gradient(seen)  # for its checks
    unit, bias = gradient_unit(seen), seen.payload.get(f"{head.name}.bias")
    if bias is not None:
        return bias.double().cpu() / unit
    mean = head.features.mean(0)
    along = mean / mean.square().sum().clamp_min(1e-30)
    return seen.payload[f"{head.name}.weight"].double().cpu() @ along / unit


def _relative(difference: Tensor, whole: Tensor) -> float:
    return float(difference.norm() / whole.norm().clamp_min(1e-30))


def _size(seen: Observation) -> int:
    channels, height, width = seen.spec.image_shape
    return channels * height * width
