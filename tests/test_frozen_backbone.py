"""A frozen backbone whose head alone is trained: its features are read exactly, and the images behind them."""

import pytest
import torch

from fl_privacy.attacks.gradient.head import read_head
from fl_privacy.attacks.gradient.map import MaximumAPosteriori
from fl_privacy.data import load
from fl_privacy.federated.client import gradient
from fl_privacy.metrics import psnr
from fl_privacy.models import build_model
from fl_privacy.observation import ChannelName, Images, Observation, Spec
from fl_privacy.seeding import stream

SIZE, COUNT = 16, 2


@pytest.fixture(scope="module")
def case():
    """Messages about digits of the test set from a model of which only the head is trained."""
    digits = load("digits", None, {"size": SIZE})
    model = build_model("convnet", (1, SIZE, SIZE), 10, 0)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("head."))
    owned = Images(digits.train.images(slice(0, 400)), digits.train.labels[:400])
    spec = Spec(image_shape=(1, SIZE, SIZE), classes=10, batch_size=1)
    images, labels = digits.test.images(slice(0, COUNT)), digits.test.labels[:COUNT]
    shared = {"channel": ChannelName.GRADIENT, "spec": spec, "round": 1, "model": model, "public": owned}
    seen = [
        Observation(payload=gradient(model, images[i : i + 1], labels[i : i + 1])[0], client=i, **shared)
        for i in range(COUNT)
    ]
    return seen, images, labels


def test_the_features_are_read_exactly(case):
    seen, images, labels = case
    model = seen[0].model
    head, body = model.head, torch.nn.Sequential(*list(model.children())[:-1])
    for observation, image, label in zip(seen, images, labels, strict=True):
        assert set(observation.payload) == {"head.weight", "head.bias"}
        own = (head.weight, head.bias, observation.payload["head.weight"], observation.payload["head.bias"])
        read = read_head(*(value.detach().double().numpy() for value in own))
        features = body(image[None])[0].detach()
        assert read.label == int(label)
        assert torch.allclose(torch.from_numpy(read.features).float(), features, atol=1e-4)


def test_the_images_behind_them_are_found(case):
    seen, images, labels = case
    guesses = MaximumAPosteriori(prior="public", outer=12).prepare(seen, stream(0))(seen, stream(1))
    found = torch.cat([psnr(guess.inputs, image[None]) for guess, image in zip(guesses, images, strict=True)])
    owned = seen[0].public
    means = torch.stack([owned.inputs[owned.labels == label].mean(0) for label in labels])
    assert all(int(guess.labels) == int(label) for guess, label in zip(guesses, labels, strict=True))
    assert float(found.min()) > float(psnr(means, images).max()) + 3
