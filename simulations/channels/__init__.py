"""The channels that experiments can name."""

from __future__ import annotations

from collections.abc import Mapping

from fl_privacy.simulations.channels.activation.channel import Activation
from fl_privacy.simulations.channels.base import Channel, RunContext
from fl_privacy.simulations.channels.gradient import Gradient, Update
from fl_privacy.simulations.channels.output.channel import Output

CHANNELS: Mapping[str, Channel] = {str(kind.channel): kind for kind in (Gradient(), Update(), Activation(), Output())}

__all__ = ["CHANNELS", "Channel", "RunContext"]
