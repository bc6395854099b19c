"""What one user of a received classifier does with 500 labelled images, and the models that it trains itself."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log
from typing import Any

from fl_privacy.data import ImageSet
from fl_privacy.joint_training import Trained, outputs
from fl_privacy.joint_training.detection import FineTuning, fine_tuned, output_entropy, similarity
from fl_privacy.joint_training.likelihood_ratio import LikelihoodRatio, fitted_ratio
from fl_privacy.joint_training.own_decoder import decodability

LABELLED, TESTED = 500, 1000
REFERENCE = 300
"""Of its labelled images a user trains models of its own on so many; it fine-tunes those on the others."""
USER = FineTuning(epochs=10)


@dataclass(frozen=True)
class User:
    """Images that no server trained on: `labelled` ones, and `test` ones of which no label is looked at to detect."""

    labelled: ImageSet
    test: ImageSet


def scores(model: Trained, user: User, tuning: FineTuning, seed: int) -> dict[str, Any]:
    """What the user finds: 1 - S, the entropy of the answers, and how much its own decoder gets out of 500 of them."""
    classifier, pixels = model.pair.classifier, user.test.images()
    received = outputs(classifier, pixels)
    tuned = outputs(fine_tuned(classifier, user.labelled, tuning, seed), pixels)
    s = similarity(received, tuned)
    asked = slice(0, LABELLED)
    return {
        "accuracy": float((received.argmax(1) == user.test.labels).double().mean()),
        "accuracy_tuned": float((tuned.argmax(1) == user.test.labels).double().mean()),
        "S": s,
        "likelihood": 1 - s,
        "entropy": output_entropy(received),
        "own_decoder": decodability(received[asked], pixels[asked], seed),
    }


def ratio(references: Sequence[Mapping[str, Any]]) -> LikelihoodRatio:
    """The likelihood ratio of all three scores, from models that the user trained itself and so knows what they are."""
    honest, vicious = ([logs(row) for row in references if row["vicious"] == kind] for kind in (False, True))
    return fitted_ratio(honest, vicious, names=("likelihood", "entropy", "own_decoder"))


def logs(row: Mapping[str, Any]) -> dict[str, float]:
    """The scores on scales on which they are nearer to normal."""
    return {
        "likelihood": log(max(row["likelihood"], 1e-9)),
        "entropy": log(max(row["entropy"], 1e-9)),
        "own_decoder": row["own_decoder"],
    }
