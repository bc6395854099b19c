"""The page of an audit: the verdict first, then what came back, how sure it is, what was assumed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from fl_privacy.observation import ChannelName
from fl_privacy.settings import ReadTable
from fl_privacy.simulations.config.resolve import attacks_of
from fl_privacy.simulations.report.audit_words import (
    AGAIN,
    FILES,
    NO_TRUTH,
    SCALE,
    SCORED_WORDS,
    as_terms,
    findings,
    grid,
    meanings,
    reasons,
    sent,
)
from fl_privacy.simulations.report.page import Block, Page, Paragraphs, Picture, Points, Section, Terms
from fl_privacy.simulations.report.reproduce import reproduce
from fl_privacy.simulations.report.threat import HELD, NOT_MODELLED, SEATS
from fl_privacy.simulations.results import files

OF_GRADIENTS = ("loss", "normalise", "mode")
"""The facts of local training that a gradient depends on."""


def page_of_audit(report: ReadTable, folder: Path) -> Page:
    """The page of a finished audit in `folder`, whose audit.json holds `report`."""
    count, word = report["images"], sent(report)
    sections = [
        Section("Who sees what", [Terms(_who_sees_what(report))]),
        Section("What came back", list(_pictures(report, folder))),
        Section("The numbers", list(_table(report))),
        Section("What was not found, and why", [Points(reasons(report))] if reasons(report) else []),
        Section("What is odd", [Points(list(report["doubts"]))] if report["doubts"] else []),
        Section("What was assumed", [Points(list(_assumed(report)))]),
        Section("What was not tried", [Points(list(_untried(report)))]),
        reproduce(
            report["environment"],
            {f"SHA-256 of the {word}": str(report["sha256"])},
            AGAIN,
            f"The files of weights are not kept here: the hash says whether another {word} is the same.",
        ),
    ]
    return Page(
        title=f"What one {word} gives away",
        question=(
            f"What can a server read in one {word} of one client, of {count} private image{'s' * (count != 1)}, that "
            "it received as agreed?"
        ),
        warnings=[],
        verdict=findings(report),
        scale=SCALE,
        sections=[each for each in sections if each.blocks],
        files={FILES: folder},
    )


def _who_sees_what(report: ReadTable) -> dict[str, str]:
    word = sent(report)
    seat = SEATS[ChannelName(word)]
    message = "this client's gradient" if word == "gradient" else "by how much this client changed them"
    public = f"; {report['public']} {HELD['public']}" if report.get("public") else ""
    return {
        "The adversary": f"{seat.who} It is honest but curious: it breaks no rule.",
        "It sees": f"The weights that it sent, and {message}.",
        "It holds beside that": f"The model's code; how clients train, as assumed below{public}.",
        "It never has": seat.never,
    }


def _pictures(report: ReadTable, folder: Path) -> Iterator[Block]:
    for each in report["attacks"]:
        path = folder / f"{files.slug(each['attack'])}.png"
        if each["images"] and path.exists():
            yield Picture(path, f"What {each['attack']} rebuilt from the {sent(report)} alone, in no particular order.")


def _table(report: ReadTable) -> Iterator[Block]:
    yield grid(report)
    yield as_terms(meanings(report))
    yield Paragraphs([SCORED_WORDS if report["controls"] else NO_TRUTH])


def _assumed(report: ReadTable) -> Iterator[str]:
    shape = " x ".join(map(str, report["image_shape"]))
    yield f"Images of {shape} (channels, height, width) with values from 0 to 1; {report['classes']} classes."
    local = {name: value for name, value in report["local"].items() if value}
    if sent(report) == "gradient":
        of = ", ".join(f"{name} = {local[name]}" for name in OF_GRADIENTS if name in local)
        yield f"The gradient is that of all images at once: {of}."
    else:
        yield f"The client trained so: {', '.join(f'{name} = {value}' for name, value in local.items())}."
    if report.get("defence") is not None:
        yield f"The client ran '{report['defence']}', and the attacks know it."
    for each in report["assumed"]:
        yield f"{each[:1].upper()}{each[1:]}."


def _untried(report: ReadTable) -> Iterator[str]:
    tried, word = {each["attack"] for each in report["attacks"]}, sent(report)
    if others := [each for each in attacks_of(ChannelName(word)) if each not in tried]:
        yield f"Other attacks on {word}s: {', '.join(others)}. --attack NAME tries one."
    yield f"Several rounds or clients together: this {word} was attacked by itself."
    if report.get("defence") is None:
        yield "Defences that the client ran: the attacks were told of none."
    yield from NOT_MODELLED
