"""What an audit says, in words and a table: the verdict first, then how sure, what was assumed, what was not found."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table

from fl_privacy.settings import ReadTable

EXPLAINED = 0.01  # of the update's norm may stay unexplained where images count as found
EXACT = 1e-4  # below this, what stays unexplained is rounding
WIDTH = 110
NO_TRUTH = (
    "No truth was given, so that no PSNR is claimed: how sure a guess is, its own loss, its bound and what it leaves "
    "unexplained say. Images that explain everything may still be others with the same gradient, as where several "
    "images share a class."
)

SCORED = (
    "PSNR, SSIM and right (the share of labels) are means over the images; the controls guess without the update: the "
    "class mean is told the labels, and the others know nothing."
)


def verdict(report: ReadTable) -> list[str]:
    """What leaks, a sentence each."""
    count, found = report["images"], report["attacks"]
    named = f"{count} image" + "s" * (count != 1)
    said = []
    if exact := [each for each in found if each["images"] and _left(each) <= EXPLAINED]:
        best = min(exact, key=lambda each: max(_left(each), EXACT))  # of equals the first, which is the most exact way
        said.append(
            f"It leaks: {best['attack']} rebuilt {named} that explain all but {_left(best):.1g} of this update"
            f"{_beside_controls(best, report['controls'])}."
        )
    elif any(each["images"] for each in found):
        said.append(f"Guesses at the {named} were made, and none of them explains the update: look at the pictures.")
    else:
        said.append(f"None of the attacks tried rebuilt the {named}. That is no proof: others may.")
    if read := next((each for each in found if each["labels"] is not None), None):
        said.append(f"Labels were read ({read['attack']}): {_counts(read['label_counts'])}.")
    return said


def _left(each: ReadTable) -> float:
    """What a guess leaves unexplained; of images without labels the attack's own loss says it, as that of a layer."""
    left = each["unexplained"] if each["labels"] is not None else each["loss"]
    return math.inf if left is None else float(left)


def _beside_controls(each: ReadTable, controls: Mapping[str, ReadTable]) -> str:
    if not controls:
        return ""
    name, blind = max(((name, _mean(scores["psnr"])) for name, scores in controls.items()), key=lambda pair: pair[1])
    return f": PSNR {_mean(each['scores']['psnr']):.1f} dB, where the best blind guess ({name}) has {blind:.1f}"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"class {label}" + (f" x {count}" if count > 1 else "") for label, count in counts.items())


def table(report: ReadTable) -> Table:
    """The attacks, and where the truth is known the controls below them."""
    scored = bool(report["controls"])
    made = Table(title="What came back", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    made.add_column("attack", no_wrap=True)
    for heading in ("images", "labels", "own loss", "unexplained", "error", "seconds"):
        made.add_column(heading, justify="right", no_wrap=True)
    if scored:
        for heading in ("PSNR dB", "SSIM", "right"):
            made.add_column(heading, justify="right", no_wrap=True)
    for each in report["attacks"]:
        off = None if each["bound"] is None or _left(each) > EXPLAINED else math.sqrt(max(0.0, _mean(each["bound"])))
        labels = None if each["labels"] is None else len(each["labels"])
        cells = [str(each["images"]), _cell(labels), *map(_cell, (each["loss"], each["unexplained"], off))]
        made.add_row(each["attack"], *cells, f"{each['seconds']:.1f}", *_scores(each["scores"], scored))
    for name, scores in report["controls"].items():
        made.add_row(f"control: {name}", *[""] * 6, *_scores(scores, scored), style="dim")
    return made


def _scores(scores: ReadTable | None, scored: bool) -> list[str]:
    if not scored:
        return []
    psnr, ssim = (_mean((scores or {}).get(name, ())) for name in ("psnr", "ssim"))
    return [_cell(psnr, ".1f"), _cell(ssim, ".2f"), _cell((scores or {}).get("label_accuracy"), ".0%")]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def _cell(value: float | None, form: str = ".2g") -> str:
    if value is None or math.isnan(value):
        return "-"
    return str(value) if isinstance(value, int) else format(value, form)


def words(report: ReadTable) -> str:
    """All that stands below the table: the reasons, the doubts, what was assumed."""
    parts = {
        "What was not found, and why": [f"{a['attack']}: {a['reason']}" for a in report["attacks"] if a["reason"]],
        "Odd": report["doubts"],
        "Assumed": report["assumed"],
        "How to read it": [
            "own loss: what the attack minimised or checked; its docstring says what that is",
            "unexplained: the share of the update that the rebuilt images and labels do not reproduce (0: all is)",
            "error: the root mean square error a pixel, in [0, 1], that an attack expects where it explains the update",
            *([SCORED] if report["controls"] else [NO_TRUTH]),
        ],
    }
    lines = []
    for title, said in parts.items():
        if said:
            lines += [f"{title}:", *(_wrapped(each) for each in said)]
    return "\n".join(lines)


def _wrapped(text: str) -> str:
    return textwrap.fill(text, WIDTH, initial_indent="  * ", subsequent_indent="    ")
