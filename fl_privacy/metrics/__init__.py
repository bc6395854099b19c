"""Image metrics: pure functions of a matched guess and truth, one number an image."""

from fl_privacy.metrics.base import METRICS, Metric
from fl_privacy.metrics.label_accuracy import label_accuracy
from fl_privacy.metrics.mse import mse
from fl_privacy.metrics.psnr import psnr
from fl_privacy.metrics.reconstruction_risk import Factorisation, Risk, factorise, reconstruction_risk, risk_per_sample
from fl_privacy.metrics.ssim import ssim

__all__ = [
    "METRICS",
    "Factorisation",
    "Metric",
    "Risk",
    "factorise",
    "label_accuracy",
    "mse",
    "psnr",
    "reconstruction_risk",
    "risk_per_sample",
    "ssim",
]
