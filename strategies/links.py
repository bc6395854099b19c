"""What carries the mini-batches of split learning: a local object, a Ray actor, or plain Flower messages.

All three end at a Desk, which serves in a fixed turn order; so they give the same weights bit for bit. The client's end
of the first two is a Visit; with messages the strategy itself brings the tensors to the desk.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor, nn

from fl_privacy.observation import Tensors
from fl_privacy.split_loop import state_of
from fl_privacy.split_rules import SplitRules
from strategies.desk import Desk, Tapped, Turn

LinkKind = Literal["ray", "messages", "local"]


@dataclass(frozen=True)
class Visit:
    """The client's end of a link for one mini-batch: `fl_privacy`'s Link over any carrier of (call, tensors)."""

    carry: Callable[[str, list[Tensor]], list[Tensor]]

    def step(self, activation: Tensor, labels: Tensor) -> tuple[Tensor, float]:
        gradient, loss = self.carry("step", [activation, labels])
        return gradient, float(loss)

    def forward(self, activation: Tensor) -> Tensor:
        return self.carry("forward", [activation])[0]

    def backward(self, gradient: Tensor) -> Tensor:
        return self.carry("backward", [gradient])[0]


class Hub(Protocol):
    """The server's end of a link. `address` goes to the clients, who `connect` by it."""

    address: Mapping[str, str]

    def begin(self, order: Sequence[Turn], tapped_step: int | None) -> None: ...
    def drop(self, client: int) -> None: ...
    def tapped(self) -> list[Tapped]: ...
    def state(self) -> Tensors: ...
    def close(self) -> None: ...


_DESKS: dict[str, Desk] = {}


class LocalHub:
    """A desk in this process, for clients in this process."""

    def __init__(self, module: nn.Sequential, rules: SplitRules, seed: int) -> None:
        self.desk = Desk(module, rules, seed)
        self.address: Mapping[str, str] = {"link": "local", "desk": uuid.uuid4().hex}
        _DESKS[self.address["desk"]] = self.desk

    def begin(self, order: Sequence[Turn], tapped_step: int | None) -> None:
        self.desk.begin(order, tapped_step)

    def drop(self, client: int) -> None:
        self.desk.drop(client)

    def tapped(self) -> list[Tapped]:
        return self.desk.tapped

    def state(self) -> Tensors:
        return state_of(self.desk.segment.module)

    def close(self) -> None:
        _DESKS.pop(self.address["desk"], None)


def open_hub(
    kind: LinkKind, module: nn.Sequential, rules: SplitRules, seed: int, patience: float, visitors: int
) -> Hub:
    """The server's end of a link of this kind, holding `module`, for `visitors` clients that come at the same time.

    `patience` is what a Ray desk waits for a client, in seconds.

    Raises:
        ValueError: no such link.
    """
    if kind == "ray":
        from strategies.ray_link import RayHub  # Ray is imported only where it is used

        return RayHub(module, rules, seed, patience, visitors)
    if kind in ("local", "messages"):
        return LocalHub(module, rules, seed)
    raise ValueError(f"link takes 'ray', 'messages' or 'local', not {kind!r}")


def connect(address: Mapping[str, str]) -> Callable[[Turn], Visit]:
    """The client's end of the link at `address`: a function from (client, step) to the Link of that mini-batch.

    Raises:
        RuntimeError: no desk of that name can be reached from this process.
    """
    if address["link"] == "ray":
        from strategies.ray_link import ray_visits

        return ray_visits(address["desk"])
    desk = _DESKS.get(address["desk"])
    if desk is None:
        raise RuntimeError(
            "the local link reaches only clients in the server's own process: choose link = 'ray' in a simulation on "
            "Ray, or 'messages', which works everywhere and is slow"
        )
    return lambda turn: Visit(lambda call, tensors: desk.serve(turn, call, tensors))
