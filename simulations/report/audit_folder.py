"""What an audit of a folder of observations says, in words, rows and as a page: the verdict first."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from fl_privacy.settings import PlainTable, ReadTable
from fl_privacy.simulations.report import audit_words
from fl_privacy.simulations.report.audit_words import (
    AGAIN,
    EXPLAINED,
    FILES,
    NO_TRUTH,
    SCALE,
    SCORED_WORDS,
    SHORT,
    as_terms,
    best_labels,
    expected_error,
    labels_fit,
    mean,
    odd,
    unexplained,
    wrapped,
)
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
from fl_privacy.simulations.report.threat import NOT_MODELLED
from fl_privacy.simulations.results import files

NUMBER = re.compile(r"\d[\d.e+-]*")
SHOWN, PICTURES = 40, 12  # messages in a table, pictures on a page; the folder has all
COLUMNS = {
    "images": "how many images the message is of, as the client says",
    "labels read": "the classes that were read in it, with how many images each; '?': a guess that does not explain it",
    "best by": "the attack whose images leave the least of the message unexplained",
    "unexplained": "the share of the message that these images and labels do not reproduce (0: all is)",
    "error": "the root mean square error a pixel, in [0, 1], that the attack expects where it explains the message",
}
SCORED = {
    "PSNR dB": "how close the images are to the private ones, in decibels; higher is closer",
    "right": "the share of the labels that are right",
    "best guess": "the PSNR of the best guess, made blindly or from the labels alone",
}


def best(message: ReadTable) -> ReadTable | None:
    """The attack whose images leave the least of the message unexplained; None where none made any images."""
    made = [each for each in message["attacks"] if each["images"]]
    return min(made, key=unexplained, default=None)


def findings(report: ReadTable) -> list[Finding]:
    """What leaks: of the images, and of the labels; and what is known of defences."""
    messages = report["messages"]
    rows = [row for each in messages if (row := best(each)) is not None]
    leaked = [row for row in rows if unexplained(row) <= EXPLAINED]
    count, said = len(messages), list[Finding]()
    if leaked:
        names = ", ".join(f"{name} {times}" for name, times in Counter(each["attack"] for each in leaked).most_common())
        most = max(each["images"] for each in leaked)
        words = (
            f"It leaks: of {len(leaked)} of {count} messages images were rebuilt that explain all but {EXPLAINED:.0%} "
            f"of what was sent, of up to {most} images at once ({names})."
        )
        said.append(Finding("The images", Level.CLOSER, words + _beside_controls(messages)))
    elif rows:
        words = f"Guesses at images were made, and of no message of {count} do they explain it: look at the pictures."
        said.append(Finding("The images", Level.UNCLEAR, words + _beside_controls(messages)))
    else:
        words = f"Of no message of {count} were images rebuilt. That is no proof: others may."
        said.append(Finding("The images", Level.NOTHING, words))
    gave = [row for each in messages if (row := best_labels(each)) is not None]
    read = sum(map(labels_fit, gave))
    level = Level.CLOSER if read else Level.UNCLEAR if gave else Level.NOTHING
    more = f" In {len(gave) - read} they were guessed, and do not explain the message." if len(gave) > read else ""
    said.append(Finding("The labels", level, f"Labels were read in {read} of {count} messages.{more}"))
    return [*said, *odd(_counted(doubt for each in messages for doubt in each["doubts"]))]


def verdict(report: ReadTable) -> list[str]:
    """What leaks, a sentence each, and which defences clients say they ran."""
    return [*(each.words for each in findings(report)), of_defences(report["messages"])]


def of_defences(messages: list[ReadTable]) -> str:
    """What clients say of their defences, and what cannot be known."""
    claims = Counter(each["applied"] for each in messages)
    said = [f"clients say that they ran '{name}' ({times})" for name, times in claims.items() if name is not None]
    if silent := claims[None]:
        said.append(f"{silent} say nothing of a defence, and what those ran cannot be known from here")
    return f"Of {len(messages)} messages: " + "; ".join(said) + "."


def _beside_controls(messages: list[ReadTable]) -> str:
    scored = [(each, row) for each in messages if (row := best(each)) and (row["scores"] or {}).get("psnr")]
    if not scored:
        return ""
    ours = mean([mean(row["scores"]["psnr"]) for _, row in scored])
    guessed = mean([_guessed(each["controls"]) for each, _ in scored])
    return (
        f" With the truth, their mean PSNR is {ours:.1f} dB, and that of the best guesses, made blindly or from the "
        f"labels alone, {guessed:.1f} dB."
    )


def _guessed(controls: Mapping[str, ReadTable]) -> float:
    """The mean PSNR of the best control."""
    return max(mean(each["psnr"]) for each in controls.values())


def grid(report: ReadTable) -> Grid:
    """A line a message: the labels read, the best-explaining images, how sure, and the scores where there are any."""
    scored = any(each["controls"] for each in report["messages"])
    rows = [GridRow(f"{each['round']}, {each['client']}", "", _cells(each, scored)) for each in report["messages"]]
    return Grid("round, client", [*COLUMNS, *(SCORED if scored else ())], rows[:SHOWN])


def _cells(message: ReadTable, scored: bool) -> list[str]:
    row, read = best(message), best_labels(message)
    labels: Mapping[str, int] = {} if read is None else read["label_counts"]
    counts = " ".join(f"{key}x{n}" if n > 1 else key for key, n in labels.items()) or "-"
    counts = counts if len(counts) <= 24 else f"{len(labels)} classes"
    cells = [str(message["images"]), counts if read is None or labels_fit(read) else f"{counts} ?"]
    cells += (
        ["-", "-", "-"]
        if row is None
        else [row["attack"], cell(unexplained(row), SHORT), cell(expected_error(row), SHORT)]
    )
    if scored:
        scores = (row or {}).get("scores") or {}
        cells += [cell(mean(scores.get("psnr", ())), "{:.1f}"), cell(scores.get("label_accuracy"), "{:.0%}")]
        cells.append(f"{_guessed(message['controls']):.1f}" if message["controls"] else "-")
    return cells


def flat(report: ReadTable) -> list[PlainTable]:
    """A row a message and attack, and a message and control, as numbers with every digit."""
    return [
        {"round": each["round"], "client": each["client"], "of": each["images"], **row}
        for each in report["messages"]
        for row in audit_words.flat(each)
    ]


def words(report: ReadTable) -> str:
    """All that stands below the table: reasons, doubts, what was assumed, what was not attacked."""
    scored = any(each["controls"] for each in report["messages"])
    known = {**COLUMNS, **(SCORED if scored else {})}
    reading = [f"{name}: {meaning}" for name, meaning in known.items()]
    return wrapped({**_told(report), "How to read it": [*reading, SCORED_WORDS if scored else NO_TRUTH]})


def _told(report: ReadTable) -> dict[str, list[str]]:
    messages = report["messages"]
    more = len(messages) - SHOWN
    reasons = Counter((row["attack"], row["reason"]) for each in messages for row in each["attacks"])
    assumed = Counter(said for each in messages for said in each["assumed"])
    return {
        "What was not found, and why": [f"{name}: {why}{_times(n)}" for (name, why), n in reasons.items() if why],
        "Odd": _counted(said for each in messages for said in each["doubts"]),
        "Assumed": [*report["assumed"], *(f"{said}{_times(n)}" for said, n in assumed.items())],
        "Not attacked": _counted(each["reason"] for each in report["left_out"]),
        "Not in the table": [f"{more} more messages, which are in audit.json"] if more > 0 else [],
    }


def _counted(said: Iterable[str]) -> list[str]:
    """Each sentence once with how often it was said; of those that differ in numbers alone, the first."""
    alike: dict[str, list[str]] = {}
    for each in said:
        alike.setdefault(NUMBER.sub("#", each), []).append(each)
    return [
        f"{each[0]}{_times(len(each))[:-1]}, each with its own numbers)"
        if len(set(each)) > 1
        else each[0] + _times(len(each))
        for each in alike.values()
    ]


def _times(count: int) -> str:
    return f" ({count} messages)" if count > 1 else ""


def page(report: ReadTable, folder: Path) -> Page:
    """The page of an audit of a folder: the verdict first, and all that it rests on."""
    scored = any(each["controls"] for each in report["messages"])
    known = {**COLUMNS, **(SCORED if scored else {})}
    who = {
        "The adversary": "The server. It is honest but curious: it breaks no rule.",
        "It sees": f"The weights that it sent, and those that came back, under {report['strategy']}.",
        "It holds beside that": "The model's code; how clients train, as assumed below.",
        "It is told of defences": of_defences(report["messages"]),
    }
    numbers: list[Block] = [
        grid(report),
        as_terms(known),
        Paragraphs([SCORED_WORDS if scored else NO_TRUTH]),
    ]
    sections = [
        Section("Who sees what", [Terms(who)]),
        Section("What came back", list(_pictures(report, folder))),
        Section("The numbers", numbers),
        *(Section(title, [Points(said)]) for title, said in _told(report).items() if said),
        Section("What was not tried", [Points(["Several rounds or clients together.", *NOT_MODELLED])]),
        reproduce(
            report["environment"],
            {f"SHA-256 of round {e['round']}, client {e['client']}": str(e["sha256"]) for e in report["messages"]},
            AGAIN,
            f"The observations lie in {report['observations']}.",
        ),
    ]
    return Page(
        title="What a federation gives away",
        question="What can a server read in the messages of its clients, which it received as agreed?",
        warnings=[],
        verdict=findings(report),
        scale=SCALE,
        sections=[each for each in sections if each.blocks],
        files={FILES: folder},
    )


def _pictures(report: ReadTable, folder: Path) -> Iterator[Picture]:
    """Of the messages whose images explain the most."""
    made = [(row, each) for each in report["messages"] if (row := best(each)) is not None]
    for row, each in sorted(made, key=lambda pair: unexplained(pair[0]))[:PICTURES]:
        path = folder / f"round_{each['round']}/client_{each['client']}" / f"{files.slug(row['attack'])}.png"
        if path.exists():
            yield Picture(path, f"Round {each['round']}, client {each['client']}: what {row['attack']} rebuilt.")
