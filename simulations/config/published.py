"""Published values: rows of a paper's published.csv, or of a TOML file, joined by columns with what is measured."""

from __future__ import annotations

import csv
import re
from pathlib import Path

from fl_privacy.defences import DEFENCES, Chain, Defence
from fl_privacy.settings import PlainTable, ReadTable
from fl_privacy.simulations.config.changes import parse_value
from fl_privacy.simulations.experiment.spec import Condition, Experiment

COLUMNS = ("variant", "training_defence", "inference_defence", "attack")
"""What a row names of the measured rows beside which it stands; an empty or missing one fits them all."""
FILE = "published.csv"
"""It stands beside the experiments of its paper. A row is for one `experiment`, and for one `profile` if it says so."""
UNDEFENDED = "none"
MEMBER = re.compile(r"(?P<name>[^\s()]+)(\((?P<settings>.*)\))?")


def read_published(folder: Path, experiment: str, profile: str = "") -> list[PlainTable]:
    """The rows for an experiment in the published.csv of a folder; none where there is no such file.

    Raises:
        ValueError: a value that is no number, or a file without the columns.
    """
    path = folder / FILE
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        table = csv.DictReader(file)
        if missing := {"experiment", "profile", *COLUMNS} - set(table.fieldnames or ()):
            raise ValueError(f"{path} lacks the columns {', '.join(sorted(missing))}")
        mine = [row for row in table if row.pop("experiment") == experiment and row.pop("profile") in ("", profile)]
    try:
        return [{key: _cell(key, text) for key, text in row.items() if text} for row in mine]
    except ValueError as error:
        raise ValueError(f"{path}, the rows of '{experiment}': {error}") from error


def _cell(key: str, text: str) -> str | float:
    return text if key in COLUMNS else float(text)


def check_row(row: ReadTable) -> None:
    """Check that a published row is columns that the join knows, and numbers.

    Raises:
        ValueError: what is not.
    """
    for key, value in row.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if number == (key in COLUMNS) or not (number or isinstance(value, str)):
            raise ValueError(
                f"a row of 'published' has {key} = {value!r}: it takes the texts {', '.join(COLUMNS)}, which say "
                "beside what it stands, and numbers, such as psnr = 17.1"
            )


def fits(row: ReadTable, condition: Condition, attack: str) -> bool:
    """Whether a published row stands beside what an attack measured under a condition.

    A defence's settings that the row does not name may have any value: `nopeek(weight=0.5)` fits every estimator.

    Raises:
        ValueError: a defence that cannot be read, or a setting that it does not have.
    """
    return (
        row.get("variant", condition.variant) == condition.variant
        and row.get("attack", attack) == attack
        and ("training_defence" not in row or _is_chain(row["training_defence"], condition.trained))
        and ("inference_defence" not in row or _is_chain(row["inference_defence"], condition.released))
    )


def beside(experiment: Experiment) -> list[PlainTable]:
    """The published rows as measured ones are named: the `defence` and `attack` of each, and the numbers."""
    return [
        {"defence": condition.label, "attack": attack, **{k: v for k, v in row.items() if k not in COLUMNS}}
        for index, condition in enumerate(experiment.conditions)
        for attack in experiment.resolved.attacks
        if experiment.concerns(attack, index)
        for row in experiment.published
        if fits(row, condition, attack)
    ]


def stands(row: ReadTable, experiment: Experiment) -> bool:
    """Whether anything that this experiment measures has this published row beside it."""
    attacks = experiment.resolved.attacks
    return any(fits(row, condition, attack) for condition in experiment.conditions for attack in attacks)


def _is_chain(text: str, chain: Chain) -> bool:
    members = [] if text == UNDEFENDED else [_member(each) for each in text.split(" + ")]
    return len(members) == len(chain.defences) and all(map(_is_defence, members, chain.defences))


def _is_defence(member: tuple[str, ReadTable], defence: Defence) -> bool:
    name, settings = member
    if name != DEFENCES.name_of(type(defence)):
        return False
    if unknown := [key for key in settings if not hasattr(defence, key)]:
        raise ValueError(f"a published row names a setting that '{name}' does not have: {', '.join(unknown)}")
    return all(getattr(defence, key) == value for key, value in settings.items())


def _member(text: str) -> tuple[str, PlainTable]:
    """The name and the settings in 'nopeek(weight=0.5, estimator=squared)'."""
    found = MEMBER.fullmatch(text)
    pairs = [each.partition("=") for each in re.split(r", (?=\w+=)", (found and found["settings"]) or "") if each]
    if not found or not all(equals for _, equals, _ in pairs):
        raise ValueError(
            f"a published row names the defence {text!r}; write {UNDEFENDED}, or such as "
            "clip(norm=1.0) + nopeek(weight=0.5)"
        )
    return found["name"], {key: parse_value(value) for key, _, value in pairs}
