"""Write notebooks/*.ipynb from the sources beside them: `python -m benchmarks.notebooks`.

The sources are what one edits, without outputs; the .ipynb are what a click opens.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import jupytext

FOLDER = Path(__file__).parent.parent / "notebooks"


def built(source: Path) -> str:
    """The .ipynb of a source; the same source gives the same text."""
    notebook = jupytext.read(source)
    for number, cell in enumerate(notebook.cells):
        cell.id = f"{source.stem}-{number}"  # jupytext draws them at random
    notebook.metadata.pop("jupytext", None)
    text: str = jupytext.writes(notebook, fmt="ipynb")
    return f"{text}\n"


def sources() -> Iterator[Path]:
    """The notebooks' sources."""
    return iter(sorted(FOLDER.glob("*.py")))


if __name__ == "__main__":
    for each in sources():
        each.with_suffix(".ipynb").write_text(built(each), encoding="utf-8")
        print(each.with_suffix(".ipynb"))
