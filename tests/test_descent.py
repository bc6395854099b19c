"""Descent against the minimum of quadratics, and batches of one label told apart."""

import pytest
import torch

from fl_privacy.attacks.gradient.map import MaximumAPosteriori
from fl_privacy.attacks.inversion.descent import descend
from fl_privacy.data import load
from fl_privacy.evaluation import Truth, align
from fl_privacy.federated.client import gradient
from fl_privacy.metrics import psnr
from fl_privacy.models import build_model
from fl_privacy.observation import ChannelName, Observation, Spec
from fl_privacy.seeding import stream


def quadratics(victims):
    """Losses (u - c) A (u - c) of victims (V, 1, 6), and their minima c."""
    rng = stream(0, "quadratics")
    centres, root = torch.randn(victims, 6, generator=rng), torch.randn(victims, 6, 6, generator=rng)
    matrices = root @ root.mT + 0.1 * torch.eye(6)
    return lambda u: torch.einsum("vi,vij,vj->v", u[:, 0] - centres, matrices, u[:, 0] - centres), centres


def test_every_victim_reaches_its_minimum_from_its_better_start():
    losses, centres = quadratics(3)
    starts = torch.randn(2, 3, 1, 6, generator=stream(1))
    found = descend(losses, starts, 30, 80)
    assert (found.u[:, 0] - centres).abs().max() < 1e-2
    assert torch.allclose(found.losses, losses(found.u))
    assert found.trace.shape[1] == 3
    assert len(found.trace) <= 30 + 1 + 80 + 1
    assert torch.equal(found.losses, found.trace.amin(0))
    first, second = (descend(losses, each[None], 30, 0).losses for each in starts)
    assert torch.equal(descend(losses, starts, 30, 0).losses, torch.minimum(first, second))


def test_a_loss_that_is_no_number_keeps_its_start_and_harms_nobody():
    losses, centres = quadratics(2)
    spoilt = lambda u: losses(u) * torch.tensor([1.0, float("nan")])  # noqa: E731
    starts = torch.randn(1, 2, 1, 6, generator=stream(1))
    found = descend(spoilt, starts, 30, 80)
    assert torch.equal(found.u[1], starts[0, 1])
    assert (found.u[0, 0] - centres[0]).abs().max() < 1e-2


@pytest.mark.parametrize("labels", [[1, 7], [3, 3]])
def test_images_of_a_batch_are_told_apart(labels):
    digits = load("digits", None, {"size": 16})
    index = [int((digits.test.labels == label).nonzero()[at]) for at, label in enumerate(labels)]
    x, y = torch.cat([digits.test.images(slice(i, i + 1)) for i in index]), torch.tensor(labels)
    model = build_model("convnet", (1, 16, 16), 10, 0, {"activation": "sigmoid"})
    payload, _ = gradient(model, x, y)
    spec = Spec(image_shape=(1, 16, 16), classes=10, batch_size=2)
    seen = Observation(channel=ChannelName.GRADIENT, payload=payload, spec=spec, round=1, client=0, model=model)
    (guess,) = MaximumAPosteriori(restarts=1, adam=60, lbfgs=100)([seen], stream(0))
    assert guess.labels.tolist() == labels
    assert guess.loss == pytest.approx(float(guess.trace.min()), rel=1e-3)
    reached = psnr(align(guess, Truth(x, y)).inputs, x)
    if labels[0] == labels[1]:  # seen by the head only as a sum: the mean of both is as near, but no two are equal
        assert (guess.inputs[0] - guess.inputs[1]).abs().mean() > 0.2 * (x[0] - x[1]).abs().mean()
    else:
        blurred = psnr(x.mean(0, keepdim=True).expand_as(x), x)
        assert (reached > blurred + 3).all()
