"""The conformance table of gradient attacks, and what is special to GRNN."""

import copy
import dataclasses

import pytest
import torch

from fl_privacy.attacks import ATTACKS
from fl_privacy.attacks.grnn import GRNN
from fl_privacy.client import gradient
from fl_privacy.data import load
from fl_privacy.defences import chain
from fl_privacy.evaluation import Truth, controls, score
from fl_privacy.models import build_model
from fl_privacy.observation import Channel, Images, Observation, Spec
from fl_privacy.seeding import stream

GRADIENT_ATTACKS = [name for name in ATTACKS if Channel.GRADIENT in ATTACKS[name].channels]
BUDGET = {"grnn": {"iterations": 250, "restarts": 1}, "grnn_as_published": {"iterations": 400}}


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
            Observation(channel=Channel.GRADIENT, payload=payload, spec=spec, round=1, client=client, model=model)
        )
        truths.append(Truth(x, y))
    return seen, truths


def built(name):
    return ATTACKS.configure(name, BUDGET.get(name, {}))


@pytest.mark.parametrize("name", GRADIENT_ATTACKS)
def test_conformance(name, digits):
    attack = built(name)
    seen, truths = observe(digits)
    frozen = [{key: value.clone() for key, value in o.payload.items()} for o in seen]
    weights = copy.deepcopy(seen[0].model.state_dict())
    guesses = attack(seen, stream(0, "attack"))
    for observation, before in zip(seen, frozen, strict=True):
        assert all(torch.equal(observation.payload[key], before[key]) for key in before)
    assert all(torch.equal(seen[0].model.state_dict()[key], weights[key]) for key in weights)
    again = attack(seen, stream(0, "attack"))
    for first, second in zip(guesses, again, strict=True):
        assert torch.equal(first.inputs, second.inputs), "the same seed must give the same bits"
        assert first.loss == second.loss
    other = attack(seen, stream(1, "attack"))
    assert not torch.equal(guesses[0].inputs, other[0].inputs)
    public = Images(digits.test.images())
    reached = [score(attack, *triple) for triple in zip(seen, guesses, truths, strict=True)]
    for blind in controls(public, truths, 10, stream(0, "controls")).values():
        for got, observation, guess, truth in zip(reached, seen, blind, truths, strict=True):
            control = score(attack, observation, guess, truth)
            assert got.images["psnr"].mean() > control.images["psnr"].mean() + 1
            assert got.images["ssim"].mean() > control.images["ssim"].mean()
    assert all(s.label_accuracy == 1.0 for s in reached)
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
    alone, together = (attack(seen, stream(0)) for attack in (single, joint))
    assert all(torch.isfinite(torch.tensor(guess.loss)) for guess in together)
    mean = [torch.stack([score(single, *t).images["mse"].mean() for t in zip(seen, g, truths, strict=True)]).mean()
            for g in (alone, together)]  # fmt: skip
    assert mean[1] < mean[0] * 1.2


def test_victims_of_different_models_are_grouped_not_mixed(digits):
    first, _ = observe(digits, clients=1, seed=0)
    second, _ = observe(digits, clients=1, seed=1)
    attack = GRNN(iterations=5)
    both = attack([first[0], second[0]], stream(0))
    alone = attack([first[0]], stream(0))
    assert torch.equal(both[0].inputs, alone[0].inputs)
    assert len(both) == 2


def test_a_batch_of_victims_equals_one_by_one(digits):
    """Vectorised: victim 0's path does not feel victim 1 beyond rounding."""
    seen, _ = observe(digits, clients=1)
    twin = GRNN(iterations=30)([seen[0], seen[0]], stream(0))
    assert not torch.equal(twin[0].inputs, twin[1].inputs), "each victim has a generator of its own"
    assert abs(twin[0].loss - twin[1].loss) < 2


def test_nan_safe_and_plateau_stop(digits):
    seen, _ = observe(digits, clients=2)
    huge = dataclasses.replace(seen[0], payload={k: torch.full_like(v, 1e30) for k, v in seen[0].payload.items()})
    guesses = GRNN(iterations=20)([huge, seen[1]], stream(0))
    assert all(torch.isfinite(guess.inputs).all() for guess in guesses)
    assert torch.isfinite(torch.tensor(guesses[1].loss)), "a victim that diverges must not take the others along"
    stopped = GRNN(iterations=500, patience=5, learning_rate=1e-9, restarts=1)(seen, stream(0))
    assert stopped[0].iterations < 50


def test_batches_grey_and_colour_of_any_size():
    for shape in [(1, 28, 28), (3, 40, 40)]:
        model = build_model("lenet_dlg", shape, 5, 0, {"init": "wide"})
        x, y = torch.rand(3, *shape, generator=stream(0)), torch.tensor([0, 1, 1])
        payload, _ = gradient(model, x, y)
        spec = Spec(image_shape=shape, classes=5, batch_size=3)
        seen = Observation(channel=Channel.GRADIENT, payload=payload, spec=spec, round=1, client=0, model=model)
        guess = GRNN(iterations=3)([seen], stream(0))[0]
        assert guess.inputs.shape == (3, *shape)
        assert guess.labels.shape == (3,)


def test_batch_statistics_are_attacked_in_training_mode():
    model = build_model("resnet18", (1, 32, 32), 3, 0, {"width": 4, "activation": "sigmoid"}).train()
    x, y = torch.rand(2, 1, 32, 32, generator=stream(0)), torch.tensor([0, 1])
    payload, _ = gradient(copy.deepcopy(model), x, y)
    spec = Spec(image_shape=(1, 32, 32), classes=3, batch_size=2)
    seen = Observation(channel=Channel.GRADIENT, payload=payload, spec=spec, round=1, client=0, model=model)
    attack = GRNN(iterations=3, tv=0.0)
    guesses = attack([seen, seen], stream(0))
    assert all(torch.isfinite(guess.inputs).all() for guess in guesses)
    assert attack.loss(seen, x, y) < -8, "at the truth the gradients match"


def test_the_wrong_channel_and_missing_needs_are_refused(digits):
    seen, _ = observe(digits, clients=1)
    with pytest.raises(ValueError, match="reads gradient, update messages, not output"):
        GRNN()([dataclasses.replace(seen[0], channel=Channel.OUTPUT)], stream(0))
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
