"""A result in a notebook or a page: blocks of HTML in which every text from a run is escaped."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from fl_privacy.simulations.report.content import VERDICTS, Content, Line

NUMBER = "text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums"
NAME = "text-align: left"
STYLES = {"measured": "", "control": "font-style: italic", "published": "opacity: 0.65"}


def as_html(content: Content, figures: Sequence[Path], folder: Path) -> str:
    """The content as one HTML block without scripts or outside resources; colours are the page's, light or dark."""
    warnings = "".join(f'<p style="color: #e5484d"><strong>{escape(each)}</strong></p>' for each in content.warnings)
    files = "".join(f"<li>figure: <code>{escape(str(path))}</code></li>" for path in figures)
    return (
        f'<div class="fl-privacy-result"><p><strong>{escape(content.title)}</strong></p>{warnings}'
        f'<div style="overflow-x: auto">{table_block(content)}</div>'
        f"{_verdicts(content.verdicts)}"
        f'<p style="max-width: 60em"><small>{escape(" ".join([*content.remarks, content.reading]))}</small></p>'
        f'<ul style="overflow-wrap: anywhere">{files}<li>folder: <code>{escape(str(folder))}</code></li></ul></div>'
    )


def table_block(content: Content) -> str:
    """The table alone: controls in italics, published values paler than measured ones."""
    headings = "".join(
        f'<th scope="col" style="{NUMBER}; vertical-align: bottom">{_broken(each)}</th>' for each in content.headings
    )
    lines = "".join(map(_line, content.lines))
    first = f'<th scope="col" style="{NAME}; vertical-align: bottom">defence</th>'
    return f"<table><thead><tr>{first}{headings}</tr></thead><tbody>{lines}</tbody></table>"


def _verdicts(lines: Sequence[str]) -> str:
    return f"<p>{'<br>'.join(map(escape, [VERDICTS, *lines]))}</p>" if lines else ""


def _line(line: Line) -> str:
    cells = "".join(f'<td style="{NUMBER}">{escape(each)}</td>' for each in line.cells)
    indent = "; padding-left: 1.5em" if line.kind == "published" else ""
    name = f'<th scope="row" style="{NAME}; font-weight: normal{indent}">{escape(line.name)}</th>'
    return f'<tr style="{STYLES[line.kind]}">{name}{cells}</tr>'


def _broken(heading: str) -> str:
    return escape(heading).replace("\n", "<br>")
