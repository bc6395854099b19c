"""A sweep that has been run, from its sweep.json: its rows, its table, its figures, its page."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from fl_privacy.settings import PlainTable, ReadTable
from fl_privacy.simulations.report.csv import write_csv
from fl_privacy.simulations.report.html import fragment, write_html
from fl_privacy.simulations.report.page import Page
from fl_privacy.simulations.report.table import as_rich, console
from fl_privacy.simulations.results import files, layout
from fl_privacy.simulations.sweeping.page import UNBEATEN, findings, grid, heading, page_of_sweep, reading, warnings

TABLE, KIND = "table.csv", "sweep-folder.json"
"""The points as CSV; what a sweep last ran on, which marks its folder from the start."""


@dataclass(frozen=True)
class SweepResult:
    """A finished sweep: its folder, and what its sweep.json says. In a notebook it shows itself as a page."""

    folder: Path
    found: ReadTable

    @classmethod
    def read(cls, folder: str | os.PathLike[str]) -> SweepResult:
        """The sweep in a folder.

        Raises:
            ValueError: it holds no finished sweep.
        """
        folder = Path(folder).absolute()
        return cls(folder, files.read_object(folder / layout.SWEEP, "name", "settings", "failed", "interval"))

    @property
    def failed(self) -> Sequence[ReadTable]:
        """The cells that failed: which, and the last line of why."""
        failed: Sequence[ReadTable] = self.found["failed"]
        return failed

    @property
    def points(self) -> list[PlainTable]:
        """One row a setting, defence and attack."""
        return [{"setting": each["setting"], **point} for each in self.found["settings"] for point in each["points"]]

    @property
    def sentences(self) -> list[str]:
        """One for each defence that no other one beats, setting by setting."""
        return [f"{each.of}: {each.words}" for each in findings(self.found)]

    @property
    def figures(self) -> list[Path]:
        """The paths of the figures (PNG), one a setting that compares defences."""
        return sorted((self.folder / layout.FIGURES).glob("*.png"))

    def to_csv(self, path: str | os.PathLike[str]) -> Path:
        """Write the points as CSV, numbers with every digit, and return the path."""
        left_out = ("strengths", "seeds")
        rows = [{key: value for key, value in each.items() if key not in left_out} for each in self.points]
        return write_csv(
            Path(path), [{**row, "seeds": len(each["seeds"])} for row, each in zip(rows, self.points, strict=True)]
        )

    def page(self) -> Page:
        """What `fl-privacy report --html` and a notebook show: the verdict first, and all that it rests on."""
        last = self.folder / KIND
        environment = files.read_json(last) if last.exists() else {}
        return page_of_sweep(self.found, self.figures, environment, self.folder)

    def to_html(self, path: str | os.PathLike[str] | None = None) -> Path:
        """Write the page as one file that needs nothing else, report.html in the sweep's folder by default."""
        return write_html(self.page(), Path(path) if path is not None else self.folder / layout.PAGE)

    def table(self) -> Table:
        """The points as a rich table: `rich.print(result.table())`."""
        return as_rich(grid(self.found), heading(self.found))

    def show(self) -> None:
        """Print the table, the sentences, and where the figures and files are, as the command line does."""
        out = console()
        out.print(self.table())
        for text in (*warnings(self.found), UNBEATEN, *(f"- {each}" for each in self.sentences), reading(self.found)):
            out.print(text, markup=False, highlight=False)
        for path in self.figures:
            out.print("figure:", path, soft_wrap=True, highlight=False)
        out.print("folder:", self.folder, soft_wrap=True, highlight=False)

    def _repr_html_(self) -> str:
        return fragment(self.page())
