"""A finished run in Python: its numbers, its table, its figures."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.table import Table

from fl_privacy.settings import PlainTable, ReadTable
from fl_privacy.simulations.config.saved import read_saved
from fl_privacy.simulations.experiment.spec import Experiment
from fl_privacy.simulations.report.content import content
from fl_privacy.simulations.report.csv import write_csv
from fl_privacy.simulations.report.divergence import broken, ruins
from fl_privacy.simulations.report.html import fragment, write_html
from fl_privacy.simulations.report.page import Page
from fl_privacy.simulations.report.run_page import page_of_run
from fl_privacy.simulations.report.table import as_table, show
from fl_privacy.simulations.report.verdict import Verdict, leaks_more, verdicts
from fl_privacy.simulations.results import files, layout

if TYPE_CHECKING:
    from pandas import DataFrame

Rows = Literal["summary", "samples"]
"""'summary': one row an attack and condition, and one a control. 'samples': one row an attacked image."""


@dataclass(frozen=True)
class Result:
    """A finished run: its folder, and what its files say. In a notebook it shows itself as a page.

    result = simulate(load_experiment("quickstart"), backend="local")   # or Result.read("outputs/...")
    result.summary[0]["psnr"]           # plain rows
    result.to_frame()                   # a pandas DataFrame of the same
    result.to_csv("quickstart.csv")
    result.figures[0]                   # the path of a PNG
    result.to_html()                    # one page for a browser: the path of report.html
    """

    folder: Path
    experiment: Experiment
    conditions: Sequence[ReadTable]
    summary: Sequence[ReadTable]
    digests: ReadTable
    not_valid: Sequence[str] = ()
    """Why the table says nothing, where the attack was given another protocol than the one that ran."""
    warnings: Sequence[str] = ()
    """What was found odd about the model before the run, where training diverged, and where a defended condition seems
    to leak more than the undefended one."""

    @classmethod
    def read(cls, folder: str | os.PathLike[str], trust: bool = False) -> Result:
        """The result in a run folder; `trust` lets its config name code, `module:name`, which is then imported.

        Raises:
            ValueError: it holds no finished run. UntrustedCode: it names code.
        """
        folder = Path(folder)
        files.read_json(folder / layout.RESULTS)  # first, because its absence says most
        return cls.of(folder, read_saved(folder, trust).experiment)

    @classmethod
    def of(cls, folder: Path, experiment: Experiment) -> Result:
        """The result in the folder of a run of this experiment."""
        results = files.read_object(folder / layout.RESULTS, "conditions", "summary", "digests")
        return cls(
            folder,
            experiment,
            results["conditions"],
            results["summary"],
            results["digests"],
            results.get("not_valid", ()),
            [
                *_told(folder),
                *ruins(broken(results["conditions"]), [experiment.learning_rate]),
                *leaks_more(verdicts(experiment, results["summary"])),
            ],
        )

    @property
    def told(self) -> Sequence[str]:
        """Those of the warnings that were told before the run began."""
        return _told(self.folder)

    @property
    def verdicts(self) -> list[Verdict]:
        """The most that any attacker got out of each condition, beside the control and the undefended condition."""
        return verdicts(self.experiment, self.summary)

    @property
    def samples(self) -> list[PlainTable]:
        """One row an attacked image."""
        lines = (self.folder / layout.SAMPLES).read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]

    @property
    def figures(self) -> list[Path]:
        """The paths of the figures (PNG), the pages of one figure in their order."""
        return sorted((self.folder / layout.FIGURES).glob("*.png"), key=_page)

    def to_frame(self, rows: Rows = "summary") -> DataFrame:
        """The rows as a pandas DataFrame, one column a key; what a row does not have is missing there.

            result.to_frame().pivot(index="defence", columns="attack", values="psnr")
            result.to_frame("samples").groupby("client")["psnr"].mean()

        Raises:
            ImportError: pandas is not installed; it is no requirement of this package.
        """
        try:
            from pandas import DataFrame
        except ImportError as error:
            raise ImportError(
                "to_frame() makes a pandas DataFrame, and pandas is not installed: `pip install pandas`; or use "
                f"`result.{rows}`, which is a list of plain rows, or `result.to_csv(path)`, which need nothing"
            ) from error
        return DataFrame(list(self._rows(rows)))

    def to_csv(self, path: str | os.PathLike[str], rows: Rows = "summary") -> Path:
        """Write the rows as CSV with a header line and return the path; numbers keep every digit, None is empty.

        result.to_csv("images.csv", rows="samples")
        """
        return write_csv(Path(path), self._rows(rows))

    def table(self) -> Table:
        """The summary as a rich table: `rich.print(result.table())`."""
        return as_table(content(self.experiment, self.summary, self.not_valid, self.warnings))

    def show(self) -> None:
        """Print the table, and where the figures and files are, as the command line does."""
        show(self.table(), self.figures, self.folder)

    def page(self) -> Page:
        """What `fl-privacy report --html` and a notebook show: the verdict first, and all that it rests on."""
        found = content(self.experiment, self.summary, self.not_valid, self.warnings)
        return page_of_run(self.experiment, found, self.verdicts, self.summary, self.digests, self.figures, self.folder)

    def to_html(self, path: str | os.PathLike[str] | None = None) -> Path:
        """Write the page as one file that needs nothing else, report.html in the run's folder by default."""
        return write_html(self.page(), Path(path) if path is not None else self.folder / layout.PAGE)

    def _repr_html_(self) -> str:
        """What a notebook shows of a result that ends a cell: the same page."""
        return fragment(self.page())

    def _rows(self, rows: Rows) -> Sequence[ReadTable]:
        """The rows of that name.

        Raises:
            ValueError: there are none of that name.
        """
        if rows not in ("summary", "samples"):
            raise ValueError(
                f"a result has the rows 'summary' (one a line of its table) and 'samples' (one an image), not '{rows}'"
            )
        return self.summary if rows == "summary" else self.samples


def _page(path: Path) -> tuple[str, int]:
    """A figure's name and page: 'x_10.png' comes after 'x_9.png', and 'x.png' is the first."""
    found = re.fullmatch(r"(.*?)(?:_(\d+))?", path.stem)
    assert found is not None
    return found[1], int(found[2] or 1)


def _told(folder: Path) -> Sequence[str]:
    config = folder / layout.CONFIG
    return files.read_json(config).get("warnings", ()) if config.exists() else ()
