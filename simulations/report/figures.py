"""The pictures of a run: what was private and what came back; and what each defence gains and costs."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from torch import Tensor

from fl_privacy.simulations.results.files import write_atomic

ROWS = 5
WIDEST = 16.0  # inches


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
        return _save(figure, path)


def draw_tradeoff(path: Path, title: str, conditions: Sequence[Mapping[str, Any]], blind: Mapping[str, float]) -> Path:
    """Draw leakage and model accuracy of every condition (a row of the summary), over the PSNR of the `blind` controls.

    Each attack is a line of its own over the conditions.
    """
    accuracy = {condition["defence"]: condition["model_accuracy"] for condition in conditions}
    places = {defence: run_context for run_context, defence in enumerate(accuracy)}
    figure = Figure(figsize=(min(0.9 * len(places), WIDEST) + 5, 6.5), layout="constrained")
    figure.suptitle(title, fontsize=11)
    leak, use = figure.subplots(2, 1, sharex=True)
    for attack in dict.fromkeys(condition["attack"] for condition in conditions):
        mine = [condition for condition in conditions if condition["attack"] == attack]
        middle = [condition["psnr"] for condition in mine]
        spread = [
            [condition["psnr"] - condition["psnr_low"] for condition in mine],
            [condition["psnr_high"] - condition["psnr"] for condition in mine],
        ]
        where = [places[condition["defence"]] for condition in mine]
        leak.errorbar(where, middle, yerr=spread, marker="o", capsize=3, label=attack)
    for style, (name, value) in zip(("--", ":"), blind.items(), strict=False):
        leak.axhline(value, color="gray", linestyle=style, label=f"blind guess: {name}")
    leak.set_ylabel("leakage: PSNR (dB)")
    figure.legend(title="bars: 95 % intervals", fontsize=8, title_fontsize=8, loc="outside right center")
    use.plot(list(places.values()), [100 * value for value in accuracy.values()], marker="o", color="tab:green")
    use.set(ylabel="use: test accuracy (%)", ylim=(0, 100))
    names = [name.replace("(", "\n(") for name in places]
    use.set_xticks(list(places.values()), names, rotation=30, ha="right", fontsize=8 if len(names) < 20 else 5)
    return _save(figure, path)


def _save(figure: Figure, path: Path) -> Path:
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=130)
    return write_atomic(path, content.getvalue())
