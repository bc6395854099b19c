"""What reports of split learning add: distance correlations with their floors, and whether the class is readable."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from fl_privacy.metrics import MatchedSet, class_recognised, correlations_of_set
from fl_privacy.metrics.class_recognition import train_judge
from fl_privacy.models import build_model
from fl_privacy.seeding import one_thread
from fl_privacy.simulations.channels.activation.federation import evaluator_holdout
from fl_privacy.simulations.federation import Federation
from fl_privacy.simulations.results.records import Scored


def of_guesses(federation: Federation, group: Sequence[Scored]) -> dict[str, Any]:
    """How much of image and class is in a group of guesses, as columns."""
    matched = MatchedSet(
        guesses=torch.cat([each.images for each in group]),
        truth=torch.cat([each.truth.inputs for each in group]),
        labels=torch.cat([each.truth.labels for each in group]),
        judge=_judge(federation),
        seed=federation.experiment.seed,
    )
    with one_thread():
        return correlations_of_set(matched) | class_recognised(matched)


@lru_cache(maxsize=1)
def _judge(federation: Federation) -> nn.Module:
    """A classifier trained on images that no other party has; it reads classes from reconstructions."""
    images, labels = evaluator_holdout(federation)
    seed = federation.experiment.seed
    settings = {"activation": "relu", "width": 16}
    model = build_model("convnet", federation.spec.image_shape, federation.spec.classes, seed, settings)
    with one_thread():
        return train_judge(model, images, labels, seed)
