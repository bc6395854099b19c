"""Metrics of images, one number an image, and of sets of images: pure functions of matched guesses and truths."""

from fl_privacy.metrics.base import METRICS, Metric
from fl_privacy.metrics.class_recognition import class_recognised
from fl_privacy.metrics.correlations import correlations_of_set
from fl_privacy.metrics.face_identity import faces_recognised
from fl_privacy.metrics.instance_detail import instances_found
from fl_privacy.metrics.label_accuracy import label_accuracy
from fl_privacy.metrics.mse import mse
from fl_privacy.metrics.psnr import psnr
from fl_privacy.metrics.reconstruction_risk import Factorisation, Risk, factorise, reconstruction_risk, risk_per_sample
from fl_privacy.metrics.risk_of_set import risk_of_set
from fl_privacy.metrics.sets import SET_METRICS, MatchedSet, SetMetric, pooled_psnr
from fl_privacy.metrics.ssim import ssim

__all__ = [
    "METRICS",
    "SET_METRICS",
    "Factorisation",
    "MatchedSet",
    "Metric",
    "Risk",
    "SetMetric",
    "class_recognised",
    "correlations_of_set",
    "faces_recognised",
    "factorise",
    "instances_found",
    "label_accuracy",
    "mse",
    "pooled_psnr",
    "psnr",
    "reconstruction_risk",
    "risk_of_set",
    "risk_per_sample",
    "ssim",
]
