"""GRNN as published against ours, on the same gradients of real CIFAR-10 images, at no more time for ours.

    python -m benchmarks.grnn_quality --data-root DATA --model lenet_grnn --out results/grnn_quality_lenet_grnn.json

The settings of ours were chosen on other images (the first 16 of the test set); these victims are drawn from the rest.
"""

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.record import options, write
from fl_privacy.attacks.base import Attack
from fl_privacy.attacks.gradient.grnn import GRNN, GRNNAsPublished
from fl_privacy.attacks.gradient.map import MaximumAPosteriori
from fl_privacy.data import data_root, load
from fl_privacy.evaluation import Truth, align, controls, interval, score
from fl_privacy.federated.client import gradient
from fl_privacy.metrics import psnr
from fl_privacy.models import build_model
from fl_privacy.observation import ChannelName, Images, Observation, Reconstruction, Spec
from fl_privacy.seeding import stream, subseed

TUNED_ON = 16


def victims(
    images: torch.Tensor, labels: torch.Tensor, model_name: str, batch: int, count: int, seed: int
) -> tuple[list[Observation], list[Truth]]:
    """`count` observations of `batch` images each, on weights drawn from `seed`."""
    model = build_model(model_name, (3, 32, 32), 10, subseed(seed, "weights"), {"init": "wide"})
    return observed(model, images, labels, batch, count, seed)


def observed(
    model: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor, batch: int, count: int, seed: int
) -> tuple[list[Observation], list[Truth]]:
    """`count` gradients of `model` of `batch` images each, drawn with `seed`, and what is behind them."""
    channels, height, width = images.shape[1:]
    spec = Spec(image_shape=(channels, height, width), classes=10, batch_size=batch)
    order = torch.randperm(len(images) - TUNED_ON, generator=stream(seed, "victims")) + TUNED_ON
    seen, truths = [], []
    for client in range(count):
        index = order[client * batch : (client + 1) * batch]
        payload, _ = gradient(model, images[index], labels[index])
        seen.append(
            Observation(channel=ChannelName.GRADIENT, payload=payload, spec=spec, round=1, client=client, model=model)
        )
        truths.append(Truth(images[index], labels[index]))
    return seen, truths


def measure(attack: Attack, seen: list[Observation], truths: list[Truth], seed: int) -> dict[str, Any]:
    """One row: what the attack reached on these gradients, and what it cost."""
    cpu, wall = time.process_time(), time.perf_counter()
    guesses = attack(seen, stream(seed, "attack"))
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    scores = [score(attack, *triple) for triple in zip(seen, guesses, truths, strict=True)]
    decibels = [value for s in scores for value in s.images["psnr"].tolist()]
    ssim = [value for s in scores for value in s.images["ssim"].tolist()]
    return {
        "iterations": guesses[0].iterations,
        "images": len(decibels),
        "psnr_median": statistics.median(decibels),
        "psnr_worst": min(decibels),
        "psnr_mean": statistics.fmean(decibels),
        "psnr_mean_95": interval(decibels, seed),
        "ssim_median": statistics.median(ssim),
        "label_accuracy": statistics.fmean(s.label_accuracy for s in scores),
        "loss_at_guess": statistics.median(s.loss_at_guess for s in scores),
        "loss_at_truth": statistics.median(s.loss_at_truth for s in scores),
        "cpu_seconds": cpu,
        "wall_seconds": wall,
        "psnr": [round(value, 2) for value in decibels],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--model", default="lenet_grnn", choices=["lenet_grnn", "lenet_dlg"])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--gradients", type=int, default=20, help="per weight seed")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--published", type=int, default=1000, help="published iterations; 0 leaves it out")
    parser.add_argument("--ours", type=int, default=1000, help="iterations of ours; 0 leaves it out")
    parser.add_argument("--map", type=int, default=0, help="outer steps of MAP; 0 leaves it out")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data = load("cifar10", data_root(arguments.data_root), {})
    images, labels = data.test.images(), data.test.labels
    attacks: dict[str, Attack] = {}
    if arguments.published:
        attacks["grnn_as_published"] = GRNNAsPublished(iterations=arguments.published)
    if arguments.ours:
        attacks["grnn"] = GRNN(iterations=arguments.ours, patience=0)
    if arguments.map:
        attacks["map"] = MaximumAPosteriori(outer=arguments.map)
    rows: list[dict[str, Any]] = []
    for seed in arguments.seeds:
        seen, truths = victims(images, labels, arguments.model, arguments.batch, arguments.gradients, seed)
        shared = {"model": arguments.model, "batch": arguments.batch, "seed": seed}
        for name, attack in attacks.items():
            rows.append(shared | {"attack": name} | measure(attack, seen, truths, seed))
            print({key: value for key, value in rows[-1].items() if key != "psnr"}, flush=True)
        rows += [shared | row for row in control_rows(data.train.images(slice(0, 2000)), truths, seed)]
        write(arguments.out, rows, settings=options(arguments), seeds=arguments.seeds, threads=1)


def control_rows(public: torch.Tensor, truths: list[Truth], seed: int) -> list[dict[str, Any]]:
    """The same scores for a random training image and for the mean training image."""
    rows = []
    for name, guesses in controls(Images(public), truths, 10, stream(seed, "controls")).items():
        values = [value for pair in zip(guesses, truths, strict=True) for value in decibels(*pair)]
        rows.append(
            {"attack": f"control: {name}", "psnr_median": statistics.median(values), "psnr_worst": min(values)}
            | {"psnr_mean": statistics.fmean(values), "psnr_mean_95": interval(values, seed), "images": len(values)}
        )
    return rows


def decibels(guess: Reconstruction, truth: Truth) -> list[float]:
    """The PSNR of every image of a control, in the truth's order."""
    images = align(guess, truth).inputs
    assert images is not None
    return psnr(images, truth.inputs).tolist()


if __name__ == "__main__":
    main()
