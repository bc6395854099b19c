"""The two ends of what carries mini-batches of split learning: the client's, and the server's protocol."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from fl_privacy.observation import Tensors
from fl_privacy.strategies.split.server import ClientStep, Tapped


@dataclass(frozen=True)
class ClientTransport:
    """The client's end of a link for one mini-batch: `fl_privacy`'s Link over any carrier of (call, tensors)."""

    carry: Callable[[str, list[Tensor]], list[Tensor]]

    def step(self, activation: Tensor, labels: Tensor) -> tuple[Tensor, float]:
        gradient, loss = self.carry("step", [activation, labels])
        return gradient.to(activation.device), float(loss)

    def forward(self, activation: Tensor) -> Tensor:
        return self.carry("forward", [activation])[0].to(activation.device)

    def backward(self, gradient: Tensor) -> Tensor:
        return self.carry("backward", [gradient])[0].to(gradient.device)


class ServerTransport(Protocol):
    """The server's end of a link. `address` goes to the clients, who `connect` by it."""

    address: Mapping[str, str]

    def begin(self, order: Sequence[ClientStep], tapped_step: int | None) -> None: ...
    def drop(self, client: int) -> None: ...
    def tapped(self) -> list[Tapped]: ...
    def state(self) -> Tensors: ...
    def kept(self) -> tuple[Tensors, int]: ...
    def go_on(self, optimiser: Tensors, served: int) -> None: ...
    def close(self) -> None: ...
