"""What split training itself gives away: labels by the gradients that come back, images to a server that steers.

    python -m benchmarks.split_training [--seeds 0 1 2] [--out results/split_training.json]

Embedded digits, 16x16, 1,000 of a client's own, 373 of the attacker's. `labels`: U-shaped training, in which the client
keeps its labels and the head and sends the gradients of the server's outputs, with Gaussian noise on them of so many
times their own root mean square. `hijack`: FSHA, in which the server steers the client's segment, plain and disguised
by a share of the honest gradient; the client scrutinises what it gets back, 20 mini-batches at a time.
"""

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from benchmarks.record import options, write
from benchmarks.table_parts import Row
from fl_privacy.attacks.activation.hijack import Hijacker
from fl_privacy.attacks.activation.returned_gradients import clusters_by_direction, labels_by_direction, loudness
from fl_privacy.data import load
from fl_privacy.defences.base import Chain
from fl_privacy.evaluation import interval
from fl_privacy.joint_training.detection import auroc
from fl_privacy.metrics import psnr
from fl_privacy.models import build_model
from fl_privacy.seeding import seeded, stream
from fl_privacy.split.cutting import rejoin
from fl_privacy.split.rules import SplitRules
from fl_privacy.split.scrutiny import label_agreement
from fl_privacy.split.segments import ClientSegment, Link, ServerSegment, client_step, segments

SHAPE, BATCH, OWN, RATE = (1, 16, 16), 32, 1000, 2e-3
EPOCHS, TOLD_OF = 12, (1, 6, 12)
NOISES = (0.0, 1.0, 4.0)
TASKS = {"ten digits": 10, "zero or not": 2}
STEPS, WINDOW, ATTACKED = 600, 20, 64
SERVERS: dict[str, float | None] = {"honest": None, "steering": 0.0, "steering, half disguised": 0.5}


class Overheard:
    """A link that keeps what the client sends back, after noise of `ratio` times its root mean square."""

    def __init__(self, inner: ServerSegment, ratio: float, rng: torch.Generator) -> None:
        self.inner, self.ratio, self.rng, self.heard = inner, ratio, rng, list[Tensor]()

    def step(self, activation: Tensor, labels: Tensor) -> tuple[Tensor, float]:
        return self.inner.step(activation, labels)

    def forward(self, activation: Tensor) -> Tensor:
        return self.inner.forward(activation)

    def backward(self, gradient: Tensor) -> Tensor:
        loud = self.ratio * gradient.square().mean().sqrt()
        self.heard.append(gradient + loud * torch.randn(gradient.shape, generator=self.rng))
        return self.inner.backward(self.heard[-1])


class Scrutinised:
    """A link whose client notes how much the gradients of one label agree."""

    def __init__(self, inner: Link) -> None:
        self.inner, self.agreements = inner, list[float]()

    def step(self, activation: Tensor, labels: Tensor) -> tuple[Tensor, float]:
        gradient, loss = self.inner.step(activation, labels)
        self.agreements.append(label_agreement(gradient, labels))
        return gradient, loss

    def forward(self, activation: Tensor) -> Tensor:
        return self.inner.forward(activation)

    def backward(self, gradient: Tensor) -> Tensor:
        return self.inner.backward(gradient)


def batches(count: int, seed: int, epoch: int) -> Sequence[Tensor]:
    order = torch.randperm(count, generator=stream(seed, "epoch", epoch))
    return torch.split(order[: count // BATCH * BATCH], BATCH)


@torch.no_grad()
def accuracy(client: ClientSegment, server: nn.Sequential, images: Tensor, labels: Tensor) -> float:
    model = rejoin(client.front, server, client.head).eval()
    hits = (model(images).argmax(1) == labels).float().mean()
    model.train()
    return float(hits)


def matched(found: Tensor, truth: Tensor, classes: int) -> float:
    """The share of groups' members that have their group's label, under the best names for the groups."""
    table = torch.zeros(classes, classes)
    table.index_put_((found, truth), torch.ones(len(found)), accumulate=True)
    rows, columns = linear_sum_assignment(-table.numpy())
    return float(table[rows, columns].sum()) / len(found)


def label_rows(task: str, ratio: float, seed: int) -> list[Row]:
    """One row an epoch: how many labels each attacker reads, and what guessing reads."""
    data, classes = load("digits", None, {"size": 16}), TASKS[task]
    named = [split.labels if classes == 10 else (split.labels == 0).long() for split in (data.train, data.test)]
    images, labels = data.train.images(slice(OWN)), named[0][:OWN]
    rules = SplitRules(cut=("conv1", "flatten"), labels="client", learning_rate=RATE)
    client, module = segments(build_model("convnet", SHAPE, classes, seed), rules)
    link, rows = Overheard(ServerSegment(module, rules), ratio, stream(seed, "noise")), []
    for epoch in range(1, EPOCHS + 1):
        order, link.heard = batches(OWN, seed, epoch), []
        for step, index in enumerate(order):
            client_step(client, images[index], labels[index], Chain(), link, seed + 1000 * epoch + step)
        if epoch in TOLD_OF:
            scored = accuracy(client, module, data.test.images(slice(None)), named[1])
            read = readings(torch.cat(link.heard), labels[torch.cat(list(order))], classes, seed)
            rows.append(
                {"part": "labels", "task": task, "noise": ratio, "epoch": epoch, "seed": seed, "accuracy": scored}
                | read
            )
    return rows


def readings(gradients: Tensor, labels: Tensor, classes: int, seed: int) -> Row:
    known = torch.tensor([int((labels == label).nonzero()[0]) for label in range(classes)])
    rest = torch.ones(len(labels), dtype=torch.bool)
    rest[known] = False
    groups = clusters_by_direction(gradients, classes, stream(seed, "clusters"))
    shuffled = labels[torch.randperm(len(labels), generator=stream(seed, "shuffled"))]
    row: Row = {
        "by_direction": float(
            (labels_by_direction(gradients[rest], gradients[known], labels[known]) == labels[rest]).float().mean()
        ),
        "by_group": matched(groups, labels, classes),
        "by_group_chance": matched(groups, shuffled, classes),
        "most_frequent": float(labels.bincount().max()) / len(labels),
    }
    if classes == 2:
        norms = loudness(gradients)
        row["by_norm_auroc"] = auroc(norms[labels == 0].tolist(), norms[labels == 1].tolist())
    return row


def hijacker(seed: int, public: Tensor, honest: ServerSegment, disguise: float) -> Hijacker:
    """The attacker's encoder has the client's architecture and other weights, as published."""
    with seeded(seed, "hijacker"):
        decoder = nn.Sequential(
            *(nn.Conv2d(16, 64, 3, 1, 1), nn.ReLU(), nn.Upsample(scale_factor=2)),
            *(nn.Conv2d(64, 32, 3, 1, 1), nn.ReLU(), nn.Upsample(scale_factor=2)),
            *(nn.Conv2d(32, 1, 3, 1, 1), nn.Sigmoid()),
        )
        critic = nn.Sequential(
            *(nn.Conv2d(16, 64, 3, 1, 1), nn.LeakyReLU(0.2), nn.Conv2d(64, 64, 3, 2, 1), nn.LeakyReLU(0.2)),
            *(nn.Flatten(), nn.Linear(256, 1)),
        )
    encoder, _ = segments(build_model("convnet", SHAPE, 10, seed + 1), SplitRules(cut=("conv2",)))
    return Hijacker(encoder.front, decoder, critic, public, stream(seed, "public"), honest=honest, disguise=disguise)


def hijack_row(server: str, seed: int) -> Row:
    """What a steering server rebuilds of its client's images, and how much one label's gradients agree."""
    data = load("digits", None, {"size": 16})
    images, labels = data.train.images(slice(OWN)), data.train.labels[:OWN]
    public = data.train.images(slice(OWN, None))
    rules = SplitRules(cut=("conv2",), learning_rate=RATE)
    client, module = segments(build_model("convnet", SHAPE, 10, seed), rules)
    honest, share = ServerSegment(module, rules), SERVERS[server]
    steering = None if share is None else hijacker(seed, public, honest, share)
    link = Scrutinised(steering or honest)
    steps = (index for epoch in range(STEPS) for index in batches(OWN, seed, epoch))
    for step, index in zip(range(STEPS), steps, strict=False):
        client_step(client, images[index], labels[index], Chain(), link, seed + step)
    windows = [link.agreements[i : i + WINDOW] for i in range(0, STEPS, WINDOW)]
    row: Row = {
        "part": "hijack", "server": server, "seed": seed, "steps": STEPS,
        "accuracy": accuracy(client, module, data.test.images(slice(None)), data.test.labels),
        "agreements": [statistics.fmean(window) for window in windows],
    }  # fmt: skip
    truth = images[:ATTACKED]
    blind = psnr(public.mean(0).expand_as(truth), truth)
    row |= {"mean_image": float(blind.mean())}
    if steering is not None:
        with torch.no_grad():
            values = psnr(steering.decode(client.front(truth)), truth)
        low, high = interval(values.tolist(), seed)
        row |= {"psnr": float(values.mean()), "psnr_low": low, "psnr_high": high}
    return row


def detection(rows: Sequence[Row]) -> list[Row]:
    """How well the agreement of a window tells each steering server from the honest one, over all seeds."""
    by_server = {
        server: [each for row in rows if row.get("server") == server for each in row["agreements"]]
        for server in SERVERS
    }
    honest = [-each for each in by_server["honest"]]
    return [
        {"part": "detection", "server": server, "windows": len(values), "auroc": auroc(honest, [-v for v in values])}
        for server, values in by_server.items()
        if server != "honest"
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("results/split_training.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[Row] = []
    for seed in arguments.seeds:
        for task in TASKS:
            for ratio in NOISES:
                rows += label_rows(task, ratio, seed)
        rows += [hijack_row(server, seed) for server in SERVERS]
        print(f"seed {seed}: {len(rows)} rows", flush=True)
    write(arguments.out, [*rows, *detection(rows)], settings=options(arguments), seeds=arguments.seeds)


if __name__ == "__main__":
    main()
