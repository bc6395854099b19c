"""A page as HTML: one file that needs nothing else, or a block in a notebook. Every text is escaped here, once."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterable, Mapping
from html import escape
from pathlib import Path

from fl_privacy.atomic import write_atomic
from fl_privacy.simulations.report.page import (
    Block,
    Command,
    Finding,
    Grid,
    GridRow,
    Page,
    Paragraphs,
    Picture,
    Points,
    Section,
    Terms,
)
from fl_privacy.simulations.report.style import DOCUMENT, FRAGMENT

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""What a browser is told to allow: nothing of the network, no script."""
LETTERS = 38.0
"""Pixels of a PNG for one rem of a narrow screen: with more its letters are too small to be read."""


def document(page: Page) -> str:
    """The page as a whole file: no script, no outside resource, pictures inside."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(POLICY)}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="referrer" content="no-referrer">'
        f"<title>{escape(page.title)}</title><style>{FRAGMENT}{DOCUMENT}</style></head>\n"
        f"<body><main>{_body(page)}</main></body></html>\n"
    )


def fragment(page: Page) -> str:
    """The same content as a block for a notebook, in the colours of whatever theme it has."""
    return f"<style>{FRAGMENT}</style>{_body(page)}"


def write_html(page: Page, path: Path) -> Path:
    """Write the page as a file, whole or not at all, and return its path."""
    # a name may hold half of a character, which UTF-8 cannot write
    return write_atomic(path, document(page).encode("utf-8", "xmlcharrefreplace"))


def _body(page: Page) -> str:
    warnings = "".join(f'<p class="warning"><strong>{escape(each)}</strong></p>' for each in page.warnings)
    beside = "".join(f"<li>{escape(what)}: <code>{escape(str(path))}</code></li>" for what, path in page.files.items())
    return (
        f'<div class="flp"><h1>{escape(page.title)}</h1><p class="question">{escape(page.question)}</p>{warnings}'
        f"<section><h2>The verdict</h2>{''.join(map(_finding, page.verdict))}"
        f'<p class="small">{escape(page.scale)}</p></section>'
        f"{''.join(map(_section, page.sections))}"
        f"{f'<section><h2>Files</h2><ul>{beside}</ul></section>' if beside else ''}</div>"
    )


def _finding(found: Finding) -> str:
    word = found.level.split()[0]
    level = f'<span class="level">{escape(found.level)}</span>'
    return f'<div class="finding {word}"><b>{escape(found.of)}</b>{level}<br>{escape(found.words)}</div>'


def _section(section: Section) -> str:
    return f"<section><h2>{escape(section.title)}</h2>{''.join(map(_block, section.blocks))}</section>"


def _block(block: Block) -> str:
    return _RENDER[type(block)](block)


def _paragraphs(block: Paragraphs) -> str:
    return _each("<p>", block.texts, "</p>")


def _points(block: Points) -> str:
    return f"<ul>{_each('<li>', block.items, '</li>')}</ul>"


def _each(before: str, texts: Iterable[str], after: str) -> str:
    return "".join(f"{before}{_prose(text)}{after}" for text in texts)


def _prose(text: str) -> str:
    """Escaped, and what stands between backticks as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


def _terms(block: Terms) -> str:
    pairs = (f"<dt>{escape(word)}</dt><dd>{_prose(meaning)}</dd>" for word, meaning in block.meanings.items())
    return f"<dl>{''.join(pairs)}</dl>"


def _grid(block: Grid) -> str:
    headings = "".join(f'<th scope="col">{_broken(each)}</th>' for each in (block.first, *block.headings))
    rows = "".join(map(_row, block.rows))
    return f'<div class="scroll"><table><thead><tr>{headings}</tr></thead><tbody>{rows}</tbody></table></div>'


def _row(row: GridRow) -> str:
    cells = "".join(f"<td>{escape(cell)}</td>" for cell in row.cells)
    below = f"<span>{escape(row.below)}</span>" if row.below else ""
    return f'<tr class="{escape(row.kind)}"><th scope="row">{escape(row.name)}{below}</th>{cells}</tr>'


def _broken(heading: str) -> str:
    return escape(heading).replace("\n", "<br>")


def _picture(block: Picture) -> str:
    """The PNG inside the page; on a narrow screen it keeps a width at which its letters can be read, and scrolls."""
    content = block.path.read_bytes()
    data = base64.b64encode(content).decode()
    width = int.from_bytes(content[16:20])  # of a PNG's first chunk
    style = f"--readable: {width / LETTERS:.1f}rem; max-width: {width}px"
    return (
        f'<figure><div class="sheet"><img alt="{escape(block.shows)}" style="{style}" '
        f'src="data:image/png;base64,{data}"></div><figcaption>{escape(block.shows)}</figcaption></figure>'
    )


def _command(block: Command) -> str:
    return f"<pre><code>{escape(block.text)}</code></pre>"


_RENDER: Mapping[type, Callable[..., str]] = {
    Paragraphs: _paragraphs,
    Points: _points,
    Terms: _terms,
    Grid: _grid,
    Picture: _picture,
    Command: _command,
}
