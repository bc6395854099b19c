"""Attacks: observations in, reconstructions out."""

from fl_privacy.attacks import autoencoder, averaging, class_mean, decoder, grnn, rmle, vicious
from fl_privacy.attacks.base import ATTACKS, Attack

__all__ = ["ATTACKS", "Attack", "autoencoder", "averaging", "class_mean", "decoder", "grnn", "rmle", "vicious"]
