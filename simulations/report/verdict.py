"""The verdict on each condition: what the strongest of its attackers got, because nobody has to use a weaker one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fl_privacy.settings import ReadTable
from fl_privacy.simulations.experiment.spec import Experiment
from fl_privacy.simulations.report.page import Level
from fl_privacy.simulations.results.controls import Control, control_of
from fl_privacy.simulations.scoring import UNDEFENDED

EXACT = 58.9
"""PSNR in dB of an image rounded to 8 bits (-10 log10(1 / (12 * 255^2))): beyond it nothing more is there to leak."""
LEAST_IMAGES = 4
"""Images below which a bootstrap interval says nothing of how far a mean may be off."""
RECEIVER = "the receiver itself"
"""Who needs no attack: the server's segment, by its accuracy on held-out inputs that are released in the same way."""


@dataclass(frozen=True)
class Verdict:
    """The most that any attacker got out of one condition: its mean PSNR in dB over `recovered` of the `images`.

    `psnr_low` and `psnr_high` are its 95 % interval. `attack` and `psnr` are None where nothing came back, or none was
    measured. Beside it what the control named `floor` got, and the verdict on `undefended`, the same protocol without
    any defence: None where there is none, or where that is this condition.

    `class_read`, where the evaluator looks for the class in what comes back: the largest share of images whose class
    somebody reads, by `reader`, which is an attack or the receiver itself, whose model reads every release for free.
    """

    defence: str
    attack: str | None
    psnr: float | None
    psnr_low: float | None
    psnr_high: float | None
    images: int
    recovered: int
    floor: str | None = None
    floor_psnr: float | None = None
    undefended: str | None = None
    undefended_psnr: float | None = None
    class_read: float | None = None
    reader: str | None = None

    def __str__(self) -> str:
        """Such as 'gaussian_noise(scale=0.3): 20.4 dB by map (class mean 16.6, none 59.8)'.

        Where classes are looked for: '...; the class is read in 75 % by the receiver itself'.
        """
        if self.psnr is None:
            got = "no PSNR" if self.recovered else "nothing came back"
        else:
            some = f" in {self.recovered} of {self.images} images" if self.recovered < self.images else ""
            got = f"{self.psnr:.1f} dB by {self.attack}{some}"
        beside = [(self.floor, self.floor_psnr), (self.undefended, self.undefended_psnr)]
        known = [f"{name} {psnr:.1f}" for name, psnr in beside if psnr is not None]
        read = "" if self.class_read is None else f"; the class is read in {self.class_read:.0%} by {self.reader}"
        return f"{self.defence}: {got}" + (f" ({', '.join(known)})" if known else "") + read


def verdicts(experiment: Experiment, summary: Sequence[ReadTable]) -> list[Verdict]:
    """One verdict a condition, in the summary's order; the floor is the class mean, or else the best control."""
    groups: dict[str, list[ReadTable]] = {}
    for row in summary:
        if control_of(row) is None:
            groups.setdefault(row["defence"], []).append(row)
    best = {defence: max(group, key=_psnr) for defence, group in groups.items()}
    controls = [row for row in summary if control_of(row) and row["psnr"] is not None]
    floor = next(
        (row for row in controls if control_of(row) is Control.CLASS_MEAN), max(controls, key=_psnr, default=None)
    )
    return [
        _verdict(row, floor, best.get(_reference(experiment, defence)), *_class_read(groups[defence]))
        for defence, row in best.items()
    ]


def level(psnr: float, low: float | None, high: float | None, guesses: Sequence[tuple[float, float]]) -> Level:
    """How an attack's mean PSNR with its 95 % interval stands to the controls, each a mean and its interval's end.

    It leaks where the whole interval lies above all of theirs, and is no more than a guess where the mean is no higher
    than the highest of theirs; without an interval or a control nobody can tell.
    """
    if psnr >= EXACT:
        return Level.EXACT
    if not guesses or low is None or high is None:
        return Level.UNCLEAR
    if low > max(end for _, end in guesses):
        return Level.CLOSER
    return Level.BLIND if psnr <= max(mean for mean, _ in guesses) else Level.UNCLEAR


def leaks_more(found: Sequence[Verdict]) -> list[str]:
    """A sentence for each condition whose verdict is above the undefended one's by more than both intervals allow.

    Nothing is said where the undefended image is known to 8 bits, or where one of both has too few images.
    """
    by_name = {each.defence: each for each in found}
    sentences = []
    for each in found:
        bare = by_name.get(each.undefended or "")
        if bare is None or not _above(each, bare):
            continue
        sentences.append(
            f"'{each.defence}' seems to leak more than '{bare.defence}' ({_interval(each)} against {_interval(bare)}): "
            "a defence adds nothing to what a message tells, so the attackers were not equally strong, or the two "
            "conditions' models not equally easy. Give both the same attacks with the same settings, or longer ones, "
            "before you compare any defence with the undefended line"
        )
    return sentences


def _above(defended: Verdict, bare: Verdict) -> bool:
    if defended.psnr_low is None or bare.psnr is None or bare.psnr_high is None:
        return False
    enough = min(defended.recovered, bare.recovered) >= LEAST_IMAGES
    return enough and bare.psnr < EXACT and defended.psnr_low > bare.psnr_high


def _interval(each: Verdict) -> str:
    return f"{each.psnr:.1f} dB by {each.attack}, 95 % {each.psnr_low:.1f}-{each.psnr_high:.1f}"


def _class_read(group: Sequence[ReadTable]) -> tuple[float | None, str | None]:
    """How often whoever reads classes best reads them from the releases of one condition, and who; None for nobody."""
    readers = {row["attack"]: row["class_recognised"] for row in group if row.get("class_recognised") is not None}
    if not readers:
        return None, None
    if (own := group[0].get("model_accuracy")) is not None:
        readers[RECEIVER] = own
    reader = max(readers, key=lambda name: readers[name])
    return readers[reader], reader


def _psnr(row: ReadTable) -> float:
    return -math.inf if row["psnr"] is None else float(row["psnr"])


def _reference(experiment: Experiment, defence: str) -> str:
    """The label of the same variant of the protocol without any defence."""
    variants: Mapping[str, str] = {each.label: each.variant for each in experiment.conditions}
    for each in experiment.conditions:
        if not (each.trained or each.released) and each.variant == variants.get(defence):
            return each.label
    return UNDEFENDED


def _verdict(
    row: ReadTable, floor: ReadTable | None, bare: ReadTable | None, class_read: float | None, reader: str | None
) -> Verdict:
    came = row["psnr"] is not None
    other = bare is not None and bare["defence"] != row["defence"]
    return Verdict(
        row["defence"],
        row["attack"] if came else None,
        row["psnr"],
        row.get("psnr_low"),
        row.get("psnr_high"),
        row["images"],
        row.get("recovered", row["images"]),
        control_of(floor) if floor else None,
        floor["psnr"] if floor else None,
        bare["defence"] if bare is not None and other else None,
        bare["psnr"] if bare is not None and other else None,
        class_read,
        reader,
    )
