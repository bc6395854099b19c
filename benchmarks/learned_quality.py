"""Learned inversion through defences without a likelihood, beside MAP and Inverting Gradients on the same messages.

    python -m benchmarks.learned_quality --data-root DATA --out results/learned_quality.json

Victims are test images, public images training images of the same set; all attacks know the chain. The settings are the
attacks' defaults, but for the iterations of Inverting Gradients. One thread.
"""

import argparse
import statistics
import time
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import torch

from benchmarks.map_quality import control_rows, scored
from benchmarks.record import options, write
from benchmarks.table_parts import Row
from fl_privacy.attacks.base import Attack
from fl_privacy.attacks.gradient.inverting_gradients import InvertingGradients
from fl_privacy.attacks.gradient.learned import LearnedInversion
from fl_privacy.attacks.gradient.map import MaximumAPosteriori
from fl_privacy.attacks.gradient.simulated import relative_mismatch, simulated_client
from fl_privacy.data import DataSet, data_root, load
from fl_privacy.defences import Chain, chain
from fl_privacy.evaluation import Truth
from fl_privacy.models import build_model
from fl_privacy.observation import ChannelName, Images, Observation, Spec
from fl_privacy.seeding import stream, subseed

CASES: dict[str, tuple[dict[str, Any], int]] = {"digits": ({"size": 32}, 1437), "cifar10": ({}, 3000)}
"""Settings of the data set, and how many public images."""
DEFENCES = {
    "sign": chain([{"name": "sign"}]),
    "prune 0.01": chain([{"name": "prune", "share": 0.01}]),
    "quantise 2 bits": chain([{"name": "quantise", "bits": 2}]),
}


def victims(data: DataSet, defence: Chain, batch: int, count: int, seed: int) -> tuple[list[Observation], list[Truth]]:
    """`count` messages of `batch` test images each through a known chain, on a fresh tanh network."""
    model = build_model("convnet", data.image_shape, data.classes, subseed(seed, "weights"), {})
    order = torch.randperm(len(data.test), generator=stream(seed, "victims"))
    owned = Images(data.train.images(slice(0, public_count(data))), data.train.labels[: public_count(data)])
    blank = Observation(
        channel=ChannelName.GRADIENT,
        payload={name: value.detach() for name, value in model.named_parameters()},
        spec=Spec(image_shape=data.image_shape, classes=data.classes, batch_size=batch),
        round=1,
        client=0,
        model=model,
        public=owned,
        defence=defence,
    )
    client, seen, truths = simulated_client(blank), [], []
    for each in range(count):
        index = order[each * batch : (each + 1) * batch]
        truth = Truth(data.test.images(index), data.test.labels[index])
        payload = client(truth.inputs, truth.labels, subseed(seed, "client", each))
        seen.append(replace(blank, payload=payload, client=each))
        truths.append(truth)
    return seen, truths


def public_count(data: DataSet) -> int:
    return CASES[data.name][1]


def measure(attack: Attack, seen: list[Observation], truths: list[Truth], seed: int) -> Row:
    """One row: decibels, labels, how far the guesses' releases are from what was seen, and what it cost."""
    start = time.process_time()
    ready = attack.prepare(seen, stream(seed, "prepare"))
    prepared = time.process_time()
    guesses = ready(seen, stream(seed, "attack"))
    done = time.process_time()
    right, apart = [], []
    for each, guess, truth in zip(seen, guesses, truths, strict=True):
        assert guess.inputs is not None
        assert guess.labels is not None
        counts = [torch.bincount(y, minlength=each.spec.classes) for y in (guess.labels, truth.labels)]
        right.append(float(torch.minimum(*counts).sum()) / len(truth.labels))
        apart.append(relative_mismatch(each, guess.inputs, guess.labels))
    return {
        **scored(guesses, truths, seed),
        "label_accuracy": statistics.fmean(right),
        "mismatch_median": statistics.median(apart),
        "cpu_seconds_once": prepared - start,
        "cpu_seconds": (done - prepared) / len(seen),
    }


def missing(given: argparse.Namespace, rows: list[Row]) -> list[str]:
    """What was asked for and has no row yet."""
    done = {(row["dataset"], row["defence"], row["batch"], row["seed"]) for row in rows}
    return [
        f"{name} under {defence}, batch {batch}, seed {seed}"
        for seed, name, batch, defence in product(given.seeds, given.datasets, given.batches, given.defences)
        if (name, defence, batch, seed) not in done
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--datasets", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--defences", nargs="+", default=list(DEFENCES), choices=list(DEFENCES))
    parser.add_argument("--batches", type=int, nargs="+", default=[1])
    parser.add_argument("--victims", type=int, default=8, help="messages per weight seed")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--iterations", type=int, default=300, help="of Inverting Gradients")
    parser.add_argument("--out", type=Path, default=Path("results/learned_quality.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[Row] = []
    attacks: dict[str, Attack] = {
        "learned": LearnedInversion(),
        "map, public": MaximumAPosteriori(prior="public"),
        "inverting_gradients": InvertingGradients(iterations=arguments.iterations),
    }
    for seed in arguments.seeds:  # every case of one seed first: a run that is cut short still has that
        for name in arguments.datasets:
            settings, _ = CASES[name]
            data = load(name, data_root(arguments.data_root), settings)
            for batch in arguments.batches:
                for label in arguments.defences:
                    seen, truths = victims(data, DEFENCES[label], batch, arguments.victims, seed)
                    shared = {"dataset": name, "defence": label, "batch": batch, "seed": seed}
                    new = [{"attack": each, **measure(attack, seen, truths, seed)} for each, attack in attacks.items()]
                    if batch == 1:
                        assert seen[0].public is not None
                        new += control_rows(seen[0].public, truths, seed)
                    rows += [shared | row for row in new]
                    print(shared, {row["attack"]: round(row["psnr_mean"], 2) for row in new}, flush=True)
                    known = {"settings": options(arguments), "seeds": arguments.seeds, "threads": 1}
                    write(arguments.out, rows, missing=missing(arguments, rows), **known)


if __name__ == "__main__":
    main()
