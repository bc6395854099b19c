"""What the gradients of split training tell either party: labels to the server, an honest server to the client."""

import pytest
import torch
from intercepted import IMAGES
from sklearn.datasets import load_digits
from torch import nn

from benchmarks.split_training import Scrutinised, matched, readings
from fl_privacy.attacks.activation.hijack import Hijacker
from fl_privacy.attacks.activation.returned_gradients import clusters_by_direction, labels_by_direction, loudness
from fl_privacy.defences.base import Chain
from fl_privacy.metrics import psnr
from fl_privacy.seeding import seeded, stream
from fl_privacy.split.rules import SplitRules
from fl_privacy.split.scrutiny import label_agreement
from fl_privacy.split.segments import ServerSegment, client_step, segments

LABELS = torch.from_numpy(load_digits().target)


def head_gradients(confidence, labels, classes=10):
    """W^T (p - y) of a random head, p alike for all but for some noise."""
    rng = stream(0, "head")
    weight = torch.randn(classes, 32, generator=rng)
    p = (torch.randn(len(labels), classes, generator=rng) * confidence).softmax(1)
    return (p - torch.eye(classes)[labels]) @ weight


def test_directions_tell_the_labels_with_and_without_known_examples():
    labels = torch.arange(200) % 10
    gradients = head_gradients(0.5, labels)
    assert torch.equal(labels_by_direction(gradients[10:], gradients[:10], labels[:10]), labels[10:])
    groups = clusters_by_direction(gradients, 10, stream(1))
    assert matched(groups, labels, 10) == 1.0
    assert torch.equal(groups, clusters_by_direction(gradients, 10, stream(1)))


def test_gradients_of_nothing_but_noise_tell_nothing():
    labels = torch.arange(400) % 10
    found = readings(torch.randn(400, 32, generator=stream(3)), labels, 10, 0)
    assert found["by_direction"] < 0.25
    assert found["by_group"] < 0.3
    assert found["by_group_chance"] < 0.3


def test_the_rare_class_is_the_louder_one():
    labels = (torch.arange(400) % 10 == 0).long()
    p = torch.tensor([0.9, 0.1])
    gradients = (p - torch.eye(2)[labels]) @ torch.randn(2, 8, generator=stream(0))
    norms = loudness(gradients)
    assert norms[labels == 1].min() > norms[labels == 0].max()


def test_degenerate_gradients_have_no_label_and_no_nan():
    zeros = torch.zeros(20, 4)
    assert clusters_by_direction(zeros, 3, stream(0)).shape == (20,)
    assert label_agreement(zeros, torch.arange(20) % 2) == 0


def run(server, images, labels, steps):
    rules = SplitRules(cut=("conv",), learning_rate=2e-3)
    with seeded(0, "client"):
        model = nn.Sequential()
        model.add_module("conv", nn.Sequential(nn.Conv2d(1, 8, 3, 1, 1), nn.Tanh()))
        model.add_module("head", nn.Sequential(nn.Flatten(), nn.Linear(512, 10)))
    client, module = segments(model, rules)
    link = Scrutinised(server(ServerSegment(module, rules)))
    for step in range(steps):
        index = torch.randint(len(images), (32,), generator=stream(step))
        client_step(client, images[index], labels[index], Chain(), link, step)
    return client, link


def steering(disguise):
    def made(honest):
        with seeded(1, "hijacker"):
            encoder = nn.Sequential(nn.Conv2d(1, 8, 3, 1, 1), nn.Tanh())
            decoder = nn.Sequential(nn.Conv2d(8, 16, 3, 1, 1), nn.ReLU(), nn.Conv2d(16, 1, 3, 1, 1), nn.Sigmoid())
            critic = nn.Sequential(nn.Conv2d(8, 16, 3, 1, 1), nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(1024, 1))
        return Hijacker(encoder, decoder, critic, IMAGES[1000:1400], stream(2), honest=honest, disguise=disguise)

    return made


def test_a_steering_server_rebuilds_images_and_its_client_can_tell_unless_it_is_disguised():
    private, labels = IMAGES[:400], LABELS[:400]
    blind = float(psnr(IMAGES[1000:1400].mean(0).expand_as(private), private).mean())
    _, honest = run(lambda honest: honest, private, labels, 150)
    client, plain = run(steering(0.0), private, labels, 150)
    _, hidden = run(steering(0.5), private, labels, 150)
    with torch.no_grad():
        rebuilt = plain.inner.decode(client.front(private))
    assert float(psnr(rebuilt, private).mean()) > blind + 1
    agree = [sum(link.agreements[-50:]) / 50 for link in (honest, plain, hidden)]
    assert agree[0] > agree[1] + 0.1
    assert abs(agree[1]) < 0.1
    assert agree[2] > agree[1] + 0.05


def test_a_disguise_needs_something_to_hide_behind():
    parts = (nn.Identity(), nn.Linear(1, 1), nn.Linear(1, 1), IMAGES[:4], stream(0))
    with pytest.raises(ValueError, match="hand over the `honest`"):
        Hijacker(*parts, disguise=0.5)
    with pytest.raises(ValueError, match="below 1"):
        Hijacker(*parts, disguise=1.0)
    with pytest.raises(NotImplementedError, match="U-shape"):
        Hijacker(*parts).forward(torch.zeros(1))
