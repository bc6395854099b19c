"""What the figures of a run show."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from fl_privacy.observation import Observation
from fl_privacy.settings import ReadTable
from fl_privacy.simulations.federation import Federation
from fl_privacy.simulations.report import figures
from fl_privacy.simulations.report.content import in_words
from fl_privacy.simulations.report.tradeoff import draw_tradeoff
from fl_privacy.simulations.results import layout
from fl_privacy.simulations.results.controls import Control, control_of
from fl_privacy.simulations.results.records import Key, Scored
from fl_privacy.simulations.scoring import NOT_RECOVERED

TITLE = 26  # characters over a column
MOST = 6  # rebuilt columns of one page
MISSING = "no message arrived"
IMAGES, TRADEOFF = "reconstructions", "tradeoff"

ColumnKey = tuple[str, str]
"""Of a column: the attack and the defence."""


def draw(
    federation: Federation,
    folder: Path,
    seen: Mapping[Key, Observation],
    scored: Sequence[Scored],
    averages: Sequence[ReadTable],
    originals: bool,
) -> None:
    """Draw the first attacked round's images and, where there are two defences or more, leakage against utility.

    Every rebuilt column is on some page, `MOST` of them on one; what a page does not show, its small print says.
    Figures of an earlier report in `folder` are replaced.
    """
    place = folder / layout.FIGURES
    for name in (IMAGES, TRADEOFF):
        for old in place.glob(f"{name}*.png"):
            old.unlink()
    _draw_images(federation, place, seen, scored, originals)
    draw_tradeoff(place / f"{TRADEOFF}.png", federation.experiment.name, averages)


def _draw_images(
    federation: Federation, folder: Path, seen: Mapping[Key, Observation], scored: Sequence[Scored], originals: bool
) -> None:
    rounds = sorted({each.key.round for each in scored})
    columns: dict[ColumnKey, list[Scored]] = {}
    for each in scored:
        if each.key.round == rounds[0] and each.control is not Control.RANDOM_GUESS:
            columns.setdefault((each.attack, each.defence), []).append(each)
    victims = _victims(columns.values())
    owners = [owner for each in victims for owner in _owners(seen[each.key].clients, len(each.truth.labels))]
    blind = [_column(key, columns[key], victims, several=True) for key in columns if columns[key][0].control]
    spread = pages([key for key in columns if not columns[key][0].control])
    for number, keys in enumerate(spread, start=1):
        several = len({attack for attack, _ in keys}) > 1  # the title names the one that is alone
        rebuilt = [_column(key, columns[key], victims, several) for key in keys]
        blocks = [_private(victims, owners, originals), *rebuilt, *blind]
        characters = 23 * len(blocks)
        title = _title(federation, keys) + (f", page {number} of {len(spread)}" if len(spread) > 1 else "")
        note = _note(victims, rounds, originals, spread)
        figures.draw(
            folder / f"{IMAGES}{'' if number == 1 else f'_{number}'}.png",
            textwrap.fill(title, characters),
            blocks,
            textwrap.fill(note, round(1.25 * characters)),
        )


def _victims(columns: Iterable[Sequence[Scored]]) -> list[Scored]:
    """One of the guesses for every attacked message: whose images the rows of a figure are, in every column."""
    found = {each.key.client: each for column in columns for each in column}
    return [found[client] for client in sorted(found)]


def pages(keys: Sequence[ColumnKey]) -> list[list[ColumnKey]]:
    """The columns of each page: all of them on one, or else an attack's (or a defence's, whichever are fewer) apart.

    What is still too much for one page is dealt evenly over several.
    """
    if len(keys) <= MOST:
        return [list(keys)]
    attacks, defences = (list(dict.fromkeys(key[part] for key in keys)) for part in (0, 1))
    part, names = (0, attacks) if len(defences) >= len(attacks) else (1, defences)
    made = []
    for name in names:
        group = [key for key in keys if key[part] == name]
        count = math.ceil(len(group) / MOST)
        edges = [round(page * len(group) / count) for page in range(count + 1)]
        made += [group[start:end] for start, end in pairwise(edges)]
    return made


def _title(federation: Federation, shown: Sequence[ColumnKey]) -> str:
    experiment = federation.experiment
    attacks = {attack for attack, _ in shown}
    by = f" by {attacks.pop()}" if len(attacks) == 1 else ""  # where there are several, each column names its own
    return (
        f"Images of '{experiment.dataset['name']}' that were rebuilt{by} from the {experiment.channel}s that clients "
        "shared (PSNR below each, higher is closer to the private image)"
    )


def _note(
    victims: Sequence[Scored], rounds: Sequence[int], originals: bool, spread: Sequence[Sequence[ColumnKey]]
) -> str:
    """What is left out, in words."""
    images = sum(len(each.truth.labels) for each in victims)
    sentences = []
    if images > figures.ROWS:
        sentences.append(f"Shown: the first {figures.ROWS} of {images} attacked images of a condition.")
    if len(rounds) > 1:
        sentences.append(f"Round {rounds[0]} of the attacked rounds {', '.join(map(str, rounds))}.")
    if not originals:
        sentences.append(
            "Private images are left out: --keep-originals (or show_originals = true in the experiment) shows them."
        )
    if len(spread) > 1:
        count = sum(map(len, spread))
        sentences.append(f"All {count} columns: {IMAGES}.png to {IMAGES}_{len(spread)}.png.")
    sentences.append("The table also has a control that guesses another image at random.")
    return " ".join(sentences)


def _owners(clients: Sequence[int], images: int) -> list[str]:
    """Whose each image of a message is: of a mean over clients, as many are of each, one client after another."""
    return [f"client {clients[image * len(clients) // images]}" for image in range(images)]


def _private(victims: Sequence[Scored], owners: Sequence[str], shown: bool) -> figures.Column:
    if not shown:
        return figures.Column("private image", None, owners, "left out")
    labels = [int(label) for each in victims for label in each.truth.labels]
    captions = [f"{owner}, label {label}" for owner, label in zip(owners, labels, strict=True)]
    return figures.Column("private image", torch.cat([each.truth.inputs for each in victims]), captions)


def _column(key: ColumnKey, group: Sequence[Scored], victims: Sequence[Scored], several: bool) -> figures.Column:
    """What an attack rebuilt under a defence, in the rows of the victims: white where nothing came back, or arrived."""
    attack, defence = key
    came = {each.key.client: each for each in group}
    images: list[Tensor] = []
    captions: list[str] = []
    for victim in victims:
        each = came.get(victim.key.client)
        white = torch.ones_like(victim.truth.inputs)
        images.append(white if each is None or each.guess.inputs is None else each.images)
        captions += [MISSING] * len(white) if each is None else map(_caption, each.score.images["psnr"].tolist())
    return figures.Column(_heading(attack, defence, several), torch.cat(images), captions)


def _caption(psnr: float) -> str:
    return NOT_RECOVERED if math.isnan(psnr) else f"{psnr:.1f} dB"


def _heading(attack: str, defence: str, several: bool) -> str:
    if control := control_of({"attack": attack}):
        return f"control: {control.kind},\n{control}"
    lines = [f"rebuilt by {attack}," if several else "rebuilt,", *in_words(defence).split("; ")]
    return "\n".join(textwrap.fill(line, TITLE) for line in lines)
