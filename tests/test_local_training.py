"""Local training equals a plain torch loop, and what an attacker simulates of it is what the client sent."""

import copy
import dataclasses
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fl_privacy.attacks.gradient.grnn import GRNN
from fl_privacy.attacks.gradient.local_steps import matcher_for, order_known
from fl_privacy.attacks.gradient.matching import gradient_unit, observed_gradient, observed_step
from fl_privacy.evaluation import Truth
from fl_privacy.federated.client import gradient
from fl_privacy.federated.local_training import minibatches, train_locally
from fl_privacy.observation import ONE_STEP, ChannelName, LocalTraining, Observation, Spec
from fl_privacy.protocol_check import mismatch
from fl_privacy.seeding import seeded, stream
from fl_privacy.settings import check_settings
from fl_privacy.simulations.config.load import configure, reconfigure
from fl_privacy.simulations.run.again import attack_again
from fl_privacy.simulations.run.pipeline import simulate
from fl_privacy.strategies.federated.client import local_config, local_training

SHAPE, CLASSES, IMAGES = (1, 6, 6), 3, 7
SETTINGS = {
    "one step": {},
    "five steps": {"epochs": 5},
    "mini-batches": {"batch_size": 3},
    "two epochs": {"batch_size": 3, "epochs": 2},
    "momentum": {"batch_size": 3, "momentum": 0.9},
    "momentum and decay": {"batch_size": 2, "momentum": 0.9, "weight_decay": 0.1},
    "decay": {"weight_decay": 0.1},
    "adam": {"batch_size": 3, "optimiser": "adam"},
    "adam and decay": {"epochs": 3, "optimiser": "adam", "weight_decay": 0.1},
    "proximal": {"epochs": 3, "proximal": 0.5},
    "steps": {"batch_size": 3, "steps": 4},
    "squared error": {"batch_size": 3, "loss": "squared_error"},
    "normalised": {"batch_size": 3, "normalise": ((0.4,), (0.3,))},
    "eval": {"batch_size": 3, "mode": "eval"},
}


def local(name):
    return LocalTraining(**{"learning_rate": 0.05, **SETTINGS[name]})


def model():
    with seeded(0, "model"):
        net = nn.Sequential(
            nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Sigmoid(), nn.Flatten(), nn.Linear(64, CLASSES)
        ).double()
    net[1].running_mean.fill_(0.1)
    return net


def data(seed=0):
    rng = stream(seed, "data")
    return (
        torch.rand(IMAGES, *SHAPE, generator=rng, dtype=torch.float64),
        torch.randint(CLASSES, (IMAGES,), generator=rng),
    )


def textbook(net, x, y, how, parts):
    """The same with torch's own optimisers."""
    net.train(how.mode == "train")
    start = [p.detach().clone() for p in net.parameters()]
    if how.optimiser == "adam":
        optimiser = torch.optim.Adam(net.parameters(), how.learning_rate, weight_decay=how.weight_decay)
    else:
        optimiser = torch.optim.SGD(
            net.parameters(), how.learning_rate, momentum=how.momentum, weight_decay=how.weight_decay
        )
    if how.normalise:
        x = (x - 0.4) / 0.3
    for part in parts:
        optimiser.zero_grad()
        logits = net(x[part])
        loss = F.cross_entropy(logits, y[part])
        if how.loss == "squared_error":
            loss = ((logits - F.one_hot(y[part], CLASSES)) ** 2).sum() / len(part)
        pull = sum((p - s).square().sum() for p, s in zip(net.parameters(), start, strict=True))
        (loss + how.proximal / 2 * pull).backward()
        optimiser.step()


@pytest.mark.parametrize("name", SETTINGS)
def test_local_training_is_a_plain_torch_loop(name):
    x, y = data()
    how, ours, theirs = local(name), model(), model()
    with torch.no_grad():
        first = F.cross_entropy(
            copy.deepcopy(ours).train(how.mode == "train")(x[: how.batch_size or IMAGES]), y[: how.batch_size or IMAGES]
        )
    loss = train_locally(ours, x, y, how, stream(0, "shuffle"))
    textbook(theirs, x, y, how, minibatches(how, IMAGES, stream(0, "shuffle")))
    for (key, mine), other in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-11, msg=key)
    assert how.loss != "cross_entropy" or how.normalise or loss == pytest.approx(float(first))


def test_one_plain_step_keeps_the_bits_of_gradient_descent():
    x, y = data()
    ours, theirs = model().float(), model().float()
    train_locally(ours, x.float(), y, LocalTraining(learning_rate=0.1, steps=1, batch_size=IMAGES), stream(0))
    slopes, _ = gradient(theirs, x.float(), y)
    for name, value in theirs.named_parameters():
        assert torch.equal(ours.get_parameter(name), value.detach() - 0.1 * slopes[name])


def test_mini_batches_are_whole_epochs_each_in_an_order_of_its_own():
    how = LocalTraining(epochs=3, batch_size=3)
    parts = minibatches(how, IMAGES, stream(0, "shuffle"))
    assert [len(part) for part in parts] == [3, 3, 1] * 3
    epochs = [torch.cat(parts[i : i + 3]).tolist() for i in (0, 3, 6)]
    assert all(sorted(each) == list(range(IMAGES)) for each in epochs)
    assert epochs[0] == list(range(IMAGES)), "a round's examples are drawn already"
    assert epochs[1] != epochs[2] != epochs[0]
    again, other = (minibatches(how, IMAGES, stream(seed, "shuffle")) for seed in (0, 1))
    assert all(torch.equal(a, b) for a, b in zip(parts, again, strict=True))
    assert not torch.equal(torch.cat(parts), torch.cat(other))


def test_steps_say_how_many_whatever_the_epochs():
    assert len(minibatches(LocalTraining(steps=4, batch_size=3, epochs=9), IMAGES, stream(0))) == 4
    assert LocalTraining().steps_on(5) == 1
    assert LocalTraining(epochs=5).steps_on(5) == 5
    assert LocalTraining(batch_size=2, epochs=2).steps_on(5) == 6


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"learning_rate": float("inf")}, "learning_rate must be at least 0 and finite"),
        ({"momentum": -0.1}, "momentum must be"),
        ({"momentum": 0.9, "optimiser": "adam"}, "Adam has its own"),
        ({"normalise": ((0.5,), (0.0,))}, "divides by its deviations"),
    ],
)
def test_what_cannot_be_is_refused(wrong, words):
    with pytest.raises(ValueError, match=words):
        LocalTraining(**wrong)


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_travel_in_a_messages_config(name):
    assert local_training(local_config(local(name))) == local(name)


def test_a_table_becomes_local_training():
    @dataclasses.dataclass(frozen=True)
    class Protocol:
        local: LocalTraining = ONE_STEP

    made = check_settings("the protocol", Protocol, {"local": {"epochs": 2, "normalise": [[0.5], [0.2]]}})
    assert made == {"local": LocalTraining(epochs=2, normalise=((0.5,), (0.2,)))}
    with pytest.raises(KeyError, match="Did you mean 'epochs'"):
        check_settings("the protocol", Protocol, {"local": {"epoch": 2}})
    with pytest.raises(ValueError, match="optimiser"):
        check_settings("the protocol", Protocol, {"local": {"optimiser": "lbfgs"}})


# -- the attacker's simulation -----------------------------------------------------------------------------------------


def released(how, seed=0):
    """The observation of a client's update, and the truth behind it."""
    x, y = data(seed)
    net = model().train(how.mode == "train")
    before = {name: value.detach().clone() for name, value in net.named_parameters()}
    twin = copy.deepcopy(net)
    train_locally(twin, x, y, how, stream(seed, "shuffle"))
    payload = {name: twin.get_parameter(name).detach() - value for name, value in before.items()}
    spec = Spec(image_shape=SHAPE, classes=CLASSES, batch_size=IMAGES, local=how)
    seen = Observation(channel=ChannelName.UPDATE, payload=payload, spec=spec, round=1, client=seed, model=net)
    return seen, Truth(x, y)


@pytest.mark.parametrize("name", SETTINGS)
def test_the_simulation_at_the_truth_is_what_was_sent(name):
    first, truth = released(local(name))
    second, other = released(local(name), seed=1)
    second = dataclasses.replace(second, model=first.model)
    images = torch.stack([truth.inputs, other.inputs])
    targets = F.one_hot(torch.stack([truth.labels, other.labels]), CLASSES).double()
    alone = matcher_for([first])(images[:1], targets[:1])[0].detach()
    together = matcher_for([first, second])(images, targets).detach()
    assert (alone - together[0]).norm() < 1e-9 * alone.norm(), "many victims at once, or one by plain autograd"
    error = (alone - observed_step(first)).norm() / observed_step(first).norm()
    assert order_known(first) == (name not in ("two epochs", "steps"))
    assert error < 1e-9 if order_known(first) else error > 1e-6, "the order of later epochs is the client's own"
    assert mismatch(first, truth) is None
    if order_known(first):
        wrong = dataclasses.replace(first.spec.local, learning_rate=0.06)
        assert (
            mismatch(dataclasses.replace(first, spec=dataclasses.replace(first.spec, local=wrong)), truth) is not None
        )


@pytest.mark.parametrize("name", ["five steps", "adam", "momentum and decay"])
@pytest.mark.parametrize("victims", [1, 2])
def test_the_simulation_is_differentiable_in_the_guess(name, victims):
    seen, truth = released(local(name))
    match = matcher_for([seen] * victims)
    images = truth.inputs.expand(victims, *truth.inputs.shape).clone().requires_grad_()
    targets = F.one_hot(truth.labels, CLASSES).double().expand(victims, IMAGES, CLASSES)
    target = observed_step(seen)
    direction = torch.randn(images.shape, generator=stream(0, "d"), dtype=torch.float64)

    def value(x):
        return (match(x, targets) - 1.1 * target).square().sum()

    (slope,) = torch.autograd.grad(value(images), images)
    step = 1e-5
    around = [float(value((images + sign * step * direction).detach()).detach()) for sign in (1, -1)]
    assert float((slope * direction).sum()) == pytest.approx((around[0] - around[1]) / (2 * step), rel=1e-4)


def test_an_update_of_several_steps_is_no_gradient():
    seen, _ = released(local("five steps"))
    with pytest.raises(ValueError, match="took 5 steps"):
        observed_gradient(seen)
    unknown = dataclasses.replace(seen, spec=dataclasses.replace(seen.spec, local=LocalTraining(epochs=5)))
    with pytest.raises(ValueError, match="learning rate is known"):
        gradient_unit(unknown)


# -- whole runs --------------------------------------------------------------------------------------------------------


def experiment(**protocol):
    return configure(
        name="local",
        channel="update",
        dataset={"name": "digits", "size": 16},
        model={"name": "lenet_dlg", "init": "wide"},
        attack={"name": "grnn", "iterations": 120, "restarts": 1, "patience": 0},
        protocol=protocol,
        clients=3,
        clients_per_round=3,
        batch_size=2,
        learning_rate=0.02,
    )


@pytest.mark.parametrize(
    "how",
    [
        {"epochs": 5},
        {"epochs": 5, "batch_size": 1, "momentum": 0.9},
        {"batch_size": 1, "optimiser": "adam", "weight_decay": 0.01},
    ],
)
def test_an_update_of_several_local_steps_is_run_saved_and_attacked(tmp_path: Path, how):
    made = experiment(local=how)
    result = simulate(made, out=tmp_path / "run", backend="local", note=str)
    attacked = [row for row in result.summary if row["attack"] == "grnn"]
    blind = next(row for row in result.summary if row["attack"] == "control: mean image")
    assert not result.not_valid
    if how == {"epochs": 5}:  # its order is known, so that the truth has the least loss of all
        assert attacked[0]["loss_at_truth"] < attacked[0]["loss_at_guess"]
        assert attacked[0]["psnr"] > blind["psnr"] + 1
    again = attack_again(tmp_path / "run", attack="grnn", changes=["attack.iterations=2"], note=str)
    assert again.digests["payloads"] == result.digests["payloads"]


@pytest.mark.parametrize(
    ("protocol", "words"),
    [
        ({"local": {"batch_size": 3}}, "more than the 'batch_size' images of a round, 2"),
        ({"local": {"steps": 1, "batch_size": 1}}, "no image counts that never entered"),
        ({"local": {"learning_rate": 0.3}}, "where the experiment's counts"),
        ({"local": {"proximal": 0.3}}, "FedProx's"),
        ({"local": {"optimiser": "lbfgs"}}, "'sgd', 'adam'"),
    ],
)
def test_local_settings_that_do_not_fit_are_named(protocol, words):
    with pytest.raises(ValueError, match=words):
        experiment(**protocol)


def test_fedprox_pulls_by_what_the_settings_say(tmp_path):
    """A run checks that the attacker's simulation is what was sent, so that its pull is the clients'."""
    made = experiment(strategy="FedProx", local={"epochs": 3, "proximal": 2.0})
    made = reconfigure(made, attacks=({"name": "grnn", "iterations": 2},))
    result = simulate(made, out=tmp_path / "run", backend="local", note=str)
    assert not result.not_valid
    assert result.summary[0]["loss_at_truth"] < -10


def test_what_the_server_makes_of_updates_changes_none_of_them(tmp_path):
    """FedAdam moves the model in its own way; an update of round 2 is still of the model that was sent for it."""
    made = experiment(strategy="FedAdam", local={"epochs": 3, "momentum": 0.9})
    made = reconfigure(made, attacks=({"name": "grnn", "iterations": 2},), rounds=2, attacked_rounds=(2,))
    result = simulate(made, out=tmp_path / "run", backend="local", note=str)
    assert not result.not_valid
    assert result.summary[0]["loss_at_truth"] < -10


def test_the_loss_at_the_truth_of_many_steps_is_the_floor():
    seen, truth = released(local("five steps"))
    attack = GRNN(tv=0.0)
    assert attack.loss(seen, truth.inputs, truth.labels) < -12
