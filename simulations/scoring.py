"""The evaluation stage: every guess and both controls against the truth, as rows."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from statistics import fmean, median
from typing import Any

from fl_privacy.attacks import Attack
from fl_privacy.evaluation import Truth, controls, interval, matched, score
from fl_privacy.observation import Observation, Reconstruction
from fl_privacy.protocol_check import mismatch
from fl_privacy.seeding import stream, subseed
from fl_privacy.simulations.channels.base import Channel
from fl_privacy.simulations.federation import Federation
from fl_privacy.simulations.results.records import Key, Scored

UNDEFENDED = "none"
NOT_RECOVERED = "not recovered"
"""What stands where an attack gave no image."""
CONTROL = "control: "
"""How the controls' names begin, where an attack's name stands."""


def score_all(
    channel: Channel,
    federation: Federation,
    seen: Mapping[Key, Observation],
    guesses: Mapping[str, Mapping[Key, Reconstruction]],
) -> list[Scored]:
    """Score every attack's guesses, then the two controls for the targets of the undefended condition.

    The controls stand for all conditions, whose targets are the same. Their losses, the first attack's objective, are
    those of a condition without any defence; NaN where there is none, because a defended message's would not be theirs.
    """
    experiment = federation.experiment
    keys = sorted({key for found in guesses.values() for key in found})
    batches = {
        (clients, round): truth_of(channel, federation, clients, round)
        for clients, round in {(seen[key].clients, key.round) for key in keys}
    }
    truths = {key: batches[seen[key].clients, key.round] for key in keys}
    metrics = experiment.resolved.metrics

    def scored_guess(attack: Attack, key: Key, name: str, defence: str, guess: Reconstruction) -> Scored:
        found = score(attack, seen[key], guess, truths[key], metrics)
        return Scored(key, name, defence, matched(seen[key], guess, truths[key]), truths[key], found)

    scored = [
        scored_guess(experiment.resolved.attacks[label], key, label, experiment.condition_labels[key.condition], guess)
        for label, found in guesses.items()
        for key, guess in found.items()
    ]
    attack = next(iter(experiment.resolved.attacks.values()))
    attacked = sorted({key.condition for key in keys})
    undefended = [condition for condition in attacked if not experiment.chains[condition]]
    judged = [key for key in keys if key.condition == (undefended or attacked)[0]]
    for control, blind in _controls(channel, federation, [truths[key] for key in judged]).items():
        for key, guess in zip(judged, blind, strict=True):
            assert guess.inputs is not None
            assert guess.labels is not None
            guess = dataclasses.replace(guess, loss=attack.loss(seen[key], guess.inputs, guess.labels))
            made = scored_guess(attack, key, f"{CONTROL}{control}", UNDEFENDED, guess)
            scored.append(made if undefended else _without_losses(made))
    return scored


def _without_losses(scored: Scored) -> Scored:
    """The same with no word of an objective that would be that of somebody's defence."""
    score = dataclasses.replace(scored.score, loss_at_guess=math.nan, loss_at_truth=math.nan)
    return dataclasses.replace(scored, score=score)


def truth_of(channel: Channel, federation: Federation, clients: Sequence[int], round: int) -> Truth:
    """All examples behind a message of these clients."""
    return Truth.of_clients([channel.evaluation.truth(federation, client, round) for client in clients])


def _controls(channel: Channel, federation: Federation, truths: Sequence[Truth]) -> dict[str, list[Reconstruction]]:
    """The controls' guesses, from images that nothing here was trained on.

    Raises:
        RuntimeError: something was: the controls would know what they are compared with.
    """
    pool = channel.evaluation.control_pool(federation)
    for condition, label in enumerate(federation.experiment.condition_labels):
        if shared := pool.shared_with(channel.evaluation.trained_on(federation, condition)):
            raise RuntimeError(f"'{label}' was trained on {shared} of the {len(pool.index)} images of the controls")
    rng = stream(federation.experiment.seed, "controls")
    return controls(federation.images_at(pool), truths, federation.spec.classes, rng)


def faults(federation: Federation, seen: Mapping[Key, Observation], scored: Sequence[Scored]) -> list[str]:
    """Why these scores say nothing; empty if they are valid.

    Either undefended payloads are not what the attacker's copy of the protocol gives, one sentence for each condition
    that has any, or the clients ran another chain of defences than the one that the row names.
    """
    truths = {each.key: (each.defence, each.truth) for each in scored if not each.attack.startswith(CONTROL)}
    other = [
        f"clients say that they ran '{seen[key].applied}' where the table says '{defence}'"
        for key, (defence, _) in truths.items()
        if seen[key].applied not in (None, federation.experiment.chains[key.condition].label)
    ]
    found: dict[str, list[float]] = {}
    for key, (defence, truth) in truths.items():
        if (wrong := mismatch(seen[key], truth)) is not None:
            found.setdefault(defence, []).append(wrong.relative)
    return list(dict.fromkeys(other)) + [
        f"{len(relative)} attacked payloads of '{defence}' are not what the attacker's copy of the protocol makes of "
        f"the private batch (relative mismatch up to {max(relative):.2g}; rounding leaves less than 0.001), without "
        "any defence: the attack was given another protocol than the one that ran, and its scores say nothing "
        "about what leaks. Likely causes: another learning rate or number of local steps; modules in another mode "
        "(train, eval) than at the clients; another model, loss or preprocessing; other data than the run's"
        for defence, relative in found.items()
    ]


def rows(federation: Federation, scored: Sequence[Scored]) -> list[dict[str, Any]]:
    """One row an image, as samples.jsonl keeps them."""
    experiment = federation.experiment
    return [
        {
            "round": each.key.round,
            "client": each.key.client,
            "index": index,
            "attack": each.attack,
            "defence": each.defence,
            "dataset": experiment.dataset["name"],
            "model": experiment.model["name"],
            "seed": experiment.seed,
            **{metric: _known(float(each.score.images[metric][index])) for metric in each.score.images},
            "label_correct": None if each.guess.labels is None else bool(each.score.label_correct[index]),
            "loss_at_guess": each.score.loss_at_guess,
            "loss_at_truth": each.score.loss_at_truth,
            "iterations": each.guess.iterations,
            "seconds": each.guess.seconds,
        }
        for each in scored
        for index in range(len(each.truth.labels))
    ]


def summary(
    channel: Channel,
    federation: Federation,
    seen: Mapping[Key, Observation],
    scored: Sequence[Scored],
    measured: Mapping[str, Mapping[str, float]],
) -> list[dict[str, Any]]:
    """One row an attack and condition, then one a control: means over images, PSNR with its 95 % bootstrap interval.

    `recovered` of the `images` came back, over which the means of image metrics go: None for no image at all.
    `measured`: by condition, what the server measured after the last round, such as its model's accuracy.
    """
    groups: dict[tuple[str, str], list[Scored]] = {}
    for each in scored:
        groups.setdefault((each.attack, each.defence), []).append(each)
    table = []
    for (attack, defence), group in groups.items():
        came_back = [each for each in group if each.guess.inputs is not None]
        row = _summary_row(federation.experiment.seed, attack, defence, group, measured)
        table.append(row | (channel.evaluation.extras(federation, seen, came_back) if came_back else {}))
    return table


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _summary_row(
    seed: int, attack: str, defence: str, group: Sequence[Scored], measured: Mapping[str, Mapping[str, float]]
) -> dict[str, Any]:
    came_back = [each for each in group if each.guess.inputs is not None]
    values = {
        metric: [float(v) for each in came_back for v in each.score.images[metric]] for metric in group[0].score.images
    }
    low, high = interval(values["psnr"], subseed(seed, "interval"))
    model = {} if attack.startswith(CONTROL) else measured[defence]
    reasons = {name: reason for each in group for name, reason in each.score.unmeasured.items()}
    unmeasured = {"unmeasured": reasons} if reasons else {}
    return {
        "attack": attack,
        "defence": defence,
        "images": sum(len(each.truth.inputs) for each in group),
        "recovered": len(values["psnr"]),
        **{metric: _known(fmean(numbers)) if numbers else None for metric, numbers in values.items()},
        **unmeasured,
        "psnr_low": _known(low),
        "psnr_high": _known(high),
        "psnr_median": median(values["psnr"]) if values["psnr"] else None,
        "label_accuracy": fmean(each.score.label_accuracy for each in group),
        "loss_at_guess": fmean(each.score.loss_at_guess for each in group),
        "loss_at_truth": fmean(each.score.loss_at_truth for each in group),
        "model_accuracy": None,
        **{f"model_{key}": value for key, value in model.items()},
    }
