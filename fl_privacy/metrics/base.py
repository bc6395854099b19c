"""What a metric is: a guess and the truth, already matched image by image, to one number an image."""

from collections.abc import Callable

from torch import Tensor

from fl_privacy.catalogue import Catalogue

Metric = Callable[[Tensor, Tensor], Tensor]
"""(guess (N, C, H, W), truth (N, C, H, W)), both in [0, 1], to (N,). Entered with `more_is_leak=True|False`."""

METRICS: Catalogue[Metric] = Catalogue("metric")
