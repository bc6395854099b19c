"""Best: what a determined attacker does, every attack that applies, and the guess that explains best what was seen."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import ClassVar, Literal, Self, get_args

import torch
from torch import Tensor

from fl_privacy.attacks.base import ATTACKS, Attack, Capabilities, check_ranges
from fl_privacy.attacks.gradient.closed_form import LinearLayer
from fl_privacy.attacks.gradient.grnn import GRNN
from fl_privacy.attacks.gradient.known_noise import has_likelihood, noise_deviation
from fl_privacy.attacks.gradient.label_recovery import LabelCounts, read_at
from fl_privacy.attacks.gradient.learned import LearnedInversion
from fl_privacy.attacks.gradient.low_rank import LowRank
from fl_privacy.attacks.gradient.map import MaximumAPosteriori
from fl_privacy.attacks.gradient.matching import gradient_unit
from fl_privacy.attacks.gradient.optimise import of_one_model
from fl_privacy.attacks.gradient.peeling import Peeling
from fl_privacy.attacks.gradient.rehearsal import held_back, rehearse, without_held_back
from fl_privacy.attacks.gradient.simulated import relative_mismatch
from fl_privacy.attacks.gradient.spear import Spear
from fl_privacy.observation import ChannelName, Observation, Reconstruction

Member = Literal["label_counts", "linear_layer", "peeling", "spear", "low_rank", "map", "learned", "grnn"]
EXACT: tuple[Member, ...] = ("linear_layer", "peeling", "spear", "low_rank")
SOLVED = 1e-4
"""The relative mismatch ||g(x) - g|| / ||g|| below which an undefended message is solved, and nothing dearer is tried.

Attacks that optimise stop at 1e-3 (`likelihood.UNKNOWN`).
"""


@ATTACKS.register("best")
@dataclass(frozen=True)
class Best(Attack):
    """Every attack of `members` that applies, cheapest and exact first; message by message the best guess is kept.

    All guesses are judged by one objective, minus the log posterior of `map` under the known law of the defence, with
    the prior that the adversary's own images allow: 'public_by_class' where they have labels, 'public' where they have
    none, 'power_law' where there are no images. `map` searches with the same prior. `spear` and `low_rank` are tried on
    batches of two or more, `grnn` for `grnn_iterations` (0 leaves it out) where there is no known noise, which is for
    `map`. A member that refuses a message is passed over; once an exact one has solved a message without a known
    defence, those after it are not tried. Where none has images, the labels of `label_counts` are the guess.

    Signs, pruning and rounding to a grid have no such law, and how well a guess explains them says little of it. There
    an attacker with public images rehearses: of the last of them it makes four messages, which go through the clients'
    chain, and the member that errs least on those reads all messages. `learned`, trained on messages of
    `learned_examples` of its other images (0 leaves it out), is among them. The loss is then the relative mismatch of
    the guess's own release from what was seen, and `trace` has the members' mean squared errors in rehearsal.

    Otherwise the loss is that objective in nats, up to a constant; of `map` with public images that of the guess before
    its pixels are cut to [0, 1]. `trace` has it for the members' guesses in the order in which they were made, and
    `winner` the member whose guess it is.

    Source: ours.
    """

    channels: ClassVar[frozenset[ChannelName]] = frozenset({ChannelName.GRADIENT, ChannelName.UPDATE})
    needs: ClassVar[frozenset[str]] = frozenset({"model"})
    capabilities: ClassVar[Capabilities] = Capabilities(labels=True, stochastic=True)
    # set on the copy that `prepare` returns; not a field, because it is no setting
    fitted: ClassVar[MaximumAPosteriori | None] = None
    trained: ClassVar[LearnedInversion | None] = None
    rehearsed: ClassVar[tuple[tuple[Observation, dict[Member, float]], ...]] = ()

    members: tuple[Member, ...] = get_args(Member)
    grnn_iterations: int = 300
    learned_examples: int = 3000

    def __post_init__(self) -> None:
        check_ranges(self, not_negative=("grnn_iterations", "learned_examples"))
        unknown = sorted(set(self.members) - set(get_args(Member)))
        if unknown or not self.members:
            known = ", ".join(get_args(Member))
            raise ValueError(f"members must be one or more of {known}, not {', '.join(unknown) or 'none'}")

    def prepare(self, seen: Sequence[Observation], rng: torch.Generator) -> Self:
        """Fit the prior to the attacker's own images, and train `learned` on them, once for all observations."""
        if not seen:
            return self
        self._check(seen[0])
        fitted = copy.copy(self)
        lawless = [group for group in _of_one_law(seen) if _rehearses(group[0])]
        own = [without_held_back(each) for group in lawless for each in group]
        first = without_held_back(seen[0]) if lawless and lawless[0][0] is seen[0] else seen[0]
        object.__setattr__(fitted, "fitted", self._map(first))
        if self._learns(own):
            learned = LearnedInversion(examples=self.learned_examples)
            object.__setattr__(fitted, "trained", learned.prepare(own, rng))
        object.__setattr__(fitted, "rehearsed", tuple((each[0], fitted._rehearse(each[0], rng)) for each in lawless))
        return fitted

    def reconstruct(self, seen: Sequence[Observation], rng: torch.Generator) -> list[Reconstruction]:
        """Try every member on the observations, those of one model object together.

        Raises:
            ValueError: every member refuses an observation, each for its own reason.
        """
        guesses: list[Reconstruction] = []
        for victims in _of_one_law(seen):
            guesses += (self._as_rehearsed if _rehearses(victims[0]) else self._try_all)(victims, rng)
        return guesses

    def loss(self, seen: Observation, inputs: Tensor, labels: Tensor) -> float:
        """The common objective at images (N, C, H, W) and labels (N,), the same for the guesses of all members."""
        if _rehearses(seen):
            return relative_mismatch(seen, inputs, labels)
        return self._map(seen).loss(seen, inputs, labels)

    def _map(self, seen: Observation) -> MaximumAPosteriori:
        """MAP with the prior that is granted, fitted: a member, and by its loss the judge of all."""
        if self.fitted is not None:
            return self.fitted
        if seen.public is None:
            prior = MaximumAPosteriori()
        else:
            prior = MaximumAPosteriori(prior="public" if seen.public.labels is None else "public_by_class")
        return prior.prepare([seen], torch.Generator())

    def _learns(self, seen: Sequence[Observation]) -> bool:
        return "learned" in self.members and self.learned_examples > 0 and len(seen) > 0

    def _rehearse(self, seen: Observation, rng: torch.Generator) -> dict[Member, float]:
        """What every member that can be tried errs by on the attacker's own images."""
        judge = self._map(without_held_back(seen))
        tried = {name: self._member(name, judge, seen) for name in get_args(Member) if name in self.members}
        return rehearse(seen, {name: attack for name, attack in tried.items() if attack is not None}, rng)

    def _as_rehearsed(self, seen: list[Observation], rng: torch.Generator) -> list[Reconstruction]:
        """The guesses of the member that did best in rehearsal.

        Raises:
            ValueError: no member had images.
        """
        ready = self if any(_alike(each, seen[0]) for each, _ in self.rehearsed) else self.prepare(seen, rng)
        errors = next(errors for each, errors in ready.rehearsed if _alike(each, seen[0]))
        name = min(errors, key=lambda each: errors[each])
        known = [without_held_back(each) for each in seen]
        attack = ready._member(name, ready._map(known[0]), seen[0]) if errors[name] < float("inf") else None
        if attack is None:
            raise ValueError(f"no member of 'best' has images of messages like these; tried: {', '.join(errors)}")
        guesses = attack(known, rng)
        return [_rehearsed(name, each, guess, errors) for each, guess in zip(seen, guesses, strict=True)]

    def _try_all(self, seen: list[Observation], rng: torch.Generator) -> list[Reconstruction]:
        judge = self._map(seen[0])
        found: list[list[Reconstruction]] = [[] for _ in seen]
        refusals: list[str] = []
        open_ones = list(range(len(seen)))
        for name in (each for each in get_args(Member) if each in self.members):
            attack = self._member(name, judge, seen[0])
            if attack is None or not open_ones:
                continue
            start = time.perf_counter()
            try:
                guesses = attack([seen[victim] for victim in open_ones], rng)
            except ValueError as refusal:
                refusals.append(f"{name}: {refusal}")
                continue
            for victim, guess in zip(open_ones, guesses, strict=True):
                found[victim].append(_judged(judge, name, seen[victim], guess))
            spent = (time.perf_counter() - start) / len(open_ones)
            for victim in open_ones:
                found[victim][-1] = replace(found[victim][-1], seconds=spent)
            if name in EXACT:
                open_ones = [victim for victim in open_ones if not _solved(seen[victim], found[victim][-1])]
        if not all(found):
            why = " ".join(refusals) or f"Name more 'members' than {', '.join(self.members)}, or allow grnn iterations."
            raise ValueError(f"no member of 'best' can read this message. {why}")
        return [_lowest(each) for each in found]

    def _member(self, name: Member, judge: MaximumAPosteriori, seen: Observation) -> Attack | None:
        """The attack called `name`; None where it is left out."""
        if name in ("spear", "low_rank") and seen.spec.batch_size == 1:
            return None
        if name == "grnn":
            # Under noise the posterior hardly tells GRNN's from what MAP finds once it has learned the victims' own
            # prior, which the judge has not: GRNN would win now and then with an image that is 1 to 3 dB worse.
            beaten = "map" in self.members and noise_deviation(seen) is not None
            return GRNN(iterations=self.grnn_iterations) if self.grnn_iterations and not beaten else None
        if name == "map":
            return judge
        if name == "learned":
            return self.trained
        exact: dict[str, Attack] = {
            "label_counts": LabelCounts(),
            "linear_layer": LinearLayer(),
            "peeling": Peeling(),
            "spear": Spear(),
            "low_rank": LowRank(),
        }
        return exact[name]


def _judged(judge: MaximumAPosteriori, name: str, seen: Observation, guess: Reconstruction) -> Reconstruction:
    """A member's guess with labels and the common loss, infinite where it has no images or its loss is no number."""
    if guess.inputs is None:
        return replace(guess, loss=float("inf"), winner=name)
    labels = guess.labels if guess.labels is not None else _labels_of(seen, guess.inputs)
    if labels is None:
        return replace(guess, loss=float("inf"), winner=name)
    loss = judge.loss(seen, guess.inputs, labels)
    if name == "map" and judge.prior != "power_law":
        # The same objective before the pixels are cut: a cut leaves the few directions that public images have, and a
        # sharp prior would take that for an error of the guess. A power law was changed by learning.
        loss = min(loss, guess.loss)
    return replace(guess, labels=labels, loss=loss if loss == loss else float("inf"), winner=name)


def _of_one_law(seen: Sequence[Observation]) -> Iterator[list[Observation]]:
    """Neighbours of one model, protocol, defence and device, to an attacker with the same images."""
    for group in of_one_model(seen):
        for _, alike in groupby(group, key=lambda each: id(each.public)):
            yield list(alike)


def _rehearses(seen: Observation) -> bool:
    """Whether members are tried on messages of the attacker's own: it has images, and no law to judge guesses by."""
    return held_back(seen) > 0 and not has_likelihood(seen)


def _alike(one: Observation, other: Observation) -> bool:
    return one.model is other.model and (one.spec, one.defence) == (other.spec, other.defence)


def _rehearsed(
    name: Member, seen: Observation, guess: Reconstruction, errors: Mapping[Member, float]
) -> Reconstruction:
    """The chosen member's guess, with labels and its mismatch as loss; the trace has what each member erred by."""
    labels, loss = guess.labels, float("nan")
    if guess.inputs is not None:
        labels = _labels_of(seen, guess.inputs) if labels is None else labels
        loss = float("nan") if labels is None else relative_mismatch(seen, guess.inputs, labels)
    found = torch.tensor([error for error in errors.values() if error < float("inf")])
    return replace(guess, labels=labels, loss=loss, trace=found, iterations=len(found), winner=name)


def _labels_of(seen: Observation, images: Tensor) -> Tensor | None:
    """The labels (B,) of images (B, C, H, W), from the head's gradient; None where the model has no linear head.

    dL/dW = mean((p - y) h^T): with the features h known, each image's p - y follows up to a common factor, and is
    negative at its label alone.
    """
    try:
        head = read_at(seen, images.to(next(iter(seen.payload.values()))))
    except ValueError:
        return None
    slope = seen.payload[f"{head.name}.weight"].double().cpu() / gradient_unit(seen)
    negative: Tensor = (slope @ torch.linalg.pinv(head.features)).argmin(0)
    return negative


def _solved(seen: Observation, guess: Reconstruction) -> bool:
    if seen.defence or guess.inputs is None or guess.labels is None:
        return False
    return relative_mismatch(seen, guess.inputs, guess.labels) < SOLVED


def _lowest(guesses: list[Reconstruction]) -> Reconstruction:
    """The guess with the lowest loss, the earliest of equals; the labels of another where it has none."""
    best = min(guesses, key=lambda guess: guess.loss)
    read = [guess.loss for guess in guesses if guess.inputs is not None]
    return replace(
        best,
        loss=best.loss if best.inputs is not None else float("nan"),
        trace=torch.tensor(read),
        iterations=len(guesses),
        seconds=sum(guess.seconds for guess in guesses),
    )
