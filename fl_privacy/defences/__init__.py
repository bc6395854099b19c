"""Client-side defences, as hooks; an experiment is an ordered chain of them."""

from fl_privacy.defences import (
    adversarial_cut,
    clip,
    clip_each,
    dp_sgd,
    noise,
    nopeek,
    outputs,
    prune,
    quantise,
    shredder,
    sign,
    soteria,
)
from fl_privacy.defences.base import DEFENCES, Chain, Defence, chain
from fl_privacy.defences.text import chain_of

__all__ = [
    "DEFENCES",
    "Chain",
    "Defence",
    "adversarial_cut",
    "chain",
    "chain_of",
    "clip",
    "clip_each",
    "dp_sgd",
    "noise",
    "outputs",
    "nopeek",
    "prune",
    "quantise",
    "shredder",
    "sign",
    "soteria",
]
