"""The loop that every optimising gradient attack runs: guesses, their objective, steps, the kept iterate, restarts."""

from __future__ import annotations

import math
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fl_privacy.attacks.base import Attack, Capabilities
from fl_privacy.attacks.gradient.compiled import Evaluated, compiled
from fl_privacy.attacks.gradient.local_steps import matcher_for
from fl_privacy.attacks.gradient.matching import observed_step, soft_cross_entropy
from fl_privacy.attacks.gradient.restarts import IterateTracker
from fl_privacy.attacks.inversion.first_order import Stepper
from fl_privacy.attacks.unfinished import steps
from fl_privacy.checkpoints import State, under
from fl_privacy.observation import ChannelName, Observation, Reconstruction, Tensors
from fl_privacy.settings import PlainTable

Guess = tuple[Tensor, Tensor]
"""Images (B, C, H, W) and label logits (B, classes)."""


def of_one_model(seen: Sequence[Observation]) -> Iterator[list[Observation]]:
    """Neighbours that can be inverted in one call: of one model object, protocol, defence and device."""
    for _, group in groupby(
        seen, key=lambda o: (id(o.model), o.spec, o.defence, next(iter(o.payload.values())).device)
    ):
        yield list(group)


class GradientInversion(Attack):
    """Searches for images whose gradient is the observed one; a subclass says what is searched, by which loss, and how.

    `start` gives the guesses, `misfit` how far they are from a victim's gradient, `stepper` how they move; the rest is
    here. All victims of one model are searched together, each `restarts` times from a start of its own, and stop
    together; a victim whose loss turns NaN or infinite keeps its best iterate. The guess is the best restart by the
    attack's own loss, unless `merged` makes a better one of all. `patience`: stop once no best loss has improved by
    0.001 for so many iterations; 0 never stops early. `compiled`: both derivatives in code that torch compiles first,
    which takes minutes, unless torch has kept it from another run, and gives the same losses up to rounding. A guess's
    gradient goes through whatever is certain of a known defence (a clip) before it is compared.

    Works on gradients, and on the updates of any local training that is known (payload = new - old weights), which is
    simulated. Of a batch of one the dropout masks are read from the gradient (`dropout.read_masks`); otherwise dropout
    counts as its mean.
    """

    channels: ClassVar[frozenset[ChannelName]] = frozenset({ChannelName.GRADIENT, ChannelName.UPDATE})
    needs: ClassVar[frozenset[str]] = frozenset({"model"})
    capabilities: ClassVar[Capabilities] = Capabilities(labels=True, stochastic=True)

    iterations: int
    restarts: int
    patience: int
    compiled: bool

    @abstractmethod
    def start(self, seen: Sequence[Observation], rng: torch.Generator) -> nn.Module:
        """The first guesses: a module that gives images (R V, B, C, H, W) and label logits (R V, B, classes).

        All V victims stand side by side, once a restart; each of the module's parameters has R V as its first
        dimension, and no victim's guess depends on another's.
        """

    @abstractmethod
    def stepper(self, guesses: nn.Module) -> Stepper:
        """What moves the parameters of `guesses` by one iteration."""

    @abstractmethod
    def misfit(self, seen: Observation, gradients: Tensor, targets: Tensor, images: Tensor) -> Tensor:
        """How far guesses are from what was seen, prior included: gradients and targets (V, P), images, to (V,)."""

    def merged(self, images: Tensor, logits: Tensor, losses: Tensor) -> Guess | None:
        """One guess from all restarts (R, B, ...) of a victim with their losses (R,); None: the best alone counts."""
        return None

    def cross_entropy(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The loss that the attack believes the clients to minimise, logits and targets (B, classes), to a scalar."""
        return soft_cross_entropy(logits, targets)

    @property
    def snapshot_every(self) -> int:
        """0 keeps the best iterate, k > 0 the latest one whose number k divides."""
        return 0

    def reconstruct(self, seen: Sequence[Observation], rng: torch.Generator) -> list[Reconstruction]:
        """Invert the observations, those of one model object together."""
        return [guess for group in of_one_model(seen) for guess in self._invert(group, rng)]

    def loss(self, seen: Observation, inputs: Tensor, labels: Tensor) -> float:
        """The objective at images (N, C, H, W) in [0, 1] and labels (N,) int64."""
        target = observed_step(seen)
        return self._at(seen, inputs.to(target), F.one_hot(labels, seen.spec.classes).to(target))

    def _at(self, seen: Observation, images: Tensor, targets: Tensor) -> float:
        """The objective at images (B, C, H, W) and label probabilities (B, classes)."""
        match = matcher_for([seen], self.cross_entropy)
        images = images.unsqueeze(0)
        gradients = match(images, targets.unsqueeze(0)).detach()
        return float(self.misfit(seen, gradients, observed_step(seen).unsqueeze(0), images))

    def _invert(self, seen: list[Observation], rng: torch.Generator) -> list[Reconstruction]:
        start = time.perf_counter()
        targets = torch.stack([observed_step(observation) for observation in seen]).repeat(self.restarts, 1)
        guesses = self.start(seen, rng).to(targets.device)
        match = matcher_for(seen, self.cross_entropy, self.restarts)

        def judged(images: Tensor, logits: Tensor) -> Tensor:
            return self.misfit(seen[0], match(images, logits.softmax(-1)), targets, images)

        evaluate = (compiled if self.compiled else _plain)(guesses, judged)
        tracker = IterateTracker(len(targets), self.snapshot_every, self.patience, 1e-3)
        step = self.stepper(guesses)
        search = _Search(guesses, tracker, step, targets.device) if isinstance(step, State) else None
        for iteration in steps(self.iterations, search) if search else range(self.iterations):
            losses, images, logits = evaluate()
            tracker.see(losses.detach(), images.detach(), logits.detach())
            if tracker.done() or not bool(torch.isfinite(losses).any()):
                break
            step(iteration, losses, lambda: evaluate()[0])
        seconds = (time.perf_counter() - start) / len(seen)
        return [self._guess(tracker, seen, victim, seconds) for victim in range(len(seen))]

    def _guess(self, tracker: IterateTracker, seen: list[Observation], victim: int, seconds: float) -> Reconstruction:
        mine = slice(victim, None, len(seen))
        losses, images, logits = tracker.losses[mine], tracker.images[mine], tracker.logits[mine]
        best = int(losses.argmin()) if self.restarts > 1 else 0
        loss, (image, label) = float(losses[best]), (images[best], logits[best])
        together = self.merged(images, logits, losses) if self.restarts > 1 else None
        if together is not None:
            own, alone = (self._at(seen[victim], *_soft(each)) for each in (together, (image, label)))
            joining = own <= alone or not math.isfinite(alone)
            loss, (image, label) = (own, together) if joining else (alone, (image, label))
        inside = image.clamp(0, 1)
        if not torch.equal(inside, image):  # the loss is that of the guess, not of what it was cut from
            loss = self._at(seen[victim], *_soft((inside, label)))
        return Reconstruction(
            inputs=inside.cpu(),
            labels=label.argmax(-1).cpu(),
            loss=loss,
            trace=torch.stack(tracker.trace)[:, mine].min(1).values.cpu(),
            iterations=len(tracker.trace),
            seconds=seconds,
        )


def _plain(guesses: nn.Module, judged: Callable[[Tensor, Tensor], Tensor]) -> Callable[[], Evaluated]:
    def evaluate() -> Evaluated:
        images, logits = guesses()
        return judged(images, logits), images, logits

    return evaluate


@dataclass(frozen=True)
class _Search:
    """Everything that an iteration changes."""

    guesses: nn.Module
    tracker: IterateTracker
    step: State
    device: torch.device

    def take(self) -> tuple[Tensors, PlainTable]:
        (step, of_step), (kept, of_kept) = self.step.take(), self.tracker.take()
        tensors = {f"guesses/{name}": value for name, value in self.guesses.state_dict().items()}
        tensors |= {f"step/{name}": value for name, value in step.items()}
        return tensors | {f"kept/{name}": value for name, value in kept.items()}, {"step": of_step, "kept": of_kept}

    def give(self, tensors: Tensors, facts: PlainTable) -> None:
        self.guesses.load_state_dict(under("guesses/", tensors))
        self.step.give(under("step/", tensors), facts["step"])
        self.tracker.give(under("kept/", tensors), facts["kept"], self.device)


def _soft(guess: Guess) -> Guess:
    return guess[0], guess[1].softmax(-1)
