"""What a client of split learning can check of the gradients that a server returns: do they know its labels?"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def label_agreement(gradients: Tensor, labels: Tensor) -> float:
    """By how much the gradients (N, ...) of one label agree more than those of different labels (N,): -2 to 2.

    The mean cosine of pairs of one label less that of other pairs. A server that trains the task pulls examples of one
    label one way; one that steers the segment to an end of its own, which no label enters, pulls all alike: about 0.
    NaN where the labels leave one of the two kinds of pairs out.

    Source: Erdoğan, Küpçü and Çiçek 2022 (SplitGuard, arXiv 2108.09052) compare gradients of true and wrong labels; Fu
    et al. 2023 (arXiv 2302.11618), the gradients scrutinizer, those of same and different ones, as here.
    """
    directions = F.normalize(gradients.flatten(1))
    cosine = directions @ directions.T
    same = labels[:, None] == labels
    pairs = ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    return float(cosine[same & pairs].mean() - cosine[~same].mean())
