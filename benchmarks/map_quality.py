"""MAP against noise on the gradient: by prior, beside GRNN on the same gradients, the controls and the bound.

    python -m benchmarks.map_quality --data-root DATA --out results/map_quality.json

Victims are test images, public images training images of the same set. Nothing was tuned on these victims' truths but
what the results say: the settings are the attack's defaults.
"""

import argparse
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.record import options, write
from fl_privacy.attacks.base import Attack
from fl_privacy.attacks.gradient.bound import bound_psnr, posterior_error
from fl_privacy.attacks.gradient.grnn import GRNN
from fl_privacy.attacks.gradient.likelihood import likelihood
from fl_privacy.attacks.gradient.map import MaximumAPosteriori
from fl_privacy.attacks.inversion.priors import Prior, public
from fl_privacy.data import DataSet, data_root, load
from fl_privacy.defences import chain
from fl_privacy.evaluation import Truth, align, interval
from fl_privacy.federated.client import gradient
from fl_privacy.metrics import psnr
from fl_privacy.models import build_model
from fl_privacy.observation import ChannelName, Images, Observation, Reconstruction, Spec
from fl_privacy.seeding import stream, subseed

CASES: dict[str, tuple[dict[str, Any], int, tuple[float, ...]]] = {
    "digits": ({"size": 32}, 1437, (0.03, 0.1, 0.3, 1.0)),
    "cifar10": ({}, 8000, (0.01, 0.03, 0.1)),
}
"""Settings of the data set, how many public images, scales of the noise."""
LAWS = {"gaussian_noise": 1.0, "laplace_noise": 0.5**0.5}
"""Names of laws, with the setting that gives them a deviation of 1."""


def victims(
    data: DataSet, law: str, deviation: float, count: int, seed: int, owned: Images
) -> tuple[list[Observation], list[Truth]]:
    """`count` gradients of one image each on a fresh tanh network, the clients' noise on them, its law known."""
    model = build_model("convnet", data.image_shape, data.classes, subseed(seed, "weights"), {})
    order = torch.randperm(len(data.test), generator=stream(seed, "victims"))[:count]
    known = chain([{"name": law, "scale": deviation * LAWS[law]}])
    spec = Spec(image_shape=data.image_shape, classes=data.classes, batch_size=1)
    seen, truths = [], []
    for client, index in enumerate(order.tolist()):
        truth = Truth(data.test.images(slice(index, index + 1)), data.test.labels[index : index + 1])
        payload, _ = gradient(model, truth.inputs, truth.labels)
        released = known.on_release(payload, subseed(seed, law, str(deviation), client))
        seen.append(
            Observation(
                channel=ChannelName.GRADIENT,
                payload=released,
                spec=spec,
                round=1,
                client=client,
                model=model,
                public=owned,
                defence=known,
            )
        )
        truths.append(truth)
    return seen, truths


def scored(guesses: Sequence[Reconstruction], truths: Sequence[Truth], seed: int) -> dict[str, Any]:
    """One row's decibels."""
    values = []
    for guess, truth in zip(guesses, truths, strict=True):
        inputs = align(guess, truth).inputs
        assert inputs is not None
        values += psnr(inputs, truth.inputs).tolist()
    return {
        "images": len(values),
        "psnr_mean": statistics.fmean(values),
        "psnr_mean_95": interval(values, seed),
        "psnr_median": statistics.median(values),
        "psnr_worst": min(values),
    }


def measure(attack: Attack, seen: list[Observation], truths: list[Truth], seed: int) -> dict[str, Any]:
    """One row: what the attack reached, and what it cost beside fitting its prior."""
    cpu = time.process_time()
    guesses = attack(seen, stream(seed, "attack"))
    cpu = time.process_time() - cpu
    right = [
        guess.labels is not None and bool((guess.labels == truth.labels).all())
        for guess, truth in zip(guesses, truths, strict=True)
    ]
    return {**scored(guesses, truths, seed), "label_accuracy": statistics.fmean(right), "cpu_seconds": cpu / len(seen)}


def control_rows(owned: Images, truths: list[Truth], seed: int) -> list[dict[str, Any]]:
    """The mean public image, and the mean of the public images of the victim's class: what a label alone gives."""
    assert owned.labels is not None
    mean, labels = owned.inputs.mean(0, keepdim=True), owned.labels
    means = [owned.inputs[labels == int(truth.labels)].mean(0, keepdim=True) for truth in truths]
    return [
        {"attack": "control: mean image", **scored([Reconstruction(inputs=mean)] * len(truths), truths, seed)},
        {"attack": "control: class mean", **scored([Reconstruction(inputs=each) for each in means], truths, seed)},
    ]


def bound_row(prior: Prior, seen: list[Observation], truths: list[Truth], seed: int) -> dict[str, Any]:
    """The posterior's expected error, linearised at the truth, under the prior of the public images."""
    images, labels = (torch.stack(list(each)) for each in zip(*((t.inputs, t.labels) for t in truths), strict=True))
    cpu = time.process_time()
    error = posterior_error(likelihood(seen), prior.of(labels), images, labels, stream(seed, "bound"))
    cpu = time.process_time() - cpu
    values = bound_psnr(error).flatten().tolist()
    return {"attack": "bound: public", "psnr_mean": statistics.fmean(values), "cpu_seconds": cpu / len(seen)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--datasets", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--laws", nargs="+", default=list(LAWS), choices=list(LAWS))
    parser.add_argument("--victims", type=int, default=16, help="per weight seed")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--grnn", type=int, default=400, help="iterations of GRNN on the digits; 0 leaves it out")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for name in arguments.datasets:
        settings, count, deviations = CASES[name]
        data = load(name, data_root(arguments.data_root), settings)
        owned = Images(data.train.images(slice(0, count)), data.train.labels[:count])
        prior = public(owned.inputs)
        attacks = _attacks(name, arguments.grnn)
        seen, _ = victims(data, "gaussian_noise", 1.0, 1, 0, owned)
        ready = {label: attack.prepare(seen, stream(0, "prepare")) for label, attack in attacks.items()}
        for seed in arguments.seeds:
            for law, deviation in [(law, each) for law in arguments.laws for each in deviations]:
                seen, truths = victims(data, law, deviation, arguments.victims, seed, owned)
                shared = {"dataset": name, "law": law, "deviation": deviation, "seed": seed}
                new = [
                    {"attack": label, **measure(attack, seen, truths, seed)}
                    for label, attack in ready.items()
                    if law == "gaussian_noise" or label.startswith("map, public")
                ]
                if name == "cifar10":
                    new.append(bound_row(prior, seen, truths, seed))
                rows += [shared | row for row in new + control_rows(owned, truths, seed)]
                print(shared, {row["attack"]: round(row["psnr_mean"], 2) for row in new}, flush=True)
                write(arguments.out, rows, settings=options(arguments), seeds=arguments.seeds, threads=1)


def _attacks(dataset: str, iterations: int) -> dict[str, Attack]:
    made: dict[str, Attack] = {
        "map, no data": MaximumAPosteriori(),
        "map, public": MaximumAPosteriori(prior="public"),
    }
    if dataset == "digits":
        made["map, public by class"] = MaximumAPosteriori(prior="public_by_class")
        if iterations:
            made["grnn"] = GRNN(iterations=iterations)
    return made


if __name__ == "__main__":
    main()
