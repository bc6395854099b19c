"""The report stage: results.json, samples.jsonl, the figure, and the table that a person reads."""

from __future__ import annotations

import hashlib
import json
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.box import SIMPLE_HEAD
from rich.table import Table

from simulations import figures, files, storage
from simulations.experiment import Experiment
from simulations.scoring import CONTROL, UNDEFENDED, Scored, rows, summary
from simulations.world import World

COLUMNS = {
    "n": ("images", "{:d}"),
    "PSNR\n(dB)": ("psnr", "{:.1f}"),
    "95 %": ("psnr_interval", "{}"),
    "SSIM": ("ssim", "{:.3f}"),
    "MSE": ("mse", "{:.4f}"),
    "labels\nright": ("label_accuracy", "{:.0%}"),
    "loss at\nguess": ("loss_at_guess", "{:.3g}"),
    "loss at\ntruth": ("loss_at_truth", "{:.3g}"),
    "model\naccuracy": ("model_accuracy", "{:.1%}"),
}
READING = (
    "PSNR: higher means more was leaked; a guess no better than the controls leaked nothing. Loss is the attack's own "
    "objective: where it is higher at the guess than at the truth, the attack failed to optimise and the defence may "
    "claim nothing; elsewhere the information is gone."
)


@dataclass(frozen=True)
class Result:
    """A finished run: its folder, and what its files say."""

    folder: Path
    experiment: Experiment
    arms: Sequence[Mapping[str, Any]]
    summary: Sequence[Mapping[str, Any]]
    digests: Mapping[str, Any]

    @classmethod
    def read(cls, folder: Path) -> Result:
        """The result in a run folder.

        Raises:
            ValueError: it holds no finished run.
        """
        results = files.read_json(folder / files.RESULTS)
        experiment = Experiment.of(files.read_json(folder / files.CONFIG)["experiment"])
        return cls(folder, experiment, results["arms"], results["summary"], results["digests"])

    @property
    def samples(self) -> list[dict[str, Any]]:
        """One row an attacked image."""
        lines = (self.folder / files.SAMPLES).read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]

    @property
    def figures(self) -> list[Path]:
        return sorted((self.folder / files.FIGURES).glob("*.png"))

    def table(self) -> Table:
        """The summary as a rich table."""
        attack, data = self.experiment.attack["name"], self.experiment.dataset["name"]
        title = f"{self.experiment.name}: {attack} on {data}"
        table = Table(title=title, caption=READING, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
        table.add_column("defence")
        for heading in COLUMNS:
            table.add_column(heading, justify="right", no_wrap=True)
        for row in self.summary:
            blind = row["attack"].startswith(CONTROL)
            table.add_row(row["attack"] if blind else row["defence"], *_cells(row))
        if self.experiment.expected:
            table.add_row("published", *_cells(self.experiment.expected), style="dim")
        return table


def _cells(row: Mapping[str, Any]) -> list[str]:
    low, high = row.get("psnr_low"), row.get("psnr_high")
    known = {**row, "psnr_interval": None if low is None or high is None else f"{low:.1f}-{high:.1f}"}
    values = [(known.get(key), form) for key, form in COLUMNS.values()]
    return ["-" if value is None else form.format(value) for value, form in values]


def _defence(label: str) -> str:
    return "no defence" if label == UNDEFENDED else label


def write(
    world: World,
    folder: Path,
    arms: Sequence[Mapping[str, Any]],
    scored: Sequence[Scored],
    payloads: Mapping[str, str],
    originals: bool,
) -> Result:
    """Write results.json, samples.jsonl and the figure; private images only where `originals` says so."""
    samples = rows(world, scored)
    accuracies = {arm["defence"]: arm["rounds"][-1]["evaluate_metrics_serverapp"]["accuracy"] for arm in arms}
    results = {
        "arms": arms,
        "summary": summary(world, scored, accuracies),
        "expected": world.experiment.expected,
        "digests": _digests(samples, scored, payloads),
    }
    files.write_jsonl(folder / files.SAMPLES, samples)
    draw(world, folder, scored, originals)
    files.write_json(folder / files.RESULTS, results)
    return Result.read(folder)


def _digests(
    samples: Sequence[Mapping[str, Any]], scored: Sequence[Scored], payloads: Mapping[str, str]
) -> dict[str, Any]:
    """SHA-256 of every payload and reconstruction, and of all rows; times are no part of any of them."""
    timeless = [{key: value for key, value in row.items() if key != "seconds"} for row in samples]
    guesses = {
        each.key.stem: storage.guess_digest(each.guess) for each in scored if not each.attack.startswith(CONTROL)
    }
    text = json.dumps(timeless, sort_keys=True)
    return {"payloads": payloads, "reconstructions": guesses, "samples": hashlib.sha256(text.encode()).hexdigest()}


def draw(world: World, folder: Path, scored: Sequence[Scored], originals: bool) -> Path:
    """Draw the figure of the first attacked round."""
    first = min(each.key.round for each in scored)
    columns: dict[tuple[str, str], list[Scored]] = {}
    for each in scored:
        if each.key.round == first and each.attack != f"{CONTROL}random guess":
            columns.setdefault((each.attack, each.defence), []).append(each)
    blocks = [_private(next(iter(columns.values())))] if originals else []
    blocks += [_column(attack, defence, group) for (attack, defence), group in columns.items()]
    experiment = world.experiment
    title = (
        f"Images of '{experiment.dataset['name']}' that a server rebuilt from the {experiment.channel}s its clients "
        f"shared ({experiment.attack['name']}; PSNR below each, higher is closer)"
    )
    path = folder / files.FIGURES / "reconstructions.png"
    return figures.draw(path, textwrap.fill(title, 24 * len(blocks)), blocks)


def _private(group: Sequence[Scored]) -> figures.Column:
    images = torch.cat([each.truth.inputs for each in group])
    labels = [f"client {each.key.client}, label {int(label)}" for each in group for label in each.truth.labels]
    return figures.Column("private image", images, labels)


def _column(attack: str, defence: str, group: Sequence[Scored]) -> figures.Column:
    images = torch.cat([each.guess.inputs for each in group])
    captions = [f"{float(value):.1f} dB" for each in group for value in each.score.images["psnr"]]
    if attack.startswith(CONTROL):
        return figures.Column("control: blind guess,\n" + attack.removeprefix(CONTROL), images, captions)
    readable = _defence(defence).replace("_", " ").replace("(", ",\n").replace(")", "")
    return figures.Column("rebuilt, " + readable, images, captions)
