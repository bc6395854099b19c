"""The Ray link: a named actor holds the server segment, and the clients, Ray actors themselves, call it directly.

Flower's transport has a floor of 100 ms a message; a call from actor to actor takes a few, and a client on the server's
machine goes past Ray, over a socket. Flower's mods do not see this traffic and it exists in Flower's simulation only,
which is why the chain of defences runs on the link.
"""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import ray
import torch
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from torch import Tensor, nn

from fl_privacy.observation import Tensors
from fl_privacy.split.rules import SplitRules
from fl_privacy.strategies.split.link import ClientTransport
from fl_privacy.strategies.split.server import ClientStep, SplitServer, Tapped
from fl_privacy.strategies.split.transport_socket import dial, listen

NAMESPACE = "fl-privacy"
CALL_SECONDS = 600.0
SPARE_THREADS = 8  # for the server's own calls, and for calls of clients that have died meanwhile


class RaySplitServer:
    """A SplitServer whose visitors wait for their turn; one that keeps the others waiting for `patience` s is dropped.

    Every call has a thread of its own, which is quicker than the event loop of an asynchronous actor.
    """

    def __init__(
        self, module: nn.Sequential, rules: SplitRules, seed: int, patience: float, device: str = "cpu"
    ) -> None:
        self.server, self.patience = SplitServer(module, rules, seed, device), patience
        self.moved = threading.Condition()

    def begin(self, order: list[ClientStep], tapped_step: int | None) -> None:
        with self.moved:
            self.server.begin(order, tapped_step)

    def listen(self) -> str | None:
        """The name of a socket for clients on this machine, None where there can be none."""
        return listen(self.answer, self.settle)

    def serve(self, turn: ClientStep, call: str, *arrays: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
        # copied into torch's own memory: Ray's buffers are read-only
        answer = self.answer(turn, call, (torch.tensor(array) for array in arrays))
        return [tensor.cpu().numpy() for tensor in answer]

    def answer(self, turn: ClientStep, call: str, tensors: Iterable[Tensor]) -> list[Tensor]:
        with self.moved:
            while not self.server.expects(turn):
                self._wait()
            try:
                return self.server.serve(turn, call, list(tensors))
            except Exception:
                self.server.drop(turn[0])  # or the others would wait for it
                raise
            finally:
                self.moved.notify_all()

    def settle(self) -> None:
        with self.moved:
            self.server.settle()

    def _wait(self) -> None:
        awaited = self.server.next()
        if not self.moved.wait(self.patience) and awaited is not None and self.server.next() == awaited:
            self.server.drop(awaited[0])
            self.moved.notify_all()

    def drop(self, client: int) -> None:
        with self.moved:
            self.server.drop(client)
            self.moved.notify_all()

    def tapped(self) -> list[Tapped]:
        return self.server.tapped

    def state(self) -> Tensors:
        return self.server.state()

    def kept(self) -> tuple[Tensors, int]:
        return self.server.kept()

    def go_on(self, optimiser: Tensors, served: int) -> None:
        # copied into torch's own memory: Ray's buffers are read-only
        self.server.segment.go_on({name: value.clone() for name, value in optimiser.items()}, served)


class RayServerTransport:
    """The server's handle of a RayDesk for `visitors` at once. Make it when Ray is up: after the clients' hello."""

    def __init__(
        self, module: nn.Sequential, rules: SplitRules, seed: int, patience: float, visitors: int, device: str
    ) -> None:
        name = uuid.uuid4().hex
        # num_cpus=0: the clients' workers take every CPU that Ray has, and an actor that needs one would wait for ever
        threads = 2 * visitors + SPARE_THREADS
        # beside the driver, so that no other node's death is the training's
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        options: dict[str, Any] = {"name": name, "namespace": NAMESPACE, "num_cpus": 0, "max_concurrency": threads}
        if device != "cpu":  # a process without a share sees no GPU, and this one's would be a client's
            options["runtime_env"] = {"env_vars": visible_gpu()}
        made: Any = ray.remote(RaySplitServer).options(**options, scheduling_strategy=here)
        self._actor: Any = made.remote(module, rules, seed, patience, device)
        socket: str | None = ray.get(self._actor.listen.remote(), timeout=CALL_SECONDS)
        self.address: Mapping[str, str] = {"link": "ray", "server": name, **({"socket": socket} if socket else {})}

    def begin(self, order: Sequence[ClientStep], tapped_step: int | None) -> None:
        ray.get(self._actor.begin.remote(list(order), tapped_step), timeout=CALL_SECONDS)

    def drop(self, client: int) -> None:
        ray.get(self._actor.drop.remote(client), timeout=CALL_SECONDS)

    def tapped(self) -> list[Tapped]:
        found: list[Tapped] = ray.get(self._actor.tapped.remote(), timeout=CALL_SECONDS)
        return found

    def state(self) -> Tensors:
        state: Tensors = ray.get(self._actor.state.remote(), timeout=CALL_SECONDS)
        return state

    def kept(self) -> tuple[Tensors, int]:
        kept: tuple[Tensors, int] = ray.get(self._actor.kept.remote(), timeout=CALL_SECONDS)
        return kept

    def go_on(self, optimiser: Tensors, served: int) -> None:
        ray.get(self._actor.go_on.remote(optimiser, served), timeout=CALL_SECONDS)

    def close(self) -> None:
        ray.kill(self._actor)


def visible_gpu() -> dict[str, str]:
    """What lets a Ray process without a share of any GPU see the first one that this process sees."""
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    return {"CUDA_VISIBLE_DEVICES": first, "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}


@contextmanager
def ray_client_transports(address: Mapping[str, str]) -> Iterator[Callable[[ClientStep], ClientTransport]]:
    """The client's end: the socket, if it is of this machine, and else calls on the actor."""
    with dial(address.get("socket"), CALL_SECONDS) as near:
        yield near or _by_calls(address["server"])


def _by_calls(name: str) -> Callable[[ClientStep], ClientTransport]:
    actor: Any = ray.get_actor(name, namespace=NAMESPACE)

    def visit(turn: ClientStep) -> ClientTransport:
        def carry(call: str, tensors: list[Tensor]) -> list[Tensor]:
            arrays = [tensor.detach().cpu().numpy() for tensor in tensors]
            answer = ray.get(actor.serve.remote(turn, call, *arrays), timeout=CALL_SECONDS)
            return [torch.tensor(array) for array in answer]

        return ClientTransport(carry)

    return visit
