"""Attacks that recover no images, or no labels, or nothing: what they declare is checked, and every stage copes."""

import json
import math
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from rich.console import Console

from fl_privacy.attacks import ATTACKS, Attack
from fl_privacy.attacks.base import Capabilities
from fl_privacy.evaluation import Truth, align, evaluate, score
from fl_privacy.observation import ChannelName, Reconstruction
from fl_privacy.seeding import stream
from fl_privacy.simulations.config.load import configure
from fl_privacy.simulations.results.records import Key
from fl_privacy.simulations.results.storage import guess_digest, load_guesses, save_guess
from fl_privacy.simulations.run.pipeline import simulate
from fl_privacy.testing import check_attack, observations


@dataclass(frozen=True)
class LabelsAlone(Attack):
    """Guesses the label whose bias has the least slope, for every example, and no image."""

    channels = frozenset({ChannelName.GRADIENT})
    capabilities: ClassVar[Capabilities] = Capabilities(images=False, labels=True)

    def reconstruct(self, seen, rng):
        return [Reconstruction(labels=self.labels(each)) for each in seen]

    def labels(self, observation):
        bias = list(observation.payload.values())[-1]
        return bias.argmin().expand(observation.spec.batch_size).clone()


@dataclass(frozen=True)
class SometimesAnImage(Attack):
    """A grey batch for the first observation of a call, nothing for the others; a bound beside it."""

    channels = frozenset({ChannelName.GRADIENT})

    def reconstruct(self, seen, rng):
        grey = [torch.full((each.spec.batch_size, *each.spec.image_shape), 0.5) for each in seen]
        first = Reconstruction(inputs=grey[0], bound=torch.full((len(grey[0]),), 0.1))
        return [first, *(Reconstruction() for _ in seen[1:])]


@dataclass(frozen=True)
class OneAtATime(LabelsAlone):
    """Reads messages of one example."""

    capabilities: ClassVar[Capabilities] = Capabilities(images=False, labels=True, largest_batch=1)


@dataclass(frozen=True)
class SaysTooLittle(LabelsAlone):
    """Returns labels and declares none."""

    capabilities: ClassVar[Capabilities] = Capabilities()


@dataclass(frozen=True)
class SaysTooMuch(LabelsAlone):
    """Declares images and returns none."""

    capabilities: ClassVar[Capabilities] = Capabilities(images=True, labels=True)


@dataclass(frozen=True)
class NeverDraws(LabelsAlone):
    """Declares that it draws, and does not."""

    capabilities: ClassVar[Capabilities] = Capabilities(images=False, labels=True, stochastic=True)


@dataclass(frozen=True)
class DrawsInSecret(LabelsAlone):
    """Draws, and does not declare it."""

    def reconstruct(self, seen, rng):
        return [Reconstruction(labels=torch.randint(10, (each.spec.batch_size,), generator=rng)) for each in seen]


@dataclass(frozen=True)
class NoSuchLabel(LabelsAlone):
    """Returns a label that the task has not."""

    def labels(self, observation):
        return torch.full((observation.spec.batch_size,), observation.spec.classes)


@pytest.mark.parametrize("attack", [LabelsAlone, SometimesAnImage, OneAtATime])
def test_what_is_declared_passes(attack):
    check_attack(attack)


@pytest.mark.parametrize(
    ("attack", "error", "words"),
    [
        (SaysTooLittle, RuntimeError, "declare labels=True"),
        (SaysTooMuch, AssertionError, "recovers no images of any message"),
        (NeverDraws, AssertionError, "the same guess for every seed"),
        (DrawsInSecret, AssertionError, "declare stochastic=True"),
        (NoSuchLabel, RuntimeError, "labels outside 0 to 9"),
    ],
)
def test_what_is_declared_and_untrue_is_told(attack, error, words):
    with pytest.raises(error, match=words):
        check_attack(attack)


def test_a_batch_that_an_attack_cannot_tell_apart_is_refused():
    with pytest.raises(ValueError, match="at most 1 example, and this one averages 2"):
        OneAtATime()(observations(ChannelName.GRADIENT, batch=2), stream(0))


def test_every_attack_declares_what_it_can():
    for name in ATTACKS:
        assert isinstance(ATTACKS[name].capabilities, Capabilities)
        assert ATTACKS[name].capabilities.images or ATTACKS[name].capabilities.labels


def test_labels_without_images_are_put_where_most_are_right():
    truth = Truth(torch.rand(4, 1, 4, 4), torch.tensor([3, 1, 1, 2]))
    guess = Reconstruction(labels=torch.tensor([1, 2, 0, 3]))
    matched = align(guess, truth).labels
    assert (matched == truth.labels).tolist().count(True) == 3
    assert sorted(matched.tolist()) == [0, 1, 2, 3]
    assert matched[0] == 3
    assert matched[3] == 2
    nothing = Reconstruction()
    assert align(nothing, truth) is nothing


def test_images_and_their_bounds_are_put_in_one_order():
    truth = Truth(torch.rand(4, 1, 4, 4, generator=stream(0)), torch.arange(4))
    index = torch.tensor([2, 0, 3, 1])
    guess = Reconstruction(inputs=truth.inputs[index], bound=torch.arange(4.0)[index])
    assert torch.equal(align(guess, truth).bound, torch.arange(4.0))


def test_the_score_of_nothing_is_no_number():
    (seen,) = observations(ChannelName.GRADIENT, count=1)
    truth = Truth(torch.rand(2, 1, 16, 16), torch.tensor([4, 4]))
    nothing = score(SometimesAnImage(), seen, Reconstruction(), truth)
    assert all(bool(values.isnan().all()) and len(values) == 2 for values in nothing.images.values())
    assert math.isnan(nothing.label_accuracy)
    (labels,) = evaluate(LabelsAlone(), [seen], [truth], seed=0)
    assert 0 <= labels.label_accuracy <= 1
    assert bool(labels.images["psnr"].isnan().all())


@pytest.mark.parametrize(
    "guess",
    [
        Reconstruction(),
        Reconstruction(labels=torch.tensor([1, 2])),
        Reconstruction(inputs=torch.rand(2, 1, 4, 4), bound=torch.tensor([0.1, 0.2])),
    ],
)
def test_what_was_not_recovered_is_kept_as_such(tmp_path, guess):
    save_guess(tmp_path, Key(0, 1, 2), guess)
    loaded = load_guesses(tmp_path)[Key(0, 1, 2)]
    for name in ("inputs", "labels", "bound"):
        was, now = getattr(guess, name), getattr(loaded, name)
        assert (was is None) == (now is None)
        assert was is None or torch.equal(was, now)
    assert guess_digest(loaded) == guess_digest(guess)
    assert guess_digest(guess) != guess_digest(replace(guess, labels=torch.tensor([0, 2])))


def test_a_run_says_what_was_not_recovered(tmp_path):
    result = simulate(
        configure(
            name="tiny",
            dataset={"name": "digits", "size": 16},
            attacks=({"name": f"{__name__}:LabelsAlone"}, {"name": f"{__name__}:SometimesAnImage"}),
            training_defences=([], [{"name": "gaussian_noise", "scale": 0.1}], [{"name": "clip", "norm": 0.1}]),
            clients=2,
            clients_per_round=2,
            attacked_clients=2,
            batch_size=2,
            show_originals=True,
        ),
        out=tmp_path / "run",
        backend="local",
        note=str,
    )
    by = {(row["attack"].rpartition(":")[2], row["defence"]): row for row in result.summary}
    labels, partly = by["LabelsAlone", "none"], by["SometimesAnImage", "none"]
    assert (labels["images"], labels["recovered"], labels["psnr"], labels["psnr_low"]) == (4, 0, None, None)
    assert 0 <= labels["label_accuracy"] <= 1
    assert (partly["images"], partly["recovered"]) == (4, 2)
    assert 0 < partly["psnr"] < 30
    rows = [row for row in result.samples if row["attack"].endswith("LabelsAlone")]
    assert all(row["psnr"] is None and row["label_correct"] in (True, False) for row in rows)
    console = Console(width=200, record=True)
    console.print(result.table())
    text = console.export_text()
    assert text.count("not recovered") == 3
    assert result.figures
    json.loads((result.folder / "results.json").read_text())
