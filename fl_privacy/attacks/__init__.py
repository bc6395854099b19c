"""Attacks: observations in, reconstructions out."""

from fl_privacy.attacks import grnn
from fl_privacy.attacks.base import ATTACKS, Attack

__all__ = ["ATTACKS", "Attack", "grnn"]
