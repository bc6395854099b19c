"""How images are drawn beside each other, and how a figure becomes a file."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from fl_privacy.atomic import write_atomic

COLOURS = (1, 3)  # channels that an image can be drawn with
ROWS = 5  # images of one column that are drawn
CELL = 2.1  # inches


@dataclass(frozen=True)
class Column:
    """One column: images (N, C, H, W) in [0, 1] under a title, each with a line beneath it.

    Without images there is a grey field with `instead` in it for each line.
    """

    title: str
    images: Tensor | None
    captions: Sequence[str]
    instead: str = ""


def draw(path: Path, title: str, columns: Sequence[Column], note: str) -> Path:
    """Draw the columns side by side, the first five rows of each, `note` in small print below, and write a PNG.

    Images that are neither grey nor RGB are drawn as the mean over their channels, and the note says so. Names are
    drawn as they are: a '$' in one begins no formula.
    """
    if any(column.images is not None and column.images.shape[1] not in COLOURS for column in columns):
        note = f"{note}\nWhat is drawn of an image is the mean over its channels."
    rows = min(ROWS, *(len(column.captions) for column in columns))
    with matplotlib.rc_context({"font.size": 10, "text.parse_math": False}):
        figure = Figure(figsize=(CELL * len(columns) + 0.4, (CELL + 0.15) * rows + 1.9), layout="constrained")
        figure.suptitle(title, fontsize=12)
        grid = figure.subplots(rows, len(columns), squeeze=False)
        for position, column in enumerate(columns):
            grid[0][position].set_title(column.title, fontsize=10)
            for row in range(rows):
                _cell(grid[row][position], column, row)
        figure.supxlabel(note, fontsize=9, x=0.01, ha="left")
        return save(figure, path)


def _cell(axes: Axes, column: Column, row: int) -> None:
    axes.set(xticks=[], yticks=[], xlabel=column.captions[row])
    if column.images is not None:
        image = column.images[row]
        shown = image if len(image) in COLOURS else image.mean(0, keepdim=True)
        axes.imshow(shown.permute(1, 2, 0).squeeze(-1).numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        return
    axes.set(facecolor="0.9", aspect="equal", xlim=(0, 1), ylim=(0, 1))
    axes.text(0.5, 0.5, column.instead, ha="center", va="center", color="0.3")


def save(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG, whole or not at all."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=130)
    return write_atomic(path, content.getvalue())
