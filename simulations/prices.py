"""What a condition's defences guarantee, beside how often its attackers recovered an image."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean

import torch

from fl_privacy.accounting import identification_bound
from fl_privacy.defences import Chain
from fl_privacy.evaluation import Truth
from fl_privacy.federated.example_gradients import example_gradients
from fl_privacy.federated.local_training import LOSSES, normalised
from fl_privacy.identification import blind_share, recovered
from fl_privacy.observation import Images, Observation
from fl_privacy.seeding import one_thread
from fl_privacy.settings import PlainTable
from fl_privacy.simulations.channels.base import Channel
from fl_privacy.simulations.federation import Federation
from fl_privacy.simulations.results.records import Key, Scored

MOST = 8
"""Messages of a condition on which the clipped share is computed, the first ones."""


def successes(group: Sequence[Scored]) -> PlainTable:
    """The share of a row's images that count as recovered (`identification.recovered`), and by PSNR and SSIM alone."""
    values = {name: torch.cat([each.score.images[name] for each in group]) for name in ("psnr", "ssim")}
    nothing = torch.full_like(values["psnr"], math.nan)
    passed = {
        "success_rate": recovered(values),
        "success_psnr": recovered({**values, "ssim": nothing}),
        "success_ssim": recovered({**values, "psnr": nothing}),
    }
    return {name: float(each.double().mean()) for name, each in passed.items()}


def messages_of(
    seen: Mapping[Key, Observation], scored: Sequence[Scored]
) -> dict[str, list[tuple[Observation, Truth]]]:
    """The attacked messages of every condition, by its label, each with its truth."""
    truths = {each.key: (each.defence, each.truth) for each in scored if each.control is None}
    groups: dict[str, list[tuple[Observation, Truth]]] = {}
    for key, (defence, truth) in truths.items():
        groups.setdefault(defence, []).append((seen[key], truth))
    return groups


def prices(
    channel: Channel,
    federation: Federation,
    messages: Mapping[str, Sequence[tuple[Observation, Truth]]],
    public: Callable[[], Images],
) -> dict[str, PlainTable]:
    """The columns of each condition's guarantee, by its label; nothing where no condition has a defence.

    epsilon and delta over the run, or the word 'none', and `guarantee` in words. `identification_bound`: the most often
    that anybody can recover an image from the messages up to the last attacked one, given how often the best guess does
    so blindly over `public` images, `blind_share`. `clipped_share`: of the examples of the attacked messages.
    """
    conditions = federation.experiment.conditions
    if not any(condition.trained for condition in conditions):
        return {}
    # The model that an attacker of round t holds was made of the messages before, which may have had the same image.
    messages_seen = max(federation.experiment.attacked_rounds)
    rows: dict[str, PlainTable] = {}
    blind = math.nan
    for index, condition in enumerate(conditions):
        found = channel.evaluation.guarantee(federation, index)
        if found is None or condition.label not in messages:
            continue
        attacked = messages[condition.label]
        told = "none" if found.epsilon is None else found.epsilon
        row: PlainTable = {"epsilon": told, "delta": found.delta, "guarantee": found.words}
        if found.mu is not None:
            with one_thread():
                blind = blind_share(public()) if math.isnan(blind) else blind
            # An image passes where any guess of its message does, which as many blind ones do so much more often.
            guesses = max(seen.spec.batch_size for seen, _ in attacked)
            limit = identification_bound(min(1.0, guesses * blind), found.mu * math.sqrt(messages_seen))
            row |= {"identification_bound": limit, "blind_share": blind}
        if condition.trained.by_example:
            row["clipped_share"] = _clipped_share(condition.trained, attacked)
        rows[condition.label] = row
    return rows


def _clipped_share(chain: Chain, messages: Sequence[tuple[Observation, Truth]]) -> float:
    """The share of examples whose gradient the chain clipped in a message's first step, as only the evaluator knows."""
    shares = []
    for seen, truth in messages[:MOST]:
        assert seen.model is not None
        local = seen.spec.local
        model = copy.deepcopy(seen.model).eval() if local.mode == "eval" else seen.model
        with one_thread():
            found, _ = example_gradients(model, normalised(truth.inputs, local), truth.labels, LOSSES[local.loss])
            shares.append(chain.clipped_share(found))
    return fmean(shares)
