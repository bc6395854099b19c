"""Two faults of the metric scripts that GRNN's authors published later (FedKL, AdaDefense), beside ours on one image.

Whether the numbers of the GRNN paper itself came from these scripts is not known: its repository has no metric.
"""

import math

import numpy as np
import pytest
import torch
from torchvision.transforms import ToPILImage

from fl_privacy.metrics import psnr


def published_psnr(guess, truth):
    """Their evaluation_metrics.py: what is called MSE there is its root, and goes into the formula of the PSNR."""
    root = math.sqrt(float(((guess - truth) * 255).square().mean()))
    return 10 * math.log10(255**2 / root)


@pytest.mark.parametrize("error", [0.3, 0.1, 0.01])
def test_a_root_in_the_place_of_the_square_flatters_a_failure(error):
    truth = torch.full((1, 3, 8, 8), 0.5)
    guess = truth + error * torch.sign(torch.arange(192.0).view(1, 3, 8, 8) % 2 - 0.5)
    ours, theirs = float(psnr(guess, truth)[0]), published_psnr(guess, truth)
    assert ours == pytest.approx(2 * theirs - 20 * math.log10(255), abs=1e-3)  # 48.13
    assert ours == pytest.approx(-20 * math.log10(error), abs=1e-3)


def test_pixels_beyond_the_range_come_back_as_the_opposite_when_saved_as_a_picture():
    """DLG's images have no box, a sigmoid's cannot leave it: the same small excess ruins the former's score alone."""
    truth = torch.ones(1, 1, 16, 16)
    excess = truth + 4 / 255
    saved = np.asarray(ToPILImage()(excess[0])).copy()
    assert (saved == 3).all()  # white has become black
    read_back = torch.from_numpy(saved).float()[None, None] / 255
    assert float(psnr(read_back, truth)[0]) < 0.2
    assert float(psnr(excess.clamp(0, 1), truth)[0]) == 100
