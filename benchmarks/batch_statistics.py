"""Batch normalisation in training mode, where a client sends its running statistics with its update and where not.

    python -m benchmarks.batch_statistics --data-root DATA --out results/batch_statistics.json

CIFAR-10 at 16x16 pixels and the convnet of `benchmarks.what_leaks` with batch normalisation and ReLU, fresh and after
ten rounds of a small federation; one step on one image, or on four. The attacker is `best` without its generators, owns
700 labelled images and knows the momentum. Both rows of a case are of the same updates: in one the buffers are left
out, as where clients keep them to themselves (FedBN) or share gradients. One thread.
"""

import argparse
import json
import statistics
import time
from dataclasses import replace
from itertools import product
from pathlib import Path

import torch
from torch import nn

from benchmarks.batches import in_order, same_labels
from benchmarks.record import options, write
from benchmarks.table_parts import Row
from benchmarks.what_leaks import CASES, CLASSES, SHAPE, SIDE, trained
from fl_privacy.attacks.gradient.best import Best
from fl_privacy.attacks.gradient.simulated import simulated_client
from fl_privacy.data import DataSet, data_root, load
from fl_privacy.evaluation import Truth, controls, interval
from fl_privacy.metrics import psnr
from fl_privacy.observation import ChannelName, Images, LocalTraining, Observation, Reconstruction, Spec
from fl_privacy.seeding import stream, subseed

NETWORKS = {"fresh": "batch norm, training mode", "after round 10": "batch norm, training mode, after round 10"}
BATCHES = (1, 4)


def updates(
    model: nn.Module, data: DataSet, owned: Images, batch: int, count: int, seed: int
) -> tuple[list[Observation], list[Truth]]:
    """One step each on `batch` images of the test set, sent with all buffers."""
    spec = Spec(image_shape=SHAPE, classes=CLASSES, batch_size=batch, local=LocalTraining(learning_rate=0.1))
    blank = Observation(
        channel=ChannelName.UPDATE,
        payload={name: value.detach() for name, value in model.named_parameters()},
        spec=spec,
        round=1,
        client=0,
        model=model.train(),
        public=owned,
    )
    client, seen, truths = simulated_client(blank), [], []
    order = torch.randperm(len(data.test), generator=stream(seed, "victims"))[: count * batch]
    images, labels = data.test.images(), data.test.labels
    for each, index in enumerate(torch.split(order, batch)):
        truths.append(Truth(images[index], labels[index]))
        seen.append(replace(blank, payload=client(images[index], labels[index], subseed(seed, each)), client=each))
    return seen, truths


def without_statistics(seen: Observation) -> Observation:
    return replace(seen, payload={n: value for n, value in seen.payload.items() if "running" not in n})


def row_of(guesses: list[Reconstruction], truths: list[Truth], seed: int) -> Row:
    values: list[float] = []
    for guess, truth in zip(guesses, truths, strict=True):
        values += psnr(in_order(guess, truth), truth.inputs).tolist()
    return {
        "images": len(values),
        "psnr_median": statistics.median(values),
        "psnr_worst": min(values),
        "psnr_mean": statistics.fmean(values),
        "psnr_mean_95": interval(values, seed),
        "psnr": [round(value, 2) for value in values],
    }


def measure(seen: list[Observation], truths: list[Truth], seed: int) -> Row:
    """What `best` reached, and by which members."""
    start = time.process_time()
    attack = Best(members=("label_counts", "peeling", "map"), grnn_iterations=0).prepare(seen, stream(seed, "prepare"))
    guesses = attack(seen, stream(seed, "attack"))
    spent = (time.process_time() - start) / len(seen)
    right = [same_labels(guess, truth) for guess, truth in zip(guesses, truths, strict=True)]
    return {
        **row_of(guesses, truths, seed),
        "winners": sorted({guess.winner for guess in guesses}),
        "labels_right": statistics.fmean(right),
        "cpu_seconds_a_message": spent,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--messages", type=int, default=4, help="per weight seed and case")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("results/batch_statistics.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data = load("cifar10", data_root(arguments.data_root), {"size": SIDE})
    owned = Images(data.train.images(slice(0, 700)), data.train.labels[:700])
    rows: list[Row] = json.loads(arguments.out.read_text())["rows"] if arguments.out.exists() else []
    for seed, network, batch in product(arguments.seeds, NETWORKS, BATCHES):
        key: Row = {"network": network, "batch": batch, "seed": seed, "messages": arguments.messages}
        if any(all(row.get(name) == value for name, value in key.items()) for row in rows):
            continue
        build, _, rounds = CASES[NETWORKS[network]]
        model = build(seed)
        trained(model, data, rounds, seed)
        seen, truths = updates(model, data, owned, batch, arguments.messages, seed)
        sent, kept = measure(seen, truths, seed), measure([without_statistics(each) for each in seen], truths, seed)
        blind = controls(owned, truths, CLASSES, stream(seed, "controls"), class_is_read=True)
        rows += [{**key, "attack": "best", "statistics": True, **sent}]
        rows += [{**key, "attack": "best", "statistics": False, **kept}]
        rows += [{**key, "attack": f"control: {name}", **row_of(found, truths, seed)} for name, found in blind.items()]
        print(key, sent["psnr"], kept["psnr"], flush=True)
        write(arguments.out, rows, settings=options(arguments), seeds=arguments.seeds, threads=1)


if __name__ == "__main__":
    main()
