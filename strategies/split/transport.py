"""What carries the mini-batches of split learning: a local object, a Ray actor, or plain Flower messages.

All three end at a SplitServer, which serves in a fixed turn order; so they give the same weights bit for bit. The
client's end of the first two is a Visit; with messages the strategy itself brings the tensors to the server.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal

from torch import nn

from fl_privacy.observation import Tensors
from fl_privacy.split.rules import SplitRules
from fl_privacy.strategies.split.link import ClientTransport, ServerTransport
from fl_privacy.strategies.split.server import ClientStep, SplitServer, Tapped

LinkKind = Literal["ray", "messages", "local"]


_SERVERS: dict[str, SplitServer] = {}


class LocalServerTransport:
    """A server in this process, for clients in this process."""

    def __init__(self, module: nn.Sequential, rules: SplitRules, seed: int, device: str) -> None:
        self.server = SplitServer(module, rules, seed, device)
        self.address: Mapping[str, str] = {"link": "local", "server": uuid.uuid4().hex}
        _SERVERS[self.address["server"]] = self.server

    def begin(self, order: Sequence[ClientStep], tapped_step: int | None) -> None:
        self.server.begin(order, tapped_step)

    def drop(self, client: int) -> None:
        self.server.drop(client)

    def tapped(self) -> list[Tapped]:
        return self.server.tapped

    def state(self) -> Tensors:
        return self.server.state()

    def kept(self) -> tuple[Tensors, int]:
        return self.server.kept()

    def go_on(self, optimiser: Tensors, served: int) -> None:
        self.server.segment.go_on(optimiser, served)

    def close(self) -> None:
        _SERVERS.pop(self.address["server"], None)


def open_transport(
    kind: LinkKind,
    module: nn.Sequential,
    rules: SplitRules,
    seed: int,
    patience: float,
    visitors: int,
    device: str = "cpu",
) -> ServerTransport:
    """The server's end of a link of this kind, holding `module`, for `visitors` clients that come at the same time.

    `patience` is what a Ray server waits for a client, in seconds.

    Raises:
        ValueError: no such link.
    """
    if kind == "ray":
        from fl_privacy.strategies.split.transport_ray import (
            RayServerTransport,  # Ray is imported only where it is used
        )

        return RayServerTransport(module, rules, seed, patience, visitors, device)
    if kind in ("local", "messages"):
        return LocalServerTransport(module, rules, seed, device)
    raise ValueError(f"link takes 'ray', 'messages' or 'local', not {kind!r}")


@contextmanager
def connect(address: Mapping[str, str]) -> Iterator[Callable[[ClientStep], ClientTransport]]:
    """Inside, the client's end of the link at `address`: a function from (client, step) to the Link of that mini-batch.

    Raises:
        RuntimeError: no server of that name can be reached from this process.
    """
    if address["link"] == "ray":
        from fl_privacy.strategies.split.transport_ray import ray_client_transports

        with ray_client_transports(address) as transports:
            yield transports
        return
    server = _SERVERS.get(address["server"])
    if server is None:
        raise RuntimeError(
            "the local link reaches only clients in the server's own process: choose link = 'ray' in a simulation on "
            "Ray, or 'messages', which works everywhere and is slow"
        )
    yield lambda turn: ClientTransport(lambda call, tensors: server.serve(turn, call, tensors))
