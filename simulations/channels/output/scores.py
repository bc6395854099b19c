"""What the output channel's report says beyond single images: use, what an answer can say, R over a set."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor, nn

from fl_privacy.data import class_sample
from fl_privacy.defences import Chain
from fl_privacy.defences.outputs import ArgMax, Rounding, Sigmoid, Softmax
from fl_privacy.joint_training.detection import FineTuning, viciousness
from fl_privacy.joint_training.losses import JointLoss, hits
from fl_privacy.metrics import Factorisation, factorise
from fl_privacy.metrics.entropy_bound import entropy_bound, rounded_entropy_bound
from fl_privacy.simulations.channels.output.pairs import split
from fl_privacy.simulations.channels.output.protocol import JointServer
from fl_privacy.simulations.federation import Federation

WELL_POSED = 1e-3
"""The cut of the second R: directions with less than a thousandth of the largest variance count for nothing."""


def use(rules: JointServer, names: Sequence[str], chain: Chain, released: Tensor, wanted: Tensor) -> dict[str, float]:
    """What answers (N, Y) are worth and could say: accuracy on the `wanted` labels or attributes, entropy, bits."""
    if rules.task == "attributes" and any(isinstance(each, Sigmoid) for each in chain.defences):
        released = released - 0.5  # an attribute is present where its logit is above 0
    accuracy = {"accuracy": float(hits(rules.task, released, wanted).mean())}
    if rules.task == "attributes":
        each = ((released >= 0) == wanted).double().mean(0).tolist()
        return {**accuracy, **{f"accuracy of {name}": value for name, value in zip(names, each, strict=True)}}
    return {**accuracy, "entropy": entropy(released, chain), **bits(chain, released.shape[1])}


def entropy(released: Tensor, chain: Chain) -> float:
    """The mean entropy in bits of answers (N, Y), whose softmax is taken unless they are probabilities already.

    Sigmoids are divided by their sum.

    Source: Malekzadeh and Gündüz, appendix C.
    """
    if any(isinstance(each, Softmax | Sigmoid | ArgMax) for each in chain.defences):
        # rounded or noisy probabilities need not add up to 1; a row that says nothing is uniform
        weights = released.double().clamp_min(0)
        weights = torch.where(weights.sum(1, keepdim=True) > 0, weights, torch.ones_like(weights))
        shares = weights / weights.sum(1, keepdim=True)
    else:
        shares = released.double().softmax(1)
    return float(torch.special.entr(shares).sum(1).mean()) / math.log(2)


def bits(chain: Chain, classes: int) -> dict[str, float]:
    """The most bits that an answer of `classes` numbers can carry, where the chain leaves finitely many answers.

    'bits': an upper bound; 'bits_eq18': equation 18's, which is lower because it counts only vectors that add up to 1.
    """
    if any(isinstance(each, ArgMax) for each in chain.defences):
        return {"bits": math.log2(classes)}
    for first, then in pairwise(chain.defences):
        if isinstance(first, Softmax) and isinstance(then, Rounding) and then.decimals is not None:
            return {
                "bits": rounded_entropy_bound(then.decimals, classes),
                "bits_eq18": entropy_bound(then.decimals, classes),
            }
    return {}


def suspicion(federation: Federation, rules: JointServer, classifier: nn.Module) -> dict[str, float]:
    """1 - S of a classifier that users received, where the settings give them `labelled` images.

    Source: Malekzadeh and Gündüz, appendix I.2, equations 19 and 20.
    """
    if not rules.labelled:
        return {}
    own = split(federation, rules).validation
    # in a drawn order the first are a sample
    chosen = slice(rules.labelled) if rules.shuffled else class_sample(own.labels, rules.labelled)
    labelled = own.chosen(chosen)
    claimed = JointLoss(task=rules.task, beta_r=0)
    test = federation.held.images()
    return {"viciousness": viciousness(classifier, labelled, test, FineTuning(), federation.experiment.seed, claimed)}


@lru_cache(maxsize=1)
def measures(federation: Federation) -> Mapping[str, Factorisation]:
    """R's geometry from the server's training and validation images, as published and well-posed."""
    own = split(federation, federation.experiment.resolved.settings(JointServer))
    images = torch.cat([own.train.images(), own.validation.images()])
    return {
        "risk_published": factorise(images),
        "risk_well_posed": factorise(images, rtol=WELL_POSED, dtype=torch.float64),
    }
