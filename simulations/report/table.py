"""A result on a terminal, in a file or in a log."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from fl_privacy.simulations.report.content import VERDICTS, Content
from fl_privacy.simulations.report.page import Grid

NAME = 32  # columns that a name has at least
PLAIN_WIDTH = 130  # columns of a table that goes to a file or a pipe


def as_table(content: Content) -> Table:
    """The content as a rich table: warnings in its title and caption, published values dim below the measured ones."""
    title = f"NOT VALID, see below\n{content.title}" if content.warnings else content.title
    verdicts = [VERDICTS, *content.verdicts] if content.verdicts else []
    caption = "\n".join([*content.warnings, *verdicts, *content.remarks, content.reading])
    table = Table(title=escape(title), caption=escape(caption), box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("defence")
    for heading in content.headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for line in content.lines:
        name, style = (f"  {line.name}", "dim") if line.kind == "published" else (line.name, "")
        table.add_row(escape(name), *map(escape, line.cells), style=style)
    return table


def as_rich(grid: Grid, title: str) -> Table:
    """A neutral table as a rich one, controls dim."""
    table = Table(title=escape(title), box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column(escape(grid.first), no_wrap=True)
    for heading in grid.headings:
        table.add_column(escape(heading), justify="right", no_wrap=True)
    for row in grid.rows:
        table.add_row(escape(row.name), *map(escape, row.cells), style="dim" if row.kind == "control" else "")
    return table


def console() -> Console:
    """Where tables go: the terminal in its own width, or a file or pipe in a fixed one."""
    return Console() if sys.stdout.isatty() else Console(width=PLAIN_WIDTH)


def console_for(table: Table) -> Console:
    """The same, and in a file or pipe so wide that names in the first column are not squeezed by the others."""
    out = console()
    if sys.stdout.isatty():
        return out
    longest = max((cell_len(str(each)) for each in table.columns[0].cells), default=0)
    whole = Measurement.get(out, out.options.update(max_width=10 * PLAIN_WIDTH), table).maximum
    return Console(width=max(PLAIN_WIDTH, whole - max(0, longest - NAME)))


def show(table: Table, figures: Sequence[Path], folder: Path) -> None:
    """Print a result's table, and where its figures and files are."""
    out = console_for(table)
    out.print(table)
    for path in figures:
        out.print("figure:", path, soft_wrap=True, highlight=False)
    out.print("folder:", folder, soft_wrap=True, highlight=False)
