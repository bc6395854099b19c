"""By what the evaluator of split learning judges reconstructions."""

from __future__ import annotations

from functools import lru_cache

from torch import nn

from fl_privacy.metrics.class_recognition import train_judge
from fl_privacy.models import build_model
from fl_privacy.seeding import one_thread
from fl_privacy.simulations.channels.activation.federation import evaluator_holdout
from fl_privacy.simulations.federation import Federation


@lru_cache(maxsize=1)
def judge(federation: Federation) -> nn.Module:
    """A classifier trained on images that no other party has; it reads classes from reconstructions."""
    images, labels = evaluator_holdout(federation)
    seed = federation.experiment.seed
    settings = {"activation": "relu", "width": 16}
    model = build_model("convnet", federation.spec.image_shape, federation.spec.classes, seed, settings)
    with one_thread():
        return train_judge(model, images, labels, seed)
