"""The pairs that the output channel's servers train: each once, kept by all that decides its bits."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch

from fl_privacy.data import ImageSet
from fl_privacy.defences import Chain
from fl_privacy.joint_training import EpochReport, load_pair, train
from fl_privacy.joint_training.scores import targets
from fl_privacy.seeding import one_thread, stream
from fl_privacy.settings import PlainTable
from fl_privacy.simulations.channels import training_cache
from fl_privacy.simulations.channels.base import RunContext
from fl_privacy.simulations.channels.output.protocol import JointServer
from fl_privacy.simulations.federation import Federation, Positions
from fl_privacy.simulations.progress import Note, step
from fl_privacy.simulations.results.files import path_inside, read_json, slug, write_json

PAIRS, MODELS = "pairs.json", "models"


@dataclass(frozen=True)
class Split:
    """The server's own images: those it trains on, and those by which it chooses the best epoch."""

    train: ImageSet
    validation: ImageSet


def sizes(federation: Federation, rules: JointServer) -> tuple[int, int]:
    """How many images a server trains on, and by how many it chooses the best epoch.

    Raises:
        ValueError: more than there are, or attributes that the set does not have.
    """
    count = len(federation.data.train)
    validation = rules.validation or count // 10
    images = rules.images or count - validation
    if min(validation, images) < 1 or images + validation > count:
        raise ValueError(
            f"'images' and 'validation' ask for {images} + {validation} training images, and "
            f"'{federation.data.name}' has {count}"
        )
    rules.names(federation.data)
    return images, validation


def split(federation: Federation, rules: JointServer) -> Split:
    """The server's part of the training images; raises as `sizes` does."""
    data = federation.data.train
    return Split(*(relevant(federation, rules, data.chosen(each.index)) for each in positions(federation, rules)))


def positions(federation: Federation, rules: JointServer) -> tuple[Positions, Positions]:
    """Where the images are that a server trains on, and those of its validation; raises as `sizes` does."""
    count, (images, validation) = len(federation.data.train), sizes(federation, rules)
    order = torch.randperm(count, generator=stream(0, "validation")) if rules.shuffled else torch.arange(count)
    return Positions("train", order[:images]), Positions("train", order[count - validation :])


def relevant(federation: Federation, rules: JointServer, images: ImageSet) -> ImageSet:
    """The same images with only the attributes that a server's task is about, in the order of its outputs."""
    if images.attributes is None or rules.task != "attributes":
        return images
    columns = [federation.data.attributes.index(name) for name in rules.names(federation.data)]
    return ImageSet(images.pixels, images.labels, images.attributes[:, columns])


def train_pairs(federation: Federation, run_context: RunContext) -> None:
    """Train the pair of every condition, each distinct one once, and leave pairs.json in the run folder."""
    experiment = federation.experiment
    found: dict[str, PlainTable] = {}
    rows = []
    for condition in experiment.conditions:
        rules = condition.settings(JointServer)
        law = rules.law(condition.trained)
        facts = identity(federation, rules, law)
        name = _name(federation, rules, facts)
        if name not in found:
            folder = Path(rules.cache).expanduser() if rules.cache else run_context.folder / MODELS
            found[name] = _train(federation, rules, law, facts, folder.absolute() / name, run_context.note)
        rows.append({**found[name], "checkpoint": path_inside(Path(found[name]["checkpoint"]), run_context.folder)})
    write_json(run_context.folder / PAIRS, rows)


def pair_of(folder: Path, condition: int) -> PlainTable:
    """What is known of the pair of a condition of the run in `folder`: its 'checkpoint', 'identity' and 'epochs'.

    Raises:
        ValueError: its checkpoint is no longer where it was.
    """
    pair: PlainTable = read_json(folder / PAIRS)[condition]
    # a run's own models move with its folder
    for path in (folder / pair["checkpoint"], folder / MODELS / Path(pair["checkpoint"]).name):
        if path.is_file():
            return {**pair, "checkpoint": str(path)}
    raise ValueError(f"the trained pair {pair['checkpoint']} of this run is gone: put it back, or run anew")


def identity(federation: Federation, rules: JointServer, law: Chain) -> PlainTable:
    """All that decides the bits of a pair; processor and torch version are part of it."""
    experiment = federation.experiment
    settings = {
        "dataset": {**experiment.dataset, "name": federation.data.name},
        "images": [rules.images, rules.validation, rules.shuffled],
        "outputs": list(rules.names(federation.data)),
        "spec": asdict(rules.spec(federation.data, experiment.model)),
        "settings": asdict(rules.training),
        "law": law.label,
        "seed": experiment.seed,
        "device": torch.device(experiment.device).type,
        "torch": torch.__version__,
    }
    return training_cache.identity(settings, law.defences)


def _name(federation: Federation, rules: JointServer, facts: PlainTable) -> str:
    digest = training_cache.key(facts)
    ratio = f"{rules.beta_r:g}to{rules.beta_c:g}"
    return f"{slug(federation.data.name)}_{ratio}_seed{federation.experiment.seed}_{digest}.safetensors"


def _train(
    federation: Federation, rules: JointServer, law: Chain, facts: PlainTable, path: Path, note: Note
) -> PlainTable:
    label = f"{rules.beta_r:g}/{rules.beta_c:g}" + (f" through {law.label}" if law else "")
    own = split(federation, rules)
    note(f"training {label} on {len(own.train)} images, {rules.epochs} epochs: {path}")
    settings, spec = rules.training, rules.spec(federation.data, federation.experiment.model)
    with training_cache.alone(path, note), one_thread():
        training_cache.sound(path, load_pair, note)
        trained = train(
            spec,
            settings,
            own.train,
            own.validation,
            federation.experiment.seed,
            law=law,
            checkpoint=path,
            progress=partial(_progress, label, note),
            device=federation.experiment.device,
        )
    epochs = [asdict(each) for each in trained.history]
    best = max((each.epoch for each in trained.history if each.best), default=None)
    if best is None:
        raise RuntimeError(f"training {label} never reached a finite validation loss: lower pair_learning_rate")
    baseline = _majority(rules, own.validation)
    return {"checkpoint": str(path), "identity": facts, "best_epoch": best, "majority": baseline, "epochs": epochs}


def _majority(rules: JointServer, data: ImageSet) -> float:
    """The accuracy of always giving the commonest answer: what an accuracy has to be read against."""
    wanted = targets(rules.task, data)
    if rules.task != "attributes":
        return float(wanted.bincount().max()) / len(wanted)
    share = wanted.float().mean(0)
    return float(torch.maximum(share, 1 - share).mean())


def _progress(label: str, note: Note, report: EpochReport) -> None:
    scores = report.scores
    leak = f", PSNR {scores.psnr:.2f} dB, SSIM {scores.ssim:.3f}" if scores.psnr == scores.psnr else ""
    best = " (best)" if report.best else ""
    words = (
        f"{label}: epoch {report.epoch + 1} of {report.epochs}, {report.seconds:.0f} s, loss {report.train_loss:.4f}, "
        f"validation accuracy {scores.accuracy:.2%}{leak}{best}"
    )
    step(note, "epochs", report.epoch + 1, report.epochs, words)
