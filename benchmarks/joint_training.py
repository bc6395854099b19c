"""Time one joint training step of the published width-1 pair at batch 250, and R, in one run on one thread.

    python -m benchmarks.joint_training --out results/joint_training.json

The textbook step is kept here and in textbook_pair.py: the published networks in plain operations, torchvision's
augmentation image by image, pytorch-msssim, an Adam for each network. Each condition has a process of its own,
because what the allocator does with freed memory is settled once a process: our simulations keep it, plain Python
gives it back. Wall-clock seconds suffer from other work on the machine, processor seconds hardly: both are written
down.
"""

import argparse
import multiprocessing
import random
import statistics
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import torch
import torch.nn.functional as F
from pytorch_msssim import ssim
from torch import Tensor
from torchvision import transforms

from benchmarks.record import options, write
from benchmarks.textbook_pair import textbook_pair
from fl_privacy.joint_training import JointLoss, Pair, PairSpec, augment, build_pair, compile_pair, joint_loss
from fl_privacy.metrics import factorise, reconstruction_risk
from fl_privacy.seeding import stream
from fl_privacy.simulations.backends.allocator import keep_freed_memory

MEAN, STD = (0.1311,), (0.2895,)
WIDTH_1 = PairSpec((1, 32, 32), 10, "wide_resnet", "wide_resnet", {"width": 1, "mean": MEAN, "std": STD}, {"width": 1})
HALF = 125
WARM_UP = 4
OPERATIONS = [
    transforms.RandomHorizontalFlip(p=1.0),
    transforms.RandomErasing(scale=(0.02, 0.2), ratio=(0.2, 2.2), value=0, p=1.0),
    transforms.RandomPerspective(distortion_scale=0.5, p=1.0),
    transforms.RandomAdjustSharpness(sharpness_factor=5, p=1.0),
    transforms.RandomAutocontrast(p=1.0),
    transforms.Compose([transforms.CenterCrop(size=21), transforms.Resize(size=32)]),
    transforms.GaussianBlur(kernel_size=(5, 9), sigma=(0.1, 2)),
]


def textbook_augment(images: Tensor) -> Tensor:
    return torch.stack([random.choice(OPERATIONS)(image) for image in images]).clamp(0, 1)


def textbook_step(pair: Pair, adams: list[torch.optim.Adam], images: Tensor, labels: Tensor) -> None:
    images, labels = torch.cat([images, textbook_augment(images)]), torch.cat([labels, labels])
    for adam in adams:
        adam.zero_grad()
    logits = pair.classifier(images)
    guess = pair.decoder(logits)
    reconstruction = 5 * F.huber_loss(guess, images) + 1 - ssim(guess, images, data_range=1.0)
    loss = F.cross_entropy(logits, labels) + 3 * reconstruction
    loss.backward()
    for adam in adams:
        adam.step()


def library_step(pair: Pair, adam: torch.optim.Adam, images: Tensor, labels: Tensor) -> None:
    images, labels = torch.cat([images, augment(images, stream(0, "augment"))]), torch.cat([labels, labels])
    adam.zero_grad()
    torch.autograd.backward(joint_loss(pair, JointLoss(), images, labels))
    adam.step()


def as_textbook(pair: Pair) -> Pair:
    """The textbook pair with the weights of `pair`."""
    plain = textbook_pair(MEAN, STD).train()
    with torch.no_grad():
        for mine, theirs in zip(plain.parameters(), pair.parameters(), strict=True):
            mine.copy_(theirs)
    return plain


def step_of(kind: str) -> Callable[[], None]:
    """One of the three steps, on a pair with the same weights."""
    images = torch.rand(HALF, 1, 32, 32, generator=stream(0, "images"))
    labels = torch.randint(10, (HALF,), generator=stream(0, "labels"))
    pair = build_pair(WIDTH_1, 0).to(memory_format=torch.channels_last).train()
    if kind == "textbook":
        textbook = as_textbook(pair)
        plain = [torch.optim.Adam(part.parameters(), lr=1e-3) for part in (textbook.classifier, textbook.decoder)]
        return lambda: textbook_step(textbook, plain, images, labels)
    fused = torch.optim.Adam(pair.parameters(), lr=1e-3, fused=True)
    stepped = compile_pair(pair) if kind == "compiled" else pair
    return lambda: library_step(stepped, fused, images, labels)


ARMS = {
    "textbook": ("textbook", False),
    "textbook, freed memory kept": ("textbook", True),
    "library, freed memory given back": ("library", False),
    "library": ("library", True),
    "library, compiled": ("compiled", True),
}


def serve(orders: Connection, kind: str, kept: bool) -> None:
    """The process of one condition: a step, clocked, for every order."""
    torch.set_num_threads(1)
    random.seed(0)
    torch.manual_seed(0)  # torchvision's transforms draw from the global generator
    if kept and not keep_freed_memory():
        raise RuntimeError(
            "this C library's allocator cannot be told, or MALLOC_... in the environment tells it: unset it"
        )
    run = step_of(kind)
    while orders.recv():
        orders.send(clocked(run))


def clocked(run: Callable[[], object]) -> tuple[float, float]:
    """Wall-clock and processor seconds of one call."""
    wall, processor = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - wall, time.process_time() - processor


def risk_rows() -> list[dict[str, object]]:
    """Seconds to factorise 60,000 images of 32x32 once, and to score 10,000 then."""
    train = torch.rand(60_000, 1, 32, 32, generator=stream(0, "train"))
    truth, guess = train[:10_000], train[10_000:20_000]
    began = time.perf_counter()
    factors = factorise(train)
    seconds = time.perf_counter() - began
    wall, processor = clocked(lambda: reconstruction_risk(factors, guess, truth))
    row = {"step": "R of 10,000 images", "seconds": round(wall, 3), "processor_seconds": round(processor, 3)}
    return [{**row, "factorisation_seconds": round(seconds, 2), "measure": factors.label}]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("results/joint_training.json"))
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    context = multiprocessing.get_context("spawn")
    workers: dict[str, Connection] = {}
    for name, (kind, kept) in ARMS.items():
        workers[name], theirs = context.Pipe()
        context.Process(target=serve, args=(theirs, kind, kept), daemon=True).start()
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in ARMS}
    # taking turns, so that a busy moment of the machine touches all alike; the first steps find their memory
    for _ in range(WARM_UP + arguments.repeats):
        for name, orders in workers.items():
            orders.send(True)
            times[name].append(orders.recv())
    first = {name: found[0][0] for name, found in times.items()}
    times = {name: found[WARM_UP:] for name, found in times.items()}
    for orders in workers.values():
        orders.send(False)
    medians = {name: [statistics.median(column) for column in zip(*each, strict=True)] for name, each in times.items()}
    rows: list[dict[str, object]] = []
    for name, (wall, processor) in medians.items():
        row = {"step": name, "seconds": round(wall, 3), "processor_seconds": round(processor, 3)}
        row |= {"times_faster": round(medians["textbook"][1] / processor, 2)}
        row |= {"first_call_seconds": round(first[name], 1)}
        rows.append(row)
    rows += risk_rows()
    for row in rows:
        print(row)
    write(arguments.out, rows, settings=options(arguments), seeds=[0], faster="by processor seconds, medians")


if __name__ == "__main__":
    main()
