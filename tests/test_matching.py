import pytest
import torch
import torch.nn.functional as F

from benchmarks import textbook
from fl_privacy.attacks.gradient.grnn_generator import GrnnGenerator, doubled_convolution, interleaved
from fl_privacy.attacks.gradient.matching import (
    adversary_copy,
    gradient_matcher,
    observed_gradient,
    published_cross_entropy,
    soft_cross_entropy,
)
from fl_privacy.attacks.inversion.total_variation import absolute_variation, squared_variation
from fl_privacy.federated.client import gradient
from fl_privacy.models import build_model
from fl_privacy.observation import ChannelName, LocalTraining, Observation, Spec
from fl_privacy.seeding import stream


def guesses(victims, batch, shape=(1, 28, 28), classes=10, seed=0):
    rng = stream(seed, "guesses")
    images = torch.rand(victims, batch, *shape, generator=rng)
    return images, torch.rand(victims, batch, classes, generator=rng).softmax(-1)


@pytest.mark.parametrize("name", ["lenet_dlg", "lenet_grnn", "resnet18"])
@pytest.mark.parametrize("victims", [1, 3])
def test_matcher_equals_a_loop_of_plain_autograd(name, victims):
    settings = {"width": 4} if name == "resnet18" else {}
    model = build_model(name, (1, 28, 28), 10, 0, settings).train()
    images, targets = guesses(victims, 2)
    fast = gradient_matcher(adversary_copy(model, True), victims)(images, targets)
    for victim in range(victims):
        loss = -(targets[victim] * F.log_softmax(model(images[victim]), 1)).sum(1).mean()
        slow = torch.autograd.grad(loss, list(model.parameters()))
        assert torch.allclose(fast[victim], torch.cat([g.flatten() for g in slow]), atol=2e-6, rtol=1e-4)


@pytest.mark.parametrize("victims", [1, 3])
def test_matcher_is_differentiable_in_the_guess(victims):
    model = build_model("lenet_dlg", (1, 28, 28), 3, 0, {"init": "wide"}).double()
    images, targets = guesses(victims, 1, classes=3)
    images = images.double().requires_grad_()
    match = gradient_matcher(adversary_copy(model, True), victims)
    (slope,) = torch.autograd.grad(match(images, targets.double()).square().sum(), images)
    direction = torch.randn(images.shape, generator=stream(0, "d"), dtype=torch.float64)
    step = 1e-6

    def value(x):
        return match(x, targets.double()).square().sum().detach()

    with torch.enable_grad():
        numeric = (value(images + step * direction) - value(images - step * direction)) / (2 * step)
    assert float((slope * direction).sum()) == pytest.approx(float(numeric), rel=1e-5)


def test_the_attack_sees_what_the_client_released():
    model = build_model("lenet_dlg", (1, 28, 28), 10, 0, {"init": "wide"})
    x, y = torch.rand(4, 1, 28, 28, generator=stream(0)), torch.tensor([1, 2, 3, 3])
    payload, _ = gradient(model, x, y)
    spec = Spec(image_shape=(1, 28, 28), classes=10, batch_size=4, local=LocalTraining(learning_rate=0.1))
    seen = Observation(channel=ChannelName.GRADIENT, payload=payload, spec=spec, round=1, client=0, model=model)
    flat = observed_gradient(seen)
    matched = gradient_matcher(adversary_copy(model, True), 1)(x.unsqueeze(0), F.one_hot(y, 10).float().unsqueeze(0))
    assert torch.allclose(flat, matched[0], atol=1e-7)
    update = {name: -0.1 * value for name, value in payload.items()}
    stepped = Observation(channel=ChannelName.UPDATE, payload=update, spec=spec, round=1, client=0, model=model)
    assert torch.allclose(observed_gradient(stepped), flat, atol=1e-6)


def test_what_cannot_be_a_gradient_is_refused():
    model = build_model("lenet_dlg", (1, 28, 28), 10, 0)
    spec = Spec(image_shape=(1, 28, 28), classes=10, batch_size=1, local=LocalTraining(learning_rate=0.1, steps=3))
    update = {name: torch.zeros_like(value) for name, value in model.named_parameters()}
    seen = Observation(channel=ChannelName.UPDATE, payload=update, spec=spec, round=1, client=0, model=model)
    with pytest.raises(ValueError, match="took 3 steps"):
        observed_gradient(seen)
    with pytest.raises(ValueError, match=r"head\.bias"):
        observed_gradient(
            Observation(channel=ChannelName.GRADIENT, payload={}, spec=spec, round=1, client=0, model=model)
        )


def test_stable_cross_entropy_survives_where_the_published_one_does_not():
    logits, targets = torch.tensor([[200.0, -200.0]]), torch.tensor([[1.0, 0.0]])
    assert torch.isnan(published_cross_entropy(logits, targets))
    assert soft_cross_entropy(logits, targets) == 0
    mild = torch.tensor([[0.3, -0.2]])
    assert soft_cross_entropy(mild, targets) == pytest.approx(float(F.cross_entropy(mild, torch.tensor([0]))))
    assert published_cross_entropy(mild, targets) == pytest.approx(float(F.cross_entropy(mild, torch.tensor([0]))))


def test_total_variation_equals_the_published_sum():
    images, _ = guesses(2, 3, (3, 8, 6))
    for victim in range(2):
        total = 0.0
        for image in images[victim]:
            channels, height, width = image.shape
            down = sum(float((image[:, i + 1] - image[:, i]).square().sum()) for i in range(height - 1))
            across = sum(float((image[:, :, j + 1] - image[:, :, j]).square().sum()) for j in range(width - 1))
            total += 2 / 3 * (down / (channels * (height - 1) * width) + across / (channels * height * (width - 1)))
        assert float(squared_variation(images)[victim]) == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize("variation", [squared_variation, absolute_variation])
def test_images_of_one_row_or_one_column_vary_along_the_other_alone(variation):
    row, _ = guesses(2, 3, (3, 1, 6))
    twice = torch.cat([row, row], dim=-2)  # no more variation: the second row is the first
    assert torch.equal(variation(row), variation(row.transpose(-2, -1)))
    assert torch.allclose(variation(row), variation(twice))
    assert torch.equal(variation(row[..., :1]), torch.zeros(2))


@pytest.mark.parametrize("out_channels", [2, 8])
@pytest.mark.parametrize("batch", [1, 3])
def test_doubled_convolution_equals_its_definition(out_channels, batch):
    rng = stream(0, "conv")
    x = torch.randn(2, 4, batch, 5, 3, generator=rng, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, out_channels, 4, 3, 3, generator=rng, dtype=torch.float64, requires_grad=True)
    fast = interleaved(doubled_convolution(x, weight.permute(0, 3, 4, 1, 2)))
    doubled = (F.interpolate(each.transpose(0, 1), scale_factor=2, mode="nearest") for each in x)
    slow = torch.stack(
        [F.conv2d(each, kernel, padding=1).transpose(0, 1) for each, kernel in zip(doubled, weight, strict=True)]
    )
    assert torch.allclose(fast, slow, atol=1e-12)
    toward = torch.randn(slow.shape, generator=rng, dtype=torch.float64)
    for mine, plain in zip(*(torch.autograd.grad(each, (x, weight), toward) for each in (fast, slow)), strict=True):
        assert torch.allclose(mine, plain, atol=1e-12)


@pytest.mark.parametrize(("side", "channels", "batch"), [(32, 3, 1), (32, 1, 4), (64, 3, 2)])
def test_generator_equals_the_textbook_one_victim_by_victim(side, channels, batch):
    victims, latent, width = 2, 16, 8
    ours = GrnnGenerator((channels, side, side), 5, victims, batch, latent, width, stream(0, "generator"))
    images, logits = ours()
    assert images.shape == (victims, batch, channels, side, side)
    for victim in range(victims):
        plain = textbook.Generator(side, channels, 5, latent, width)
        with torch.no_grad():
            plain.first.weight.copy_(ours.first_weight[victim].view(latent, -1, 4, 4))
            plain.first.bias.copy_(ours.first_bias[victim].flatten())
            for block, taps in zip(plain.blocks, ours.taps, strict=True):
                block.conv.weight.copy_(taps[victim].permute(2, 3, 0, 1))
            plain.labels.weight.copy_(ours.label_weight[victim].T)
            plain.labels.bias.copy_(ours.label_bias[victim].flatten())
            expected, labels = plain(ours.latents[victim])
        assert torch.allclose(images[victim], expected, atol=1e-5)
        assert torch.allclose(logits[victim].softmax(-1), labels, atol=1e-6)


def test_generator_has_the_published_size_and_spread():
    generator = GrnnGenerator((3, 32, 32), 100, 1, 1, 128, 32, stream(0, "generator"))
    assert sum(p.numel() for p in generator.parameters()) == 723_888
    plain = textbook.Generator(32, 3, 100)
    assert float(generator.first_weight.detach().std()) == pytest.approx(
        float(plain.first.weight.detach().std()), rel=0.02
    )
    for ours, block in zip(generator.taps, plain.blocks, strict=True):
        assert float(ours.detach().std()) == pytest.approx(float(block.conv.weight.detach().std()), rel=0.05)


@pytest.mark.parametrize("size", [(1, 28, 28), (3, 33, 47), (1, 8, 8)])
def test_generator_makes_any_size(size):
    images, _ = GrnnGenerator(size, 3, 1, 2, 8, 8, stream(0))()
    assert images.shape == (1, 2, *size)
