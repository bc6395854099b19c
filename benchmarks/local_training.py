"""Updates of local training, attacked as one gradient, as a gradient between the weights, and step by step.

    python -m benchmarks.local_training --data-root DATA --out results/local_training.json

Victims are test images of the digits; the attack is MAP without any data in all three cases. Rows are written as they
come, all seeds of a case before the next case.
"""

import argparse
import copy
import statistics
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.map_quality import scored
from benchmarks.record import options, write
from fl_privacy.attacks.gradient.label_recovery import LabelCounts
from fl_privacy.attacks.gradient.map import MaximumAPosteriori
from fl_privacy.attacks.gradient.surrogate import between
from fl_privacy.data import DataSet, data_root, load
from fl_privacy.evaluation import Truth, controls
from fl_privacy.federated.local_training import train_locally
from fl_privacy.metrics import label_accuracy
from fl_privacy.models import build_model
from fl_privacy.observation import ChannelName, Images, LocalTraining, Observation, Reconstruction, Spec
from fl_privacy.seeding import stream, subseed
from fl_privacy.weights import trainable

RATE = 0.1
CASES: dict[str, tuple[int, dict[str, Any]]] = {
    "5 steps": (4, {"epochs": 5}),
    "5 steps, momentum .9": (4, {"epochs": 5, "momentum": 0.9}),
    "2 epochs of 4 steps": (4, {"epochs": 2, "batch_size": 1}),
    "10 steps": (4, {"epochs": 10}),
    "2 steps": (4, {"epochs": 2}),
    "1 step": (4, {}),
    "5 steps, 1 image": (1, {"epochs": 5}),
    "5 steps, weight decay .01": (4, {"epochs": 5, "weight_decay": 0.01}),
    "1 epoch of 4 steps": (4, {"batch_size": 1}),
    "5 steps, Adam at .001": (4, {"epochs": 5, "optimiser": "adam", "learning_rate": 0.001}),
    "5 steps, 8 images": (8, {"epochs": 5}),
    "5 epochs of 2 steps": (4, {"epochs": 5, "batch_size": 2}),
    "5 steps, FedProx at 1": (4, {"epochs": 5, "proximal": 1.0}),
}
"""Images of a message, and what is not one plain step on all of them at a rate of .1."""
SEEN_AS = {"raw": 0.0, "surrogate": 0.5, "simulated": None}
"""Where between the weights an update counts as one gradient; None: it is simulated."""


def victims(
    data: DataSet, images: int, local: LocalTraining, count: int, seed: int
) -> tuple[list[Observation], list[Truth]]:
    """`count` updates of fresh tanh networks by clients with `images` test images each."""
    model = build_model("convnet", data.image_shape, data.classes, subseed(seed, "weights"), {})
    spec = Spec(image_shape=data.image_shape, classes=data.classes, batch_size=images, local=local)
    order = torch.randperm(len(data.test), generator=stream(seed, "victims"))
    seen, truths = [], []
    for client, index in enumerate(torch.split(order[: count * images], images)):
        truth, twin = Truth(data.test.images(index), data.test.labels[index]), copy.deepcopy(model)
        train_locally(twin, truth.inputs, truth.labels, local, stream(seed, "shuffle", client))
        before, after = trainable(model), trainable(twin)
        payload = {name: (after[name] - value).detach() for name, value in before.items()}
        seen.append(
            Observation(channel=ChannelName.UPDATE, payload=payload, spec=spec, round=1, client=client, model=model)
        )
        truths.append(truth)
    return seen, truths


def rows_of(seen: list[Observation], truths: list[Truth], data: DataSet, seed: int) -> Iterator[dict[str, Any]]:
    """One row an attack and control."""
    attack = MaximumAPosteriori(learn=0, outer=15, restarts=2)
    for name, share in SEEN_AS.items():
        if share == 0.5 and seen[0].spec.local.optimiser == "adam":
            continue  # its steps are no gradients
        shown = seen if share is None else [between(each, share) for each in seen]
        cpu = time.process_time()
        guesses = attack(shown, stream(seed, "attack"))
        cpu = (time.process_time() - cpu) / len(seen)
        read = labels_read(guesses, truths, data.classes)
        yield {"attack": f"map, {name}", **scored(guesses, truths, seed), "label_accuracy": read, "cpu_seconds": cpu}
        if share is not None:
            counted = LabelCounts()(shown, stream(seed, "labels"))
            yield {"attack": f"label_counts, {name}", "label_accuracy": labels_read(counted, truths, data.classes)}
    others = Images(data.train.images(slice(None)), data.train.labels)
    for name, blind in controls(others, truths, data.classes, stream(seed, "blind"), class_is_read=True).items():
        yield {"attack": f"control: {name}", **scored(blind, truths, seed)}


def labels_read(guesses: list[Reconstruction], truths: list[Truth], classes: int) -> float:
    """The share of labels that were read, as counts."""
    pairs = zip(guesses, truths, strict=True)
    return statistics.fmean(
        label_accuracy(guess.labels, truth.labels, classes) for guess, truth in pairs if guess.labels is not None
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--victims", type=int, default=2, help="messages per weight seed")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data = load("digits", data_root(arguments.data_root), {"size": 16})
    rows: list[dict[str, Any]] = []
    for case in arguments.cases:
        images, settings = CASES[case]
        local = replace(LocalTraining(learning_rate=RATE), **settings)
        for seed in arguments.seeds:
            seen, truths = victims(data, images, local, arguments.victims, seed)
            shared = {"case": case, "batch": images, "steps": local.steps_on(images), "seed": seed}
            for row in rows_of(seen, truths, data, seed):
                rows.append({**shared, **row})
                print(case, seed, row["attack"], row.get("psnr_median"), row.get("label_accuracy"), flush=True)
            write(arguments.out, rows, settings=options(arguments), seeds=arguments.seeds, threads=1)


if __name__ == "__main__":
    main()
