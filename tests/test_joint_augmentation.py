"""The vectorised augmentations against torchvision, image by image."""

import pytest
import torch
import torchvision.transforms.v2.functional as TF

from fl_privacy.joint_training.augmentation import OPERATIONS, augment, blur, warp
from fl_privacy.seeding import stream


@pytest.fixture
def images():
    return torch.rand(12, 3, 28, 32, generator=torch.Generator().manual_seed(0))


def test_blur_equals_torchvision_image_by_image(images):
    sigma = torch.linspace(0.1, 2, 12)
    slow = [TF.gaussian_blur(x, [5, 9], [float(s)] * 2) for x, s in zip(images, sigma, strict=True)]
    assert torch.allclose(blur(images, sigma), torch.stack(slow), atol=1e-6)


def test_perspective_equals_torchvision_image_by_image(images):
    start = torch.tensor([[0.0, 0.0], [31.0, 0.0], [31.0, 27.0], [0.0, 27.0]])
    end = start + torch.randint(-6, 7, (12, 4, 2), generator=torch.Generator().manual_seed(1))
    linear = TF.InterpolationMode.BILINEAR
    slow = [
        TF.perspective(x, start.int().tolist(), e.int().tolist(), interpolation=linear, fill=[0.0])
        for x, e in zip(images, end, strict=True)
    ]
    assert torch.allclose(warp(images, start, end), torch.stack(slow), atol=2e-3)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("shape", [(5, 1, 28, 28), (1, 3, 32, 32), (4, 1, 11, 17)])
def test_every_operation_keeps_the_shape_and_changes_most_images(operation, shape):
    images = torch.rand(shape, generator=torch.Generator().manual_seed(2)) * 0.8 + 0.1
    out = operation(images, stream(0))
    assert out.shape == images.shape
    assert bool(out.isfinite().all())
    assert int(((out - images).abs().flatten(1).amax(1) > 1e-4).sum()) >= len(images) - 1


def test_erased_boxes_are_black_and_of_the_stated_size():
    erase = next(f for f in OPERATIONS if f.__name__ == "_erase")
    share = (erase(torch.ones(500, 1, 32, 32), stream(3)) == 0).float().mean((1, 2, 3))
    assert 0.01 < float(share.min()) < 0.03
    assert 0.15 < float(share.max()) <= 0.22


def test_same_stream_same_bits_in_range_and_the_input_untouched(images):
    before = images.clone()
    first, second, other = augment(images, stream(0)), augment(images, stream(0)), augment(images, stream(1))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(images, before)
    assert float(first.min()) >= 0
    assert float(first.max()) <= 1
    assert augment(images[:0], stream(0)).shape == (0, 3, 28, 32)
