"""The conformance table of gradient attacks, and what is special to GRNN."""

import copy
import dataclasses
import math

import pytest
import torch
from torch import nn

from fl_privacy.attacks import ATTACKS
from fl_privacy.attacks.gradient import grnn
from fl_privacy.attacks.gradient.grnn import GRNN
from fl_privacy.attacks.gradient.restarts import IterateTracker
from fl_privacy.data import load
from fl_privacy.defences import chain
from fl_privacy.evaluation import Truth, controls, score
from fl_privacy.federated.client import gradient
from fl_privacy.models import build_model
from fl_privacy.observation import ChannelName, Images, Observation, Spec
from fl_privacy.seeding import stream

GRADIENT_ATTACKS = [name for name in ATTACKS if ChannelName.GRADIENT in ATTACKS[name].channels]
BUDGET = {
    "grnn": {"iterations": 250, "restarts": 1},
    "grnn_as_published": {"iterations": 400},
    "dlg": {"iterations": 150, "restarts": 2},
    "dlg_as_published": {"iterations": 300},
    "idlg": {"iterations": 150, "restarts": 2},
    "inverting_gradients": {"iterations": 600},
    # the published prior needs the published 24,000 iterations
    "inverting_gradients_as_published": {"iterations": 600, "restarts": 2, "tv": 1e-3},
    # peeling would solve it, whatever the seed
    "best": {"members": ["map", "grnn"], "grnn_iterations": 20},
    "low_rank": {"adam": 60, "outer": 4, "inner": 10, "lbfgs": 60},
    "learned": {"examples": 300, "epochs": 2},
}
MODELS = dict.fromkeys(
    ("linear_layer", "spear"), nn.Sequential(nn.Flatten(), nn.Linear(1024, 30), nn.ReLU(), nn.Linear(30, 10))
)
"""The model on which an attack is checked that cannot read the wide sigmoid LeNet of the others."""


@pytest.fixture(scope="module")
def digits():
    return load("digits", None, {"size": 32})


def observe(digits, clients=2, batch=1, seed=0, model=None):
    """Undefended gradients of real digits on a wide sigmoid LeNet, with the truths behind them."""
    model = model or build_model("lenet_dlg", (1, 32, 32), 10, seed, {"init": "wide"})
    spec = Spec(image_shape=(1, 32, 32), classes=10, batch_size=batch)
    seen, truths = [], []
    for client in range(clients):
        index = torch.arange(client * batch, (client + 1) * batch)
        x, y = digits.train.images(index), digits.train.labels[index]
        payload, _ = gradient(model, x, y)
        seen.append(
            Observation(channel=ChannelName.GRADIENT, payload=payload, spec=spec, round=1, client=client, model=model)
        )
        truths.append(Truth(x, y))
    return seen, truths


def same(some, others):
    """Whether two calls gave the same bits: images, labels, and losses, of which NaN equals NaN."""
    return all(
        (one.inputs is None or torch.equal(one.inputs, two.inputs))
        and (one.labels is None or torch.equal(one.labels, two.labels))
        and (one.loss == two.loss or (math.isnan(one.loss) and math.isnan(two.loss)))
        for one, two in zip(some, others, strict=True)
    )


def built(name):
    return ATTACKS.configure(name, BUDGET.get(name, {}))


@pytest.mark.parametrize("name", GRADIENT_ATTACKS)
def test_conformance(name, digits):
    attack = built(name)
    seen, truths = observe(digits, model=MODELS.get(name))
    if "public" in attack.needs:
        owned = Images(digits.test.images(), digits.test.labels)
        seen = [dataclasses.replace(each, public=owned) for each in seen]
    frozen = [{key: value.clone() for key, value in o.payload.items()} for o in seen]
    weights = copy.deepcopy(seen[0].model.state_dict())
    guesses = attack(seen, stream(0, "attack"))
    for observation, before in zip(seen, frozen, strict=True):
        assert all(torch.equal(observation.payload[key], before[key]) for key in before)
    assert all(torch.equal(seen[0].model.state_dict()[key], weights[key]) for key in weights)
    again = attack(seen, stream(0, "attack"))
    assert same(guesses, again), "the same seed must give the same bits"
    other = attack(seen, stream(1, "attack"))
    assert same(guesses, other) != attack.capabilities.stochastic
    public = Images(digits.test.images())
    reached = [score(attack, *triple) for triple in zip(seen, guesses, truths, strict=True)]
    for blind in controls(public, truths, 10, stream(0, "controls")).values() if attack.capabilities.images else ():
        for got, observation, guess, truth in zip(reached, seen, blind, truths, strict=True):
            control = score(attack, observation, guess, truth)
            assert got.images["psnr"].mean() > control.images["psnr"].mean() + 1
            assert got.images["ssim"].mean() > control.images["ssim"].mean()
    assert not attack.capabilities.labels or all(s.label_accuracy == 1.0 for s in reached)
    assert attack([], stream(0)) == []


def test_noise_on_the_gradient_stops_it(digits):
    seen, truths = observe(digits)
    loud = chain([{"name": "gaussian_noise", "scale": 10.0}])
    noisy = [dataclasses.replace(o, payload=loud.on_release(o.payload, o.client)) for o in seen]
    attack = built("grnn")
    clean = [score(attack, *t).images["psnr"] for t in zip(seen, attack(seen, stream(0)), truths, strict=True)]
    blurred = [score(attack, *t).images["psnr"] for t in zip(noisy, attack(noisy, stream(0)), truths, strict=True)]
    assert torch.cat(clean).mean() > torch.cat(blurred).mean() + 5


def test_the_loss_at_the_guess_is_the_attacks_own(digits):
    seen, truths = observe(digits, clients=1)
    attack = built("grnn")
    guess = attack(seen, stream(0))[0]
    assert guess.loss == min(guess.trace.tolist()), "the best iterate is chosen by the attack's own loss"
    assert attack.loss(seen[0], truths[0].inputs, truths[0].labels) < guess.loss


def test_restarts_are_joined_and_scored_as_one_guess(digits):
    seen, truths = observe(digits, clients=2)
    single, joint = (GRNN(iterations=200, restarts=count) for count in (1, 3))
    together, alone = joint(seen, stream(0)), [single(seen, stream(each)) for each in range(3)]
    for observation, guess, truth in zip(seen, together, truths, strict=True):
        assert guess.loss <= float(guess.trace.min()) + 1e-3, "the trace holds the best restart of each iteration"
        assert joint.loss(observation, truth.inputs, truth.labels) < guess.loss
    assert sum(guess.loss for guess in together) <= sum(guess.loss for each in alone for guess in each) / 3


@pytest.mark.parametrize("worse", [0.0, float("nan")])
def test_where_joining_is_worse_the_best_restart_stands(digits, monkeypatch, worse):
    """Worse by the attack's own loss: a blank image in place of the mean of the restarts, and one that is no number."""
    seen, _ = observe(digits, clients=2)
    joint = GRNN(iterations=30, restarts=3)
    honest = joint(seen, stream(0))
    monkeypatch.setattr(
        grnn, "merge_restarts", lambda images, logits, _: (torch.full_like(images[0], worse), logits[0])
    )
    for guess, before in zip(joint(seen, stream(0)), honest, strict=True):
        assert guess.loss == pytest.approx(float(guess.trace.min()), abs=1e-3)
        assert guess.inputs.std() > 0
        assert before.loss <= guess.loss + 1e-3


def test_victims_of_different_models_are_grouped_not_mixed(digits):
    first, _ = observe(digits, clients=1, seed=0)
    second, _ = observe(digits, clients=1, seed=1)
    attack = GRNN(iterations=5)
    both = attack([first[0], second[0]], stream(0))
    alone = attack([first[0]], stream(0))
    assert torch.equal(both[0].inputs, alone[0].inputs)
    assert len(both) == 2


def test_a_guess_does_not_feel_the_gradients_of_the_others_in_its_call(digits):
    """The generators of one call are drawn together: how many victims there are matters, what they sent does not."""
    (first, other, third), _ = observe(digits, clients=3)
    attack = GRNN(iterations=30)
    beside, elsewhere = (attack([first, each], stream(0))[0] for each in (other, third))
    assert torch.allclose(beside.inputs, elsewhere.inputs, atol=1e-6)
    assert beside.loss == pytest.approx(elsewhere.loss, abs=1e-5)
    twins = attack([first, first], stream(0))
    assert torch.allclose(twins[0].inputs, beside.inputs, atol=1e-6)
    assert not torch.equal(twins[0].inputs, twins[1].inputs), "each victim has a generator of its own"


def test_as_published_the_image_is_an_older_one_than_the_labels():
    """Of 1,000 iterations the code saves the image of number 990, and prints the labels of number 999."""
    tracker = IterateTracker(victims=1, snapshot_every=1000 // 30, patience=0, margin=0.0)
    for iteration in range(1000):
        number = torch.tensor([float(iteration)])
        tracker.see(1000 - number, number.view(1, 1, 1, 1, 1).clone(), number.view(1, 1, 1).clone())
    assert float(tracker.images) == 990
    assert float(tracker.losses) == 10
    assert float(tracker.logits) == 999


def test_the_best_iterate_keeps_its_own_labels_and_a_broken_one_is_passed_over():
    for every in (0, 1):
        tracker = IterateTracker(victims=1, snapshot_every=every, patience=0, margin=0.0)
        for loss, number in ((3.0, 0.0), (1.0, 1.0), (2.0, 2.0), (float("nan"), 3.0)):
            tracker.see(torch.tensor([loss]), torch.full((1, 1, 1, 1, 1), number), torch.full((1, 1, 1), number))
        kept = 2.0 if every else 1.0
        assert (float(tracker.images), float(tracker.logits)) == (kept, kept)


def test_nan_safe_and_plateau_stop(digits):
    seen, _ = observe(digits, clients=2)
    huge = dataclasses.replace(seen[0], payload={k: torch.full_like(v, 1e30) for k, v in seen[0].payload.items()})
    guesses = GRNN(iterations=20)([huge, seen[1]], stream(0))
    assert all(torch.isfinite(guess.inputs).all() for guess in guesses)
    beside = GRNN(iterations=20)(seen, stream(0))[1]
    assert guesses[1].loss == pytest.approx(beside.loss, abs=1e-4), "a victim that diverges must not take others along"
    assert torch.allclose(guesses[1].inputs, beside.inputs, atol=1e-5)
    stopped = GRNN(iterations=500, patience=5, learning_rate=1e-9, restarts=1)(seen, stream(0))
    assert stopped[0].iterations < 50


def test_batches_grey_and_colour_of_any_size():
    for shape in [(1, 28, 28), (3, 40, 40)]:
        model = build_model("lenet_dlg", shape, 5, 0, {"init": "wide"})
        x, y = torch.rand(3, *shape, generator=stream(0)), torch.tensor([0, 1, 1])
        payload, _ = gradient(model, x, y)
        spec = Spec(image_shape=shape, classes=5, batch_size=3)
        seen = Observation(channel=ChannelName.GRADIENT, payload=payload, spec=spec, round=1, client=0, model=model)
        guess = GRNN(iterations=3)([seen], stream(0))[0]
        assert guess.inputs.shape == (3, *shape)
        assert guess.labels.shape == (3,)


def test_batch_statistics_are_attacked_in_training_mode():
    model = build_model("resnet18", (1, 32, 32), 3, 0, {"width": 4, "activation": "sigmoid"}).train()
    x, y = torch.rand(2, 1, 32, 32, generator=stream(0)), torch.tensor([0, 1])
    payload, _ = gradient(copy.deepcopy(model), x, y)
    spec = Spec(image_shape=(1, 32, 32), classes=3, batch_size=2)
    seen = Observation(channel=ChannelName.GRADIENT, payload=payload, spec=spec, round=1, client=0, model=model)
    attack = GRNN(iterations=3, tv=0.0)
    guesses = attack([seen, seen], stream(0))
    assert all(torch.isfinite(guess.inputs).all() for guess in guesses)
    assert attack.loss(seen, x, y) < -8, "at the truth the gradients match"


def test_the_wrong_channel_and_missing_needs_are_refused(digits):
    seen, _ = observe(digits, clients=1)
    with pytest.raises(ValueError, match="reads gradient, update messages, not output"):
        GRNN()([dataclasses.replace(seen[0], channel=ChannelName.OUTPUT)], stream(0))
    with pytest.raises(ValueError, match="needs the observation's model"):
        GRNN()([dataclasses.replace(seen[0], model=None)], stream(0))
    bad = {key: value * float("nan") for key, value in seen[0].payload.items()}
    with pytest.raises(ValueError, match="NaN"):
        GRNN()([dataclasses.replace(seen[0], payload=bad)], stream(0))


@pytest.mark.parametrize("wrong", [{"iterations": 0}, {"learning_rate": 0.0}, {"tv": -1.0}])
def test_bad_settings_teach(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        GRNN(**wrong)


def test_the_attacker_knows_the_defence(digits):
    """A clip that is known is no defence: the guess's gradient is clipped too before it is compared."""
    seen, truths = observe(digits, clients=1)
    guard = chain([{"name": "clip", "norm": 0.01}])
    released = dataclasses.replace(seen[0], payload=guard.on_release(seen[0].payload, 0))
    knowing = dataclasses.replace(released, defence=guard)
    attack = GRNN(iterations=200, restarts=1)
    x, y = truths[0].inputs, truths[0].labels
    assert attack.loss(knowing, x, y) < attack.loss(released, x, y) - 5
    reached = [
        score(attack, o, attack([o], stream(0))[0], truths[0]).images["psnr"].item() for o in (released, knowing)
    ]
    assert reached[1] > reached[0] + 3
