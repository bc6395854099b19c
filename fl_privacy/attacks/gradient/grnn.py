"""GRNN: a generator with a fixed latent, trained until its images and labels give the gradient that was seen."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fl_privacy.attacks.base import ATTACKS, Attack, Capabilities, check_ranges
from fl_privacy.attacks.gradient.dropout import read_masks
from fl_privacy.attacks.gradient.grnn_generator import GrnnGenerator
from fl_privacy.attacks.gradient.matching import (
    Matcher,
    adversary_copy,
    defended,
    gradient_matcher,
    observed_gradient,
    published_cross_entropy,
    soft_cross_entropy,
    total_variation,
)
from fl_privacy.attacks.gradient.restarts import IterateTracker, merge_restarts
from fl_privacy.observation import ChannelName, Observation, Reconstruction


@ATTACKS.register("grnn")
@dataclass(frozen=True)
class GRNN(Attack):
    """Gradient inversion by a generator; the defaults are ours, `grnn_as_published` has the paper's.

    `objective` 'log': log ||dg||^2 / 2 + tv TV, whose pull does not fade as the match improves; 'published':
    ||dg||^2 + ||dg|| + tv TV. `keep`: 'best' iterate by the attack's own loss, or the published 'snapshot' (the last
    multiple of iterations // 30). `patience`: stop once no best loss has improved by 0.001 for so many iterations; 0
    never stops early. `tv_defended` replaces `tv` where a defence is known to be there, and the guess's gradient then
    goes through whatever of that defence is certain (a clip) before it is compared. `restarts` independent generators
    are joined by how well they match (`selection.joined`), unless the best of them alone has the lower loss; the loss
    reported is that of the guess. A victim whose loss turns NaN or infinite keeps its best iterate. Victims of one call
    have generators of their own, drawn from one stream, and stop together: a guess repeats bit for bit in the same
    call, does not feel what the others' gradients are, but starts elsewhere where there are more or fewer of them.

    Works on gradients, and on the update of a single plain SGD step (payload = new - old weights). Of a batch of one
    the dropout masks are read from the gradient (`dropout.read_masks`); otherwise dropout counts as its mean.

    Source: Ren, Deng and Xie 2022 (ACM TIST 13(4)), section 3 and algorithm 1.
    """

    channels: ClassVar[frozenset[ChannelName]] = frozenset({ChannelName.GRADIENT, ChannelName.UPDATE})
    needs: ClassVar[frozenset[str]] = frozenset({"model"})
    capabilities: ClassVar[Capabilities] = Capabilities(labels=True, stochastic=True)

    iterations: int = 1000
    restarts: int = 3
    learning_rate: float = 3e-2
    tv: float = 10.0
    tv_defended: float = 1.0
    latent: int = 32
    width: int = 16
    optimiser: Literal["adam", "rmsprop"] = "adam"
    schedule: Literal["cosine", "constant"] = "cosine"
    objective: Literal["log", "published"] = "log"
    keep: Literal["best", "snapshot"] = "best"
    stable: bool = True
    patience: int = 300

    def __post_init__(self) -> None:
        check_ranges(
            self,
            at_least_one=("iterations", "restarts", "latent", "width"),
            above_zero=("learning_rate",),
            not_negative=("tv", "tv_defended", "patience"),
        )

    def reconstruct(self, seen: Sequence[Observation], rng: torch.Generator) -> list[Reconstruction]:
        """Invert the observations, those of one model object together."""
        guesses: list[Reconstruction] = []
        for _, group in groupby(
            seen, key=lambda o: (id(o.model), o.spec, o.defence, next(iter(o.payload.values())).device)
        ):
            guesses += self._invert(list(group), rng)
        return guesses

    def loss(self, seen: Observation, inputs: Tensor, labels: Tensor) -> float:
        """The objective at images (N, C, H, W) in [0, 1] and labels (N,) int64."""
        target = observed_gradient(seen).unsqueeze(0)
        match = self._matcher([seen])
        targets = F.one_hot(labels, seen.spec.classes).to(target).unsqueeze(0)
        images = inputs.to(target).unsqueeze(0)
        return float(self._objective(seen, match(images, targets).detach() - target, images))

    def _matcher(self, seen: Sequence[Observation], restarts: int = 1) -> Matcher:
        """For the victims `seen`, all of them once a restart."""
        first = seen[0]
        assert first.model is not None
        model = adversary_copy(first.model, first.spec.training_mode)
        model.to(next(iter(first.payload.values())).device)
        masks = {name: torch.cat([mask] * restarts) for name, mask in read_masks(model, seen).items()}
        cross_entropy = soft_cross_entropy if self.stable else published_cross_entropy
        match = gradient_matcher(model, len(seen) * restarts, cross_entropy, masks)
        return defended(match, first) if first.defence else match

    def _objective(self, seen: Observation, difference: Tensor, images: Tensor) -> Tensor:
        squared = difference.square().sum(1)
        prior = (self.tv_defended if seen.defence else self.tv) * total_variation(images)
        if self.objective == "log":
            return 0.5 * (squared + 1e-12).log() + prior
        return squared + squared.sqrt() + prior

    def _invert(self, seen: list[Observation], rng: torch.Generator) -> list[Reconstruction]:
        start = time.perf_counter()
        victims, spec = len(seen), seen[0].spec
        targets = torch.stack([observed_gradient(observation) for observation in seen])
        repeated = targets.repeat(self.restarts, 1)
        generator = GrnnGenerator(
            spec.image_shape, spec.classes, len(repeated), spec.batch_size, self.latent, self.width, rng
        )
        generator.to(targets.device)
        match = self._matcher(seen, self.restarts)
        step = self._stepper(generator)
        every = max(1, self.iterations // 30) if self.keep == "snapshot" else 0
        tracker = IterateTracker(victims * self.restarts, every, self.patience, 1e-3)
        for iteration in range(self.iterations):
            images, logits = generator()
            losses = self._objective(seen[0], match(images, logits.softmax(-1)) - repeated, images)
            tracker.see(losses.detach(), images.detach(), logits.detach())
            alive = torch.isfinite(losses)
            if tracker.done() or not bool(alive.any()):
                break
            step(iteration, losses[alive].sum())
        seconds = (time.perf_counter() - start) / victims
        return [self._guess(tracker, seen, victim, seconds) for victim in range(victims)]

    def _guess(self, tracker: IterateTracker, seen: list[Observation], victim: int, seconds: float) -> Reconstruction:
        mine = slice(victim, None, len(seen))
        losses, images, logits = tracker.losses[mine], tracker.images[mine], tracker.logits[mine]
        loss, image, label = float(losses[0]), images[0], logits[0]
        if self.restarts > 1:
            best = int(losses.argmin())
            together = merge_restarts(images, logits, losses if self.objective == "log" else losses.log())
            own, alone = (self._own_loss(seen[victim], *each) for each in (together, (images[best], logits[best])))
            joining = own <= alone or not math.isfinite(alone)
            image, label = together if joining else (images[best], logits[best])
            loss = own if joining else alone
        return Reconstruction(
            inputs=image.clamp(0, 1).cpu(),
            labels=label.argmax(-1).cpu(),
            loss=loss,
            trace=torch.stack(tracker.trace)[:, mine].min(1).values.cpu(),
            iterations=len(tracker.trace),
            seconds=seconds,
        )

    def _own_loss(self, seen: Observation, image: Tensor, label: Tensor) -> float:
        """The objective at images (B, C, H, W) and label logits (B, classes)."""
        gradient = self._matcher([seen])(image.unsqueeze(0), label.softmax(-1).unsqueeze(0)).detach()
        return float(self._objective(seen, gradient - observed_gradient(seen), image.unsqueeze(0)))

    def _stepper(self, generator: nn.Module) -> Callable[[int, Tensor], None]:
        parameters = list(generator.parameters())
        optimiser: torch.optim.Optimizer
        if self.optimiser == "adam":
            optimiser = torch.optim.Adam(parameters, lr=self.learning_rate, betas=(0.9, 0.99), fused=True)
        else:
            optimiser = torch.optim.RMSprop(parameters, lr=self.learning_rate, momentum=0.99)

        def step(iteration: int, loss: Tensor) -> None:
            for group in optimiser.param_groups:
                group["lr"] = self.learning_rate * self._rate(iteration)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            for parameter in parameters:
                if parameter.grad is not None:
                    parameter.grad.nan_to_num_(0.0, 0.0, 0.0)
            optimiser.step()

        return step

    def _rate(self, iteration: int) -> float:
        if self.schedule == "constant":
            return 1.0
        cosine = 0.5 * (1 + math.cos(math.pi * iteration / self.iterations))
        return max(min(cosine, (iteration + 1) / 20), 1e-3)


@ATTACKS.register("grnn_as_published")
@dataclass(frozen=True)
class GRNNAsPublished(GRNN):
    """GRNN with every choice of its authors' code, faults included: RMSprop, log(softmax), and of 1,000 iterations the
    image of number 990 with the labels of number 999. The loss reported is that of iteration 990.

    `tv` is 1e-3 for a LeNet and 1e-6 for a ResNet-18. What the code calls a Wasserstein distance is ||dg||.

    Source: Rand2AI/GRNN, GRNN.py.
    """

    restarts: int = 1
    learning_rate: float = 1e-4
    tv: float = 1e-3
    tv_defended: float = 1e-3
    latent: int = 128
    width: int = 32
    optimiser: Literal["adam", "rmsprop"] = "rmsprop"
    schedule: Literal["cosine", "constant"] = "constant"
    objective: Literal["log", "published"] = "published"
    keep: Literal["best", "snapshot"] = "snapshot"
    stable: bool = False
    patience: int = 0
