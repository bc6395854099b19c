"""The channels that experiments can name."""

from __future__ import annotations

from collections.abc import Mapping

from fl_privacy.simulations.channels.activation.channel import ACTIVATION
from fl_privacy.simulations.channels.base import Channel, RunContext
from fl_privacy.simulations.channels.gradient import GRADIENT, UPDATE
from fl_privacy.simulations.channels.output.channel import OUTPUT

CHANNELS: Mapping[str, Channel] = {str(each.name): each for each in (GRADIENT, UPDATE, ACTIVATION, OUTPUT)}

__all__ = ["CHANNELS", "Channel", "RunContext"]
