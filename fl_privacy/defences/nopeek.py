"""NoPeek: training against the distance correlation of inputs with what is released."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from fl_privacy.defences.base import DEFENCES, Defence
from fl_privacy.metrics.distance_correlation import LEAST_ROWS, Estimator, distance_correlation


@DEFENCES.register("nopeek")
@dataclass(frozen=True)
class NoPeek(Defence):
    """Adds `weight` times the distance correlation of inputs with activations to the client's loss; 0 adds nothing.

    Acts through training only: what a trained client releases is untouched. `estimator`: 'euclidean' as NoPeek's code,
    'squared' as that of Titcombe et al., 'unbiased' without the small-batch bias (of the square).

    Source: Vepakomma et al. 2020, section 3; Titcombe et al. 2021, algorithm 1.
    """

    weight: float = 0.0
    estimator: Estimator = "euclidean"

    def __post_init__(self) -> None:
        if not 0 <= self.weight < float("inf"):
            raise ValueError(f"weight must be a finite number of at least 0 (0 adds nothing), not {self.weight}")
        if self.estimator not in LEAST_ROWS:
            raise ValueError(f"estimator takes one of {', '.join(LEAST_ROWS)}, not {self.estimator!r}")

    def extra_loss(self, x: Tensor, released: Tensor) -> Tensor | None:
        if self.weight == 0:
            return None
        return self.weight * distance_correlation(x, released, self.estimator)
