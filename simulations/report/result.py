"""The report stage: results.json, samples.jsonl, the figures, and the table that a person reads."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from fl_privacy.observation import Observation
from fl_privacy.simulations.config.resolve import channel_of
from fl_privacy.simulations.config.saved import read_saved
from fl_privacy.simulations.experiment.spec import Experiment
from fl_privacy.simulations.federation import Federation
from fl_privacy.simulations.report.gallery import draw
from fl_privacy.simulations.results import files, storage
from fl_privacy.simulations.results.records import Key, Scored
from fl_privacy.simulations.scoring import CONTROL, NOT_RECOVERED, faults, rows, summary

COLUMNS = {
    "n": ("images", "{:d}"),
    "recovered": ("recovered", "{:d}"),
    "PSNR\n(dB)": ("psnr", "{:.1f}"),
    "95 %": ("psnr_interval", "{}"),
    "SSIM": ("ssim", "{:.3f}"),
    "MSE": ("mse", "{:.4f}"),
    "labels\nright": ("label_accuracy", "{:.0%}"),
    "loss at\nguess": ("loss_at_guess", "{:.3g}"),
    "loss at\ntruth": ("loss_at_truth", "{:.3g}"),
    "model\naccuracy": ("model_accuracy", "{:.1%}"),
}


@dataclass(frozen=True)
class Result:
    """A finished run: its folder, and what its files say."""

    folder: Path
    experiment: Experiment
    conditions: Sequence[Mapping[str, Any]]
    summary: Sequence[Mapping[str, Any]]
    digests: Mapping[str, Any]
    not_valid: Sequence[str] = ()
    """Why the table says nothing, where the attack was given another protocol than the one that ran."""

    @classmethod
    def read(cls, folder: Path, trust: bool = False) -> Result:
        """The result in a run folder; `trust` lets its config name code, `module:name`, which is then imported.

        Raises:
            ValueError: it holds no finished run. UntrustedCode: it names code.
        """
        files.read_json(folder / files.RESULTS)  # first, because its absence says most
        return cls.of(folder, read_saved(folder, trust).experiment)

    @classmethod
    def of(cls, folder: Path, experiment: Experiment) -> Result:
        """The result in the folder of a run of this experiment."""
        results = files.read_json(folder / files.RESULTS)
        return cls(
            folder,
            experiment,
            results["conditions"],
            results["summary"],
            results["digests"],
            results.get("not_valid", ()),
        )

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
        attacks, data = list(self.experiment.resolved.attacks), self.experiment.dataset["name"]
        title = f"{self.experiment.name}: {', '.join(attacks)} on {data}"
        title = f"NOT VALID, see below\n{title}" if self.not_valid else title
        channel = channel_of(self.experiment)
        caption = "\n".join(
            [*(f"NOT VALID: {each}." for each in self.not_valid), channel.evaluation.reading(self.summary)]
        )
        common = {heading: column for heading, column in COLUMNS.items() if column[0] not in channel.evaluation.unshown}
        columns = _used({**common, **channel.evaluation.columns}, self.summary)
        table = Table(title=title, caption=caption, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
        table.add_column("defence")
        for heading in columns:
            table.add_column(heading, justify="right", no_wrap=True)
        for row in self.summary:
            table.add_row(_line(row, several=len(attacks) > 1), *_cells(row, columns))
            for published in self.experiment.published:
                if _of(row, published):
                    table.add_row("  published", *_cells(published, columns), style="dim")
        return table


def _used(columns: Mapping[str, tuple[str, str]], rows: Sequence[Mapping[str, Any]]) -> dict[str, tuple[str, str]]:
    """The columns in which some row has a value: an attack without an objective, say, has no losses to show.

    How many images were recovered is told where some were not.
    """
    whole = all(row.get("recovered", row["images"]) == row["images"] for row in rows)
    return {
        heading: (key, form)
        for heading, (key, form) in columns.items()
        if key == "psnr_interval"
        or (any(row.get(key) is not None for row in rows) and not (key == "recovered" and whole))
    }


def _line(row: Mapping[str, Any], several: bool) -> str:
    """How the table names a row: a control, or the defence, and the attack where there are several."""
    if row["attack"].startswith(CONTROL):
        return str(row["attack"])
    return f"{row['defence']} | {row['attack']}" if several else str(row["defence"])


def _of(row: Mapping[str, Any], published: Mapping[str, Any]) -> bool:
    """Whether a published row belongs beside this one: the same defence, and the same attack if it names one."""
    same = published["defence"] == row["defence"] and published.get("attack", row["attack"]) == row["attack"]
    return same and not row["attack"].startswith(CONTROL)


def _cells(row: Mapping[str, Any], columns: Mapping[str, tuple[str, str]]) -> list[str]:
    low, high = row.get("psnr_low"), row.get("psnr_high")
    known = {**row, "psnr_interval": None if low is None or high is None else f"{low:.1f}-{high:.1f}"}
    if row.get("recovered") == 0:
        known["psnr"] = NOT_RECOVERED
    values = [(known.get(key), form) for key, form in columns.values()]
    # a word in place of a number is shown as it stands
    return ["-" if value is None else value if isinstance(value, str) else form.format(value) for value, form in values]


def write(
    federation: Federation,
    folder: Path,
    conditions: Sequence[Mapping[str, Any]],
    seen: Mapping[Key, Observation],
    scored: Sequence[Scored],
    payloads: Mapping[str, str],
    originals: bool,
) -> Result:
    """Write results.json, samples.jsonl and the figures; private images only where `originals` says so."""
    samples = rows(federation, scored)
    measured = {condition["defence"]: condition["rounds"][-1]["evaluate_metrics_serverapp"] for condition in conditions}
    averages = summary(channel_of(federation.experiment), federation, seen, scored, measured)
    results = {
        "conditions": conditions,
        "summary": averages,
        "published": federation.experiment.published,
        "digests": _digests(samples, scored, payloads),
        "not_valid": faults(seen, scored),
    }
    files.write_jsonl(folder / files.SAMPLES, samples)
    draw(federation, folder, scored, averages, originals)
    files.write_json(folder / files.RESULTS, results)
    return Result.of(folder, federation.experiment)


def _digests(
    samples: Sequence[Mapping[str, Any]], scored: Sequence[Scored], payloads: Mapping[str, str]
) -> dict[str, Any]:
    """SHA-256 of every payload and reconstruction, and of all rows; times are no part of any of them."""
    timeless = [{key: value for key, value in row.items() if key != "seconds"} for row in samples]
    guesses = {
        f"{each.attack}/{each.key.stem}": storage.guess_digest(each.guess)
        for each in scored
        if not each.attack.startswith(CONTROL)
    }
    text = json.dumps(timeless, sort_keys=True)
    return {"payloads": payloads, "reconstructions": guesses, "samples": hashlib.sha256(text.encode()).hexdigest()}
