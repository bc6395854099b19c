"""The page of an audit: the verdict first, then what came back, how sure it is, what was assumed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from fl_privacy.observation import ChannelName
from fl_privacy.settings import ReadTable
from fl_privacy.simulations.config.resolve import attacks_of
from fl_privacy.simulations.report.audit_words import NO_TRUTH, SCORED_WORDS, findings, grid, meanings, reasons
from fl_privacy.simulations.report.page import Block, Page, Paragraphs, Picture, Points, Section, Terms
from fl_privacy.simulations.report.reproduce import reproduce
from fl_privacy.simulations.report.threat import HELD, NOT_MODELLED, SEATS
from fl_privacy.simulations.results import files

SCALE = (
    "'leaks': what was rebuilt explains the update almost wholly, or labels could be read in it. 'unclear': images "
    "were made that do not explain it. 'nothing found': no attack that was tried gave an image, which is no proof."
)
PYTHON = """from fl_privacy.simulations import audit

audit(...)  # with the arguments of the first time: the facts are under 'What was assumed'"""


def page_of_audit(report: ReadTable, folder: Path) -> Page:
    """The page of a finished audit in `folder`, whose audit.json holds `report`."""
    count = report["images"]
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
            {"SHA-256 of the update": str(report["sha256"])},
            PYTHON,
            "The files of weights are not kept here: the hash says whether an update is the same.",
        ),
    ]
    return Page(
        title="What one update gives away",
        question=(
            f"What can a server read in one update of one client, of {count} private image{'s' * (count != 1)}, that "
            "it received as agreed?"
        ),
        warnings=[],
        verdict=findings(report),
        scale=SCALE,
        sections=[each for each in sections if each.blocks],
        files={"the audit's folder, with its numbers as JSON and every rebuilt image as safetensors and PNG": folder},
    )


def _who_sees_what(report: ReadTable) -> dict[str, str]:
    seat = SEATS[ChannelName.UPDATE]
    public = f"; {report['public']} {HELD['public']}" if report.get("public") else ""
    return {
        "The adversary": f"{seat.who} It is honest but curious: it breaks no rule.",
        "It sees": "The weights that it sent, and by how much this client changed them.",
        "It holds beside that": f"The model's code; how clients train, as assumed below{public}.",
        "It never has": seat.never,
    }


def _pictures(report: ReadTable, folder: Path) -> Iterator[Block]:
    for each in report["attacks"]:
        path = folder / f"{files.slug(each['attack'])}.png"
        if each["images"] and path.exists():
            yield Picture(path, f"What {each['attack']} rebuilt from the update alone, in no particular order.")


def _table(report: ReadTable) -> Iterator[Block]:
    yield grid(report)
    yield Terms({name: f"{meaning[0].upper()}{meaning[1:]}." for name, meaning in meanings(report).items()})
    yield Paragraphs([SCORED_WORDS if report["controls"] else NO_TRUTH])


def _assumed(report: ReadTable) -> Iterator[str]:
    shape = " x ".join(map(str, report["image_shape"]))
    yield f"Images of {shape} (channels, height, width) with values from 0 to 1; {report['classes']} classes."
    training = [f"{name} = {value}" for name, value in report["local"].items() if value]
    yield f"The client trained so: {', '.join(training)}."
    if report.get("defence") is not None:
        yield f"The client ran '{report['defence']}', and the attacks know it."
    for each in report["assumed"]:
        yield f"{each[:1].upper()}{each[1:]}."


def _untried(report: ReadTable) -> Iterator[str]:
    tried = {each["attack"] for each in report["attacks"]}
    if others := [each for each in attacks_of(ChannelName.UPDATE) if each not in tried]:
        yield f"Other attacks on updates: {', '.join(others)}. --attack NAME tries one."
    yield "Several rounds or clients together: this update was attacked by itself."
    if report.get("defence") is None:
        yield "Defences that the client ran: the attacks were told of none."
    yield from NOT_MODELLED
