"""The picture of a run: victims in rows; what was private, what came back, and what a blind guess would be."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure
from torch import Tensor

from simulations.files import write_atomic

ROWS = 5


@dataclass(frozen=True)
class Column:
    """One column: images (N, C, H, W) in [0, 1] under a title, each with a line beneath it."""

    title: str
    images: Tensor
    captions: Sequence[str]


def draw(path: Path, title: str, columns: Sequence[Column]) -> Path:
    """Draw the columns side by side, the first five rows of each, and write a PNG."""
    rows = min(ROWS, *(len(column.images) for column in columns))
    with matplotlib.rc_context({"font.size": 10}):
        figure = Figure(figsize=(2.1 * len(columns) + 0.4, 2.25 * rows + 1.5), layout="constrained")
        figure.suptitle(title, fontsize=12)
        grid = figure.subplots(rows, len(columns), squeeze=False)
        for position, column in enumerate(columns):
            for row in range(rows):
                axes = grid[row][position]
                image = column.images[row].permute(1, 2, 0).squeeze(-1).numpy()
                axes.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
                axes.set(xticks=[], yticks=[], xlabel=column.captions[row])
                if row == 0:
                    axes.set_title(column.title, fontsize=10)
        content = io.BytesIO()
        figure.savefig(content, format="png", dpi=130)
    return write_atomic(path, content.getvalue())
