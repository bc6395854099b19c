"""The audit of one saved update: one function, for Python and for the command."""

from __future__ import annotations

import math
import os
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from fl_privacy.attacks import Attack
from fl_privacy.data import data_root as find_root
from fl_privacy.evaluation import Truth
from fl_privacy.observation import Images, Reconstruction
from fl_privacy.settings import PlainTable, ReadTable
from fl_privacy.simulations.auditing.asked import Facts, Local, Model, facts
from fl_privacy.simulations.auditing.case import Case, case
from fl_privacy.simulations.auditing.granted import Pair, blind_scores, granted_truth, public_images, scores
from fl_privacy.simulations.auditing.tries import ORDER, Try, chosen, tries
from fl_privacy.simulations.auditing.weight_files import Weights
from fl_privacy.simulations.progress import Note
from fl_privacy.simulations.report.audit_page import page_of_audit
from fl_privacy.simulations.report.audit_words import flat, grid, verdict, words
from fl_privacy.simulations.report.csv import write_csv
from fl_privacy.simulations.report.figures import Column, draw
from fl_privacy.simulations.report.html import fragment, write_html
from fl_privacy.simulations.report.page import Page
from fl_privacy.simulations.report.table import as_rich, console
from fl_privacy.simulations.results import files
from fl_privacy.simulations.results.environment import describe


@dataclass(frozen=True)
class Audit:
    """A finished audit: its folder, the report as plain values (audit.json), and what came back by attack.

    In a notebook it shows itself as a page.
    """

    folder: Path
    report: ReadTable
    guesses: Mapping[str, Reconstruction]

    @classmethod
    def read(cls, folder: str | os.PathLike[str]) -> Audit:
        """The audit in a folder that `audit` has written.

        Raises:
            ValueError: it holds none, or a damaged one.
        """
        folder = Path(folder).absolute()
        report = files.read_object(folder / files.AUDIT, "attacks", "controls", "verdict", "environment", "sha256")
        found = {each["attack"]: folder / f"{files.slug(each['attack'])}.safetensors" for each in report["attacks"]}
        return cls(folder, report, {name: _read(path, report, name) for name, path in found.items() if path.exists()})

    def page(self) -> Page:
        """What `fl-privacy report --html` and a notebook show: the verdict first, and all that it rests on."""
        return page_of_audit(self.report, self.folder)

    def to_html(self, path: str | os.PathLike[str] | None = None) -> Path:
        """Write the page as one file that needs nothing else, report.html in the audit's folder by default."""
        return write_html(self.page(), Path(path) if path is not None else self.folder / files.PAGE)

    def to_csv(self, path: str | os.PathLike[str]) -> Path:
        """Write a row an attack and a control as CSV, numbers with every digit, and return the path."""
        return write_csv(Path(path), flat(self.report))

    def _repr_html_(self) -> str:
        return fragment(self.page())

    def show(self) -> None:
        """Print the verdict, the table and the reasons."""
        out = console()
        for sentence in verdict(self.report):
            out.print(sentence, markup=False, highlight=False)
        out.print(as_rich(grid(self.report), "What came back"))
        out.print(words(self.report), markup=False, highlight=False, soft_wrap=True)
        out.print("folder:", self.folder, soft_wrap=True, highlight=False)


@dataclass(frozen=True)
class AuditPlan:
    """An audit whose every input was checked."""

    facts: Facts
    case: Case
    attacks: dict[str, Attack]
    public: Images | None
    truth: Truth | None
    minutes: float
    seed: int
    out: Path


def audit(
    global_weights: Weights | None = None,
    update: Weights | None = None,
    *,
    new_weights: Weights | None = None,
    model: Model | None = None,
    shape: str | tuple[int, ...] | None = None,
    classes: int | None = None,
    local: Local | None = None,
    images: int | None = None,
    public: str | Images | None = None,
    truth: str | Pair | Callable[[], Pair] | None = None,
    attacks: Sequence[str] = ORDER,
    minutes: float = 10.0,
    seed: int = 0,
    out: str | os.PathLike[str] | None = None,
    data_root: str | os.PathLike[str] | None = None,
    note: Note = lambda text: None,
) -> Audit:
    """What one saved update of a client gives away: it is looked at, attacked, and the result written and returned.

        from fl_privacy.simulations import audit

        local = {"learning_rate": 0.1, "epochs": 1, "batch_size": 8}
        files = "global.safetensors", "update.safetensors"
        found = audit(*files, model="my_app.task:Net", shape=(3, 32, 32), classes=10, local=local)
        found.show()

    `global_weights` are what the server sent; `update` is what changed, or `new_weights` what came back: files
    (.safetensors, .npz, a torch state dict), tensors by name, or a Flower ArrayRecord. `model`: an nn.Module, a factory
    (image_shape, classes), a class without arguments, or the name of one. `images` entered the update; by default one
    mini-batch of `local`. `public`: images that an adversary may own; `truth`: the client's own (images, labels), with
    which guesses are scored and which no attack sees. At most `minutes` are spent on the attacks. `out`: a new or empty
    folder, by default below outputs/audit.

    Raises:
        ValueError: facts are missing, or what was handed in cannot be attacked: all reasons in one message.
        UnknownName: a name that does not exist.
    """
    plan = plan_audit(
        global_weights,
        update,
        new_weights=new_weights,
        model=model,
        shape=shape,
        classes=classes,
        local=local,
        images=images,
        public=public,
        truth=truth,
        attacks=attacks,
        minutes=minutes,
        seed=seed,
        out=out,
        data_root=data_root,
    )
    return execute_audit(plan, note)


def plan_audit(
    global_weights: Weights | None,
    update: Weights | None,
    *,
    new_weights: Weights | None,
    model: Model | None,
    shape: str | tuple[int, ...] | None,
    classes: int | None,
    local: Local | None,
    images: int | None,
    public: str | Images | None,
    truth: str | Pair | Callable[[], Pair] | None,
    attacks: Sequence[str],
    minutes: float,
    seed: int,
    out: str | os.PathLike[str] | None,
    data_root: str | os.PathLike[str] | None,
) -> AuditPlan:
    """Check every input of an audit and make its folder; arguments and errors are those of `audit`."""
    if not 0 < minutes < math.inf:
        raise ValueError(f"--minutes must be above 0 and finite, not {minutes}")
    known = facts(global_weights, update, new_weights, model, shape, classes, local, images)
    owned = public_images(public, find_root(data_root), known.image_shape)
    checked = case(known, owned)
    real = granted_truth(truth, known.images, known.image_shape, owned)
    picked = chosen(attacks, owned is not None)
    folder = files.new_folder(Path(out) if out is not None else files.default_folder("audit", seed))
    return AuditPlan(known, checked, picked, owned, real, minutes, seed, folder)


def execute_audit(plan: AuditPlan, note: Note) -> Audit:
    """Attack, score where the truth is granted, and write the folder."""
    seen, real = plan.case.seen, plan.truth
    done = tries(seen, plan.attacks, plan.minutes, plan.seed, note)
    report: PlainTable = {
        "images": plan.facts.images,
        "image_shape": plan.facts.image_shape,
        "classes": plan.facts.classes,
        "local": asdict(plan.facts.local),
        "public": 0 if plan.public is None else len(plan.public.inputs),
        "doubts": plan.case.doubts,
        "assumed": plan.case.assumed,
        "attacks": [_row(each, None if real is None else scores(each, seen, real)) for each in done],
        "controls": {} if real is None else blind_scores(plan.public, seen, real, plan.seed),
        "sha256": files.digest(seen.payload),
        "environment": describe(),
    }
    report["verdict"] = verdict(report)
    files.write_json(plan.out / files.AUDIT, report)
    guesses = {each.name: each.guess for each in done if each.guess is not None}
    for name, guess in guesses.items():
        _write(plan.out, name, guess)
    note(f"written to {plan.out}")
    return Audit(plan.out, report, guesses)


def _row(each: Try, scored: PlainTable | None) -> PlainTable:
    guess = each.guess or Reconstruction()
    labels = None if guess.labels is None else guess.labels.tolist()
    counts = None if guess.labels is None else _counts(guess.labels)
    return {
        "attack": each.name,
        "images": 0 if guess.inputs is None else len(guess.inputs),
        "labels": labels,
        "label_counts": counts,
        "loss": None if math.isnan(guess.loss) else guess.loss,
        "unexplained": each.unexplained,
        "bound": None if guess.bound is None else guess.bound.tolist(),
        "seconds": each.seconds,
        "reason": each.reason,
        "scores": scored,
    }


def _read(path: Path, report: ReadTable, name: str) -> Reconstruction:
    """What `_write` wrote of one attack, with its own loss."""
    found = files.read_tensors(path)
    row = next(each for each in report["attacks"] if each["attack"] == name)
    loss = math.nan if row["loss"] is None else row["loss"]
    return Reconstruction(inputs=found.get("images"), labels=found.get("labels"), bound=found.get("bound"), loss=loss)


def _counts(labels: Tensor) -> dict[str, int]:
    values, counts = torch.unique(labels, return_counts=True)
    return {str(label): count for label, count in zip(values.tolist(), counts.tolist(), strict=True)}


def _write(folder: Path, name: str, guess: Reconstruction) -> None:
    """What came back, as tensors and, of images, as a picture."""
    stem = files.slug(name)
    found = {"images": guess.inputs, "labels": guess.labels, "bound": guess.bound}
    files.write_tensors(
        folder / f"{stem}.safetensors", {key: value for key, value in found.items() if value is not None}
    )
    if guess.inputs is None:
        return
    rows = max(1, math.ceil(math.sqrt(len(guess.inputs))))
    parts = torch.split(torch.arange(len(guess.inputs)), min(rows, 5))
    columns = [Column("", *_cells(guess, part, len(parts[0]))) for part in parts]
    note = textwrap.fill("From the update alone, in no particular order.", 28 * len(columns))
    draw(folder / f"{stem}.png", textwrap.fill(f"What {name} rebuilt", 20 * len(columns)), columns, note)


def _cells(guess: Reconstruction, part: Tensor, height: int) -> tuple[Tensor, list[str]]:
    """The images of one column and a line below each; a short column ends in white."""
    assert guess.inputs is not None
    images = guess.inputs[part]
    lines = ["" if guess.labels is None else f"class {int(guess.labels[index])}" for index in part.tolist()]
    missing = height - len(images)
    white = images.new_ones(missing, *images.shape[1:])
    return torch.cat([images, white]), lines + [""] * missing
