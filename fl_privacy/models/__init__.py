"""Models as sequences of named stages."""

from fl_privacy.models import lenet, resnet, split_cnn, wide_resnet
from fl_privacy.models.base import MODELS, ModelFactory, build_model

__all__ = ["MODELS", "ModelFactory", "build_model", "lenet", "resnet", "split_cnn", "wide_resnet"]
