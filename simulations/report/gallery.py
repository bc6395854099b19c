"""What the figures of a run show."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from fl_privacy.simulations.federation import Federation
from fl_privacy.simulations.report import figures
from fl_privacy.simulations.results import files
from fl_privacy.simulations.results.records import Scored
from fl_privacy.simulations.scoring import CONTROL, NOT_RECOVERED, UNDEFENDED

TITLE = 26  # characters over a column
MOST = 12  # rebuilt columns of one figure


def draw(
    federation: Federation,
    folder: Path,
    scored: Sequence[Scored],
    averages: Sequence[Mapping[str, Any]],
    originals: bool,
) -> None:
    """Draw the first attacked round's images and, where there are three conditions or more, leakage against accuracy.

    Where they are too many for one figure, there is one an attack with the conditions side by side (or one a
    condition, where the attacks are more), each with `MOST` of them at most; its title says how many it leaves out.
    """
    _draw_images(federation, folder / files.FIGURES, scored, originals)
    conditions = [row for row in averages if not row["attack"].startswith(CONTROL) and row["psnr"] is not None]
    if len(conditions) >= 3:
        blind = {
            row["attack"].removeprefix(CONTROL): row["psnr"] for row in averages if row["attack"].startswith(CONTROL)
        }
        title = f"{federation.experiment.name}: what each defence stops, and what it costs"
        figures.draw_tradeoff(folder / files.FIGURES / "tradeoff.png", title, conditions, blind)


def _draw_images(federation: Federation, folder: Path, scored: Sequence[Scored], originals: bool) -> None:
    first = min(each.key.round for each in scored)
    columns: dict[tuple[str, str], list[Scored]] = {}
    for each in scored:
        if each.key.round == first and each.attack != f"{CONTROL}random guess":
            columns.setdefault((each.attack, each.defence), []).append(each)
    private = [_private(next(iter(columns.values())))] if originals else []
    blind = [key for key in columns if key[0].startswith(CONTROL)]
    for number, page in enumerate(pages([key for key in columns if key not in blind]), start=1):
        keys = evenly(page)
        several = len({attack for attack, _ in keys}) > 1  # the title names the one that is alone
        blocks = private + [_column(*key, columns[key], several) for key in (*keys, *blind)]
        name = "reconstructions.png" if number == 1 else f"reconstructions_{number}.png"
        title = textwrap.fill(_title(federation, keys, len(page)), 24 * len(blocks))
        figures.draw(folder / name, title, blocks)


def pages(keys: Sequence[tuple[str, str]]) -> list[list[tuple[str, str]]]:
    """The (attack, defence) columns of each figure."""
    if len(keys) <= MOST:
        return [list(keys)]
    attacks, defences = (list(dict.fromkeys(key[part] for key in keys)) for part in (0, 1))
    part, names = (0, attacks) if len(defences) >= len(attacks) else (1, defences)
    return [[key for key in keys if key[part] == name] for name in names]


def evenly(keys: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """`MOST` of the columns at most, the first and the last among them."""
    if len(keys) <= MOST:
        return list(keys)
    return [keys[round(run_context * (len(keys) - 1) / (MOST - 1))] for run_context in range(MOST)]


def _title(federation: Federation, shown: Sequence[tuple[str, str]], count: int) -> str:
    experiment = federation.experiment
    attacks = {attack for attack, _ in shown}
    attack = f"{attacks.pop()}; " if len(attacks) == 1 else ""  # where there are several, each column names its own
    left_out = f"; {len(shown)} of {count} columns" if len(shown) < count else ""
    return (
        f"Images of '{experiment.dataset['name']}' that a server rebuilt from the {experiment.channel}s its clients "
        f"shared ({attack}PSNR below each, higher is closer{left_out})"
    )


def _private(group: Sequence[Scored]) -> figures.Column:
    images = torch.cat([each.truth.inputs for each in group])
    labels = [f"client {each.key.client}, label {int(label)}" for each in group for label in each.truth.labels]
    return figures.Column("private image", images, labels)


def _column(attack: str, defence: str, group: Sequence[Scored], several: bool) -> figures.Column:
    white = [torch.ones_like(each.truth.inputs) if each.guess.inputs is None else each.images for each in group]
    images = torch.cat(white)
    captions = [
        NOT_RECOVERED if math.isnan(value) else f"{value:.1f} dB"
        for each in group
        for value in each.score.images["psnr"].tolist()
    ]
    if attack.startswith(CONTROL):
        return figures.Column("control: blind guess,\n" + attack.removeprefix(CONTROL), images, captions)
    parts = ["no defence" if part == UNDEFENDED else part for part in defence.split("; ")]
    readable = "; ".join(parts).replace("_", " ").replace("(", ",\n").replace(")", "")
    lines = f"rebuilt{f' by {attack}' if several else ''}, {readable}".replace("; ", "\n").split("\n")
    return figures.Column("\n".join(textwrap.fill(line, TITLE) for line in lines), images, captions)
