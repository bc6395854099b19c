"""Leakage against utility: one point a defence, over what a blind guess gets."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.special import stdtrit

from fl_privacy.settings import ReadTable
from fl_privacy.simulations.report.content import in_words
from fl_privacy.simulations.report.figures import save
from fl_privacy.simulations.report.labels import Box, place
from fl_privacy.simulations.results.controls import Control, control_of

WIDTH, HEIGHT = 9.0, 6.6  # inches
LABELS = (26, 18, 40)  # characters in a line of a label: what is tried
LETTER, LEGEND = 0.075, 2.0  # inches, of the list of names and of that of attacks
NOTE = 118  # characters in a line below the figure
BLIND = "blind guess"
"""What marks the texts of the controls among those in the axes."""
LEAST_SPAN = (0.01, 2.0)
"""The least range of the axes, in accuracy and dB: below it, rounding would look like a difference."""


@dataclass(frozen=True)
class Estimate:
    """A mean with what is known of how far it may be off: a 95 % interval, over images or over seeds."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Point:
    """What one attack got out of one condition, as PSNR in dB, and the model's accuracy in [0, 1] under it."""

    defence: str
    attack: str
    leakage: Estimate
    utility: Estimate


def points(rows: Sequence[ReadTable]) -> list[Point]:
    """A point an attack and condition of a run's summary, or of the summaries of several seeds, each row with its seed.

    Rows without a PSNR or an accuracy give no point.
    """
    known = [row for row in rows if row["psnr"] is not None and row["model_accuracy"] is not None]
    groups: dict[tuple[str, str], list[ReadTable]] = {}
    for row in known:
        if control_of(row) is None:
            groups.setdefault((row["defence"], row["attack"]), []).append(row)
    return [
        Point(defence, attack, _leakage(group), over_seeds([row["model_accuracy"] for row in group], 0, 1))
        for (defence, attack), group in groups.items()
    ]


def blind_guesses(rows: Sequence[ReadTable]) -> dict[Control, Estimate]:
    """What each control got: nobody needs an observation for that, or no more of it than the label."""
    groups: dict[Control, list[ReadTable]] = {}
    for row in rows:
        if (control := control_of(row)) and row["psnr"] is not None:
            groups.setdefault(control, []).append(row)
    return {name: _leakage(group) for name, group in groups.items()}


def strongest(found: Sequence[Point]) -> list[Point]:
    """For every defence the point of the attack that got most: what the defence has to be judged by."""
    best: dict[str, Point] = {}
    for each in found:
        if each.defence not in best or each.leakage.value > best[each.defence].leakage.value:
            best[each.defence] = each
    return list(best.values())


def _leakage(group: Sequence[ReadTable]) -> Estimate:
    if len(group) > 1:
        return over_seeds([row["psnr"] for row in group])
    (row,) = group
    low, high = row["psnr_low"], row["psnr_high"]
    return Estimate(row["psnr"], row["psnr"] if low is None else low, row["psnr"] if high is None else high)


def over_seeds(values: Sequence[float], least: float = -math.inf, most: float = math.inf) -> Estimate:
    """The mean over seeds with its 95 % interval, Student's t, cut to [least, most]; of one seed just its value."""
    middle, count = fmean(values), len(values)
    if count == 1:
        return Estimate(middle, middle, middle)
    half = float(stdtrit(count - 1, 0.975)) * stdev(values) / math.sqrt(count)
    return Estimate(middle, max(least, middle - half), min(most, middle + half))


@matplotlib.rc_context({"text.parse_math": False})  # a '$' in a name begins no formula
def draw_tradeoff(path: Path, name: str, rows: Sequence[ReadTable]) -> Path | None:
    """Draw the summary of a run, or of several seeds of it, and write a PNG; None where no two defences have a point.

    A filled marker is the strongest attack on its defence, which bears the label; a hollow one is a weaker attack.
    """
    found = points(rows)
    best = strongest(found)
    if len(best) < 2:
        return None
    blind = blind_guesses(rows)
    several = len({each.attack for each in found}) > 1
    figure = Figure(figsize=(WIDTH + LEGEND * several, HEIGHT), layout="constrained")
    axes = figure.subplots()
    axes.set_title(f"{name}: what each defence stops, and what it costs", fontsize=12)
    _draw_points(figure, axes, found, best)
    limit(axes, found, blind)
    draw_blind(axes, blind, found)
    axes.set_xlabel("utility: test accuracy of the model (%)")
    axes.set_ylabel("leakage: PSNR of what was rebuilt (dB), higher is closer to the private image")
    figure.supxlabel(_note(rows, found, best), fontsize=9, x=0.01, ha="left")
    _label(figure, axes, found, best)
    return save(figure, path)


def _draw_points(figure: Figure, axes: Axes, found: Sequence[Point], best: Sequence[Point]) -> None:
    attacks = list(dict.fromkeys(each.attack for each in found))
    for each in found:
        colour = f"C{attacks.index(each.attack) % 10}"
        x, y = each.utility, each.leakage
        axes.errorbar(
            100 * x.value,
            y.value,
            xerr=[[100 * (x.value - x.low)], [100 * (x.high - x.value)]] if x.high > x.low else None,
            yerr=[[y.value - y.low], [y.high - y.value]],
            marker="o",
            markersize=8 if each in best else 5,
            markerfacecolor=colour if each in best else "white",
            color=colour,
            alpha=1 if each in best else 0.6,
            linestyle="none",
            capsize=3,
        )
    if len(attacks) > 1:
        for attack in attacks:
            axes.plot([], [], marker="o", linestyle="none", color=f"C{attacks.index(attack) % 10}", label=attack)
        figure.legend(title="attack", fontsize=9, loc="outside right upper")


PLACES = {0.005: "left", 0.995: "right", 0.5: "center"}
"""Where the name of a control may stand on its line, as a share of the width, and how it is aligned there."""


def limit(axes: Axes, found: Sequence[Point], blind: Mapping[Control, Estimate], beside: float = 0.3) -> None:
    """Axes that fit the data, with room for the labels: `beside` them a share of what the data span."""
    use = [value for each in found for value in (each.utility.low, each.utility.high)]
    leak = [value for each in (*(each.leakage for each in found), *blind.values()) for value in (each.low, each.high)]
    for values, least, unit, set_limits, room in (
        (use, LEAST_SPAN[0], 100, axes.set_xlim, beside),
        (leak, LEAST_SPAN[1], 1, axes.set_ylim, 0.12),
    ):
        middle, span = (min(values) + max(values)) / 2, max(max(values) - min(values), least)
        set_limits(unit * (middle - (0.5 + room) * span), unit * (middle + (0.5 + room) * span))
    axes.set_xticks([tick for tick in axes.get_xticks() if 0 <= tick <= 100])  # the room for labels may reach beyond


def draw_blind(axes: Axes, blind: Mapping[Control, Estimate], found: Sequence[Point]) -> None:
    """Shade all that is no more than the best control, and draw a line for each control with its name.

    The name stands where the line has the fewest points and other names near it: at an end, or in the middle.
    """
    if not blind:
        return
    axes.axhspan(axes.get_ylim()[0], max(each.high for each in blind.values()), color="0.92", zorder=0)
    pixels = [_pixel(axes, p.utility.value, p.leakage.value) for p in found]
    shares = [tuple(map(float, axes.transAxes.inverted().transform(pixel))) for pixel in pixels]
    for name, each in blind.items():
        axes.axhline(each.value, color="0.55", linestyle="--", linewidth=1, zorder=1)
        _, level = axes.transAxes.inverted().transform(axes.transData.transform((0, each.value)))
        near = [x for x, y in shares if abs(y - level) < 0.06]
        place = min(PLACES, key=lambda x: sum(abs(x - other) < 0.3 for other in near))
        shares.append((place, float(level)))
        axes.text(
            place,
            each.value,
            f"{name.kind}: {name}",
            transform=axes.get_yaxis_transform(),  # x as a share of the width, y in decibels
            va="bottom",
            ha=PLACES[place],
            fontsize=8,
            color="0.35",
            gid=BLIND,
        )


def _note(rows: Sequence[ReadTable], found: Sequence[Point], best: Sequence[Point]) -> str:
    seeds = {row.get("seed") for row in rows}
    sentences = [
        "Lower right is better: useful, and little leaks. In the grey band the attack got no more than a control.",
        f"Bars: 95 % intervals (Student's t) over {len(seeds)} seeds."
        if len(seeds) > 1
        else "Vertical bars: 95 % intervals over images. The accuracy is of one training, so it has no interval.",
    ]
    if len(found) > len(best):
        sentences.append("Filled: the strongest attack on a defence; hollow: weaker ones.")
    if shared := _shared(best):
        sentences.append(f"All of them: {'; '.join(sorted(shared))}.")
    missing = [
        each
        for each in dict.fromkeys(row["defence"] for row in rows if control_of(row) is None)
        if each not in {point.defence for point in best}
    ]
    if missing:
        sentences.append(f"Left out, because an accuracy or an image is missing: {', '.join(map(in_words, missing))}.")
    return textwrap.fill(" ".join(sentences), NOTE)


def _label(figure: Figure, axes: Axes, found: Sequence[Point], best: Sequence[Point]) -> None:
    """Write each defence beside its point, or a number that a list beside the axes explains where names do not fit."""
    shared = _shared(best)
    names = ["; ".join(part for part in in_words(each.defence).split("; ") if part not in shared) for each in best]
    for width in LABELS:
        broken = ["\n".join(textwrap.fill(part, width) for part in name.split("; ")) for name in names]
        if write_labels(figure, axes, found, best, broken):
            return
    key = [f"{number}  {name}" for number, name in enumerate(names, start=1)]
    figure.set_size_inches(figure.get_figwidth() + LETTER * max(map(len, key)), max(HEIGHT, 0.18 * len(key) + 2.5))
    axes.legend([], [], title="\n".join(key), title_fontsize=8, loc="lower left", bbox_to_anchor=(1.01, 0))
    numbers = [str(number) for number in range(1, len(best) + 1)]
    if not write_labels(figure, axes, found, best, numbers):
        write_labels(figure, axes, found, best, numbers, crossing=True)


def _shared(best: Sequence[Point]) -> set[str]:
    """The parts that every defence's name has: they tell none from another."""
    parts = [in_words(each.defence).split("; ") for each in best]
    common = set.intersection(*map(set, parts))
    return common if all(set(each) - common for each in parts) else set()


def write_labels(
    figure: Figure,
    axes: Axes,
    found: Sequence[Point],
    best: Sequence[Point],
    texts: Sequence[str],
    crossing: bool = False,
) -> bool:
    """Write a text near each point where all of them find room, with a thin line from its point to each."""
    figure.draw_without_rendering()  # the layout decides how many pixels a decibel has
    sizes = []
    for each in texts:
        measured = axes.text(0, 0, each, fontsize=9)
        extent = measured.get_window_extent()
        sizes.append((extent.width, extent.height))
        measured.remove()
    where = [_pixel(axes, each.utility.value, each.leakage.value) for each in best]
    area = axes.get_window_extent()
    controls = [text.get_window_extent() for text in axes.texts if text.get_gid() == BLIND]
    taken = [*(_marker(axes, each) for each in found), *(Box(box.x0, box.y0, box.x1, box.y1) for box in controls)]
    boxes = place(where, sizes, Box(area.x0, area.y0, area.x1, area.y1), taken, crossing)
    if boxes is None:
        return False
    for each, point, box in zip(texts, where, boxes, strict=True):
        axes.annotate(
            each,
            xy=_data(axes, *point),
            xytext=_data(axes, *box.centre),
            fontsize=9,
            ha="center",
            va="center",
            bbox={"facecolor": "white", "alpha": 0.6, "edgecolor": "none", "pad": 0.5},
            arrowprops={"arrowstyle": "-", "color": "0.6", "linewidth": 0.7, "shrinkA": 0, "shrinkB": 4},
        )
    return True


def _pixel(axes: Axes, utility: float, leakage: float) -> tuple[float, float]:
    x, y = axes.transData.transform((100 * utility, leakage))
    return float(x), float(y)


def _data(axes: Axes, x: float, y: float) -> tuple[float, float]:
    """Pixels as the axes' own numbers, which stay right in whatever resolution the figure is written."""
    left, bottom = axes.transData.inverted().transform((x, y))
    return float(left), float(bottom)


def _marker(axes: Axes, point: Point) -> Box:
    """What a point covers, its bars included, in pixels."""
    left, bottom = _pixel(axes, point.utility.low, point.leakage.low)
    right, top = _pixel(axes, point.utility.high, point.leakage.high)
    return Box(left, bottom, right, top).grown(6)
