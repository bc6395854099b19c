"""What became of one message, as plain values and as files."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from fl_privacy.checkpoints import digest
from fl_privacy.evaluation import Truth
from fl_privacy.observation import Images, Reconstruction
from fl_privacy.settings import PlainTable
from fl_privacy.simulations.auditing.asked import Facts
from fl_privacy.simulations.auditing.case import Case
from fl_privacy.simulations.auditing.granted import blind_scores, scores
from fl_privacy.simulations.auditing.tries import Try
from fl_privacy.simulations.report.audit_words import verdict
from fl_privacy.simulations.report.figures import Column, draw
from fl_privacy.simulations.results import files


def message_report(
    facts: Facts, case: Case, done: Sequence[Try], real: Truth | None, public: Images | None, seed: int
) -> PlainTable:
    """Everything that is said of one message: facts, doubts, each attack's result, controls, and the verdict."""
    seen = case.seen
    report: PlainTable = {
        "kind": facts.kind,
        "images": facts.images,
        "image_shape": facts.image_shape,
        "classes": facts.classes,
        "local": asdict(facts.local),
        "public": 0 if public is None else len(public),
        "defence": None if seen.defence is None else str(getattr(seen.defence, "label", seen.defence)),
        "doubts": case.doubts,
        "assumed": case.assumed,
        "attacks": [_row(each, None if real is None else scores(each, seen, real)) for each in done],
        "controls": {} if real is None else blind_scores(public, seen, real, seed),
        "sha256": digest(seen.payload),
    }
    report["verdict"] = verdict(report)
    return report


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


def _counts(labels: Tensor) -> Mapping[str, int]:
    values, counts = torch.unique(labels, return_counts=True)
    return {str(label): count for label, count in zip(values.tolist(), counts.tolist(), strict=True)}


def write_guess(folder: Path, name: str, guess: Reconstruction) -> None:
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
    note = textwrap.fill("From the message alone, in no particular order.", 28 * len(columns))
    draw(folder / f"{stem}.png", textwrap.fill(f"What {name} rebuilt", 20 * len(columns)), columns, note)


def _cells(guess: Reconstruction, part: Tensor, height: int) -> tuple[Tensor, list[str]]:
    """The images of one column and a line below each; a short column ends in white."""
    assert guess.inputs is not None
    images = guess.inputs[part]
    lines = ["" if guess.labels is None else f"class {int(guess.labels[index])}" for index in part.tolist()]
    missing = height - len(images)
    white = images.new_ones(missing, *images.shape[1:])
    return torch.cat([images, white]), lines + [""] * missing
