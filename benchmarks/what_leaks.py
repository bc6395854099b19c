"""What is recovered of undefended gradients and what is not, by network and training, with the posterior bound beside.

    python -m benchmarks.what_leaks --data-root DATA --out results/what_leaks.json
    python -m benchmarks.what_leaks --data-root DATA --trained --out results/what_leaks_trained.json

CIFAR-10 at 16x16 pixels, one image a gradient, victims from the test set, public images from the training set. The
attacker is `best` with `label_counts`, `peeling` and `map`, no generator. The bound is linearised at the truth, whole,
for float32 rounding: what of the image the gradient determines at all. Trained weights are those of a small federation
of ten clients after so many rounds of averaging. One thread.
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.map_quality import control_rows, scored
from benchmarks.record import options, write
from benchmarks.table_parts import Row
from fl_privacy.attacks.gradient.best import Best
from fl_privacy.attacks.gradient.bound import bound_psnr, posterior_error
from fl_privacy.attacks.gradient.likelihood import likelihood
from fl_privacy.attacks.gradient.simulated import simulated_client
from fl_privacy.attacks.inversion.priors import public
from fl_privacy.data import DataSet, data_root, load
from fl_privacy.evaluation import Truth
from fl_privacy.federated.aggregation import weighted_mean
from fl_privacy.federated.client import accuracy, calibrate
from fl_privacy.federated.local_training import train_locally
from fl_privacy.models import build_model
from fl_privacy.observation import ChannelName, Images, LocalTraining, Observation, Spec
from fl_privacy.seeding import seeded, stream, subseed

SIDE = 16
SHAPE, CLASSES = (3, SIDE, SIDE), 10
CLIENTS, OWNED = 10, 200
LOCAL = LocalTraining(batch_size=20, learning_rate=0.05)


class Attention(nn.Module):
    """A small vision transformer: patches of 4 pixels, two blocks of attention, the mean of the patches."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, stride=4)
        self.place = nn.Parameter(0.02 * torch.randn(1, (SIDE // 4) ** 2, width))
        layers = [nn.TransformerEncoderLayer(width, 4, 2 * width, 0.0, "gelu", batch_first=True) for _ in range(2)]
        self.blocks = nn.Sequential(*layers)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.blocks(self.patches(x).flatten(2).mT + self.place).mean(1))
        return out


def convnet(activation: str) -> Callable[[int], nn.Module]:
    return lambda seed: build_model("convnet", SHAPE, CLASSES, subseed(seed, "weights"), {"activation": activation})


def drawn(build: Callable[[], nn.Module]) -> Callable[[int], nn.Module]:
    """A module of this file with weights from a seed."""

    def make(seed: int) -> nn.Module:
        with seeded(seed, "what_leaks"):
            return build()

    return make


def normalised() -> nn.Module:
    """The convnet with batch normalisation after each convolution, and ReLU."""
    body = [nn.Conv2d(3, 8, 5, 2, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 5, 2, 2), nn.BatchNorm2d(16)]
    return nn.Sequential(*body, nn.ReLU(), nn.Flatten(), nn.Linear(16 * (SIDE // 4) ** 2, CLASSES))


def dropped() -> nn.Module:
    """The convnet with tanh and dropout of .3 before its head: its mask is not known."""
    body = [nn.Conv2d(3, 8, 5, 2, 2), nn.Tanh(), nn.Conv2d(8, 16, 5, 2, 2), nn.Tanh(), nn.Flatten(), nn.Dropout(0.3)]
    return nn.Sequential(*body, nn.Linear(16 * (SIDE // 4) ** 2, CLASSES))


def frozen(seed: int) -> nn.Module:
    """The tanh convnet of which the head alone is trained."""
    model = convnet("tanh")(seed)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("head."))
    return model


CASES: dict[str, tuple[Callable[[int], nn.Module], str, int]] = {
    "convnet, tanh": (convnet("tanh"), "train", 0),
    "convnet, ReLU": (convnet("relu"), "train", 0),
    "frozen backbone, head trained": (frozen, "train", 0),
    "dropout .3, mask unknown": (drawn(dropped), "train", 0),
    "batch norm, training mode": (drawn(normalised), "train", 0),
    "batch norm, eval mode, statistics of public images": (drawn(normalised), "eval", 0),
    "attention": (drawn(Attention), "train", 0),
    "ResNet-18 of width 4": (lambda seed: build_model("resnet18", SHAPE, CLASSES, seed, {"width": 4}), "eval", 0),
    "convnet, ReLU, after round 1": (convnet("relu"), "train", 1),
    "convnet, ReLU, after round 10": (convnet("relu"), "train", 10),
    "convnet, ReLU, after round 100": (convnet("relu"), "train", 100),
    "batch norm, eval mode, after round 10": (drawn(normalised), "eval", 10),
    "batch norm, eval mode, after round 100": (drawn(normalised), "eval", 100),
    "batch norm, training mode, after round 10": (drawn(normalised), "train", 10),
    "ResNet-18 of width 4, after round 10": (
        lambda seed: build_model("resnet18", SHAPE, CLASSES, seed, {"width": 4}),
        "eval",
        10,
    ),
}
"""How a network is made, the mode in which clients run it, and the rounds for which it was trained."""


def trained(model: nn.Module, data: DataSet, rounds: int, seed: int) -> None:
    """Train in place: every round each of ten clients goes once over its own images, and their weights are averaged."""
    for step in range(rounds):
        start, sent = {name: value.clone() for name, value in model.state_dict().items()}, []
        for client in range(CLIENTS):
            model.load_state_dict(start)
            index = slice(10000 + client * OWNED, 10000 + (client + 1) * OWNED)
            order = stream(seed, "order", step, client)
            train_locally(model, data.train.images(index), data.train.labels[index], LOCAL, order)
            sent.append({name: value.clone() for name, value in model.state_dict().items()})
        model.load_state_dict(weighted_mean(sent, [1.0] * CLIENTS))


def victims(
    model: nn.Module, mode: str, data: DataSet, owned: Images, count: int, seed: int
) -> tuple[list[Observation], list[Truth]]:
    """Gradients of one test image each, as the clients compute them."""
    # a gradient's modules run in the mode of the model; a message in eval mode has all of them there
    model.train(mode == "train")
    local = LocalTraining(mode="eval" if mode == "eval" else "train")
    blank = Observation(
        channel=ChannelName.GRADIENT,
        payload={name: value.detach() for name, value in model.named_parameters() if value.requires_grad},
        spec=Spec(image_shape=SHAPE, classes=CLASSES, batch_size=1, local=local),
        round=1,
        client=0,
        model=model,
        public=owned,
    )
    client, seen, truths = simulated_client(blank), [], []
    order = torch.randperm(len(data.test), generator=stream(seed, "victims"))[:count]
    for each, index in enumerate(order.tolist()):
        truth = Truth(data.test.images(slice(index, index + 1)), data.test.labels[index : index + 1])
        seen.append(replace(blank, payload=client(truth.inputs, truth.labels, subseed(seed, each)), client=each))
        truths.append(truth)
    return seen, truths


def measure(seen: list[Observation], truths: list[Truth], seed: int) -> Row:
    """What `best` reached, by which member, and what could be known."""
    attack, start = Best(members=("label_counts", "peeling", "map"), grnn_iterations=0), time.process_time()
    guesses = attack.prepare(seen, stream(seed, "prepare"))(seen, stream(seed, "attack"))
    spent = (time.process_time() - start) / len(seen)
    assert seen[0].public is not None
    images, labels = (torch.stack(list(each)) for each in zip(*((t.inputs, t.labels) for t in truths), strict=True))
    prior = public(seen[0].public.inputs).of(labels)
    bound = bound_psnr(posterior_error(likelihood(seen), prior, images, labels, stream(seed, "bound"), dense=SIZE))
    right = [
        guess.labels is not None and torch.equal(guess.labels, t.labels)
        for guess, t in zip(guesses, truths, strict=True)
    ]
    return {
        "attack": "best",
        **scored(guesses, truths, seed),
        "winners": sorted({guess.winner for guess in guesses}),
        "bound_mean": statistics.fmean(bound.flatten().tolist()),
        "label_accuracy": statistics.fmean(right),
        "cpu_seconds": spent,
    }


SIZE = math.prod(SHAPE)


def chosen(given: argparse.Namespace) -> list[str]:
    """The cases of networks that were trained before, or of fresh ones."""
    return [name for name in given.cases if (CASES[name][2] > 0) == given.trained]


def missing(given: argparse.Namespace, rows: list[Row]) -> list[str]:
    """What was asked for and has no row yet."""
    done = {(row["case"], row["seed"]) for row in rows}
    asked = product(given.seeds, chosen(given))
    return [f"{case}, seed {seed}" for seed, case in asked if (case, seed) not in done]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--trained", action="store_true", help="those that were trained before, not the fresh ones")
    parser.add_argument("--victims", type=int, default=4, help="per weight seed")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("results/what_leaks.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data = load("cifar10", data_root(arguments.data_root), {"size": SIDE})
    owned = Images(data.train.images(slice(0, 700)), data.train.labels[:700])
    rows: list[Row] = []
    for seed in arguments.seeds:
        for name in chosen(arguments):
            build, mode, rounds = CASES[name]
            model = build(seed)
            trained(model, data, rounds, seed)
            if mode == "eval" and not rounds:
                calibrate(model.train(), owned.inputs)
            seen, truths = victims(model, mode, data, owned, arguments.victims, seed)
            right, _ = accuracy(model, data.test.images(slice(0, 1000)), data.test.labels[:1000])
            new = [measure(seen, truths, seed) | {"model_accuracy": right}, *control_rows(owned, truths, seed)]
            rows += [{"case": name, "seed": seed} | row for row in new]
            print(name, seed, {r["attack"]: round(r["psnr_mean"], 2) for r in new}, new[0]["bound_mean"], flush=True)
            left = missing(arguments, rows)
            write(arguments.out, rows, settings=options(arguments), seeds=arguments.seeds, missing=left, threads=1)


if __name__ == "__main__":
    main()
