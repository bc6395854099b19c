"""The channels that experiments can name."""

from __future__ import annotations

from collections.abc import Mapping

from simulations.channels.activation import Activation
from simulations.channels.base import Kind, Place
from simulations.channels.gradient import Gradient, Update
from simulations.channels.output import Output

CHANNELS: Mapping[str, Kind] = {str(kind.channel): kind for kind in (Gradient(), Update(), Activation(), Output())}

__all__ = ["CHANNELS", "Kind", "Place"]
