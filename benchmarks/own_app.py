"""What the audit reads in messages of the example app `notebooks/own_app`, by the images and local steps behind them.

    python -m benchmarks.own_app --data-root DATA --out results/own_app.json

One client with CIFAR-10 images and the app's own `Net` with fresh weights trains by the app's own `train`; the audit
gets what a server has, and 2000 further images as an adversary's own. Called again with the same `--out` it goes on
where it stopped.
"""

import argparse
import json
import math
import os
import sys
import tempfile
from dataclasses import replace
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any

import torch

from benchmarks.record import options, write
from benchmarks.table_parts import Row
from fl_privacy.seeding import stream
from fl_privacy.simulations import audit

FOLDER = Path(__file__).parent.parent / "notebooks" / "own_app"
FIRST, LAST = 10_000, 50_000  # the client's images are drawn from these; the adversary owns the first 2000


def message(task: Any, count: int, steps: int, seed: int) -> tuple[Any, ...]:
    """A client's images, labels, the weights that it got and those that it sends; `steps` epochs of one batch each."""
    images, labels = task.all_images()
    if len(labels) < LAST:
        raise SystemExit("this measures on CIFAR-10: give its folder as --data-root")
    mine = FIRST + torch.randperm(LAST - FIRST, generator=stream(seed, "own_app"))[:count]
    torch.manual_seed(seed)
    net = task.Net()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    task.train(net, images[mine], labels[mine], epochs=steps, lr=0.01, momentum=0.9, batch_size=count)
    return images[mine], labels[mine], before, dict(net.state_dict())


def measured(task: Any, count: int, steps: int, seed: int, given: argparse.Namespace) -> list[Row]:
    """A row an attack and a control."""
    images, labels, before, after = message(task, count, steps, seed)
    with tempfile.TemporaryDirectory() as folder:
        report = audit(
            before,
            new_weights=after,
            model=task.Net,
            shape=(3, 32, 32),
            classes=10,
            images=count,
            local=replace(task.LOCAL, epochs=steps, batch_size=count),
            public="cifar10",
            truth=(images, labels),
            attacks=given.attacks,
            minutes=given.minutes,
            seed=seed,
            out=Path(folder) / "audit",
            data_root=given.data_root,
        ).report
    cell = {"images": count, "steps": steps, "seed": seed}
    rows = [{**cell, **_scores(each["scores"]), **_facts(each)} for each in report["attacks"]]
    return rows + [{**cell, **_scores(each), "control": name} for name, each in report["controls"].items()]


def _scores(scores: dict[str, Any] | None) -> Row:
    found = {name: (scores or {}).get(name) for name in ("psnr", "ssim", "label_accuracy", "loss_at_truth")}
    for name in ("psnr", "ssim"):  # of an attack that reads labels alone there are none, and JSON has no NaN
        if any(math.isnan(value) for value in found[name] or ()):
            found[name] = None
    return found


def _facts(row: dict[str, Any]) -> Row:
    return {name: row[name] for name in ("attack", "loss", "unexplained", "seconds", "reason")}


def missing(given: argparse.Namespace, rows: list[Row]) -> list[str]:
    """What was asked for and has no row yet."""
    done = {(row["images"], row["steps"], row["seed"]) for row in rows}
    asked = product(given.seeds, given.steps, given.images)
    return [f"{n} images, {steps} steps, seed {seed}" for seed, steps, n in asked if (n, steps, seed) not in done]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 2, 5])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--attacks", nargs="+", default=["label_counts", "peeling", "map"])
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    os.environ["FL_PRIVACY_DATA"] = str(given.data_root)
    sys.path.insert(0, str(FOLDER))
    torch.set_num_threads(1)
    task = import_module("own_app.task")
    rows: list[Row] = json.loads(given.out.read_text())["rows"] if given.out.exists() else []
    done = {(row["images"], row["steps"], row["seed"]) for row in rows}
    for seed, steps, count in product(given.seeds, given.steps, given.images):
        if (count, steps, seed) not in done:
            rows += measured(task, count, steps, seed, given)
            seeds = sorted({row["seed"] for row in rows})
            write(given.out, rows, settings=options(given), seeds=seeds, missing=missing(given, rows))
            print(count, steps, seed, "done", flush=True)


if __name__ == "__main__":
    main()
