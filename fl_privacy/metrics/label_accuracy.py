"""How many labels of a batch were recovered, as a multiset."""

import torch
from torch import Tensor

from fl_privacy.metrics.base import check_shapes


def label_accuracy(guess: Tensor, truth: Tensor, classes: int) -> float:
    """The share of a batch's labels (N,) int64 that the guess (N,) holds too, counted with multiplicity, in [0, 1].

    Batch order cannot be read from a gradient, so labels are compared as multisets: 1 - sum |count difference| / 2N.

    Raises:
        ValueError: two numbers of labels.

    Source: the report of breaching (Geiping et al.), which this equals.
    """
    check_shapes(guess, truth)
    if len(truth) == 0:
        return 1.0
    counts = [torch.bincount(labels.long().cpu(), minlength=classes) for labels in (guess, truth)]
    return 1.0 - float((counts[0] - counts[1]).abs().sum()) / (2 * len(truth))
