"""What an attacker of activations gains by each thing it knows: images of its own, labels, the law of the noise.

    python -m benchmarks.split_ablation [--seeds 0 1 2] [--out results/split_ablation.json]

The trained segment of `benchmarks.split_rounds`, embedded digits, of which the first 256 of the client's own are
attacked, as they are and behind Laplace noise of scale 0.5. The attacker holds the segment (of `decoder`: may ask it)
and 373 other digits, 373 printed letters, or no images at all, where the spectrum of natural images is all that
`activation_map` has. It is told the labels, which split learning sends to the server: each image then has the digits of
its label alone for a prior. Of the noise it is told the law, or nothing, which it then estimates, or not.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.record import options, write
from benchmarks.split_rounds import STORED, scored, seen_through, trained
from benchmarks.split_training import OWN
from benchmarks.table_parts import Row
from fl_privacy.attacks import Attack
from fl_privacy.attacks.activation.decoder import Decoder
from fl_privacy.attacks.activation.most_probable import MostProbable
from fl_privacy.data import DataSet, load
from fl_privacy.defences import chain_of
from fl_privacy.observation import Images, Observation
from fl_privacy.seeding import stream, subseed
from fl_privacy.split.segments import ACTIVATION

ATTACKED, SERVED = 256, ("none", "laplace_noise(scale=0.5)")
DECODER = Decoder(steps=300, batch_size=64, width=16)
SAME, OTHER, NONE = "other digits", "printed letters", "none"


@dataclass(frozen=True)
class Arm:
    """An attacker: what it does, whose images it owns, whether it has labels, what it is told of noise."""

    name: str
    attack: Attack
    own: str = SAME
    labels: bool = False
    noise: str = "told"


MAP, DECODED = "activation_map", "decoder"
ARMS = (
    Arm(MAP, MostProbable()),
    Arm(MAP, MostProbable(), labels=True),
    Arm(MAP, MostProbable(prior="public")),
    Arm(MAP, MostProbable(), own=OTHER),
    Arm(MAP, MostProbable(prior="power_law"), own=NONE),
    Arm(MAP, MostProbable(), noise="estimated"),
    Arm(MAP, MostProbable(estimate_noise=False), noise="untold"),
    Arm(DECODED, DECODER),
    Arm(DECODED, DECODER, own=OTHER),
    Arm(DECODED, replace(DECODER, estimate_noise=True), noise="estimated"),
    Arm(DECODED, DECODER, noise="untold"),
)


def owned(data: DataSet) -> dict[str, Images | None]:
    """The attacker's own images by kind."""
    digits = Images(data.train.images(slice(OWN, None)), data.train.labels[OWN:])
    letters = load("glyphs", None, {"size": 16}).train
    drawn = torch.randperm(len(letters), generator=stream(0, "letters"))[: len(digits.inputs)]
    return {SAME: digits, OTHER: Images(letters.images(drawn)), NONE: None}


def guessed(arm: Arm, seen: Observation, own: Images | None, labels: Tensor, seed: int) -> Tensor:
    """Images (N, C, H, W) by one attacker; with labels, those of each label by themselves."""
    known = replace(seen, public=own, defence=seen.defence if arm.noise == "told" else None)
    if not arm.labels:
        return _of(arm, known, seed)
    assert own is not None
    assert own.labels is not None
    guesses = torch.zeros(len(labels), *seen.spec.image_shape)
    for label in torch.unique(labels).tolist():
        mine, theirs = labels == label, own.labels == label
        part = {ACTIVATION: seen.payload[ACTIVATION][mine]}
        spec = replace(seen.spec, batch_size=int(mine.sum()))
        guesses[mine] = _of(arm, replace(known, payload=part, spec=spec, public=Images(own.inputs[theirs])), seed)
    return guesses


def _of(arm: Arm, seen: Observation, seed: int) -> Tensor:
    rng = stream(seed, "attack", arm.name)
    (guess,) = arm.attack.prepare([seen], rng)([seen], rng)
    assert guess.inputs is not None
    return guess.inputs


def rows_of(seed: int) -> Iterator[Row]:
    """One row an attacker and what is released, and the mean images."""
    data = load("digits", None, {"size": 16})
    truth, labels, kinds = data.train.images(slice(ATTACKED)), data.train.labels[:ATTACKED], owned(data)
    front: nn.Module = trained("none", seed)[0][str(max(STORED))]
    for served in SERVED:
        chain = chain_of(served)
        clean = seen_through(front, truth, truth)
        released = chain.on_release(clean.payload, subseed(seed, "release"))
        seen = replace(clean, payload=released, defence=chain if served != "none" else None)
        for arm in ARMS:
            if arm.noise == "told" or served != "none":
                told = {"attack": arm.name, "prior": getattr(arm.attack, "prior", ""), "noise": arm.noise}
                guess = guessed(arm, seen, kinds[arm.own], labels, seed)
                yield {"seed": seed, "served": served, **told, "own": arm.own, "labels": arm.labels,
                       "images": len(truth), **scored(guess, truth, seed)}  # fmt: skip
    digits = kinds[SAME]
    assert digits is not None
    assert digits.labels is not None
    means = torch.stack([digits.inputs[digits.labels == label].mean(0) for label in range(10)])
    for name, blind in {"mean image": digits.inputs.mean(0).expand_as(truth), "class mean": means[labels]}.items():
        yield {"seed": seed, "served": "", "attack": f"control: {name}", **scored(blind, truth, seed)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("results/split_ablation.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[Row] = []
    for seed in arguments.seeds:
        rows += rows_of(seed)
        print(f"seed {seed}: {len(rows)} rows", flush=True)
        write(arguments.out, rows, settings=options(arguments), seeds=sorted({row["seed"] for row in rows}))


if __name__ == "__main__":
    main()
