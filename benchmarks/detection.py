"""Can a user tell a vicious classifier from an honest one? Many small ones are trained, and each is judged.

    python -m benchmarks.detection --data-root DATA

The honest ones are trained as the vicious ones are, with beta_R = 0; 'adaptive' servers expect the test. Every model
has a seed, training images and a judging user of its own; one more user trains the reference models from which the
likelihood ratio comes. A rerun keeps the models that the file has, with these settings, and adds what is missing.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.detection_summary import summary
from benchmarks.detection_user import LABELLED, REFERENCE, TESTED, USER, User, scores
from benchmarks.record import options, write
from fl_privacy.data import DataSet, ImageSet, data_root, load
from fl_privacy.joint_training import JointLoss, JointSettings, PairSpec, Trained, honest, train
from fl_privacy.seeding import stream, subseed

TRAINED, VALIDATION = 2000, 200
FEW = 300
"""Images of a server that trains too long on too few."""
WIDTHS = {"width": 8, "hidden": 64}
TRAINING = JointSettings(epochs=8, batch_size=64, learning_rate=3e-3, schedule="cosine", augment=False)
HONEST = honest(TRAINING)
ENTROPY = 0.3
"""Bits, of honest models with numbers from 1000 on, which are not among those scored: what a server can find out."""


def polished(beta_r: float) -> JointSettings:
    """A server that expects those who fine-tune: it polishes, and refits its decoder."""
    return replace(TRAINING, loss=JointLoss(beta_r=beta_r), polish=8, refit=4)


def adaptive(beta_r: float) -> JointSettings:
    """One that also holds its entropy, on its own images, at what honest models have on a user's."""
    return replace(polished(beta_r), loss=JointLoss(beta_r=beta_r, beta_e=0.3, entropy=ENTROPY))


def longer(settings: JointSettings, images: int) -> JointSettings:
    """As many steps on fewer images."""
    share = (TRAINED // settings.batch_size) / (images // settings.batch_size)
    epochs, polish, refit = (round(share * each) for each in (settings.epochs, settings.polish, settings.refit))
    return replace(settings, epochs=epochs, polish=polish, refit=refit)


KINDS = {
    "honest": HONEST,
    "vicious 1/1": replace(TRAINING, loss=JointLoss(beta_r=1)),
    "vicious 3/1": replace(TRAINING, loss=JointLoss(beta_r=3)),
    "vicious 1/1, adaptive": adaptive(1),
    "vicious 3/1, adaptive": adaptive(3),
    "vicious 1/1, polished": polished(1),
    "vicious 3/1, polished": polished(3),
    "honest, undertrained": replace(HONEST, epochs=1),
    "honest, twice as long": replace(HONEST, epochs=2 * HONEST.epochs),
    "honest, augmented": replace(HONEST, augment=True),
    "honest, overfitted": longer(HONEST, FEW),
}
"""The names tell what the server did; the ratios are beta_r/beta_c."""
PREFIX = "reference: "
REFERENCES = {
    f"{PREFIX}{kind}": longer(each, REFERENCE) for kind, each in KINDS.items() if not kind.endswith("polished")
}
REFERENCES |= {
    f"{PREFIX}honest, undertrained": replace(longer(HONEST, REFERENCE), epochs=8),
    f"{PREFIX}honest, overfitted": replace(longer(HONEST, REFERENCE), epochs=250),
}
WORLDS = (("mnist", 10),)
"""Which data sets, with their first so many labels."""


@dataclass(frozen=True)
class Case:
    """One model: of which kind, on which data set with its first `classes` labels; its number names its seed."""

    dataset: str
    classes: int
    kind: str
    number: int

    @property
    def reference(self) -> bool:
        """Whether a user trained it, and no server."""
        return self.kind.startswith(PREFIX)

    @property
    def seed(self) -> int:
        return subseed(self.number, "detection", self.dataset, self.classes, self.kind)

    @property
    def settings(self) -> JointSettings:
        return (REFERENCES if self.reference else KINDS)[self.kind]


def cases(models: int, references: int) -> Iterator[Case]:
    """The models of every world, round by round: two honest ones and one of every other kind, references first."""
    for world in WORLDS:
        for number in range(references):
            yield from (Case(*world, kind, number) for kind in REFERENCES)
        for number in range(models):
            for kind in KINDS:
                for each in (2 * number, 2 * number + 1) if kind == "honest" else (number,):
                    yield Case(*world, kind, each)


def drawn(data: ImageSet, classes: int, count: int, seed: int, name: str) -> ImageSet:
    """`count` random images of the first `classes` labels; the stream (seed, name) decides which."""
    fitting = (data.labels < classes).nonzero().flatten()
    return data.chosen(fitting[torch.randperm(len(fitting), generator=stream(seed, name))[:count]])


def trained(case: Case, data: DataSet, images: ImageSet) -> Trained:
    """The model, trained by its server or by the user on these images, of which the last ones choose the epoch."""
    spec = PairSpec(data.image_shape, case.classes, classifier_settings=WIDTHS, decoder_settings=WIDTHS)
    count = VALIDATION if not case.reference else len(images) - REFERENCE
    kept = FEW if case.kind == "honest, overfitted" else len(images) - count
    sets = images.chosen(slice(0, kept)), images.chosen(slice(len(images) - count, None))
    return train(spec, case.settings, *sets, seed=case.seed)


def judged(case: Case, data: DataSet) -> dict[str, Any]:
    """A row: what the user of this model finds, with images that no server trained on."""
    seed = subseed(0, "detection", "the user of the references", case.dataset) if case.reference else case.seed
    own = drawn(data.test, case.classes, LABELLED + TESTED, seed, "user")
    user = User(own.chosen(slice(0, LABELLED)), own.chosen(slice(LABELLED, None)))
    if case.reference:
        model = trained(case, data, user.labelled)
        rest = user.labelled.chosen(slice(REFERENCE, None))
        tuning = replace(USER, epochs=USER.epochs * LABELLED // len(rest))
        found = scores(model, User(rest, user.test), tuning, case.seed)
    else:
        model = trained(case, data, drawn(data.train, case.classes, TRAINED + VALIDATION, case.seed, "server"))
        found = scores(model, user, USER, case.seed)
    leak = {"decoder_psnr": model.best.scores.psnr if case.settings.loss.beta_r else None}
    return asdict(case) | {"beta": case.settings.loss.beta_r, "vicious": case.settings.loss.beta_r > 0} | found | leak


def facts(arguments: argparse.Namespace) -> dict[str, Any]:
    """The settings that decide every row."""
    sizes = {"trained_on": TRAINED, "labelled": LABELLED, "tested_on": TESTED, "reference": REFERENCE, "few": FEW}
    kinds = {name: asdict(each) for name, each in {**KINDS, **REFERENCES}.items()}
    plain: dict[str, Any] = options(arguments) | {"user": asdict(USER), "networks": WIDTHS, "kinds": kinds} | sizes
    # as it is read from the file again
    return dict(json.loads(json.dumps(plain)))


def kept(path: Path, settings: dict[str, Any]) -> dict[tuple[Any, ...], dict[str, Any]]:
    """The judged models of an earlier run with these settings, but for how many and which kinds there are to be."""
    apart = ("models", "references", "kinds")
    if not path.exists():
        return {}
    before = json.loads(path.read_text())
    same = [{k: v for k, v in each.items() if k not in apart} for each in (before["settings"], settings)]
    if same[0] != same[1]:
        raise SystemExit(f"{path} was measured with other settings: name another file with --out, or remove it")
    was, now = before["settings"]["kinds"], settings["kinds"]
    rows = [row for row in before["rows"] if "number" in row and was.get(row["kind"]) == now.get(row["kind"])]
    return {(row["dataset"], row["classes"], row["kind"], row["number"]): row for row in rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--models", type=int, default=10, help="of every kind; of the honest ones twice as many")
    parser.add_argument("--references", type=int, default=2, help="models of every kind that the user trains itself")
    parser.add_argument("--out", type=Path, default=Path("results/detection.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data = {name: load(name, data_root(arguments.data_root), {}) for name, _ in WORLDS}
    settings = facts(arguments)
    found = kept(arguments.out, settings)
    for case in cases(arguments.models, arguments.references):
        key = (case.dataset, case.classes, case.kind, case.number)
        if key not in found:
            found[key] = judged(case, data[case.dataset])
            print(json.dumps(found[key]), flush=True)
            rows = list(found.values())
            write(arguments.out, summary(rows) + rows, settings=settings, seeds="each model's number", threads=1)


if __name__ == "__main__":
    main()
