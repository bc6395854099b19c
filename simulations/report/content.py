"""What a result says, as words and text cells: the terminal's table and the notebook's are made of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Literal

from fl_privacy.settings import ReadTable
from fl_privacy.simulations.config.published import beside
from fl_privacy.simulations.config.resolve import channel_of
from fl_privacy.simulations.experiment.spec import Experiment
from fl_privacy.simulations.report.columns import Heading, cells, columns, meanings
from fl_privacy.simulations.report.verdict import verdicts
from fl_privacy.simulations.results.controls import control_of
from fl_privacy.simulations.scoring import UNDEFENDED

VERDICTS = "Verdicts, each the most that any of its attackers got:"
"""What stands over the lines of verdicts."""


@dataclass(frozen=True)
class Line:
    """One line of a table: what it is of, its cells, and whether it was measured here, guessed blindly or published.

    `condition` is empty for a control; `attack` where all conditions have the same. `strongest`: no other attack on
    this condition got more.
    """

    condition: str
    attack: str
    cells: tuple[str, ...]
    kind: Literal["measured", "control", "published"]
    strongest: bool = False

    @property
    def name(self) -> str:
        """Such as 'none | grnn', 'control: mean image'."""
        return " | ".join(each for each in (self.condition, self.attack) if each)


@dataclass(frozen=True)
class Content:
    """A table in words: every cell is text that is ready to show, nothing is escaped.

    `verdicts`: what the strongest attacker got, a line a condition. `meanings`: what each column is, by its heading.
    """

    title: str
    warnings: tuple[str, ...]
    remarks: tuple[str, ...]
    headings: tuple[str, ...]
    lines: tuple[Line, ...]
    verdicts: tuple[str, ...]
    reading: str
    meanings: Mapping[str, str]


def content(
    experiment: Experiment,
    summary: Sequence[ReadTable],
    not_valid: Sequence[str],
    doubts: Sequence[str] = (),
) -> Content:
    """The table of a run's summary, with the published values that the experiment names beside its own."""
    attacks = list(experiment.resolved.attacks)
    shown = columns(experiment, summary)
    judged = verdicts(experiment, summary)
    return Content(
        title=f"{experiment.name}: {', '.join(attacks)} on {experiment.dataset['name']}",
        warnings=tuple(f"NOT VALID: {each}." for each in not_valid),
        remarks=(*(f"WARNING: {each}." for each in doubts), *_unmeasured(summary), *_of_controls(experiment, summary)),
        headings=tuple(each.words for each in shown),
        lines=tuple(_lines(experiment, summary, shown, {(each.defence, each.attack) for each in judged})),
        verdicts=tuple(map(str, judged)),
        reading=channel_of(experiment).evaluation.reading(summary),
        meanings=meanings(experiment, shown),
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


def _lines(
    experiment: Experiment,
    summary: Sequence[ReadTable],
    shown: Sequence[Heading],
    best: Set[tuple[str, str | None]],
) -> Iterator[Line]:
    several, expected = len(experiment.resolved.attacks) > 1, beside(experiment)
    for row in summary:
        of = row["defence"], row["attack"]
        if control_of(row):
            yield Line("", row["attack"], cells(row, shown), "control")
        else:
            yield Line(of[0], of[1] if several else "", cells(row, shown), "measured", of in best)
        for published in expected:
            if (published["defence"], published["attack"]) == of:
                yield Line("published", "", cells(published, shown), "published")
