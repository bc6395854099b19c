"""The evaluation stage: every guess and the controls against the truth, as rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean, median

from fl_privacy.attacks import Attack
from fl_privacy.attacks.inversion.priors import public_by_class
from fl_privacy.evaluation import Truth, controls, interval, matched, score, score_set
from fl_privacy.observation import Observation, Reconstruction
from fl_privacy.protocol_check import mismatch
from fl_privacy.seeding import one_thread, stream, subseed
from fl_privacy.settings import PlainTable
from fl_privacy.simulations.bounds import bound_of
from fl_privacy.simulations.channels.base import Channel
from fl_privacy.simulations.experiment.spec import Experiment
from fl_privacy.simulations.federation import Federation, Positions
from fl_privacy.simulations.prices import messages_of, prices, successes
from fl_privacy.simulations.results.controls import Control
from fl_privacy.simulations.results.records import Key, Scored
from fl_privacy.strategies.records import LONGEST_LABEL

UNDEFENDED = "none"
NOT_RECOVERED = "not recovered"
"""What stands where an attack gave no image."""


@one_thread()
def score_all(
    channel: Channel,
    federation: Federation,
    seen: Mapping[Key, Observation],
    guesses: Mapping[str, Mapping[Key, Reconstruction]],
) -> list[Scored]:
    """Score every attack's guesses, then, once for all conditions, the controls.

    The targets are the same in every condition, and a control sees no message of any. Its losses are the first attack's
    objective on the messages of the first condition without any defence; NaN where no condition is undefended.
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
        found = score(attack, experiment.held_by(name, seen[key]), guess, truths[key], metrics)
        return Scored(key, name, defence, matched(seen[key], guess, truths[key]), truths[key], found)

    scored = [
        scored_guess(experiment.resolved.attacks[label], key, label, experiment.condition_labels[key.condition], guess)
        for label, found in guesses.items()
        for key, guess in found.items()
    ]
    attack = next(iter(experiment.resolved.attacks.values()))
    undefended = _of_first_condition([key for key in keys if _undefended(experiment, key.condition)])
    judged = undefended or _of_first_condition(keys)
    for control, blind in _controls(channel, federation, [truths[key] for key in judged]).items():
        for key, guess in zip(judged, blind, strict=True):
            assert guess.inputs is not None
            assert guess.labels is not None
            guess = replace(guess, loss=attack.loss(seen[key], guess.inputs, guess.labels))
            made = scored_guess(attack, key, Control(control).heading, UNDEFENDED, guess)
            made = replace(made, control=Control(control))
            scored.append(made if undefended else _without_losses(made))
    return scored


def _of_first_condition(keys: Sequence[Key]) -> list[Key]:
    return [key for key in keys if key.condition == keys[0].condition]


def _undefended(experiment: Experiment, condition: int) -> bool:
    chosen = experiment.conditions[condition]
    return not (chosen.trained or chosen.released)


def _without_losses(scored: Scored) -> Scored:
    """The same with no word of an objective that would be that of somebody's defence."""
    return replace(scored, score=replace(scored.score, loss_at_guess=math.nan, loss_at_truth=math.nan))


def truth_of(channel: Channel, federation: Federation, clients: Sequence[int], round: int) -> Truth:
    """All examples behind a message of these clients."""
    return Truth.of_clients([channel.evaluation.truth(federation, client, round) for client in clients])


def _controls(channel: Channel, federation: Federation, truths: Sequence[Truth]) -> dict[str, list[Reconstruction]]:
    pool = blind_pool(channel, federation)
    rng = stream(federation.experiment.seed, "controls")
    read = channel.evaluation.class_is_read(federation.experiment)
    return controls(federation.images_at(pool), truths, federation.spec.classes, rng, read)


def blind_pool(channel: Channel, federation: Federation) -> Positions:
    """The images from which the controls guess, after a check that nothing in any condition was trained on one.

    Raises:
        ValueError: no image is left for them. AssertionError: some model or attack was trained on theirs, so that the
            controls would be compared with what has seen their images.
    """
    pool = channel.evaluation.control_pool(federation)
    if not len(pool.index):
        raise ValueError(
            "no image is left from which the controls could guess blindly: in every image of their pool something was "
            "trained, a condition's model or the adversary with its 'public' images. Leave some to them: set "
            "public.count, or give variants the same, or smaller, 'images' and 'validation'"
        )
    for condition, label in enumerate(federation.experiment.condition_labels):
        left = pool.without(channel.evaluation.trained_on(federation, condition))
        shared = len(pool.index) - len(left.index)
        if shared:
            raise AssertionError(f"'{label}' was trained on {shared} of the {len(pool.index)} images of the controls")
    return pool


def faults(federation: Federation, seen: Mapping[Key, Observation], scored: Sequence[Scored]) -> list[str]:
    """Why these scores say nothing; empty if they are valid.

    Either clients released through another chain of defences than their row names, or undefended payloads are not what
    the attacker's copy of the protocol gives: one sentence for each condition that has any.
    """
    chains = federation.experiment.chains
    truths = {each.key: (each.defence, each.truth) for each in scored if each.control is None}
    other = [
        f"'{defence}' names the defences '{chains[key.condition].label}', and its clients say that they ran "
        f"'{seen[key].applied}': no row may name a defence that was not run"
        for key, (defence, _) in truths.items()
        if seen[key].applied not in (None, chains[key.condition].label[:LONGEST_LABEL])
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


def rows(federation: Federation, scored: Sequence[Scored]) -> list[PlainTable]:
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
) -> list[PlainTable]:
    """One row an attack and condition, then one a control: means over images, PSNR with its 95 % bootstrap interval.

    `recovered` of the `images` came back, over which the means of image metrics go: None for no image at all, or for a
    metric that could not be computed, and then `unmeasured` says why. `applied`: what the clients of a row say that
    they ran. `losses_of`: the undefended condition on whose messages a control's losses are; None where there is none.
    `measured`: by condition, what the server measured after the last round, such as its model's accuracy.
    """
    groups: dict[tuple[str, str], list[Scored]] = {}
    for each in scored:
        groups.setdefault((each.attack, each.defence), []).append(each)
    bounds = _bounds(channel, federation, seen, scored) if federation.experiment.bound else {}
    messages = messages_of(seen, scored)
    priced = prices(channel, federation, messages, lambda: federation.images_at(blind_pool(channel, federation)))
    table = []
    for (attack, defence), group in groups.items():
        came_back = [each for each in group if each.guess.inputs is not None]
        row = _summary_row(federation.experiment, attack, defence, group, seen, measured)
        if group[0].control is None:
            row = _merged(row, bounds.get(defence, {})) | priced.get(defence, {})
        row |= successes(group) if channel.evaluation.tells_success else {}
        row |= dict.fromkeys(channel.evaluation.says_nothing(federation, group[0].key.condition))
        table.append(_with_set_metrics(channel, federation, row, came_back) if came_back else row)
    return table


def _bounds(
    channel: Channel, federation: Federation, seen: Mapping[Key, Observation], scored: Sequence[Scored]
) -> dict[str, PlainTable]:
    """What could be known at best, by condition: under the mean and covariance of each class of the controls."""
    groups = messages_of(seen, scored)
    prior = public_by_class(federation.images_at(blind_pool(channel, federation)))  # labels are read from gradients
    return {defence: bound_of(group, prior, federation.experiment.seed) for defence, group in groups.items()}


def _merged(row: PlainTable, columns: PlainTable) -> PlainTable:
    """The row with these columns, and with the reasons of both why something is unmeasured."""
    unmeasured = row.get("unmeasured", {}) | columns.get("unmeasured", {})
    return row | columns | ({"unmeasured": unmeasured} if unmeasured else {})


def _with_set_metrics(
    channel: Channel, federation: Federation, row: PlainTable, came_back: Sequence[Scored]
) -> PlainTable:
    """The row with a column for each value of each metric of its whole set; `asked_for` are those of 'metrics'."""
    experiment = federation.experiment
    matched_set = channel.evaluation.matched_set(federation, came_back)
    with one_thread():
        columns, unmeasured = score_set(matched_set, experiment.resolved.set_metrics)
    asked_for = []
    for name, values in columns.items():
        if taken := sorted(values.keys() & row.keys()):
            unmeasured[name] = f"it gives {', '.join(taken)}, and a column of that name is there already"
            continue
        row |= values
        asked_for += [] if name in channel.evaluation.set_metrics else list(values)
    unmeasured = row.get("unmeasured", {}) | unmeasured
    return row | ({"asked_for": asked_for} if asked_for else {}) | ({"unmeasured": unmeasured} if unmeasured else {})


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _of_messages(
    experiment: Experiment, control: bool, group: Sequence[Scored], seen: Mapping[Key, Observation]
) -> dict[str, str | None]:
    """The chain that the clients of a row say they ran; of a control, on whose messages its losses are."""
    condition = group[0].key.condition
    if control:
        return {"losses_of": experiment.condition_labels[condition] if _undefended(experiment, condition) else None}
    told = {seen[each.key].applied for each in group} - {None}
    return {"applied": " or ".join(sorted(map(str, told))) or None}


def _summary_row(
    experiment: Experiment,
    attack: str,
    defence: str,
    group: Sequence[Scored],
    seen: Mapping[Key, Observation],
    measured: Mapping[str, Mapping[str, float]],
) -> PlainTable:
    control = group[0].control is not None
    came_back = [each for each in group if each.guess.inputs is not None]
    metrics = list(group[0].score.images)
    values = {metric: [float(v) for each in came_back for v in each.score.images[metric]] for metric in metrics}
    low, high = interval(values["psnr"], subseed(experiment.seed, "interval"))
    model = {} if control else measured[defence]
    unmeasured = {name: reason for each in group for name, reason in each.score.unmeasured.items()}
    return {
        "attack": attack,
        "defence": defence,
        "images": sum(len(each.truth.inputs) for each in group),
        "recovered": len(values["psnr"]),
        **{metric: _known(fmean(numbers)) if numbers else None for metric, numbers in values.items()},
        **({"unmeasured": unmeasured} if unmeasured else {}),
        "psnr_low": _known(low),
        "psnr_high": _known(high),
        "psnr_median": median(values["psnr"]) if values["psnr"] else None,
        "label_accuracy": fmean(each.score.label_accuracy for each in group),
        "loss_at_guess": fmean(each.score.loss_at_guess for each in group),
        "loss_at_truth": fmean(each.score.loss_at_truth for each in group),
        "model_accuracy": None,
        **_of_messages(experiment, control, group, seen),
        **{f"model_{key}": value for key, value in model.items()},
    }
