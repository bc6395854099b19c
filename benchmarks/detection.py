"""Can a user tell a vicious classifier from an honest one? Many small ones are trained, and each is judged.

    python -m benchmarks.detection --data-root DATA --cache CACHE

The honest ones are trained as the vicious ones are, with beta_R = 0. Every model has a seed, training images and a
judging user of its own. The user has a few labelled images and, as a black box that can be trained on, the model. A
rerun with the same cache goes on where it stopped.
"""

import argparse
import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.detection_summary import summary
from benchmarks.record import options, write
from fl_privacy.data import DataSet, ImageSet, data_root, load
from fl_privacy.joint_training import JointLoss, JointSettings, PairSpec, Trained, outputs, train
from fl_privacy.joint_training.detection import FineTuning, fine_tuned, output_entropy, similarity
from fl_privacy.seeding import stream, subseed

TRAINED, VALIDATION = 3000, 200
LABELLED, TESTED = 500, 1000
WIDTHS = {"width": 16, "hidden": 128}
TRAINING = JointSettings(epochs=6, batch_size=64, learning_rate=3e-3, schedule="cosine", augment=False)
HONEST = replace(TRAINING, loss=JointLoss(beta_r=0))
KINDS = {
    "honest": HONEST,
    "vicious 1/1": replace(TRAINING, loss=JointLoss(beta_r=1)),
    "vicious 3/1": replace(TRAINING, loss=JointLoss(beta_r=3)),
    "vicious 5/1": replace(TRAINING, loss=JointLoss(beta_r=5)),
    "honest, undertrained": replace(HONEST, epochs=1),
    "honest, augmented": replace(HONEST, augment=True),
}
"""The names tell what the server did; the ratios are beta_r/beta_c."""
ONE_RATIO = tuple(kind for kind in KINDS if kind not in ("vicious 1/1", "vicious 5/1"))
WORLDS = {("mnist", 10): tuple(KINDS), ("mnist", 4): tuple(KINDS), ("fashion_mnist", 10): ONE_RATIO}
"""Which kinds are trained on which data set, with its first so many labels."""
USER = FineTuning(epochs=20)
"""Chosen on models with numbers from 1000 on, which are not among those scored."""


@dataclass(frozen=True)
class Case:
    """One model: of which kind, on which data set with its first `classes` labels; its number names its seed."""

    dataset: str
    classes: int
    kind: str
    number: int

    @property
    def seed(self) -> int:
        return subseed(self.number, "detection", self.dataset, self.classes, self.kind)


def cases(round_: int) -> Iterator[Case]:
    """One round: two honest models and one of every other kind, in every world; rounds count from 0."""
    for (dataset, classes), kinds in WORLDS.items():
        for kind in kinds:
            for number in (2 * round_, 2 * round_ + 1) if kind == "honest" else (round_,):
                yield Case(dataset, classes, kind, number)


def drawn(data: ImageSet, classes: int, count: int, seed: int, name: str) -> ImageSet:
    """`count` random images of the first `classes` labels; the stream (seed, name) decides which."""
    fitting = (data.labels < classes).nonzero().flatten()
    return data.chosen(fitting[torch.randperm(len(fitting), generator=stream(seed, name))[:count]])


def trained(case: Case, data: DataSet, cache: Path) -> Trained:
    """The model, trained by its server on images of its own draw, or taken from the cache."""
    settings = KINDS[case.kind]
    spec = PairSpec(data.image_shape, case.classes, classifier_settings=WIDTHS, decoder_settings=WIDTHS)
    images = drawn(data.train, case.classes, TRAINED + VALIDATION, case.seed, "server")
    facts = json.dumps([asdict(case), asdict(spec), asdict(settings), TRAINED, VALIDATION], sort_keys=True)
    path = cache / f"{hashlib.sha256(facts.encode()).hexdigest()[:16]}.safetensors"
    sets = images.chosen(slice(0, TRAINED)), images.chosen(slice(TRAINED, None))
    return train(spec, settings, *sets, seed=case.seed, checkpoint=path)


def judged(case: Case, model: Trained, data: DataSet) -> dict[str, Any]:
    """A row: what the user of this model finds, with images that no server trained on."""
    own = drawn(data.test, case.classes, LABELLED + TESTED, case.seed, "user")
    labelled, test = own.chosen(slice(0, LABELLED)), own.chosen(slice(LABELLED, None))
    classifier = model.pair.classifier
    received = outputs(classifier, test.images())
    tuned = outputs(fine_tuned(classifier, labelled, USER, case.seed), test.images())
    s = similarity(received, tuned)
    best = min(model.history, key=lambda report: report.criterion).scores
    return asdict(case) | {
        "beta": KINDS[case.kind].loss.beta_r,
        "accuracy": float((received.argmax(1) == test.labels).double().mean()),
        "accuracy_tuned": float((tuned.argmax(1) == test.labels).double().mean()),
        "decoder_psnr": best.psnr if KINDS[case.kind].loss.beta_r else None,
        "S": s,
        "likelihood": 1 - s,
        "entropy": output_entropy(received),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--cache", type=Path, required=True, help="folder for the trained models")
    parser.add_argument("--models", type=int, default=10, help="of every kind; of the honest ones twice as many")
    parser.add_argument("--out", type=Path, default=Path("results/detection.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data = {name: load(name, data_root(arguments.data_root), {}) for name in {name for name, _ in WORLDS}}
    rows = []
    for round_ in range(arguments.models):
        for case in cases(round_):
            rows.append(judged(case, trained(case, data[case.dataset], arguments.cache), data[case.dataset]))
            print(json.dumps(rows[-1]), flush=True)
        facts = {"training": asdict(TRAINING), "user": asdict(USER), "networks": WIDTHS}
        sizes = {"trained_on": TRAINED, "labelled": LABELLED, "tested_on": TESTED}
        settings = options(arguments) | facts | sizes
        write(arguments.out, summary(rows) + rows, settings=settings, seeds=f"0 to {round_}", threads=1)


if __name__ == "__main__":
    main()
