"""What reports of split learning add: distance correlations with their floors, and whether the class is readable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fl_privacy.federated.client import accuracy
from fl_privacy.metrics.distance_correlation import Estimator, measure
from fl_privacy.models import build_model
from fl_privacy.seeding import one_thread, seeded, stream
from fl_privacy.simulations.channels.activation.federation import evaluator_holdout
from fl_privacy.simulations.federation import Federation
from fl_privacy.simulations.results.records import Scored

SMALL_N, LARGE_N = 32, 256
"""Rows of one distance correlation of images with reconstructions: the large number where there are as many."""
ESTIMATORS: Mapping[Estimator, str] = {"squared": "", "euclidean": "_euclidean", "unbiased": "_u"}
SHUFFLES = 5
READER_STEPS, READER_BATCH, READER_STEP = 600, 64, 2e-3


def correlations(name: str, x: Tensor, z: Tensor, rng: torch.Generator, n: int) -> dict[str, float]:
    """Distance correlation of x (N, ...) with z (N, ...), every estimator with its floor, as columns; {} below n rows.

    `name` alone is the published estimator (squared distances), '_euclidean' NoPeek's, '_u' the bias-corrected square.
    """
    row: dict[str, float] = {}
    if len(x) < n:
        return row
    for estimator, suffix in ESTIMATORS.items():
        found = measure(x, z, rng, n, estimator, SHUFFLES)
        row |= {f"{name}{suffix}": found.value, f"{name}{suffix}_floor": found.floor}
        row[f"{name}{suffix}_error"] = found.standard_error
    return row | {f"{name}_n": n, f"{name}_batches": len(x) // n}


def of_guesses(federation: Federation, group: Sequence[Scored]) -> dict[str, Any]:
    """How much of image and class is in a group of guesses, as columns."""
    guesses = torch.cat([each.images for each in group])
    truths = torch.cat([each.truth.inputs for each in group])
    labels = torch.cat([each.truth.labels for each in group])
    rng = stream(federation.experiment.seed, "dcor", "guesses")
    n = LARGE_N if len(guesses) >= LARGE_N else SMALL_N
    with one_thread():
        judge = _reader(federation)
        return {
            **correlations("dcor_guess", truths, guesses, rng, n),
            "class_read": accuracy(judge, guesses, labels)[0],
            "class_read_originals": accuracy(judge, truths, labels)[0],
        }


@lru_cache(maxsize=1)
def _reader(federation: Federation) -> nn.Module:
    """A classifier trained on images that no other party has; it reads classes from reconstructions."""
    images, labels = evaluator_holdout(federation)
    seed = federation.experiment.seed
    settings = {"activation": "relu", "width": 16}
    model = build_model("convnet", federation.spec.image_shape, federation.spec.classes, seed, settings)
    optimiser = torch.optim.Adam(model.parameters(), READER_STEP)
    rng = stream(seed, "reader")
    with seeded(seed, "reader"):
        for _ in range(READER_STEPS):
            index = torch.randint(len(images), (READER_BATCH,), generator=rng)
            optimiser.zero_grad()
            torch.autograd.backward(F.cross_entropy(model(images[index]), labels[index]))
            optimiser.step()
    return model.eval()
