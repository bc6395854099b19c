"""What the figures of a run show."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from simulations import figures, files
from simulations.scoring import CONTROL, UNDEFENDED, Scored
from simulations.world import World

TITLE = 26  # characters over a column


def draw(
    world: World, folder: Path, scored: Sequence[Scored], averages: Sequence[Mapping[str, Any]], originals: bool
) -> None:
    """Draw the first attacked round's images and, where there are three arms or more, leakage against accuracy."""
    _draw_images(world, folder / files.FIGURES / "reconstructions.png", scored, originals)
    arms = [row for row in averages if not row["attack"].startswith(CONTROL)]
    if len(arms) >= 3:
        blind = {row["attack"].removeprefix(CONTROL): row["psnr"] for row in averages if row not in arms}
        title = f"{world.experiment.name}: what each defence stops, and what it costs"
        figures.draw_tradeoff(folder / files.FIGURES / "tradeoff.png", title, arms, blind)


def _draw_images(world: World, path: Path, scored: Sequence[Scored], originals: bool) -> None:
    first = min(each.key.round for each in scored)
    columns: dict[tuple[str, str], list[Scored]] = {}
    for each in scored:
        if each.key.round == first and each.attack != f"{CONTROL}random guess":
            columns.setdefault((each.attack, each.defence), []).append(each)
    blocks = [_private(next(iter(columns.values())))] if originals else []
    experiment = world.experiment
    several = len(experiment.attacks) > 1
    blocks += [_column(attack, defence, group, several) for (attack, defence), group in columns.items()]
    attacks = ", ".join(experiment.attacks)
    title = (
        f"Images of '{experiment.dataset['name']}' that a server rebuilt from the {experiment.channel}s its clients "
        f"shared ({attacks}; PSNR below each, higher is closer)"
    )
    figures.draw(path, textwrap.fill(title, 24 * len(blocks)), blocks)


def _private(group: Sequence[Scored]) -> figures.Column:
    images = torch.cat([each.truth.inputs for each in group])
    labels = [f"client {each.key.client}, label {int(label)}" for each in group for label in each.truth.labels]
    return figures.Column("private image", images, labels)


def _column(attack: str, defence: str, group: Sequence[Scored], several: bool) -> figures.Column:
    images = torch.cat([each.guess.inputs for each in group])
    captions = [f"{float(value):.1f} dB" for each in group for value in each.score.images["psnr"]]
    if attack.startswith(CONTROL):
        return figures.Column("control: blind guess,\n" + attack.removeprefix(CONTROL), images, captions)
    parts = ["no defence" if part == UNDEFENDED else part for part in defence.split("; ")]
    readable = "; ".join(parts).replace("_", " ").replace("(", ",\n").replace(")", "")
    lines = f"rebuilt{f' by {attack}' if several else ''}, {readable}".replace("; ", "\n").split("\n")
    return figures.Column("\n".join(textwrap.fill(line, TITLE) for line in lines), images, captions)
