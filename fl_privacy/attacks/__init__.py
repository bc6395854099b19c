"""Attacks: observations in, reconstructions out."""

from fl_privacy.attacks.activation import autoencoder, averaging, decoder, decoder_map, most_probable, rmle
from fl_privacy.attacks.base import ATTACKS, Attack, Capabilities
from fl_privacy.attacks.gradient import (
    best,
    closed_form,
    dlg,
    grnn,
    inverting_gradients,
    label_recovery,
    learned,
    low_rank,
    map,
    peeling,
    spear,
)
from fl_privacy.attacks.output import class_mean
from fl_privacy.attacks.output import decoders as vicious

__all__ = [
    "ATTACKS",
    "Attack",
    "Capabilities",
    "autoencoder",
    "averaging",
    "best",
    "class_mean",
    "closed_form",
    "decoder",
    "decoder_map",
    "dlg",
    "grnn",
    "inverting_gradients",
    "label_recovery",
    "learned",
    "low_rank",
    "map",
    "most_probable",
    "peeling",
    "rmle",
    "spear",
    "vicious",
]
