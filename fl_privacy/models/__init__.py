"""Models as sequences of named stages."""

from fl_privacy.models import convnet, decoders, lenet, resnet, split_cnn, vicious_small, wide_resnet
from fl_privacy.models.base import MODELS, ModelFactory, build_model

__all__ = [
    "MODELS",
    "ModelFactory",
    "build_model",
    "convnet",
    "decoders",
    "lenet",
    "resnet",
    "split_cnn",
    "vicious_small",
    "wide_resnet",
]
