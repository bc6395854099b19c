"""The picture of a sweep: a point a strength of each defence, over what a blind guess gets."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fl_privacy.settings import ReadTable
from fl_privacy.simulations.report.content import in_words
from fl_privacy.simulations.report.figures import save
from fl_privacy.simulations.report.gallery import TRADEOFF
from fl_privacy.simulations.report.tradeoff import Estimate, Point, draw_blind, limit, write_labels
from fl_privacy.simulations.report.verdict import EXACT
from fl_privacy.simulations.results.controls import Control
from fl_privacy.simulations.results.files import slug
from fl_privacy.simulations.scoring import UNDEFENDED

WIDTH, HEIGHT = 10.5, 6.6  # inches
NOTE = 150  # characters in a line below the figure
COLOURS = "tab10"
MARKERS = "osD^vP"  # a second sign beside the colour, for who does not see it


def draw_settings(folder: Path, found: ReadTable) -> list[Path]:
    """Draw each setting of a sweep.json that compares two defences or more, and return the PNGs.

    Figures of a smaller grid in `folder` are replaced.
    """
    for old in folder.glob(f"{TRADEOFF}*.png"):
        old.unlink()
    several = len(found["settings"]) > 1
    drawn = []
    for setting in found["settings"]:
        best = [each for each in setting["points"] if each["strongest"]]
        if len(best) > 1:
            name = f"{TRADEOFF}_{slug(setting['setting'])}" if several else TRADEOFF
            title = f"{found['name']}, {setting['setting']}" if several else str(found["name"])
            drawn.append(_draw(folder / f"{name}.png", title, setting, best, str(found["interval"])))
    return drawn


@matplotlib.rc_context({"text.parse_math": False})  # a '$' in a name begins no formula
def _draw(path: Path, title: str, setting: ReadTable, best: Sequence[ReadTable], interval: str) -> Path:
    figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
    axes = figure.subplots()
    axes.set_title(f"{title}: what each defence stops, and what it costs", fontsize=12)
    points = [_point(each) for each in best]
    blind = {Control(each["name"]): _capped(each) for each in setting["controls"]}
    families = dict.fromkeys(each["family"] for each in best)
    for position, family in enumerate(families):
        _draw_family(axes, position, family, [each for each in best if each["family"] == family])
    axes.plot([], [], "o", markersize=11, markerfacecolor="none", markeredgecolor="black", label="beaten by no other")
    limit(axes, points, blind, beside=0.08)  # labels are short here
    draw_blind(axes, blind, points)
    axes.set_xlabel("utility: test accuracy of the model (%), further right is better")
    axes.set_ylabel("leakage: PSNR of the best reconstruction (dB), lower is better")
    figure.legend(title="defence (its strengths beside the points)", fontsize=9, loc="outside right upper")
    figure.supxlabel(_note(best, interval), fontsize=9, x=0.01, ha="left")
    texts = [_strength(each, best) for each in best]
    if not write_labels(figure, axes, points, points, texts):
        write_labels(figure, axes, points, points, texts, crossing=True)
    return save(figure, path)


def _draw_family(axes: Axes, position: int, family: str, rows: Sequence[ReadTable]) -> None:
    bare = family == UNDEFENDED
    colour = "black" if bare else matplotlib.colormaps[COLOURS](position % 10)
    marker = "*" if bare else MARKERS[(position // 10 + position) % len(MARKERS)]
    points = [_point(each) for each in rows]
    x, y = [100 * each.utility.value for each in points], [each.leakage.value for each in points]
    axes.plot(x, y, color=colour, linewidth=1, alpha=0.6, zorder=2)
    axes.errorbar(
        x,
        y,
        xerr=[
            [100 * (each.utility.value - each.utility.low) for each in points],
            [100 * (each.utility.high - each.utility.value) for each in points],
        ],
        yerr=[
            [each.leakage.value - each.leakage.low for each in points],
            [each.leakage.high - each.leakage.value for each in points],
        ],
        marker=marker,
        markersize=13 if bare else 7,
        color=colour,
        linestyle="none",
        elinewidth=0.8,
        capsize=2,
        alpha=0.9,
        zorder=3,
        label=_legend(family, rows),
    )
    for each, row in zip(points, rows, strict=True):
        if row["beaten_by"] is None:
            axes.plot(
                100 * each.utility.value,
                each.leakage.value,
                "o",
                markersize=17 if bare else 13,
                markerfacecolor="none",
                markeredgecolor="black",
                zorder=4,
            )


def _legend(family: str, rows: Sequence[ReadTable]) -> str:
    if varied := _varied(rows):
        return textwrap.fill(f"{in_words(family)} ({', '.join(varied)})", 34).replace("_", " ")
    return textwrap.fill(in_words(family), 34)


def _varied(rows: Sequence[ReadTable]) -> list[str]:
    """The settings that tell the members of a family apart; of a single one, all that are given."""
    keys = dict.fromkeys(key for row in rows for key in row["strengths"])
    return [key for key in keys if len(rows) == 1 or len({str(row["strengths"].get(key)) for row in rows}) > 1]


def _strength(row: ReadTable, best: Sequence[ReadTable]) -> str:
    """What stands beside a point: the values of what varies in its family."""
    varied = _varied([each for each in best if each["family"] == row["family"]])
    values = [str(row["strengths"][key]) for key in varied if key in row["strengths"]]
    return ", ".join(values) or in_words(row["family"])


def _note(best: Sequence[ReadTable], interval: str) -> str:
    attacks = Counter(each["attack"] for each in best)
    who = ", ".join(f"{attack} ({count})" if len(attacks) > 1 else attack for attack, count in attacks.most_common())
    sentences = [
        "Lower right is better: the model is useful, and little leaks. In the grey band the attacker got no more than "
        "a guess does, made without any message or from the label alone.",
        f"Each point is the strongest attacker on that defence: {who}. Bars: {interval}.",
    ]
    if any(each["psnr"] > EXACT for each in best):
        sentences.append(f"Points at {EXACT:.0f} dB: the image came back whole, to 8 bits.")
    return textwrap.fill(" ".join(sentences), NOTE)


def _point(row: ReadTable) -> Point:
    utility = Estimate(row["accuracy"], row["accuracy_low"], row["accuracy_high"])
    return Point(row["defence"], row["attack"], _capped(row), utility)


def _capped(row: ReadTable) -> Estimate:
    """The leakage of a row, cut where nothing more is there to leak: otherwise one exact image flattens all others."""
    value, low, high = (min(EXACT, row[key]) for key in ("psnr", "psnr_low", "psnr_high"))
    return Estimate(value, low, high)
