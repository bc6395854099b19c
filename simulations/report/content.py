"""What a result says, as words and text cells: the terminal's table and the notebook's are made of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from fl_privacy.settings import ReadTable
from fl_privacy.simulations.config.published import beside
from fl_privacy.simulations.config.resolve import channel_of
from fl_privacy.simulations.experiment.spec import Experiment
from fl_privacy.simulations.report.verdict import verdicts
from fl_privacy.simulations.results.controls import control_of
from fl_privacy.simulations.scoring import NOT_RECOVERED, UNDEFENDED

FIRST = {
    "n": ("images", "{:d}"),
    "images\nback": ("recovered", "{:d}"),
    "PSNR\n(dB)": ("psnr", "{:.1f}"),
    "95 %": ("psnr_interval", "{}"),
    "SSIM": ("ssim", "{:.3f}"),
    "MSE": ("mse", "{:.4f}"),
}
LAST = {
    "bound\n(dB)": ("bound_psnr", "{:.1f}"),
    "labels\nright": ("label_accuracy", "{:.0%}"),
    "loss at\nguess": ("loss_at_guess", "{:.3g}"),
    "loss at\ntruth": ("loss_at_truth", "{:.3g}"),
    "model\naccuracy": ("model_accuracy", "{:.1%}"),
}
"""The columns of every channel, heading to (key, format); metrics that somebody added stand between the two."""
VERDICTS = "Verdicts, each the most that any of its attackers got:"
"""What stands over the lines of verdicts."""


@dataclass(frozen=True)
class Line:
    """One line of a table: what it is of, its cells, and whether it was measured here, guessed blindly or published."""

    name: str
    cells: tuple[str, ...]
    kind: Literal["measured", "control", "published"]


@dataclass(frozen=True)
class Content:
    """A table in words: every cell is text that is ready to show, nothing is escaped.

    `verdicts`: what the strongest attacker got, a line a condition.
    """

    title: str
    warnings: tuple[str, ...]
    remarks: tuple[str, ...]
    headings: tuple[str, ...]
    lines: tuple[Line, ...]
    verdicts: tuple[str, ...]
    reading: str


def content(
    experiment: Experiment,
    summary: Sequence[ReadTable],
    not_valid: Sequence[str],
    doubts: Sequence[str] = (),
) -> Content:
    """The table of a run's summary, with the published values that the experiment names beside its own."""
    attacks = list(experiment.resolved.attacks)
    columns = _columns(experiment, summary)
    return Content(
        title=f"{experiment.name}: {', '.join(attacks)} on {experiment.dataset['name']}",
        warnings=tuple(f"NOT VALID: {each}." for each in not_valid),
        remarks=(*(f"WARNING: {each}." for each in doubts), *_unmeasured(summary), *_of_controls(experiment, summary)),
        headings=tuple(columns),
        lines=tuple(_lines(experiment, summary, list(columns.values()))),
        verdicts=tuple(map(str, verdicts(experiment, summary))),
        reading=channel_of(experiment).evaluation.reading(summary),
    )


def _unmeasured(summary: Sequence[ReadTable]) -> Iterator[str]:
    """One sentence a metric that could not be computed."""
    reasons = {name: reason for row in summary for name, reason in row.get("unmeasured", {}).items()}
    for name, reason in reasons.items():
        yield f"{name} could not be measured: {reason}."


def _of_controls(experiment: Experiment, summary: Sequence[ReadTable]) -> Iterator[str]:
    """On whose messages the losses of the controls are, where that does not go without saying."""
    said = {row["losses_of"] for row in summary if "losses_of" in row}
    if len(experiment.conditions) == 1 and None not in said:
        return
    for condition in said:
        yield (
            "Controls have no losses, because no condition is without a defence."
            if condition is None
            else f"Controls stand for every condition; their losses are on the messages of '{condition}'."
        )


def in_words(defence: str) -> str:
    """A condition's label for people: 'vicious server; no defence', 'gaussian noise, scale=0.3'."""
    bare = {UNDEFENDED: "no defence", f"serving {UNDEFENDED}": "serving no defence"}
    parts = [bare.get(part, part) for part in defence.split("; ")]
    return "; ".join(parts).replace("_", " ").replace("(", ", ").replace(")", "")


def _columns(experiment: Experiment, rows: Sequence[ReadTable]) -> dict[str, tuple[str, str]]:
    """The columns in which some row has a value: an attack without an objective, say, has no losses to show.

    How many images were recovered is told where some were not.
    """
    evaluation = channel_of(experiment).evaluation
    others = [name for name in experiment.resolved.metrics if name not in ("psnr", "ssim", "mse")]
    others += dict.fromkeys(name for row in rows for name in row.get("asked_for", ()))
    added = {name.replace(":", ":\n").replace("_", "\n"): (name, "{:.3f}") for name in others}
    common = {heading: each for heading, each in (FIRST | added | LAST).items() if each[0] not in evaluation.unshown}
    whole = all(row.get("recovered", row["images"]) == row["images"] for row in rows)
    return {
        heading: (key, form)
        for heading, (key, form) in (common | dict(evaluation.columns)).items()
        if key == "psnr_interval"
        or (any(row.get(key) is not None for row in rows) and not (key == "recovered" and whole))
    }


def _lines(experiment: Experiment, summary: Sequence[ReadTable], columns: Sequence[tuple[str, str]]) -> Iterator[Line]:
    several, expected = len(experiment.resolved.attacks) > 1, beside(experiment)
    for row in summary:
        control = control_of(row) is not None
        name = row["attack"] if control else f"{row['defence']} | {row['attack']}" if several else row["defence"]
        yield Line(name, _cells(row, columns), "control" if control else "measured")
        for published in expected:
            if (published["defence"], published["attack"]) == (row["defence"], row["attack"]):
                yield Line("published", _cells(published, columns), "published")


def _cells(row: ReadTable, columns: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    low, high = row.get("psnr_low"), row.get("psnr_high")
    known = {**row, "psnr_interval": None if low is None or high is None else f"{low:.1f}-{high:.1f}"}
    if row.get("recovered") == 0:
        known["psnr"] = NOT_RECOVERED
    values = [(known.get(key), form) for key, form in columns]
    # a word in place of a number is shown as it stands
    return tuple(
        "-" if value is None else value if isinstance(value, str) else form.format(value) for value, form in values
    )
