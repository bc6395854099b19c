"""What an audit says, in words and rows: the verdict, how sure each attack is, what was not found and why."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence

from fl_privacy.settings import PlainTable, ReadTable
from fl_privacy.simulations.report.page import Finding, Grid, GridRow, Level, Terms, cell
from fl_privacy.simulations.results.controls import Control

EXPLAINED = 0.01  # of a message's norm may stay unexplained where images count as found
LABELS_FIT = 0.25  # the same of what labels are read from; one wrong label of eight leaves about half of it
EXACT = 1e-4  # below this, what stays unexplained is rounding
WIDTH = 110
SHORT = "{:.2g}"
NO_TRUTH = (
    "No truth was given, so that no PSNR is claimed: how sure a guess is, its own loss, its bound and what it leaves "
    "unexplained say. Images that explain everything may still be others with the same gradient, as where several "
    "images share a class."
)

SCORED_WORDS = (
    "PSNR, SSIM and right (the share of labels) are means over the images; the controls guess without the message: the "
    "class mean is told the labels, and the others know nothing."
)
TRIED = {
    "images": "how many images the attack gave",
    "labels": "how many labels the attack gave",
    "own loss": "what the attack minimised or checked; its docstring says what that is",
    "unexplained": "the share of the message that the rebuilt images and labels do not reproduce (0: all is)",
    "error": "the root mean square error a pixel, in [0, 1], that an attack expects where it explains the message",
    "seconds": "how long the attack took",
}
SCORED = {
    "PSNR dB": "how close the images are to the private ones, in decibels; higher is closer, 59 is exact to 8 bits",
    "SSIM": "how alike they look to the eye; 1 is the same image",
    "right": "the share of the labels that are right",
}
"""The columns of every audit, and those of one with the truth, each with what it is."""
EXPLAINED_BELOW = ("own loss", "unexplained", "error")
"""Those that a terminal explains below its table."""

SCALE = (
    "'leaks': what was rebuilt explains a message almost wholly, or labels could be read in it. 'unclear': images or "
    "labels were made that do not explain it, or the facts may be others. 'nothing found': no attack that was tried "
    "gave any, which is no proof."
)
FILES = "the audit's folder, with its numbers as JSON and every rebuilt image as safetensors and PNG"
AGAIN = """from fl_privacy.simulations import audit

audit(...)  # with the arguments of the first time: what was assumed of them stands above"""
"""What a page shows where no command was typed: a model in Python's memory has no name to print."""


def findings(report: ReadTable) -> list[Finding]:
    """What leaks: of the images, and of the labels where any were read."""
    count, found = report["images"], report["attacks"]
    named = f"{count} image" + "s" * (count != 1)
    if exact := [each for each in found if each["images"] and unexplained(each) <= EXPLAINED]:
        # of equals the first, which is the most exact way
        best = min(exact, key=lambda each: max(unexplained(each), EXACT))
        words = (
            f"It leaks: {best['attack']} rebuilt {named}, which explain{'s' * (count == 1)} all but "
            f"{unexplained(best):.1g} of this {sent(report)}{_beside_controls(best, report['controls'])}."
        )
        said = [Finding("The images", Level.CLOSER, words)]
    elif any(each["images"] for each in found):
        words = f"Guesses at the {named} were made, and none of them explains the {sent(report)}: look at the pictures."
        said = [Finding("The images", Level.UNCLEAR, words)]
    else:
        words = f"None of the attacks tried rebuilt the {named}. That is no proof: others may."
        said = [Finding("The images", Level.NOTHING, words)]
    if read := best_labels(report):
        words = f"{_counts(read['label_counts'])}."
        if labels_fit(read):
            said.append(Finding("The labels", Level.CLOSER, f"Labels were read ({read['attack']}): {words}"))
        else:
            guessed = f"Labels were guessed ({read['attack']}), and do not explain what they were read from: {words}"
            said.append(Finding("The labels", Level.UNCLEAR, guessed))
    return [*said, *odd(report["doubts"])]


def best_labels(message: ReadTable) -> ReadTable | None:
    """The first attack whose labels fit, else the first that gave any; None where none did."""
    gave = [each for each in message["attacks"] if each["labels"] is not None]
    return min(gave, key=lambda each: not labels_fit(each), default=None)


def labels_fit(each: ReadTable) -> bool:
    """Whether labels explain what they were read from: with the images of the guess, or alone by the attack's loss."""
    left = each["loss"] if each["unexplained"] is None else each["unexplained"]
    return left is not None and float(left) <= LABELS_FIT


def odd(doubts: Sequence[str]) -> list[Finding]:
    """That the facts may be others, where something is odd: all else rests on them."""
    words = "Something is odd, and all of this holds only if it can be explained: {}."
    return [Finding("The facts", Level.UNCLEAR, words.format(doubts[0]))] if doubts else []


def verdict(report: ReadTable) -> list[str]:
    """What leaks, a sentence each."""
    return [each.words for each in findings(report)]


def sent(report: ReadTable) -> str:
    """What the audited message is: a gradient, or an update, which new weights are too, less the old ones."""
    return "gradient" if report.get("kind") == "gradient" else "update"


def unexplained(each: ReadTable) -> float:
    """What a guess leaves unexplained; of images without labels the attack's own loss says it, as that of a layer."""
    left = each["unexplained"] if each["labels"] is not None else each["loss"]
    return math.inf if left is None else float(left)


def expected_error(each: ReadTable) -> float | None:
    """The error a pixel, in [0, 1], that an attack itself expects, where its images explain the message."""
    known = each["bound"] is not None and unexplained(each) <= EXPLAINED
    return math.sqrt(max(0.0, mean(each["bound"]))) if known else None


def _beside_controls(each: ReadTable, controls: Mapping[str, ReadTable]) -> str:
    if not controls:
        return ""
    name, blind = max(((name, mean(scores["psnr"])) for name, scores in controls.items()), key=lambda pair: pair[1])
    ours, kind = mean(each["scores"]["psnr"]), Control(name).kind
    return f": PSNR {ours:.1f} dB, where the best guess ({name}, a {kind}) has {blind:.1f}"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"class {label}" + (f" x {count}" if count > 1 else "") for label, count in counts.items())


def grid(report: ReadTable) -> Grid:
    """The attacks, and where the truth is known the controls below them."""
    scored = bool(report["controls"])
    rows = []
    for each in report["attacks"]:
        labels = None if each["labels"] is None else len(each["labels"])
        cells = [
            str(each["images"]),
            cell(labels, "{:d}"),
            *(cell(value, SHORT) for value in (each["loss"], each["unexplained"], expected_error(each))),
        ]
        rows.append(GridRow(each["attack"], "", [*cells, f"{each['seconds']:.1f}", *_scores(each["scores"], scored)]))
    for name, scores in report["controls"].items():
        rows.append(GridRow(f"control: {name}", "", [*[""] * 6, *_scores(scores, scored)], "control"))
    return Grid("attack", [*TRIED, *(SCORED if scored else ())], rows)


def flat(report: ReadTable) -> list[PlainTable]:
    """The same as numbers with every digit, a row an attack and a control; metrics are means over the images."""
    kept = ("attack", "images", "loss", "unexplained", "seconds", "reason")
    rows = [{**{key: each[key] for key in kept}, **_means(each["scores"] or {})} for each in report["attacks"]]
    return rows + [{"attack": f"control: {name}", **_means(each)} for name, each in report["controls"].items()]


def _means(scores: ReadTable) -> PlainTable:
    found = {name: mean(scores.get(name, ())) for name in ("psnr", "ssim")}
    known = {name: None if math.isnan(value) else value for name, value in found.items()}
    return {**known, "label_accuracy": scores.get("label_accuracy")}


def _scores(scores: ReadTable | None, scored: bool) -> list[str]:
    if not scored:
        return []
    psnr, ssim = (mean((scores or {}).get(name, ())) for name in ("psnr", "ssim"))
    return [cell(psnr, "{:.1f}"), cell(ssim, "{:.2f}"), cell((scores or {}).get("label_accuracy"), "{:.0%}")]


def mean(values: Sequence[float | None]) -> float:
    """NaN of none at all, or where one was not measured: audit.json has null there."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else math.nan


def words(report: ReadTable) -> str:
    """All that stands below the table: the reasons, the doubts, what was assumed."""
    reading = [f"{name}: {meaning}" for name, meaning in meanings(report).items() if name in EXPLAINED_BELOW]
    return wrapped(
        {
            "What was not found, and why": reasons(report),
            "Odd": report["doubts"],
            "Assumed": report["assumed"],
            "How to read it": [*reading, SCORED_WORDS if report["controls"] else NO_TRUTH],
        }
    )


def wrapped(parts: Mapping[str, Sequence[str]]) -> str:
    """Titles with their sentences, without those that have none."""
    lines = []
    for title, said in parts.items():
        if said:
            lines += [f"{title}:", *(_wrapped(each) for each in said)]
    return "\n".join(lines)


def reasons(report: ReadTable) -> list[str]:
    """Why an attack found nothing, a line each."""
    return [f"{each['attack']}: {each['reason']}" for each in report["attacks"] if each["reason"]]


def meanings(report: ReadTable) -> dict[str, str]:
    """What each column is."""
    return {**TRIED, **(SCORED if report["controls"] else {})}


def as_terms(known: Mapping[str, str]) -> Terms:
    """The columns' meanings as a page has them, a sentence each."""
    return Terms({name: f"{meaning[0].upper()}{meaning[1:]}." for name, meaning in known.items()})


def _wrapped(text: str) -> str:
    return textwrap.fill(text, WIDTH, initial_indent="  * ", subsequent_indent="    ")
