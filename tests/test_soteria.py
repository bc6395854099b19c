"""Soteria: which columns go, that an attacker's copy of a client agrees, and what it gets who sees which are left."""

import dataclasses

import pytest
import torch
from torch import nn

from fl_privacy import data
from fl_privacy.attacks.gradient.map import MaximumAPosteriori
from fl_privacy.attacks.gradient.simulated import relative_mismatch, simulated_client
from fl_privacy.defences import Chain, chain
from fl_privacy.defences.soteria import Soteria
from fl_privacy.evaluation import Truth, evaluate
from fl_privacy.federated.client import gradient
from fl_privacy.federated.example_gradients import gradient_under
from fl_privacy.federated.local_training import train_locally
from fl_privacy.models import build_model
from fl_privacy.observation import ChannelName, Images, LocalTraining, Observation, Spec
from fl_privacy.seeding import stream
from fl_privacy.simulations.config.load import load_experiment
from fl_privacy.strategies.mods import defence_mod

SHAPE = (1, 16, 16)
CHAIN = Chain((Soteria(share=0.4),))


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", None, {"size": 16})


def test_the_columns_that_go_are_those_of_the_definition():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 6), nn.Tanh(), nn.Linear(6, 3))
    x, y = torch.rand(2, 1, 3, 4), torch.tensor([0, 2])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    plain, _ = gradient(model, x, y)
    kept = Soteria(share=0.5).on_gradient(plain, model, x)
    told = torch.zeros(6)
    for image in x:
        slopes = torch.autograd.functional.jacobian(lambda one: model[:3](one[None])[0], image).flatten(1)
        told += model[:3](image[None])[0].detach().abs() / slopes.norm(dim=1) / 2
    taken = told.topk(3).indices
    assert (kept["3.weight"][:, taken] == 0).all()
    left = [each for each in range(6) if each not in taken]
    assert torch.equal(kept["3.weight"][:, left], plain["3.weight"][:, left])
    assert all(kept[name] is plain[name] for name in plain if name != "3.weight")
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_nothing_is_taken_by_default_and_a_model_without_a_matrix_is_refused():
    assert not Chain((Soteria(),)).in_training
    only = nn.Sequential(nn.Conv2d(1, 3, 16), nn.Flatten())
    slopes, _ = gradient(only, torch.rand(1, *SHAPE), torch.tensor([0]))
    with pytest.raises(ValueError, match="trains none"):
        CHAIN.on_gradient(slopes, only, torch.rand(1, *SHAPE))


def observed(digits, channel=ChannelName.GRADIENT, count=2):
    model, local = build_model("convnet", SHAPE, 10, 0), LocalTraining(learning_rate=0.1, epochs=2)
    public = Images(digits.train.images(slice(0, 500)), digits.train.labels[:500])
    spec = Spec(image_shape=SHAPE, classes=10, batch_size=1, local=local)
    seen, truths = [], [Truth(digits.test.images(slice(i, i + 1)), digits.test.labels[i : i + 1]) for i in range(count)]
    for client, truth in enumerate(truths):
        slope = gradient_under(CHAIN, stream(0))
        if channel is ChannelName.GRADIENT:
            payload, _ = slope(model, truth.inputs, truth.labels)
        else:
            twin = build_model("convnet", SHAPE, 10, 0)
            train_locally(twin, truth.inputs, truth.labels, local, stream(0), slope)
            payload = {n: v.detach() - model.state_dict()[n] for n, v in twin.named_parameters()}
        shared = {"spec": spec, "round": 1, "client": client, "model": model, "public": public, "defence": CHAIN}
        seen.append(Observation(channel=channel, payload=payload, **shared))
    return seen, truths


@pytest.mark.parametrize("channel", [ChannelName.GRADIENT, ChannelName.UPDATE])
def test_a_server_that_simulates_the_client_takes_the_same_columns(digits, channel):
    seen, truths = observed(digits, channel, 1)
    sent = simulated_client(seen[0], noisy=False)(truths[0].inputs, truths[0].labels, 0)
    assert all(torch.allclose(sent[name], value, atol=1e-7) for name, value in seen[0].payload.items())
    gone = int((seen[0].payload["head.weight"] == 0).all(0).sum())
    assert gone == 103 if channel is ChannelName.GRADIENT else 0 < gone < 103, "steps take different columns"
    assert relative_mismatch(seen[0], truths[0].inputs, truths[0].labels) < 1e-5
    assert relative_mismatch(dataclasses.replace(seen[0], defence=None), truths[0].inputs, truths[0].labels) > 0.1


def test_who_compares_the_columns_that_are_left_reads_the_image(digits):
    """Balunovic et al. 2022: without the defended values in the loss little is hidden."""
    seen, truths = observed(digits)
    attack = MaximumAPosteriori(prior="public_by_class", outer=10, inner=10)
    adaptive, static = (
        sum(float(each.images["psnr"].mean()) for each in evaluate(attack, how, truths, 0)) / len(truths)
        for how in (seen, [dataclasses.replace(each, defence=None) for each in seen])
    )
    assert adaptive > max(25, static + 5)


def test_it_is_refused_where_it_would_do_nothing_or_undo_a_guarantee():
    with pytest.raises(ValueError, match="in_training=True"):
        defence_mod("soteria(share=0.4)", seed=0)
    with pytest.raises(ValueError, match="keep one of the two"):
        chain([{"name": "dp_sgd", "norm": 1.0, "noise_multiplier": 1.0}, {"name": "soteria", "share": 0.4}])
    with pytest.raises(ValueError, match="channel is activation"):
        load_experiment("split_quickstart", ['training_defences=[[{name="soteria", share=0.4}]]'])
