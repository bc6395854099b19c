"""Attacks: observations in, reconstructions out."""

from fl_privacy.attacks import averaging, decoder, grnn, rmle, vicious
from fl_privacy.attacks.base import ATTACKS, Attack

__all__ = ["ATTACKS", "Attack", "averaging", "decoder", "grnn", "rmle", "vicious"]
