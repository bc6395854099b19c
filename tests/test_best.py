"""Best: whose guess it keeps, undefended, under noise and behind a clip, and by which measure."""

import dataclasses

import pytest
import torch
from torch import nn

from fl_privacy.attacks.base import Attack
from fl_privacy.attacks.gradient.best import Best
from fl_privacy.attacks.gradient.closed_form import LinearLayer
from fl_privacy.attacks.gradient.known_noise import has_likelihood
from fl_privacy.attacks.gradient.map import MaximumAPosteriori
from fl_privacy.attacks.gradient.peeling import Peeling
from fl_privacy.attacks.gradient.rehearsal import held_back, rehearse, without_held_back
from fl_privacy.data import load
from fl_privacy.defences import chain
from fl_privacy.federated.client import gradient
from fl_privacy.metrics import psnr
from fl_privacy.models import build_model
from fl_privacy.observation import ChannelName, Images, LocalTraining, Observation, Reconstruction, Spec
from fl_privacy.seeding import stream

SIZE = 16
NOISE = [{"name": "gaussian_noise", "scale": 0.3}]
CLIP = [{"name": "clip", "norm": 0.05}]
MEMBERS = ("peeling", "map", "grnn")


@pytest.fixture(scope="module")
def digits():
    return load("digits", None, {"size": SIZE})


def observe(digits, defence=(), count=2, batch=1, model=None, owned=True):
    """Observations of digits through a known chain, with the truths (V, B, C, H, W) and labels (V, B)."""
    model = model or build_model("convnet", (1, SIZE, SIZE), 10, 0, {"activation": "sigmoid"})
    images = digits.test.images(slice(0, count * batch)).view(count, batch, 1, SIZE, SIZE)
    labels = digits.test.labels[: count * batch].view(count, batch)
    known = chain(list(defence))
    public = Images(digits.train.images(slice(0, 300)), digits.train.labels[:300]) if owned else None
    spec = Spec(image_shape=(1, SIZE, SIZE), classes=10, batch_size=batch)
    seen = []
    for client, (x, y) in enumerate(zip(images, labels, strict=True)):
        payload = known.on_release(gradient(model, x, y)[0], client)
        seen.append(
            Observation(
                channel=ChannelName.GRADIENT,
                payload=payload,
                spec=spec,
                round=1,
                client=client,
                model=model,
                defence=known or None,
                public=public,
            )
        )
    return seen, images, labels


def decibels(guesses, images):
    return torch.stack([psnr(guess.inputs, truth).mean() for guess, truth in zip(guesses, images, strict=True)])


def prepared(seen, **settings):
    return Best(**{"grnn_iterations": 60, **settings}).prepare(seen, stream(0))


def test_an_undefended_image_behind_sigmoids_is_peelings_and_nothing_dearer_is_tried(digits):
    seen, images, _ = observe(digits)
    guesses = prepared(seen)(seen, stream(1))
    for guess, peeled in zip(guesses, Peeling()(seen, stream(0)), strict=True):
        assert torch.equal(guess.inputs, peeled.inputs)
        assert (guess.winner, len(guess.trace)) == ("peeling", 1)
    assert float(decibels(guesses, images).min()) > 60


def test_under_noise_it_is_maps(digits):
    seen, images, _ = observe(digits, NOISE)
    attack = prepared(seen, members=MEMBERS, grnn_iterations=20)
    guesses = attack(seen, stream(1))
    alone = MaximumAPosteriori(prior="public_by_class").prepare(seen, stream(0))(seen, stream(1))
    for guess, own in zip(guesses, alone, strict=True):
        assert guess.winner == "map"
        assert len(guess.trace) == 2, "GRNN is not tried under noise"
        assert torch.equal(guess.inputs, own.inputs)
    peeled, noisy = (decibels(each, images).mean() for each in (Peeling()(seen, stream(0)), guesses))
    assert float(noisy) > float(peeled)


def test_what_map_learned_from_many_victims_is_not_thrown_away(digits):
    """Without public images a generator that fits the noise comes near to it by a loss which knows no digits."""
    seen, _, _ = observe(digits, NOISE, count=6, model=build_model("convnet", (1, SIZE, SIZE), 10, 0), owned=False)
    assert [guess.winner for guess in Best()(seen, stream(1))] == ["map"] * 6


def test_maps_guess_is_judged_before_its_pixels_are_cut(digits):
    """The cut leaves the directions of public images, which a sharp prior would count as thousands of nats."""
    quieter = [{"name": "gaussian_noise", "scale": 0.1}]
    seen, images, labels = observe(digits, quieter, count=4, model=build_model("convnet", (1, SIZE, SIZE), 10, 0))
    many = Images(digits.train.images(slice(0, 600)), digits.train.labels[:600])
    seen = [dataclasses.replace(each, public=many) for each in seen]
    attack = prepared(seen)
    guesses = attack(seen, stream(1))
    cut = [attack.loss(each, guess.inputs, guess.labels) for each, guess in zip(seen, guesses, strict=True)]
    truth = [attack.loss(each, x, y) for each, x, y in zip(seen, images, labels, strict=True)]
    assert max(cut[i] - truth[i] for i in range(4)) > 100
    assert all(guess.loss < at_truth for guess, at_truth in zip(guesses, truth, strict=True))


@pytest.mark.parametrize("defence", [[], NOISE, CLIP])
@pytest.mark.parametrize("owned", [True, False])
def test_by_its_own_loss_no_member_is_better(digits, defence, owned):
    seen, _, _ = observe(digits, defence, count=1, owned=owned)
    attack = prepared(seen, members=MEMBERS, grnn_iterations=20)
    guesses = attack(seen, stream(1))
    for name in MEMBERS:
        alone = prepared(seen, members=(name,), grnn_iterations=20)(seen, stream(1))
        for observation, guess, other in zip(seen, guesses, alone, strict=True):
            assert other.winner == name
            assert guess.loss <= attack.loss(observation, other.inputs, other.labels) + 1e-3
    for observation, guess in zip(seen, guesses, strict=True):
        at_the_guess = attack.loss(observation, guess.inputs, guess.labels)
        if guess.winner == "map" and owned:  # its pixels were cut after it was judged
            assert guess.loss <= at_the_guess
        else:
            assert guess.loss == pytest.approx(at_the_guess, abs=1e-3)
        assert guess.loss == float(guess.trace.min())


def test_behind_a_clip_it_is_no_worse_than_its_best_member(digits):
    seen, images, _ = observe(digits, CLIP, count=1)
    got = decibels(prepared(seen, members=MEMBERS, grnn_iterations=20)(seen, stream(1)), images)
    for name in MEMBERS:
        alone = decibels(prepared(seen, members=(name,), grnn_iterations=20)(seen, stream(1)), images)
        assert bool((got >= alone - 0.1).all()), name


def test_the_order_of_victims_with_other_winners_is_kept(digits):
    """One message that peeling solves, one of a model that it refuses."""
    easy, _, _ = observe(digits, count=1)
    pooled = nn.Sequential(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 20), nn.Sigmoid(), nn.Linear(20, 10))
    hard, _, _ = observe(digits, count=1, model=pooled)
    attack = Best(members=("peeling", "map"))
    winners = [guess.winner for guess in attack([*hard, *easy, *hard], stream(0))]
    assert winners == ["map", "peeling", "map"]


def test_images_without_labels_are_given_those_of_the_head(digits):
    """Behind a ReLU, a first linear layer's rows are images of a batch: in an order of their own, without labels."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(SIZE**2, 400), nn.ReLU(), nn.Linear(400, 10))
    with torch.no_grad():
        model[1].bias -= model[1].weight.sum(1) * 0.3
    seen, images, labels = observe(digits, count=1, batch=3, model=model, owned=False)
    (rows,) = LinearLayer()(seen, stream(0))
    assert rows.inputs is not None
    (guess,) = Best(members=("label_counts", "linear_layer"))(seen, stream(0))
    assert guess.winner == "linear_layer"
    for image, label in zip(guess.inputs, guess.labels, strict=True):
        nearest = int((images[0] - image).square().sum((1, 2, 3)).argmin())
        assert int(label) == int(labels[0, nearest])
    assert guess.loss < prepared(seen).loss(seen[0], guess.inputs, guess.labels.roll(1))


def test_where_no_member_has_images_the_counted_labels_are_the_guess(digits):
    seen, _, labels = observe(digits, batch=2)
    for guess, own in zip(Best(members=("label_counts", "peeling"))(seen, stream(0)), labels, strict=True):
        assert guess.inputs is None
        assert guess.loss != guess.loss
        assert guess.winner == "label_counts"
        assert torch.equal(guess.labels, own.sort().values)


def test_a_message_that_every_member_refuses_is_told_with_the_reasons(digits):
    seen, _, _ = observe(digits, batch=2)
    with pytest.raises(ValueError, match=r"no member of 'best'.*linear_layer: no linear.*peeling: .*at most 1 example"):
        Best(members=("linear_layer", "peeling"))(seen, stream(0))


def test_an_update_of_several_steps_is_left_to_those_that_simulate_it(digits):
    seen, _, labels = observe(digits, count=1, batch=2)
    local = LocalTraining(learning_rate=0.5, batch_size=1)
    update = dataclasses.replace(
        seen[0],
        channel=ChannelName.UPDATE,
        spec=dataclasses.replace(seen[0].spec, local=local),
        payload={name: -value for name, value in seen[0].payload.items()},  # nearly two small steps of half a batch
    )
    (guess,) = Best(grnn_iterations=20)([update], stream(0))
    assert guess.winner == "map"
    assert len(guess.trace) == 2
    assert guess.labels.tolist() == labels[0].sort().values.tolist()


def test_the_prior_is_the_strongest_that_is_granted(digits):
    seen, images, labels = observe(digits, NOISE, count=1)
    unlabelled = dataclasses.replace(seen[0], public=Images(seen[0].public.inputs))
    nothing = dataclasses.replace(seen[0], public=None)
    for each, prior in ((seen[0], "public_by_class"), (unlabelled, "public"), (nothing, "power_law")):
        wanted = MaximumAPosteriori(prior=prior).loss(each, images[0], labels[0])
        assert Best().loss(each, images[0], labels[0]) == pytest.approx(wanted)


@pytest.mark.parametrize("wrong", [{"members": ()}, {"members": ("maps",)}, {"grnn_iterations": -1}])
def test_bad_settings_teach(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Best(**wrong)


def test_no_iterations_leave_grnn_out(digits):
    seen, _, _ = observe(digits, NOISE, count=1)
    (guess,) = Best(members=("peeling", "grnn"), grnn_iterations=0)(seen, stream(0))
    assert (guess.winner, len(guess.trace)) == ("peeling", 1)


SIGN = [{"name": "sign"}]
PRIVATE = [{"name": "dp_sgd", "norm": 1.0, "noise_multiplier": 0.1}]


def test_through_signs_it_is_the_member_that_did_best_in_rehearsal(digits):
    seen, images, labels = observe(digits, SIGN)
    attack = prepared(seen, members=("label_counts", "learned"), learned_examples=200)
    guesses = attack(seen, stream(1))
    ((_, errors),) = attack.rehearsed
    assert errors["label_counts"] == float("inf"), "it has no images"
    for guess, x, y, observation in zip(guesses, images, labels, seen, strict=True):
        assert guess.winner == "learned"
        assert torch.equal(guess.labels, y)
        assert guess.trace.tolist() == [pytest.approx(errors["learned"])]
        assert guess.loss == pytest.approx(attack.loss(observation, guess.inputs, guess.labels))
        assert attack.loss(observation, x, y) == pytest.approx(0, abs=1e-6)
    owned = seen[0].public
    means = torch.stack([owned.inputs[owned.labels == y].mean(0) for y in labels[:, 0].tolist()])
    assert float(decibels(guesses, images).mean()) > float(psnr(means, images[:, 0]).mean()) + 1


@dataclasses.dataclass(frozen=True)
class Knows(Attack):
    """Gives back `images` (N, C, H, W) with noise of `scale` on them, in another order, or refuses."""

    channels = frozenset({ChannelName.GRADIENT})
    images: torch.Tensor
    scale: float = 0.0
    refuses: bool = False

    def reconstruct(self, seen, rng):
        if self.refuses:
            raise ValueError("not this one")
        assert all(len(each.public) == 292 for each in seen), "what is rehearsed on is not shown"
        given = self.images.flip(1)
        noise = self.scale * torch.randn(given.shape, generator=rng)
        return [Reconstruction(inputs=each.clamp(0, 1)) for each in given + noise]


def test_a_rehearsal_measures_what_each_member_errs_by(digits):
    (seen,), _, _ = observe(digits, SIGN, count=1, batch=2)
    own = seen.public.inputs[-8:].view(4, 2, 1, SIZE, SIZE)
    tried = {"exact": Knows(own), "near": Knows(own, 0.05), "far": Knows(own, 0.3), "none": Knows(own, refuses=True)}
    errors = rehearse(seen, tried, stream(0))
    assert errors["exact"] == 0
    assert 0 < errors["near"] < errors["far"] < errors["none"] == float("inf")
    assert (held_back(seen), len(without_held_back(seen).public)) == (4, 292)


def test_only_what_has_no_law_is_rehearsed(digits):
    for defence in ([], NOISE, CLIP, [*CLIP, *NOISE], PRIVATE):
        seen, _, _ = observe(digits, defence, count=1)
        attack = Best().prepare(seen, stream(0))
        assert not attack.rehearsed
        assert attack.trained is None
    lawless = (SIGN, [{"name": "prune", "share": 0.1}], [{"name": "quantise", "bits": 2}])
    for defence in (*lawless, *([*before, *after] for before in (CLIP, PRIVATE) for after in lawless)):
        seen, _, _ = observe(digits, defence, count=1)
        assert not has_likelihood(seen[0]), defence
    seen, _, _ = observe(digits, SIGN, count=1, owned=False)
    assert Best().prepare(seen, stream(0)).trained is None, "there is nothing to learn from"
