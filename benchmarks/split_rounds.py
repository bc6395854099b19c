"""Activations of which round leak most: a server of split learning that stored those of every round of training.

    python -m benchmarks.split_rounds [--seeds 0 1 2] [--defences none] [--out results/split_rounds.json]

Embedded digits, 16x16, one client with 1,000 images, whose first 32 are attacked: it trains on them in every round, so
that the server got their activations from a segment untrained, little trained, and trained. The attacker has 373 images
of its own and the segment of each round (a data owner gets it anew in every one). `decoder` and `activation_map` read
one round's activations, or those of all rounds side by side: the order of the images is taken to be known, as where a
client does not shuffle. No defence; and `nopeek`, which has done nothing yet in round 0.
"""

import argparse
import copy
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.record import options, write
from benchmarks.split_training import OWN, RATE, SHAPE, accuracy, batches
from benchmarks.table_parts import Row
from fl_privacy.attacks import Attack
from fl_privacy.attacks.activation.decoder import Decoder
from fl_privacy.attacks.activation.most_probable import MostProbable
from fl_privacy.data import load
from fl_privacy.defences import chain_of
from fl_privacy.evaluation import interval
from fl_privacy.metrics import psnr
from fl_privacy.models import build_model
from fl_privacy.observation import ChannelName, Images, LocalTraining, Observation, Spec
from fl_privacy.seeding import stream
from fl_privacy.split.rules import SplitRules
from fl_privacy.split.segments import ACTIVATION, BlackBox, ServerSegment, client_step, segments

ATTACKED, STORED = 32, (0, 1, 3, 12)
DEFENCES = ("none", "nopeek(weight=3.0)")
ATTACKS: dict[str, Attack] = {
    "decoder": Decoder(steps=200, batch_size=64, width=16),
    "activation_map": MostProbable(),
}


class SideBySide(nn.Module):
    """Several client segments on the same images: their activations (N, C, H, W), one after another in C."""

    def __init__(self, fronts: Sequence[nn.Module]) -> None:
        super().__init__()
        self.fronts = nn.ModuleList(fronts)

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat([front(images) for front in self.fronts], 1)


def trained(defence: str, seed: int) -> tuple[dict[str, nn.Module], dict[str, float]]:
    """The client segment after each stored round, and the accuracy of the whole model there."""
    data, chain = load("digits", None, {"size": 16}), chain_of(defence)
    images, labels = data.train.images(slice(OWN)), data.train.labels[:OWN]
    client, module = segments(build_model("convnet", SHAPE, 10, seed), SplitRules(cut=("conv2",), learning_rate=RATE))
    link = ServerSegment(module, client.rules)
    fronts: dict[str, nn.Module] = {}
    reached: dict[str, float] = {}
    for number in range(max(STORED) + 1):
        for step, index in enumerate(batches(OWN, seed, number) if number else ()):
            client_step(client, images[index], labels[index], chain, link, seed + 1000 * number + step)
        if number in STORED:
            fronts[str(number)] = copy.deepcopy(client.front).eval()
            reached[str(number)] = accuracy(client, module, data.test.images(slice(None)), data.test.labels)
    return fronts, reached


@torch.no_grad()
def seen_through(front: nn.Module, truth: Tensor, public: Tensor) -> Observation:
    """What the server stored of `truth` (N, C, H, W) of one round, with what it holds beside."""
    local = LocalTraining(mode="eval")  # the network computes the same in either mode
    return Observation(
        channel=ChannelName.ACTIVATION,
        payload={ACTIVATION: front(truth)},
        spec=Spec(image_shape=SHAPE, classes=10, batch_size=len(truth), local=local),
        round=1,
        client=0,
        model=front,
        query=BlackBox(front),
        public=Images(public),
    )


def rows_of(defence: str, seed: int) -> list[Row]:
    """One row an attack and stored round, one for all rounds together, and the controls."""
    data = load("digits", None, {"size": 16})
    truth, public = data.train.images(slice(ATTACKED)), data.train.images(slice(OWN, None))
    fronts, reached = trained(defence, seed)
    rows: list[Row] = []
    for number, front in {**fronts, "all": SideBySide(list(fronts.values()))}.items():
        seen = seen_through(front, truth, public)
        told = {"defence": defence, "round": number, "seed": seed, "accuracy": reached.get(number)}
        for name, attack in ATTACKS.items():
            (guess,) = attack([seen], stream(seed, "attack", name))
            assert guess.inputs is not None
            rows.append({**told, "attack": name, **scored(guess.inputs, truth, seed)})
    if defence == "none":
        drawn = torch.randperm(len(public), generator=stream(seed, "blind"))[:ATTACKED]
        for name, blind in {"mean image": public.mean(0).expand_as(truth), "random guess": public[drawn]}.items():
            control: Row = {"defence": "", "round": "", "seed": seed, "attack": f"control: {name}"}
            rows.append(control | scored(blind, truth, seed))
    return rows


def scored(guess: Tensor, truth: Tensor, seed: int) -> Row:
    values = psnr(guess, truth)
    low, high = interval(values.tolist(), seed)
    return {"psnr": float(values.mean()), "psnr_low": low, "psnr_high": high}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--defences", nargs="+", default=DEFENCES)
    parser.add_argument("--out", type=Path, default=Path("results/split_rounds.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[Row] = []
    for defence, seed in product(arguments.defences, arguments.seeds):
        rows += rows_of(defence, seed)
        print(f"{defence}, seed {seed}: {len(rows)} rows", flush=True)
        write(arguments.out, rows, settings=options(arguments), seeds=sorted({row["seed"] for row in rows}))


if __name__ == "__main__":
    main()
