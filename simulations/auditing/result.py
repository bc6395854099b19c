"""A finished audit: its folder, what it says, and how it is shown."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from fl_privacy.observation import Reconstruction
from fl_privacy.settings import ReadTable
from fl_privacy.simulations.report import audit_folder, audit_words
from fl_privacy.simulations.report.audit_page import page_of_audit
from fl_privacy.simulations.report.csv import write_csv
from fl_privacy.simulations.report.html import fragment, write_html
from fl_privacy.simulations.report.page import Page
from fl_privacy.simulations.report.table import as_rich, console
from fl_privacy.simulations.results import files, layout


@dataclass(frozen=True)
class Audit:
    """A finished audit: its folder, the report as plain values (audit.json), and what came back.

    `guesses`: by attack, of one saved message; of a folder by round, client and attack: 'round_1/client_0/peeling'. In
    a notebook it shows itself as a page.
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
        report = files.read_object(folder / layout.AUDIT, "verdict", "environment")
        if "messages" not in report:
            report = files.read_object(folder / layout.AUDIT, "attacks", "controls", "sha256")
        found = {place: _read(folder, place, row) for place, row in _rows(report)}
        return cls(folder, report, {place: guess for place, guess in found.items() if guess is not None})

    def page(self) -> Page:
        """What `fl-privacy report --html` and a notebook show: the verdict first, and all that it rests on."""
        return (audit_folder.page if self._whole else page_of_audit)(self.report, self.folder)

    def to_html(self, path: str | os.PathLike[str] | None = None) -> Path:
        """Write the page as one file that needs nothing else, report.html in the audit's folder by default."""
        return write_html(self.page(), Path(path) if path is not None else self.folder / layout.PAGE)

    def to_csv(self, path: str | os.PathLike[str]) -> Path:
        """Write a row an attack and a control as CSV, numbers with every digit, and return the path."""
        return write_csv(Path(path), self._said.flat(self.report))

    def _repr_html_(self) -> str:
        return fragment(self.page())

    def show(self) -> None:
        """Print the verdict, the table and the reasons."""
        out = console()
        for sentence in self.report["verdict"]:
            out.print(sentence, markup=False, highlight=False)
        out.print(as_rich(self._said.grid(self.report), "What came back"))
        out.print(self._said.words(self.report), markup=False, highlight=False, soft_wrap=True)
        out.print("folder:", self.folder, soft_wrap=True, highlight=False)

    @property
    def _whole(self) -> bool:
        """Whether it is of a folder of observations."""
        return "messages" in self.report

    @property
    def _said(self) -> ModuleType:
        """What puts such a report into words and rows."""
        return audit_folder if self._whole else audit_words


def message_place(message: ReadTable) -> str:
    """Where in an audit's folder the files of a message of a folder of observations lie."""
    return f"round_{message['round']}/client_{message['client']}/"


def _rows(report: ReadTable) -> Iterator[tuple[str, ReadTable]]:
    """Every attack's row, by where its guess lies."""
    for message in report.get("messages", [report]):
        place = message_place(message) if "messages" in report else ""
        yield from ((f"{place}{row['attack']}", row) for row in message["attacks"])


def _read(folder: Path, place: str, row: ReadTable) -> Reconstruction | None:
    """What an attack gave, with its own loss; None where it gave nothing."""
    before = place.rpartition("/")[0]
    path = folder / before / f"{files.slug(row['attack'])}.safetensors"
    if not path.exists():
        return None
    found = files.read_tensors(path)
    loss = math.nan if row["loss"] is None else row["loss"]
    return Reconstruction(inputs=found.get("images"), labels=found.get("labels"), bound=found.get("bound"), loss=loss)
