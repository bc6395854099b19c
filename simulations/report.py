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
from rich.table import Table

from simulations import figures, storage
from simulations.experiment import Experiment
from simulations.scoring import Scored, rows, summary
from simulations.world import World

COLUMNS = ("images", "psnr", "ssim", "mse", "label_accuracy", "loss_at_guess", "loss_at_truth", "model_accuracy")
READING = (
    "Loss is the attack's own objective. At the guess above the truth's: the attack failed to optimise, and the defence "
    "may claim nothing. At or below it: the information is gone."
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
        results = storage.read_json(folder / storage.RESULTS)
        experiment = Experiment.of(storage.read_json(folder / storage.CONFIG)["experiment"])
        return cls(folder, experiment, results["arms"], results["summary"], results["digests"])

    @property
    def samples(self) -> list[dict[str, Any]]:
        """One row an attacked image."""
        lines = (self.folder / storage.SAMPLES).read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]

    @property
    def figures(self) -> list[Path]:
        return sorted((self.folder / storage.FIGURES).glob("*.png"))

    def table(self) -> Table:
        """The summary as a rich table."""
        title = f"{self.experiment.name}: {self.experiment.attack['name']} on {self.experiment.dataset['name']}"
        table = Table(title=title, caption=READING)
        for heading in ("attack", "defence", *(name.replace("_", " ") for name in COLUMNS)):
            table.add_column(heading, justify="left" if heading in ("attack", "defence") else "right")
        for row in self.summary:
            table.add_row(row["attack"], row["defence"], *(_cell(name, row) for name in COLUMNS))
        if self.experiment.expected:
            cells = [_cell(name, self.experiment.expected) for name in COLUMNS]
            table.add_row("published", "", *cells, style="dim")
        return table


def _cell(name: str, row: Mapping[str, Any]) -> str:
    value = row.get(name)
    if value is None:
        return "-"
    if name in ("label_accuracy", "model_accuracy"):
        return f"{value:.1%}"
    if name == "psnr" and row.get("psnr_low") is not None:
        return f"{value:.1f} [{row['psnr_low']:.1f}, {row['psnr_high']:.1f}] dB"
    formats = {"psnr": "{:.1f} dB", "ssim": "{:.3f}", "mse": "{:.4f}", "images": "{:d}"}
    return formats.get(name, "{:.3g}").format(value)


def write(world: World, folder: Path, arms: Sequence[Mapping[str, Any]], scored: Sequence[Scored],
          payloads: Mapping[str, str], originals: bool) -> Result:
    """Write results.json, samples.jsonl and the figure; private images only where `originals` says so."""
    samples = rows(world, scored)
    accuracies = {arm["defence"]: arm["rounds"][-1]["evaluate_metrics_serverapp"]["accuracy"] for arm in arms}
    results = {
        "arms": arms,
        "summary": summary(world, scored, accuracies),
        "expected": world.experiment.expected,
        "digests": _digests(samples, scored, payloads),
    }
    storage.write_jsonl(folder / storage.SAMPLES, samples)
    draw(world, folder, scored, originals)
    storage.write_json(folder / storage.RESULTS, results)
    return Result.read(folder)


def _digests(
    samples: Sequence[Mapping[str, Any]], scored: Sequence[Scored], payloads: Mapping[str, str]
) -> dict[str, Any]:
    """SHA-256 of every payload and reconstruction, and of all rows; times are no part of any of them."""
    timeless = [{key: value for key, value in row.items() if key != "seconds"} for row in samples]
    guesses = {
        each.key.stem: storage.guess_digest(each.guess) for each in scored if not each.attack.startswith("control: ")
    }
    text = json.dumps(timeless, sort_keys=True)
    return {"payloads": payloads, "reconstructions": guesses, "samples": hashlib.sha256(text.encode()).hexdigest()}


def draw(world: World, folder: Path, scored: Sequence[Scored], originals: bool) -> Path:
    """Draw the figure of the first attacked round."""
    first = min(each.key.round for each in scored)
    columns: dict[tuple[str, str], list[Scored]] = {}
    for each in scored:
        if each.key.round == first and each.attack != "control: random guess":
            columns.setdefault((each.attack, each.defence), []).append(each)
    blocks = [_private(next(iter(columns.values())))] if originals else []
    blocks += [_column(attack, defence, group) for (attack, defence), group in columns.items()]
    experiment = world.experiment
    title = (
        f"What a server that runs {experiment.attack['name']} sees of its clients' private {experiment.dataset['name']} "
        f"images in the {experiment.channel}s they share"
    )
    width = 24 * len(blocks)
    return figures.draw(folder / storage.FIGURES / "reconstructions.png", textwrap.fill(title, width), blocks)


def _private(group: Sequence[Scored]) -> figures.Column:
    images = torch.cat([each.truth.inputs for each in group])
    labels = [f"client {each.key.client}, label {int(label)}" for each in group for label in each.truth.labels]
    return figures.Column("private image", images, labels)


def _column(attack: str, defence: str, group: Sequence[Scored]) -> figures.Column:
    images = torch.cat([each.guess.inputs for each in group])
    captions = [f"{float(value):.1f} dB" for each in group for value in each.score.images["psnr"]]
    if attack.startswith("control: "):
        title = "control:\nmean of other images"
    else:
        title = "reconstruction,\n" + ("no defence" if defence == "none" else textwrap.fill(defence, 22))
    return figures.Column(title, images, captions)
