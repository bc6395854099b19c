"""Learned inversion: what it reads through chains that have no likelihood, and the parts that it is made of."""

import dataclasses

import pytest
import torch
from torch import nn

from fl_privacy.attacks.gradient.inverter import Examples, assigned, fit_inverter, held_error
from fl_privacy.attacks.gradient.learned import LearnedInversion
from fl_privacy.attacks.gradient.message_features import fit_counts, message_features
from fl_privacy.attacks.gradient.simulated import simulated_client
from fl_privacy.data import load
from fl_privacy.defences import chain
from fl_privacy.evaluation import Truth, align
from fl_privacy.federated.client import gradient
from fl_privacy.federated.local_training import train_locally
from fl_privacy.metrics import psnr
from fl_privacy.models import build_model
from fl_privacy.observation import ChannelName, Images, LocalTraining, Observation, Reconstruction, Spec
from fl_privacy.seeding import stream

SIZE = 16
SIGN = [{"name": "sign"}]
BUDGET = {"examples": 450, "hidden": 32, "epochs": 2}


@pytest.fixture(scope="module")
def digits():
    return load("digits", None, {"size": SIZE})


def observe(digits, defence=(), count=8, batch=1, model=None):
    """Messages about digits of the test set through a known chain, with the truths."""
    model = model or build_model("convnet", (1, SIZE, SIZE), 10, 0)
    known = chain(list(defence))
    public = Images(digits.train.images(slice(0, 500)), digits.train.labels[:500])
    spec = Spec(image_shape=(1, SIZE, SIZE), classes=10, batch_size=batch)
    seen, truths = [], []
    for client in range(count):
        x, y = (part[client * batch : (client + 1) * batch] for part in (digits.test.images(), digits.test.labels))
        payload = known.on_release(gradient(model, x, y)[0], client)
        shared = {"channel": ChannelName.GRADIENT, "spec": spec, "round": 1, "model": model, "public": public}
        seen.append(Observation(payload=payload, client=client, defence=known or None, **shared))
        truths.append(Truth(x, y))
    return seen, truths


@pytest.fixture(scope="module")
def told(digits):
    """What an attacker who knows that signs are sent reads of them."""
    seen, truths = observe(digits, SIGN)
    return seen, truths, LearnedInversion(**BUDGET).prepare(seen, stream(0))(seen, stream(1))


def decibels(guesses, truths):
    pairs = zip(guesses, truths, strict=True)
    return float(torch.cat([psnr(align(guess, truth).inputs, truth.inputs) for guess, truth in pairs]).mean())


def class_means(seen, truths):
    """The strongest control: the mean public image of the true label."""
    owned = seen[0].public
    means = torch.stack([owned.inputs[owned.labels == label].mean(0) for label in range(10)])
    return [Reconstruction(inputs=means[truth.labels]) for truth in truths]


def assert_read(seen, truths, guesses):
    """Well above the class mean, with every label right."""
    assert decibels(guesses, truths) > decibels(class_means(seen, truths), truths) + 3
    assert all(torch.equal(guess.labels, truth.labels) for guess, truth in zip(guesses, truths, strict=True))


def test_it_reads_images_through_signs(told):
    assert_read(*told)


@pytest.mark.parametrize("defence", [{"name": "prune", "share": 0.05}, {"name": "quantise", "bits": 3}])
def test_it_reads_images_through_pruning_and_quantisation(digits, defence):
    seen, truths = observe(digits, [defence])
    assert_read(seen, truths, LearnedInversion(**BUDGET).prepare(seen, stream(0))(seen, stream(1)))


def test_who_knows_the_chain_reads_more(told):
    seen, truths, guesses = told
    blind = [dataclasses.replace(each, defence=None) for each in seen]
    untold = LearnedInversion(**BUDGET).prepare(blind, stream(0))(blind, stream(1))
    assert decibels(guesses, truths) > decibels(untold, truths) + 2


def test_a_batch_of_two_is_read(digits):
    seen, truths = observe(digits, SIGN, batch=2)
    guesses = LearnedInversion(**BUDGET).prepare(seen, stream(0))(seen, stream(1))
    assert decibels(guesses, truths) > decibels(class_means(seen, truths), truths) + 1


def test_it_is_trained_once_and_for_every_model(digits):
    one, _ = observe(digits, count=1)
    two, _ = observe(digits, count=1, model=build_model("convnet", (1, SIZE, SIZE), 10, 1))
    ready = LearnedInversion(examples=60, epochs=0).prepare([*one, *two], stream(0))
    assert len(ready.fitted) == 2
    both = ready([*one, *two], stream(1))
    again = ready([*two, *one], stream(2))
    assert torch.equal(both[0].inputs, again[1].inputs)
    assert torch.equal(both[1].inputs, again[0].inputs)


def test_the_message_is_the_clients_own(digits):
    seen, truths = observe(digits, [{"name": "gaussian_noise", "scale": 0.1}], count=1, batch=2)
    x, y = truths[0].inputs, truths[0].labels
    exact, _ = gradient(seen[0].model, x, y)
    bare = simulated_client(dataclasses.replace(seen[0], defence=None))(x, y, 0)
    assert all(torch.equal(bare[name], exact[name]) for name in exact)
    noisy = simulated_client(seen[0])
    first, second = noisy(x, y, 0), noisy(x, y, 1)
    apart = torch.cat([(first[n] - second[n]).flatten() for n in exact]).std()
    assert float(apart) == pytest.approx(0.1 * 2**0.5, rel=0.05), "each draw is a fresh one"
    assert all(torch.equal(first[name], noisy(x, y, 0)[name]) for name in exact)
    certain = simulated_client(seen[0], noisy=False)(x, y, 0)
    assert all(torch.equal(certain[name], exact[name]) for name in exact)


def test_an_update_of_several_steps_is_the_clients_own(digits):
    seen, truths = observe(digits, count=1, batch=4)
    local = LocalTraining(epochs=2, batch_size=2, learning_rate=0.1, momentum=0.9)
    spec = dataclasses.replace(seen[0].spec, local=local)
    update = dataclasses.replace(seen[0], channel=ChannelName.UPDATE, spec=spec)
    client, x, y = simulated_client(update), truths[0].inputs, truths[0].labels
    before = {name: value.clone() for name, value in seen[0].model.state_dict().items()}
    sent, again = client(x, y, 5), client(x, y, 5)
    model = build_model("convnet", (1, SIZE, SIZE), 10, 0)
    train_locally(model, x, y, local, stream(5, "shuffle"))
    for name, value in model.state_dict().items():
        assert torch.equal(sent[name], value - before[name])
        assert torch.equal(sent[name], again[name]), "every message starts from the received weights"
        assert torch.equal(seen[0].model.state_dict()[name], before[name])


def test_a_mean_over_clients_is_the_mean_of_their_messages(digits):
    seen, truths = observe(digits, count=1, batch=4)
    x, y = truths[0].inputs, truths[0].labels
    mean = simulated_client(dataclasses.replace(seen[0], others=(7,)))(x, y, 0)
    for name, value in gradient(seen[0].model, x, y)[0].items():
        assert torch.allclose(mean[name], value, atol=1e-6)


@pytest.mark.parametrize("defence", [[], SIGN, [{"name": "prune", "share": 0.05}]])
def test_the_loss_is_nothing_at_the_truth_and_something_elsewhere(digits, defence):
    seen, truths = observe(digits, defence, count=2)
    attack = LearnedInversion()
    assert attack.loss(seen[0], truths[0].inputs, truths[0].labels) == pytest.approx(0, abs=1e-6)
    assert attack.loss(seen[0], truths[1].inputs, truths[1].labels) > 0.3


def test_features_do_not_feel_the_scale_of_a_message_and_follow_its_labels(digits):
    seen, truths = observe(digits, count=1, batch=2)
    features, labels = message_features(seen[0]), truths[0].labels.sort().values
    rows = features.rows(seen[0].payload, labels)
    larger = {name: 7 * value for name, value in seen[0].payload.items()}
    assert torch.allclose(rows, features.rows(larger, labels), atol=1e-5)
    own = seen[0].payload["head.weight"][labels]
    found = rows[:, -(own.shape[1] * 2 + 2 + 12) :][:, : own.shape[1]]
    assert torch.allclose(found, own / own.norm(dim=1, keepdim=True), atol=1e-6)


def test_counts_are_read_through_signs(digits):
    seen, _ = observe(digits, SIGN, count=1, batch=4)
    features, client = message_features(seen[0]), simulated_client(seen[0])
    said, counts = [], []
    for message in range(200):
        place = torch.randperm(500, generator=stream(message))[:4]
        labels = seen[0].public.labels[place]
        said.append(features.counts(client(seen[0].public.inputs[place], labels, message)))
        counts.append(torch.bincount(labels, minlength=10).float())
    reader = fit_counts(torch.stack(said[:150]), torch.stack(counts[:150]))
    right = 0.0
    for each, truth in zip(said[150:], counts[150:], strict=True):
        read = torch.bincount(reader.labels(each, 4), minlength=10).float()
        right += float(torch.minimum(read, truth).sum())
    assert right / 200 > 0.7, "by chance a third would be"


def test_images_of_one_label_are_matched_and_others_are_not():
    labels = torch.tensor([[0, 0, 0, 1, 2, 2]])
    images = torch.arange(6.0).view(1, 6, 1)
    guesses = torch.tensor([2.1, 0.2, 0.9, 9.0, 5.2, 3.9]).view(1, 6, 1)
    assert assigned(images, guesses, labels).flatten().tolist() == [2, 0, 1, 3, 5, 4]


def test_the_hidden_layer_is_kept_where_it_helps_and_only_there():
    rng = stream(0)
    rows = torch.randn(1200, 1, 6, generator=rng)
    labels = torch.zeros(1200, 1, dtype=torch.long)
    mix = torch.randn(6, 5, generator=rng) / 6
    for name, images in (
        ("curved", 0.5 + 0.3 * (rows.abs() - 0.8) @ mix),
        ("noise", torch.rand(1200, 1, 5, generator=rng)),
    ):
        train, held = (Examples(rows[part], images[part], labels[part]) for part in (slice(0, 1000), slice(1000, None)))
        linear, whole = (fit_inverter(train, held, 6, hidden, 8, 0) for hidden in (0, 64))
        errors = [held_error(each, each.components(held.rows), held) for each in (linear, whole)]
        assert linear.hidden is None
        assert errors[1] < 0.9 * errors[0] if name == "curved" else errors[1] <= errors[0]


def test_the_linear_layer_is_ridge_regression():
    rng = stream(1)
    rows, mix = torch.randn(300, 1, 8, generator=rng), torch.randn(8, 3, generator=rng)
    images, labels = rows @ mix, torch.zeros(300, 1, dtype=torch.long)
    examples = Examples(rows[:200], images[:200], labels[:200])
    held = Examples(rows[200:], images[200:].clamp(0, 1), labels[200:])
    found = fit_inverter(examples, held, 8, 0, 0, 0)
    assert torch.allclose(found(rows[200:]), images[200:], atol=0.05)


def test_a_model_without_a_head_has_its_images_read_and_no_labels(digits):
    headless = nn.Sequential(nn.Conv2d(1, 10, 5, stride=3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    seen, _ = observe(digits, model=headless, count=1)
    guess = LearnedInversion(examples=80, epochs=1)(seen, stream(0))[0]
    assert guess.labels is None
    assert guess.inputs.shape == (1, 1, SIZE, SIZE)


def test_public_images_need_no_labels(digits):
    seen, truths = observe(digits, SIGN)
    bare = [dataclasses.replace(each, public=Images(each.public.inputs)) for each in seen]
    guesses = LearnedInversion(**BUDGET).prepare(bare, stream(0))(bare, stream(1))
    assert decibels(guesses, truths) > decibels(class_means(seen, truths), truths) + 2


def test_what_cannot_be_learned_from_is_refused(digits):
    seen, _ = observe(digits, count=1)
    one = dataclasses.replace(seen[0], public=Images(seen[0].public.inputs[:1]))
    with pytest.raises(ValueError, match="at least two"):
        LearnedInversion().prepare([one], stream(0))
    with pytest.raises(ValueError, match="held_out"):
        LearnedInversion(held_out=0.0)
    with pytest.raises(ValueError, match="examples"):
        LearnedInversion(examples=0)
