"""The joint loss against its equations, and decoders against their published sizes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_privacy.joint_training import JointLoss, class_weights
from fl_privacy.joint_training.losses import hits
from fl_privacy.joint_training.quick_ssim import quick_ssim
from fl_privacy.metrics import ssim
from fl_privacy.models import build_model
from fl_privacy.models.decoders import DECODERS, build_decoder
from fl_privacy.seeding import stream
from fl_privacy.settings import UnknownName


def images(count=4, seed=0, shape=(1, 16, 16)):
    return torch.rand(count, *shape, generator=stream(seed, "images"))


def huber(error, delta):
    """Equation 17, one number at a time."""
    return torch.tensor([0.5 * e * e if abs(e) <= delta else delta * (abs(e) - 0.5 * delta) for e in error.flatten()])


@given(delta=st.floats(0.01, 2))
@settings(max_examples=20, deadline=None)
def test_reconstruction_is_equation_3_with_equation_17(delta):
    guess, truth = images(seed=1), images(seed=2)
    expected = 5 * huber(guess - truth, delta).mean() + (1 - ssim(guess, truth).mean())
    assert JointLoss(delta=delta).reconstruction(guess, truth) == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.parametrize("shape", [(3, 1, 28, 28), (2, 3, 32, 20), (2, 2, 9, 12), (1, 1, 2, 2)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_quick_ssim_and_its_gradient_are_those_of_pytorch_msssim(shape, layout):
    truth = torch.rand(shape, generator=stream(1, "truth"))
    noise = torch.rand(shape, generator=stream(1, "noise"))
    for share in (0.01, 0.5):
        guess = ((1 - share) * truth + share * noise).contiguous(memory_format=layout).requires_grad_()
        found = [
            (values := form(guess, truth), *torch.autograd.grad(values.sum(), guess)) for form in (quick_ssim, ssim)
        ]
        assert found[0][0].shape == (shape[0],)
        for quick, slow in zip(*found, strict=True):
            assert torch.allclose(quick, slow, rtol=1e-4, atol=2e-6)
    assert torch.equal(quick_ssim(truth, truth), quick_ssim(truth, truth.clone()))
    assert float((1 - quick_ssim(truth, truth)).abs().max()) < 1e-5


def test_huber_with_delta_1_is_exactly_half_the_squared_error_on_images():
    guess, truth = images(seed=1), images(seed=2)
    found = JointLoss(gamma_h=1, gamma_s=0, delta=1).reconstruction(guess, truth)
    assert torch.allclose(found, (guess - truth).square().mean() / 2, rtol=1e-6)


def test_a_small_delta_makes_the_term_light():
    guess, truth = images(seed=1), images(seed=2)
    found = JointLoss(gamma_h=1, gamma_s=0, delta=0.01).reconstruction(guess, truth)
    assert found == pytest.approx(0.01 * float((guess - truth).abs().mean()), rel=0.03)


def test_attribute_loss_is_equation_2():
    logits = torch.randn(6, 3, generator=stream(0))
    labels = torch.tensor([[1, 0, 1], [0, 0, 1], [1, 1, 0], [0, 0, 0], [1, 0, 0], [0, 1, 0]])
    weights = class_weights(labels)
    assert torch.allclose(weights, torch.tensor([1.0, 2.0, 2.0]))
    p = logits.sigmoid()
    expected = -(weights * labels * p.log() + (1 - labels) * (1 - p).log()).mean()
    found = JointLoss(task="attributes").classification(logits, labels.bool(), weights)
    assert torch.allclose(found, expected, atol=1e-6)
    assert torch.allclose(hits("attributes", logits, labels), ((logits >= 0) == labels.bool()).float().mean(1))
    with pytest.raises(ValueError, match="no positive"):
        class_weights(torch.zeros(4, 2))


def test_total_is_equation_4_and_settings_are_checked():
    c, r = torch.tensor(2.0), torch.tensor(3.0)
    assert JointLoss(beta_c=1, beta_r=5).total(c, r) == 17
    assert JointLoss(beta_r=0).total(c, None) == 2
    for wrong in ({"beta_c": -1.0}, {"beta_c": 0.0, "beta_r": 0.0}, {"delta": 0.0}):
        with pytest.raises(ValueError, match=r"beta|delta"):
            JointLoss(**wrong)


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("classes", [1, 10])
def test_decoders_make_images_and_the_seed_decides(name, classes):
    first = build_decoder(name, (3, 32, 32), classes, 0)
    out = first(torch.randn(2, classes)).detach()
    assert out.shape == (2, 3, 32, 32)
    assert 0 <= float(out.min()) <= float(out.max()) <= 1
    again, other = build_decoder(name, (3, 32, 32), classes, 0), build_decoder(name, (3, 32, 32), classes, 1)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 30, 18), (1, 5, 7)])
def test_the_small_pair_takes_any_side(shape):
    x = torch.rand(2, *shape)
    logits = build_model("vicious_small", shape, 4, 0)(x)
    assert build_decoder("small", shape, 4, 0)(logits).shape == x.shape


# counts of the published definitions, which hold an unused embedding of classes x classes besides
@pytest.mark.parametrize(
    ("width", "channels", "classes", "published"),
    [(5, 3, 10, 3_245_684), (5, 3, 100, 3_716_384), (5, 3, 200, 4_258_384), (5, 3, 40, 3_400_784), (1, 1, 10, 144_732)],
)
def test_the_published_decoder_has_its_published_size(width, channels, classes, published):
    decoder = build_decoder("wide_resnet", (channels, 32, 32), classes, 0, {"width": width})
    assert sum(p.numel() for p in decoder.parameters()) + classes**2 == published


def test_wrong_decoders_teach():
    with pytest.raises(ValueError, match="size=32"):
        build_decoder("wide_resnet", (1, 28, 28), 10, 0)
    with pytest.raises(UnknownName, match="wide_resnet"):
        build_decoder("wide", (1, 32, 32), 10, 0)
