"""What closed forms read from gradients of real CIFAR-10 images, exactly: images by peeling and by rows, label counts.

    python -m benchmarks.exact_attacks --data-root DATA --out results/exact_attacks.json

Victims are those of `benchmarks.grnn_quality`: the same images, on lenet_dlg the same weights. One thread. PSNR is
capped where float32 ends, not at the 100 dB of the metric.
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.grnn_quality import control_rows, observed
from benchmarks.record import options, write
from benchmarks.table_parts import Row
from fl_privacy.attacks.base import ATTACKS, Attack
from fl_privacy.attacks.gradient.label_recovery import LabelCounts
from fl_privacy.attacks.gradient.peeling import Peeling
from fl_privacy.data import data_root, load
from fl_privacy.defences import Chain, chain
from fl_privacy.evaluation import Truth, align, interval
from fl_privacy.models import build_model
from fl_privacy.observation import Images, Observation, Reconstruction
from fl_privacy.seeding import seeded, stream, subseed

SHAPE, CLASSES = (3, 32, 32), 10
EXACT = 60.0
"""Decibels from which an image counts as read exactly: an error of a quarter of a grey level in 255."""


def with_activation(activation: Callable[[], nn.Module]) -> Callable[[int], nn.Module]:
    """DLG's LeNet with torch's default weights and another activation."""

    def build(seed: int) -> nn.Module:
        model = build_model("lenet_dlg", SHAPE, CLASSES, seed)
        for stage in (stage for stage in model.children() if isinstance(stage, nn.Sequential)):
            stage[1] = activation()
        return model

    return build


def perceptron(width: int) -> Callable[[int], nn.Module]:
    """One hidden ReLU layer of `width` neurons on the pixels, with torch's default weights."""

    def build(seed: int) -> nn.Module:
        with seeded(seed, "model", "perceptron"):
            return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(SHAPE), width), nn.ReLU(), nn.Linear(width, CLASSES))

    return build


MODELS: dict[str, Callable[[int], nn.Module]] = {
    "lenet_dlg": lambda seed: build_model("lenet_dlg", SHAPE, CLASSES, seed, {"init": "wide"}),
    "lenet_dlg, tanh": with_activation(nn.Tanh),
    "lenet_dlg, leaky ReLU": with_activation(lambda: nn.LeakyReLU(0.2)),
    "lenet_dlg, ReLU": with_activation(nn.ReLU),
    "convnet": lambda seed: build_model("convnet", SHAPE, CLASSES, seed),
    "perceptron": perceptron(1000),
}
DEFENCES: dict[str, Chain] = {
    "none": chain([]),
    "clip 0.1": chain([{"name": "clip", "norm": 0.1}]),
    "gaussian 0.001": chain([{"name": "gaussian_noise", "scale": 0.001}]),
    "gaussian 0.01": chain([{"name": "gaussian_noise", "scale": 0.01}]),
}
PEELED = [(name, "none") for name in ("lenet_dlg", "lenet_dlg, tanh", "lenet_dlg, leaky ReLU")]
"""Where peeling is exact; below, where equations are open or defended, fewer victims are measured."""
BEYOND = [
    ("lenet_dlg, ReLU", "none"),
    ("convnet", "none"),
    *((name, defence) for name in ("lenet_dlg", "convnet") for defence in DEFENCES if defence != "none"),
]


IN_BATCHES = {"linear_layer": "perceptron", "spear": "perceptron", "low_rank": "lenet_dlg"}
"""Attacks on batches, each with its victim; the last where there are fewer images than classes."""
COUNTED, COUNTED_BATCHES = ("lenet_dlg", "convnet"), (1, 8, 32, 128)
"""Whose labels are counted, in batches of which sizes."""
PARTS = ("peeling", "label_counts", *IN_BATCHES)


def decibels(guess: Tensor, truth: Tensor) -> list[float]:
    """Peak signal-to-noise ratio (N,) of images (N, C, H, W) in [0, 1], at most 150: float32 holds no more."""
    errors = (guess.double() - truth.double()).square().flatten(1).mean(1)
    return [-10 * math.log10(max(e, 1e-15)) for e in errors.tolist()]


def timed(attack: Attack, seen: Sequence[Observation], seed: int) -> tuple[list[Reconstruction], dict[str, float]]:
    """The guesses, and what each observation cost."""
    cpu, wall = time.process_time(), time.perf_counter()
    guesses = attack(seen, stream(seed, "attack"))
    spent = {"cpu_seconds": time.process_time() - cpu, "wall_seconds": time.perf_counter() - wall}
    return guesses, {f"{name}_a_gradient": value / len(seen) for name, value in spent.items()}


def images_row(attack: Attack, seen: Sequence[Observation], truths: Sequence[Truth], seed: int) -> Row:
    """How close the images came; an observation without a guess counts with the grey image."""
    guesses, cost = timed(attack, seen, seed)
    values: list[float] = []
    right = 0
    for guess, truth in zip(guesses, truths, strict=True):
        given = torch.full_like(truth.inputs, 0.5) if guess.inputs is None else guess.inputs
        in_order = align(Reconstruction(inputs=given), truth).inputs
        assert in_order is not None
        values += decibels(in_order, truth.inputs)
        right += int(guess.labels is not None and torch.equal(guess.labels.sort().values, truth.labels.sort().values))
    return {
        "images": len(values),
        "psnr_median": statistics.median(values),
        "psnr_worst": min(values),
        "psnr_mean": statistics.fmean(values),
        "psnr_mean_95": interval(values, seed),
        "exact_share": statistics.fmean(value >= EXACT for value in values),
        "labels_right": right / len(guesses) if attack.capabilities.labels else None,
        "bound_median": _bound(guesses),
        "loss_at_guess": statistics.median(guess.loss for guess in guesses),
        "loss_at_truth": statistics.median(
            attack.loss(each, truth.inputs, truth.labels) for each, truth in zip(seen, truths, strict=True)
        ),
        **cost,
        "psnr": [round(value, 2) for value in values],
    }


def _bound(guesses: Sequence[Reconstruction]) -> float | None:
    """The median of what the attack expects at its own guess, in decibels."""
    expected = [float(-10 * guess.bound.log10().mean()) for guess in guesses if guess.bound is not None]
    return statistics.median(expected) if expected else None


def counts_row(seen: Sequence[Observation], truths: Sequence[Truth], seed: int) -> Row:
    """How many batches have all counts right, and the share of labels that are."""
    guesses, cost = timed(LabelCounts(), seen, seed)
    shares = []
    for guess, truth in zip(guesses, truths, strict=True):
        assert guess.labels is not None
        found, right = (torch.bincount(y, minlength=CLASSES) for y in (guess.labels, truth.labels))
        shares.append(float(torch.minimum(found, right).sum()) / len(truth.labels))
    return {
        "gradients": len(seen),
        "exact_share": statistics.fmean(share == 1 for share in shares),
        "labels_right": statistics.fmean(shares),
        **cost,
    }


def defended(seen: Sequence[Observation], defence: Chain, seed: int) -> list[Observation]:
    """The same observations behind a defence, the law of which the attacker knows."""
    return [
        replace(each, payload=defence.on_release(each.payload, subseed(seed, "noise", each.client)), defence=defence)
        for each in seen
    ]


def missing(given: argparse.Namespace, rows: list[Row]) -> list[str]:
    """The rows of attacks that were asked for and are not there yet."""
    done = {(r.get("attack"), r.get("model"), r["batch"], r.get("defence", "none"), r["seed"]) for r in rows}
    asked = [("peeling", name, 1, defence) for name, defence in (*PEELED, *BEYOND)]
    asked += [("label_counts", name, batch, "none") for name, batch in product(COUNTED, COUNTED_BATCHES)]
    asked += [
        (attack, victim, batch, "none")
        for batch, (attack, victim) in product(given.sizes, IN_BATCHES.items())
        if in_batch(attack, batch)
    ]
    return [
        f"{attack} on {model}, batch {batch}, {defence}, seed {seed}"
        for (attack, model, batch, defence), seed in product(asked, given.seeds)
        if attack in given.parts and (attack, model, batch, defence, seed) not in done
    ]


def in_batch(attack: str, batch: int) -> bool:
    """Whether an attack is measured on batches of this size."""
    return attack != "low_rank" or batch in (2, 4, 8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--gradients", type=int, default=20, help="per weight seed, of one image each")
    parser.add_argument("--beyond", type=int, default=5, help="the same where peeling is not exact, or defended")
    parser.add_argument("--batches", type=int, default=7, help="per weight seed and batch size")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=[1, 2, 4, 8, 16], help="batches of a first linear layer"
    )
    parser.add_argument("--out", type=Path, default=Path("results/exact_attacks.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data = load("cifar10", data_root(arguments.data_root), {})
    images, labels = data.test.images(), data.test.labels
    public = Images(data.train.images(slice(0, 2000)))
    rows: list[Row] = []

    def add(row: dict[str, Any]) -> None:
        rows.append(row)
        print({key: value for key, value in row.items() if key != "psnr"}, flush=True)
        left = missing(arguments, rows)
        write(arguments.out, rows, settings=options(arguments), seeds=arguments.seeds, missing=left, threads=1)

    # what is exact first, for all weights: a run that is cut short still has that
    peeled = [*((*case, arguments.gradients) for case in PEELED), *((*case, arguments.beyond) for case in BEYOND)]
    for name, defence, count in peeled if "peeling" in arguments.parts else ():
        for seed in arguments.seeds:
            model = MODELS[name](subseed(seed, "weights"))
            seen, truths = observed(model, images, labels, 1, count, seed)
            shared = {"attack": "peeling", "model": name, "batch": 1, "seed": seed, "defence": defence}
            add(shared | images_row(Peeling(), defended(seen, DEFENCES[defence], seed), truths, seed))
            if (name, defence) == PEELED[0]:
                for row in control_rows(public.inputs, truths, seed):
                    add({"batch": 1, "seed": seed} | row)
    read = COUNTED if "label_counts" in arguments.parts else ()
    for name, batch, seed in product(read, COUNTED_BATCHES, arguments.seeds):
        model = MODELS[name](subseed(seed, "weights"))
        seen, truths = observed(model, images, labels, batch, arguments.batches, seed)
        for prior, own in (("power law", None), ("public", public)):
            shared = {"attack": "label_counts", "model": name, "batch": batch, "seed": seed, "prior": prior}
            add(shared | counts_row([replace(each, public=own) for each in seen], truths, seed))
    for batch, seed, (attack, victim) in product(arguments.sizes, arguments.seeds, IN_BATCHES.items()):
        if attack not in arguments.parts or not in_batch(attack, batch):
            continue
        model = MODELS[victim](subseed(seed, "weights"))
        seen, truths = observed(model, images, labels, batch, arguments.batches, seed)
        shared = {"attack": attack, "model": victim, "batch": batch, "seed": seed}
        add(shared | images_row(ATTACKS.configure(attack, {}), seen, truths, seed))


if __name__ == "__main__":
    main()
