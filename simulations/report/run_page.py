"""The page of a run: the question, the verdict first, then what it rests on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from fl_privacy.defences import Chain
from fl_privacy.settings import ReadTable
from fl_privacy.simulations.config.resolve import attacks_of
from fl_privacy.simulations.experiment.spec import Experiment
from fl_privacy.simulations.report.columns import first_paragraph
from fl_privacy.simulations.report.content import Content, in_words
from fl_privacy.simulations.report.gallery import IMAGES, TRADEOFF
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
)
from fl_privacy.simulations.report.reproduce import reproduce
from fl_privacy.simulations.report.threat import NOT_MODELLED, who_sees_what
from fl_privacy.simulations.report.verdict import EXACT, Verdict, level
from fl_privacy.simulations.results import files, layout
from fl_privacy.simulations.results.controls import Control, control_of

SCALE = (
    "How to read decibels (PSNR): 10 dB is an error of about 32 % of the range from black to white in every pixel, 20 "
    "dB 10 %, 30 dB 3 %, 40 dB 1 %; from 59 dB on an image of 8 bits is exact. 'leaks': the attack got more than any "
    "guess, made blindly or from the label alone, by more than chance explains. 'unclear': more or not, these images "
    "do not tell. 'no more than a guess': pixels as good come from such guesses; the labels may leak all the same."
)
CONTROLS = {
    Control.RANDOM_GUESS: "another image of the same kind, drawn blindly.",
    Control.MEAN_IMAGE: "the average of other images of the same kind, whatever the message.",
    Control.CLASS_MEAN: "the average of other images of the private image's class: what one guesses who knows the "
    "label and nothing else. Labels are read from most messages, so that this is the fairer floor.",
}
METHOD = (
    "No attack saw a private image: each chose its result by its own loss. Guesses were matched to the private images "
    "afterwards, each to its nearest, and scored one by one on a scale from 0 to 1.",
    "Every attack knows which defences run, unless it is called 'as published'. A defence is judged by the attack that "
    "got most.",
)
PYTHON = """import json
from fl_privacy.simulations import configure, simulate

simulate(configure(**json.load(open("config.json"))["experiment"]))"""


def page_of_run(
    experiment: Experiment,
    found: Content,
    judged: Sequence[Verdict],
    summary: Sequence[ReadTable],
    digests: ReadTable,
    figures: Sequence[Path],
    folder: Path,
) -> Page:
    """The page of a finished run in `folder`; `figures` are the paths of its PNGs."""
    config = folder / layout.CONFIG
    environment = files.read_json(config) if config.exists() else {}
    count, defences = len(experiment.resolved.attacks), len(experiment.conditions)
    sections = [
        Section("Who sees what", [Terms(who_sees_what(experiment))]),
        _pictures([each for each in figures if each.stem.startswith(IMAGES)]),
        _curve([each for each in figures if each.stem == TRADEOFF]),
        Section("The numbers", list(_table(found))),
        Section("What was tried", [Terms(_tried(experiment))]),
        Section("What was assumed", [Points(list(_assumed(experiment)))]),
        Section("What was not tried", [Points(list(_untried(experiment)))]),
        reproduce(
            environment,
            {
                "SHA-256 of the settings": hashlib.sha256(experiment.to_json().encode()).hexdigest(),
                "SHA-256 of all rows": str(digests.get("samples", "")),
            },
            PYTHON,
            f"Every setting is in {layout.CONFIG} of the run's folder. The same seed, versions and kind of machine "
            "give the same bits; other machines may differ in the last digits.",
        ),
    ]
    return Page(
        title=f"What leaked: {experiment.name}",
        question=(
            f"What do the {experiment.channel}s that clients share give away of the private images behind them"
            + (f", and what do {defences} ways of sharing them change?" if defences > 1 else "?")
            + f" Asked of images of '{experiment.dataset['name']}', with {count} attack{'s' * (count != 1)}."
        ),
        warnings=[*found.warnings, *(each for each in found.remarks if each.startswith("WARNING"))],
        verdict=[_finding(each, summary, count) for each in judged],
        scale=SCALE,
        sections=[each for each in sections if each.blocks],
        files={"the run's folder, with every number as JSON and every image as safetensors": folder},
    )


def _finding(each: Verdict, summary: Sequence[ReadTable], attacks: int) -> Finding:
    guesses = [row for row in summary if control_of(row) and row["psnr"] is not None]
    words = [_got(each, attacks), *_guessed(each, guesses)]
    if each.undefended_psnr is not None:
        words.append(f"Without a defence: {each.undefended_psnr:.1f} dB.")
    rows = [row for row in summary if row["defence"] == each.defence and control_of(row) is None]
    if labels := [row["label_accuracy"] for row in rows if row.get("label_accuracy") is not None]:
        words.append(f"Labels named rightly: {max(labels):.0%}.")
    if (accuracy := _accuracy(rows)) is not None:
        bare = _accuracy([row for row in summary if row["defence"] == each.undefended and control_of(row) is None])
        beside = "" if bare is None else f", without the defence {bare:.1%}"
        words.append(f"The trained model is right on {accuracy:.1%} of held-out images{beside}.")
    return Finding(in_words(each.defence), _level(each, guesses), " ".join(words))


def _got(each: Verdict, attacks: int) -> str:
    strongest = f", the strongest of {attacks} attacks" if attacks > 1 else ""
    if each.psnr is None:
        return "No PSNR was measured." if each.recovered else "No attack gave any image back."
    some = f" for {each.recovered} of {each.images} images" if each.recovered < each.images else ""
    spread = "" if each.psnr_low is None else f" (95 %: {each.psnr_low:.1f} to {each.psnr_high:.1f})"
    if each.psnr >= EXACT:
        near = "exact, to the 8 bits that an image has"
    else:
        near = f"an error of about {100 * 10 ** (-each.psnr / 20):.2g} % of the range from black to white in each pixel"
    return f"Images came back at {each.psnr:.1f} dB{spread}{some} by {each.attack}{strongest}: {near}."


def _accuracy(rows: Sequence[ReadTable]) -> float | None:
    return next((row["model_accuracy"] for row in rows if row.get("model_accuracy") is not None), None)


def _level(each: Verdict, guesses: Sequence[ReadTable]) -> Level:
    if each.psnr is None:
        return Level.UNCLEAR if each.recovered else Level.NOTHING
    ends = [(row["psnr"], row["psnr"] if row.get("psnr_high") is None else row["psnr_high"]) for row in guesses]
    return level(each.psnr, each.psnr_low, each.psnr_high, ends)


def _guessed(each: Verdict, guesses: Sequence[ReadTable]) -> Iterator[str]:
    """What the floor gets, and the best guess where that is another one."""
    known = {control: row["psnr"] for row in guesses if (control := control_of(row))}
    for name in dict.fromkeys(filter(None, (each.floor, max(known, key=known.__getitem__, default=None)))):
        yield f"A {Control(name).kind} gets {known[Control(name)]:.1f} dB ({name})."


def _pictures(paths: Sequence[Path]) -> Section:
    pages = f" Page {{}} of {len(paths)}." if len(paths) > 1 else ""
    shows = (
        "What the adversary rebuilt, one row a private image; the PSNR stands below each. Left the private image, "
        "where this run was asked to show it; right guesses, made blindly or from the label alone.{}"
    )
    return Section(
        "What the adversary rebuilt",
        [Picture(path, shows.format(pages.format(number))) for number, path in enumerate(paths, start=1)],
    )


def _curve(paths: Sequence[Path]) -> Section:
    shows = (
        "Each point is a defence: how much leaked under it (upwards is worse) against what the trained model is worth "
        "(rightwards is better). In the grey band no more leaked than a guess gets."
    )
    return Section("What each defence stops, and what it costs", [Picture(path, shows) for path in paths])


def _table(found: Content) -> Iterator[Block]:
    rows = []
    for line in found.lines:
        below = f"by {line.attack}" if line.condition and line.attack and line.kind == "measured" else ""
        name = line.attack if line.kind == "control" else in_words(line.condition)
        kind = "strongest" if line.strongest else line.kind
        rows.append(GridRow(name, below, line.cells, kind))
    yield Grid("defence", found.headings, rows)
    yield Paragraphs(["Bold: the strongest attack on a defence. Italics: guesses, made blindly or from the label."])
    yield Terms(found.meanings)
    kinds = {line.attack for line in found.lines if line.kind == "control"}
    yield Terms({each.heading: said for each, said in CONTROLS.items() if each.heading in kinds})
    yield Paragraphs([*(each for each in found.remarks if not each.startswith("WARNING")), found.reading])


def _tried(experiment: Experiment) -> dict[str, str]:
    """The attacks and the defences in words: the first paragraph of their documentation."""
    said = {f"attack: {label}": first_paragraph(each) for label, each in experiment.resolved.attacks.items()}
    for condition in experiment.conditions:
        for defence in (*condition.trained.defences, *condition.released.defences):
            said[f"defence: {in_words(Chain((defence,)).label.partition('(')[0])}"] = first_paragraph(defence)
    return said


def _assumed(experiment: Experiment) -> Iterator[str]:
    size, rounds = experiment.batch_size, ", ".join(map(str, experiment.attacked_rounds))
    yield (
        f"{experiment.clients} clients, {experiment.clients_per_round} in a round, {experiment.rounds} "
        f"round{'s' * (experiment.rounds != 1)}; {size} image{'s' * (size != 1)} in a message; learning rate "
        f"{experiment.learning_rate:g}."
    )
    for key in ("dataset", "partition", "model", "public", "protocol"):
        if settings := getattr(experiment, key):
            yield f"{key}: {', '.join(f'{name} = {value}' for name, value in settings.items())}."
    yield f"Attacked: {experiment.attacked_clients} of the clients in round {rounds}."
    yield (
        f"One run with seed {experiment.seed}. Intervals are over images alone: another seed trains another model, and "
        "its accuracy has no interval here."
    )
    yield from METHOD


def _untried(experiment: Experiment) -> Iterator[str]:
    ours = {each["name"] for each in experiment.attacks}
    others = [each for each in attacks_of(experiment.channel) if each not in ours]
    if others:
        yield (
            f"Other attacks on this channel: {', '.join(others)}. `fl-privacy attack RUN --attack NAME` tries one on "
            "what this run kept, and nothing is simulated again."
        )
    yield "Other seeds, other rounds and longer attacks: that no guess came close is no proof that none can."
    yield from NOT_MODELLED
