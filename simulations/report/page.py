"""A page in neutral parts: what it says, in order, before anything is HTML. Nothing in it is escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


class Level(StrEnum):
    """How bad a finding is, as a word that stands before it."""

    EXACT = "exact"
    CLOSER = "leaks"
    UNCLEAR = "unclear"
    BLIND = "no more than a guess"
    NOTHING = "nothing found"


@dataclass(frozen=True)
class Finding:
    """One verdict: of what, how bad, and a sentence with the numbers."""

    of: str
    level: Level
    words: str


@dataclass(frozen=True)
class Paragraphs:
    """Running text."""

    texts: Sequence[str]


@dataclass(frozen=True)
class Points:
    """A list without an order."""

    items: Sequence[str]


@dataclass(frozen=True)
class Terms:
    """Words, each with what it stands for."""

    meanings: Mapping[str, str]


@dataclass(frozen=True)
class GridRow:
    """A row of a table: its name, a line below the name, its cells; `kind`: measured, strongest, control, published."""

    name: str
    below: str
    cells: Sequence[str]
    kind: str = "measured"


@dataclass(frozen=True)
class Grid:
    """A table, whose first column is called `first`; a heading may be broken by newlines."""

    first: str
    headings: Sequence[str]
    rows: Sequence[GridRow]


@dataclass(frozen=True)
class Picture:
    """A PNG file with what it shows, in words that stand below it."""

    path: Path
    shows: str


@dataclass(frozen=True)
class Command:
    """Text to be typed as it stands."""

    text: str


def cell(value: float | str | None, form: str) -> str:
    """A value as tables show it: a number by `form` ('{:.1f}'), a word as it stands, '-' for none and for NaN."""
    if value is None or value != value:
        return "-"
    return value if isinstance(value, str) else form.format(value)


Block = Paragraphs | Points | Terms | Grid | Picture | Command


@dataclass(frozen=True)
class Section:
    """A part of a page under its own heading."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Page:
    """What a person reads of a run, an audit or a sweep: the question, the verdict first, then everything else.

    `warnings` say why the numbers may not be believed; `scale` how to read those of the verdict. `files`: what lies
    beside the page, by what it is.
    """

    title: str
    question: str
    warnings: Sequence[str]
    verdict: Sequence[Finding]
    scale: str
    sections: Sequence[Section]
    files: Mapping[str, Path]
