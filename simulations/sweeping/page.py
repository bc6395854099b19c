"""What a sweep says, in neutral parts: its table, its findings, its page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from fl_privacy.settings import ReadTable
from fl_privacy.simulations.report.content import in_words
from fl_privacy.simulations.report.page import (
    Block,
    Finding,
    Grid,
    GridRow,
    Level,
    Page,
    Paragraphs,
    Picture,
    Points,
    Section,
    Terms,
    cell,
)
from fl_privacy.simulations.report.reproduce import reproduce
from fl_privacy.simulations.report.run_page import SCALE

UNBEATEN = "No other defence has both, accuracy no lower and leakage no higher, by their means:"
"""What stands over the findings."""
QUESTION = "Which defence is worth its cost: what does each leave to an attacker, and what does it take from the model?"
COLUMNS = {
    "model\naccuracy": ("accuracy", "{:.1%}"),
    "95 %": ("accuracy_interval", "{}"),
    "PSNR\n(dB)": ("psnr", "{:.1f}"),
    "95 % of\nPSNR": ("psnr_interval", "{}"),
    "above\nfloor": ("above_floor", "{:+.1f}"),
    "SSIM": ("ssim", "{:.3f}"),
    "labels\nread": ("labels", "{:.0%}"),
    "epsilon": ("epsilon", "{:.3g}"),
    "n": ("images", "{:d}"),
    "un-\nbeaten": ("unbeaten", "{}"),
}
FILES = "the sweep's folder, with every number as JSON and CSV and the runs in cells/"
MADE = ("accuracy_interval", "psnr_interval", "labels", "unbeaten")
"""The columns that are made of others."""
MEANINGS = {
    "accuracy": "of the model after this federation's own training under the defence, on images nobody trained on.",
    "PSNR": "how close what was rebuilt is to the private images, the mean over images and seeds, in decibels.",
    "above floor": "by how much that is more than the floor, which needs no message beside the labels.",
    "labels read": "the most labels that any attacker of this defence read; in a line of a weaker attack, its own.",
    "n": "attacked images, over all seeds.",
    "unbeaten": "no other defence has both, accuracy no lower and PSNR no higher, by their means.",
}


def heading(found: ReadTable) -> str:
    """The title of the table."""
    return f"{found['name']}: utility against leakage, the strongest attacker of each defence"


def grid(found: ReadTable) -> Grid:
    """One row a defence with its strongest attack, weaker ones below it, and the controls of each setting."""
    keys = {key for each in found["settings"] for point in each["points"] for key in point}
    columns = [each for each in COLUMNS.items() if each[1][0] in {*keys, *MADE}]
    return Grid("defence | attack", [name for name, _ in columns], list(_rows(found, [each for _, each in columns])))


def findings(found: ReadTable) -> list[Finding]:
    """One for each defence that no other one beats, setting by setting."""
    several = len(found["settings"]) > 1
    return [
        Finding(f"{each['setting']}: {name}" if several else name, Level(one["level"]), one["words"])
        for each in found["settings"]
        for one in each["findings"]
        for name in [in_words(one["defence"])]
    ]


def warnings(found: ReadTable) -> list[str]:
    """Why some of the numbers may not be believed, or are missing."""
    failed = [f"FAILED: {each['cell']}: {each['error']}" for each in found["failed"]]
    left_out = [
        f"Left out, because an accuracy or an image is missing: {', '.join(each['without_point'])}."
        for each in found["settings"]
        if each["without_point"]
    ]
    return [*failed, *(f"WARNING: {each}." for each in found["warnings"]), *left_out]


def reading(found: ReadTable) -> str:
    """How to read the table."""
    floors = " or ".join(sorted({each["floor"] for each in found["settings"] if each["floor"]})) or "best control"
    return (
        f"Intervals: {found['interval']}; where two overlap, these seeds do not tell the two apart. PSNR is the most "
        "that any of these attackers got, and another may get more; accuracy is that of this federation's own "
        f"training. The floor is the {floors}, which needs no message beside the labels."
    )


def page_of_sweep(found: ReadTable, figures: Sequence[Path], environment: ReadTable, folder: Path) -> Page:
    """The page of a finished sweep in `folder`; `figures` are its PNGs, `environment` what it last ran on."""
    pictures: list[Block] = [
        Picture(path, "Each point is a defence at one strength, under the attack that got most out of it.")
        for path in figures
    ]
    varied = {address: ", ".join(values) for address, values in found["grid"].items()}
    digests = {f"rows of {each['cell']}": each["samples"] for each in found["cells"]}
    sections = [
        *([Section("Utility against leakage", pictures)] if pictures else []),
        Section("The numbers", [grid(found), Paragraphs([reading(found)]), Terms(MEANINGS)]),
        Section("What was varied", [Terms({**varied, "seed": ", ".join(map(str, found["seeds"]))})]),
        Section(
            "What was not tried",
            [Points(["Attacks, defences, strengths, models and data that are not in the lists above."])],
        ),
        reproduce(environment, digests, 'sweep("FILE.toml")', "The runs are in cells/, each with its settings."),
    ]
    scale = f"{UNBEATEN[:-1]}. {SCALE}"
    return Page(heading(found), QUESTION, warnings(found), findings(found), scale, sections, {FILES: folder})


def _rows(found: ReadTable, columns: Sequence[tuple[str, str]]) -> Iterator[GridRow]:
    several = len(found["settings"]) > 1
    for setting in found["settings"]:
        prefix = f"{setting['setting']} | " if several else ""
        for best in (each for each in setting["points"] if each["strongest"]):
            yield GridRow(f"{prefix}{best['defence']} | {best['attack']}", "", _cells(best, columns), "strongest")
            for each in setting["points"]:
                if each["defence"] == best["defence"] and not each["strongest"]:
                    yield GridRow(f"  weaker: {each['attack']}", "", _cells(each, columns))
        for control in setting["controls"]:
            yield GridRow(f"{prefix}control: {control['name']}", "", _cells(control, columns), "control")


def _cells(row: ReadTable, columns: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    best = row.get("strongest")
    known = {**row, "unbeaten": "yes" if best and row["beaten_by"] is None else None}
    known["labels"] = row.get("labels_read" if best else "label_accuracy")
    for key, scale in (("accuracy", 100), ("psnr", 1)):
        low, high = row.get(f"{key}_low"), row.get(f"{key}_high")
        if low is not None and high is not None and low != high:
            known[f"{key}_interval"] = f"{scale * low:.1f}-{scale * high:.1f}"
    return tuple(cell(known.get(key), form) for key, form in columns)
