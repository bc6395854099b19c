"""Label counts against labels that are known, and the rounding against all that is possible."""

import dataclasses
import itertools

import pytest
import torch
from torch import nn

from fl_privacy.attacks.gradient.label_recovery import LabelCounts, read_at, whole_counts
from fl_privacy.defences import chain
from fl_privacy.federated.client import gradient
from fl_privacy.models import build_model
from fl_privacy.observation import ChannelName, Images, LocalTraining, Observation, Spec
from fl_privacy.seeding import seeded, stream

SHAPE = (1, 12, 12)


def seen_of(labels, model=None, defence=None, public=None, classes=6):
    """The gradient of images of noise with these labels."""
    with seeded(0, "model"):
        model = model or nn.Sequential(nn.Flatten(), nn.Linear(144, 20), nn.Sigmoid(), nn.Linear(20, classes))
    y = torch.tensor(labels)
    x = torch.rand(len(y), *SHAPE, generator=stream(0, "images"))
    payload, _ = gradient(model, x, y)
    spec = Spec(image_shape=SHAPE, classes=classes, batch_size=len(y), local=LocalTraining(learning_rate=0.1))
    return Observation(
        channel=ChannelName.GRADIENT,
        payload=defence.on_release(payload, 5) if defence else payload,
        spec=spec,
        round=1,
        client=0,
        model=model,
        defence=defence,
        public=public,
    )


def read(seen):
    (guess,) = LabelCounts()([seen], stream(0))
    return guess


BATCHES = ([3], [0], [1, 1], [5, 0, 2, 2], [4, 4, 4, 4, 4, 4, 4, 4], [0, 1, 2, 3, 4, 5] * 5 + [2])


@pytest.mark.parametrize("labels", BATCHES)
@pytest.mark.parametrize("public", [None, Images(torch.rand(20, *SHAPE, generator=stream(1)))])
def test_counts_are_exact_on_a_fresh_model(labels, public):
    guess = read(seen_of(labels, public=public))
    assert guess.labels.tolist() == sorted(labels)
    assert guess.inputs is None
    assert guess.loss < 0.2


def test_the_loss_is_lower_at_the_truth_than_at_any_other_labels():
    seen = seen_of([1, 2])
    attack, images = LabelCounts(), torch.zeros(2, *SHAPE)
    losses = {
        pair: attack.loss(seen, images, torch.tensor(pair))
        for pair in itertools.combinations_with_replacement(range(6), 2)
    }
    assert min(losses, key=losses.get) == (1, 2)
    assert losses[1, 2] == pytest.approx(read(seen).loss)


@pytest.mark.parametrize(
    "defence",
    [{"name": "clip", "norm": 1e-3}, {"name": "clip", "norm": 1e6}, {"name": "gaussian_noise", "scale": 0.01}],
)
def test_known_clips_and_little_noise_hide_no_labels(defence):
    for labels in ([2], [0, 0, 3, 5]):
        assert read(seen_of(labels, defence=chain([defence]))).labels.tolist() == labels


def test_labels_lost_in_noise_are_still_a_guess():
    guess = read(seen_of([1, 2, 3], defence=chain([{"name": "gaussian_noise", "scale": 100.0}])))
    assert guess.labels.shape == (3,)


def test_without_a_bias_the_weights_tell():
    with seeded(0, "bias"):
        model = nn.Sequential(nn.Flatten(), nn.Linear(144, 40), nn.Sigmoid(), nn.Linear(40, 6, bias=False))
    for labels in BATCHES[:5]:
        assert read(seen_of(labels, model)).labels.tolist() == sorted(labels)


def test_an_update_is_read_as_a_gradient_and_zero_gradients_as_something():
    seen = seen_of([1, 4])
    moved = {name: -0.1 * value for name, value in seen.payload.items()}
    assert read(dataclasses.replace(seen, channel=ChannelName.UPDATE, payload=moved)).labels.tolist() == [1, 4]
    nothing = {name: 0 * value for name, value in seen.payload.items()}
    assert read(dataclasses.replace(seen, payload=nothing)).labels.shape == (2,)


def test_the_head_is_found_in_a_convolutional_model_with_batch_statistics():
    model = build_model("resnet18", (3, 32, 32), 4, 0, {"width": 4, "activation": "sigmoid"}).train()
    x, y = torch.rand(8, 3, 32, 32, generator=stream(0)), torch.tensor([0, 1, 1, 2, 2, 2, 3, 3])
    payload, _ = gradient(model, x, y)
    spec = Spec(image_shape=(3, 32, 32), classes=4, batch_size=8)
    seen = Observation(channel=ChannelName.GRADIENT, payload=payload, spec=spec, round=1, client=0, model=model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert read(seen).labels.shape == (8,)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_head_is_the_mean_over_all_images():
    seen = seen_of([0])
    images = torch.rand(5, *SHAPE, generator=stream(3))
    head = read_at(seen, images, block=2)
    assert head.name == "3"
    assert torch.allclose(head.probabilities, seen.model(images).softmax(1).mean(0).double(), atol=1e-6)
    assert torch.allclose(head.features, seen.model[:3](images).double(), atol=1e-6)


def test_a_model_whose_logits_are_no_linear_layers_is_refused():
    with seeded(0, "odd"):
        model = nn.Sequential(nn.Flatten(), nn.Linear(144, 6), nn.Tanh())
    with pytest.raises(ValueError, match="not the output of a trained linear layer"):
        read(seen_of([0], model))


def test_rounding_is_the_nearest_of_all_whole_counts():
    rng = stream(0, "rounding")
    for total in (0, 1, 3, 5):
        expected = 2 * torch.randn(4, generator=rng, dtype=torch.float64)
        found = whole_counts(expected, total)
        every = torch.tensor(
            [c for c in itertools.product(range(total + 1), repeat=4) if sum(c) == total], dtype=torch.float64
        )
        least = (every - expected).square().sum(1).min()
        assert found.sum() == total
        assert float((found - expected).square().sum()) == pytest.approx(float(least))
