"""Client-side defences, as hooks; an experiment is an ordered chain of them."""

from fl_privacy.defences import clip, clip_each, dp_sgd, noise, nopeek, outputs, prune, quantise, sign, soteria
from fl_privacy.defences.base import DEFENCES, Chain, Defence, chain
from fl_privacy.defences.text import chain_of

__all__ = [
    "DEFENCES",
    "Chain",
    "Defence",
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
    "sign",
    "soteria",
]
