"""What a sweep says: a point a defence, as utility against leakage, and a finding for each that no other one beats."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from statistics import fmean

from fl_privacy.settings import PlainTable, ReadTable
from fl_privacy.simulations.experiment.spec import Experiment
from fl_privacy.simulations.report.divergence import broken, ruins
from fl_privacy.simulations.report.page import Level
from fl_privacy.simulations.report.result import Result
from fl_privacy.simulations.report.tradeoff import Estimate, Point, blind_guesses, points, strongest
from fl_privacy.simulations.report.verdict import Verdict, leaks_more, level
from fl_privacy.simulations.results.controls import Control, control_of
from fl_privacy.simulations.scoring import UNDEFENDED
from fl_privacy.simulations.sweeping.grid import Cell

ONE_SEED = "one seed: intervals of PSNR are 95 % bootstrap intervals over images, accuracy has none"
AMONG = ("ssim", "label_accuracy", "epsilon", "delta")
"""The columns of a run's summary whose mean over seeds a point has beside PSNR and accuracy, where runs have them."""


@dataclass(frozen=True)
class Finished:
    """A cell with the result of its run."""

    cell: Cell
    result: Result


def decide(finished: Sequence[Finished], seeds: Sequence[int]) -> PlainTable:
    """The plain content of sweep.json: `interval` in words, `settings` with their points and findings, `warnings`.

    A setting is what cells differ in beside attack, defence and seed, such as the model: defences are compared inside
    one. Its `points` have one row a defence and attack, of which one a defence is the `strongest`.
    """
    groups: dict[str, list[Finished]] = {}
    for each in finished:
        groups.setdefault(each.cell.setting, []).append(each)
    interval = f"95 %, Student's t over {len(seeds)} seeds" if len(seeds) > 1 else ONE_SEED
    settings = [_setting(name, group) for name, group in groups.items()]
    said = [warning for each in finished for warning in (*each.result.not_valid, *each.result.told)]
    doubts = [doubt for each in settings for doubt in _doubts(each)]
    warnings = list(dict.fromkeys([*said, *_broken(finished), *doubts]))
    return {"interval": interval, "settings": settings, "warnings": warnings}


def _setting(name: str, group: Sequence[Finished]) -> PlainTable:
    rows = [row for each in group for row in _rows(each)]
    controls = blind_guesses(list({(row["attack"], row["seed"]): row for row in rows if control_of(row)}.values()))
    attacked = [row for row in rows if control_of(row) is None]
    found = points(attacked)
    best = strongest(found)
    floor = _floor(controls)
    chains = {label: each for one in group for label, each in _chains(one.result.experiment).items()}
    made = [
        _point(each, [row for row in attacked if (row["defence"], row["attack"]) == (each.defence, each.attack)])
        | {"strongest": each in best, "beaten_by": _beaten_by(each, best) if each in best else None}
        | {"above_floor": each.leakage.value - floor[1].value if floor else None}
        | {"labels_read": _labels_read(each.defence, attacked), **chains[each.defence]}
        for each in found
    ]
    measured = {each.defence for each in found}
    missing = [defence for defence in dict.fromkeys(row["defence"] for row in attacked) if defence not in measured]
    return {
        "setting": name,
        "floor": str(floor[0]) if floor else None,
        "controls": [{"name": str(key), "kind": key.kind, **_estimate("psnr", each)} for key, each in controls.items()],
        "points": made,
        "without_point": missing,
        "findings": list(_findings(made, controls)),
    }


def _rows(each: Finished) -> Iterator[PlainTable]:
    for row in each.result.summary:
        changed = each.cell.attack if control_of(row) is None else ""
        attack = f"{row['attack']}({changed})" if changed else row["attack"]
        yield {**row, "attack": attack, "seed": each.cell.seed}


def _chains(experiment: Experiment) -> dict[str, PlainTable]:
    """By condition: its `family`, the names of its defences, and their `strengths`, the settings that are given."""
    variants = [str(each["label"]) for each in experiment.variants] or [""]
    served = [list(each) for each in experiment.inference_defences] or [[]]
    found = {}
    for condition, (variant, trained, released) in zip(
        experiment.conditions, product(variants, experiment.training_defences, served), strict=True
    ):
        members = [*trained, *released]
        names = " + ".join(str(each["name"]) for each in members) or UNDEFENDED
        prefix = len(members) > 1
        strengths = {
            f"{each['name']}.{key}" if prefix else key: value
            for each in members
            for key, value in each.items()
            if key != "name"
        }
        found[condition.label] = {"family": "; ".join(filter(None, (variant, names))), "strengths": strengths}
    return found


def _point(point: Point, rows: Sequence[ReadTable]) -> PlainTable:
    known = {key: _over_rows([row[key] for row in rows if row.get(key) is not None]) for key in AMONG}
    return {
        "defence": point.defence,
        "attack": point.attack,
        **_estimate("accuracy", point.utility),
        **_estimate("psnr", point.leakage),
        **{key: value for key, value in known.items() if value is not None},
        "images": sum(row["images"] for row in rows),
        "recovered": sum(row.get("recovered", row["images"]) for row in rows),
        "seeds": [row["seed"] for row in rows],
    }


def _over_rows(values: Sequence[float | str]) -> float | str | None:
    """The mean; a word such as 'none', where there is no number, stands for all. None of nothing."""
    words = [each for each in values if isinstance(each, str)]
    return words[0] if words else fmean(map(float, values)) if values else None


def _labels_read(defence: str, rows: Sequence[ReadTable]) -> float | None:
    """The most labels that any attacker of a defence read, as a share, also one that rebuilds no image."""
    groups: dict[str, list[float]] = {}
    for row in rows:
        if row["defence"] == defence and row.get("label_accuracy") is not None:
            groups.setdefault(row["attack"], []).append(row["label_accuracy"])
    return max(map(fmean, groups.values()), default=None)


def _estimate(name: str, each: Estimate) -> PlainTable:
    return {name: each.value, f"{name}_low": each.low, f"{name}_high": each.high}


def _floor(controls: Mapping[Control, Estimate]) -> tuple[Control, Estimate] | None:
    """The class mean, or else the best control: what nobody needs a message for, or no more of it than the label."""
    if Control.CLASS_MEAN in controls:
        return Control.CLASS_MEAN, controls[Control.CLASS_MEAN]
    return max(controls.items(), key=lambda each: each[1].value, default=None)


def _beaten_by(point: Point, best: Sequence[Point]) -> str | None:
    """A defence with no less accuracy and no more leakage by their means, and one of both better; None where none is.

    Of several the one that leaks least.
    """
    use, leak = point.utility.value, point.leakage.value
    better = [
        each
        for each in best
        if each.utility.value >= use
        and each.leakage.value <= leak
        and (each.utility.value, each.leakage.value) != (use, leak)
    ]
    return min(better, key=lambda each: each.leakage.value).defence if better else None


def _findings(found: Sequence[ReadTable], controls: Mapping[Control, Estimate]) -> Iterator[PlainTable]:
    """One for each defence that no other one beats, the most accurate first: `defence`, `level`, `words`."""
    bare = next((each for each in found if each["defence"] == UNDEFENDED and each["strongest"]), None)
    for each in sorted(found, key=lambda one: -one["accuracy"]):
        if each["strongest"] and each["beaten_by"] is None:
            read = each["labels_read"]
            labels = "" if read is None else f"; {read:.0%} of the labels are read"
            how, words = _leakage(each, controls)
            yield {"defence": each["defence"], "level": how, "words": f"{_accuracy(each, bare)}; {words}{labels}."}


def _accuracy(each: ReadTable, bare: ReadTable | None) -> str:
    text = f"accuracy {each['accuracy']:.1%}"
    if each["accuracy_high"] > each["accuracy_low"]:
        text += f" ({each['accuracy_low']:.1%} to {each['accuracy_high']:.1%})"
    if bare is None or bare is each:
        return text
    less = 100 * (bare["accuracy"] - each["accuracy"])
    return f"{text}, {abs(less):.1f} points {'less' if less >= 0 else 'more'} than without a defence"


def _leakage(each: ReadTable, controls: Mapping[Control, Estimate]) -> tuple[Level, str]:
    psnr, low, high = each["psnr"], each["psnr_low"], each["psnr_high"]
    alone = low == high  # one value has no interval
    guesses = [(one.value, one.high) for one in controls.values()]
    how = level(psnr, None if alone else low, None if alone else high, guesses)
    if how is Level.EXACT:
        return how, f"{each['attack']} gets the images whole, to 8 bits"
    text = f"{each['attack']} gets {psnr:.1f} dB ({low:.1f} to {high:.1f})"
    if not controls:
        return how, text
    name, blind = max(controls.items(), key=lambda pair: pair[1].value)
    beside = f"the {name} ({blind.value:.1f} dB), a {name.kind}"
    if how is Level.CLOSER:
        return how, f"{text}, {psnr - blind.value:.1f} dB more than {beside}"
    return how, f"{text}, {'no more than' if how is Level.BLIND else 'not told apart from'} {beside}"


def _doubts(setting: ReadTable) -> list[str]:
    """What the page of a run says where more leaks under a defence than without any, by its own rule."""
    kept = ("defence", "attack", "psnr", "psnr_low", "psnr_high", "images", "recovered")
    best = [each for each in setting["points"] if each["strongest"]]
    return leaks_more([Verdict(**{key: each[key] for key in kept}, undefended=UNDEFENDED) for each in best])


def _broken(finished: Sequence[Finished]) -> list[str]:
    """One sentence of all trainings that broke down, so that it does not hide the findings."""
    seeds: dict[str, list[int]] = {}
    for each in finished:
        for defence in broken(each.result.conditions):
            seeds.setdefault(f"{each.cell.setting}: {defence}".removeprefix(": "), []).append(each.cell.seed)
    rates = {each.result.experiment.learning_rate for each in finished}
    return ruins({name: f"seed{'s' * (len(of) > 1)} {', '.join(map(str, of))}" for name, of in seeds.items()}, rates)
