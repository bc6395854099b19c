"""Batches of real images from one undefended gradient: MAP by descent, split by whose label is shared.

    python -m benchmarks.batches --data-root DATA --parts table --seeds 1 --batches 7 --out results/batches_seed1.json

Victims of batch 8 are those of `benchmarks.grnn_quality` (its `--gradients 7`), whose rows are GRNN's on the same
gradients; `long` has four times the iterations of L-BFGS. Cases that the file has from the same settings are not
measured again, so that a run can be cut short. The settings were chosen on weights and images of other seeds.
"""

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.grnn_quality import observed
from benchmarks.record import options, write
from benchmarks.table_parts import Row
from fl_privacy.attacks.base import Attack
from fl_privacy.attacks.gradient.map import MaximumAPosteriori
from fl_privacy.attacks.gradient.peeling import Peeling
from fl_privacy.data import DataSet, data_root, load
from fl_privacy.evaluation import Truth, align, controls, interval
from fl_privacy.metrics import psnr
from fl_privacy.models import build_model
from fl_privacy.observation import Images, Observation, Reconstruction
from fl_privacy.seeding import stream, subseed

CURVE = {1: (4, 1, 0), 4: (2, 120, 300), 8: (1, 120, 300), 16: (1, 120, 200), 32: (1, 120, 150), 64: (1, 100, 60)}
CURVE |= {128: (1, 80, 30), 256: (1, 60, 15)}
"""By batch: gradients, and iterations of Adam and of L-BFGS. A single image is peeled."""


def cases(names: Sequence[str], seeds: Sequence[int], batches: int) -> list[tuple[Row, int, Attack]]:
    """What is measured: the row's key, how many gradients, and the attack."""
    found: list[tuple[Row, int, Attack]] = []
    for name in names:
        for seed in seeds:
            if name == "table":
                key = {"part": name, "dataset": "cifar10", "batch": 8, "seed": seed}
                found.append((key, batches, MaximumAPosteriori(restarts=1, grnn=200, lbfgs=500)))
                key = {"part": name, "dataset": "cifar10", "batch": 16, "seed": seed}
                found.append((key, 1, MaximumAPosteriori(restarts=1, grnn=200, lbfgs=500)))
            elif name == "long":
                key = {"part": name, "dataset": "cifar10", "batch": 8, "seed": seed}
                found.append((key, batches, MaximumAPosteriori(restarts=1, grnn=200, lbfgs=2000)))
            elif seed == seeds[0]:
                for batch, (count, adam, lbfgs) in CURVE.items():
                    key = {"part": name, "dataset": name, "batch": batch, "seed": seed}
                    search = MaximumAPosteriori(restarts=1, adam=adam, lbfgs=lbfgs)
                    found.append((key, count, Peeling() if batch == 1 else search))
    return found


def measure(attack: Attack, seen: Sequence[Observation], truths: Sequence[Truth], seed: int) -> Row:
    """How close the images came, those whose label another one shares apart, and what a gradient cost."""
    cpu = time.process_time()
    guesses = attack(seen, stream(seed, "attack"))
    cpu = time.process_time() - cpu
    values = [psnr(in_order(g, t), t.inputs).tolist() for g, t in zip(guesses, truths, strict=True)]
    shared = [(t.labels[:, None] == t.labels).sum(1) > 1 for t in truths]
    pooled = [value for batch in values for value in batch]
    alone = [v for batch, those in zip(values, shared, strict=True) for v, s in zip(batch, those, strict=True) if not s]
    right = [same_labels(guess, truth) for guess, truth in zip(guesses, truths, strict=True)]
    return {
        "images": len(pooled),
        "psnr_median": statistics.median(pooled),
        "psnr_worst": min(pooled),
        "psnr_mean_95": interval(pooled, seed),
        "labels_right": statistics.fmean(right),
        "loss_at_guess": statistics.median(guess.loss for guess in guesses),
        "loss_at_truth": statistics.median(
            attack.loss(each, truth.inputs, truth.labels) for each, truth in zip(seen, truths, strict=True)
        ),
        "cpu_seconds_a_gradient": cpu / len(seen),
        "iterations": guesses[0].iterations,
        "psnr_unique": [round(value, 2) for value in alone],
        "psnr": [[round(value, 2) for value in batch] for batch in values],
        "shared": [those.tolist() for those in shared],
    }


def blind_rows(data: DataSet, truths: Sequence[Truth], seed: int) -> list[Row]:
    """The controls: another image, the mean image, and the mean of the class, by which the labels alone count."""
    public = Images(data.train.images(slice(0, 2000)), data.train.labels[:2000])
    found = controls(public, truths, data.classes, stream(seed, "controls"), class_is_read=True)
    rows = []
    for name, guesses in found.items():
        values = [v for g, t in zip(guesses, truths, strict=True) for v in psnr(in_order(g, t), t.inputs).tolist()]
        rows.append({"attack": f"control: {name}", "psnr_median": statistics.median(values), "psnr_worst": min(values)})
    return rows


def in_order(guess: Reconstruction, truth: Truth) -> torch.Tensor:
    inputs = align(guess, truth).inputs
    assert inputs is not None
    return inputs


def same_labels(guess: Reconstruction, truth: Truth) -> bool:
    """Whether the labels of a batch were read, in any order."""
    return guess.labels is not None and torch.equal(guess.labels.sort().values, truth.labels.sort().values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--parts", nargs="+", default=["table", "long", "mnist", "cifar10"])
    parser.add_argument("--batches", type=int, default=7, help="of batch 8 per weight seed")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("results/batches.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[Row] = json.loads(arguments.out.read_text())["rows"] if arguments.out.exists() else []
    loaded: dict[str, DataSet] = {}
    for key, count, attack in cases(arguments.parts, arguments.seeds, arguments.batches):
        case = key | {"attack": str(attack), "gradients": count}
        if any(all(row.get(name) == value for name, value in case.items()) for row in rows):
            continue
        name, seed = key["dataset"], key["seed"]
        if name not in loaded:
            settings = {"size": 32} if name == "mnist" else {}
            loaded[name] = load(name, data_root(arguments.data_root), settings)
        data = loaded[name]
        model = build_model("lenet_dlg", data.image_shape, data.classes, subseed(seed, "weights"), {"init": "wide"})
        seen, truths = observed(model, data.test.images(), data.test.labels, key["batch"], count, seed)
        rows.append(case | measure(attack, seen, truths, seed))
        print({name: value for name, value in rows[-1].items() if name not in ("psnr", "shared")}, flush=True)
        rows += [key | row for row in blind_rows(data, truths, seed)]
        write(arguments.out, rows, settings=options(arguments), seeds=arguments.seeds, threads=1)


if __name__ == "__main__":
    main()
