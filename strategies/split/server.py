"""The server of split learning: the server segment, serving mini-batches in a fixed turn order."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fl_privacy.observation import Tensors
from fl_privacy.seeding import one_thread
from fl_privacy.split.loop import state_of
from fl_privacy.split.rules import SplitRules
from fl_privacy.split.segments import ServerSegment
from fl_privacy.strategies.guard import NonFinite

ClientStep = tuple[int, int]  # client, step


class OutOfTurn(RuntimeError):
    """A client came for a mini-batch that the server does not expect, or no longer does."""


@dataclass(frozen=True)
class Tapped:
    """What a server's curious owner kept of one mini-batch: activations (B, ...), and labels (B,) where it got them."""

    client: int
    step: int
    activation: Tensor
    labels: Tensor | None


class SplitServer:
    """The server segment on its device, the order in which it serves, and what its curious owner keeps."""

    def __init__(self, module: nn.Sequential, rules: SplitRules, seed: int, device: str = "cpu") -> None:
        self.place = torch.device(device)
        self.segment = ServerSegment(module.to(self.place), rules, seed, at_once=False)
        self._order: deque[ClientStep] = deque()
        self._to_come: set[ClientStep] = set()
        self._tapped_step: int | None = None
        self.tapped: list[Tapped] = []

    def begin(self, order: Sequence[ClientStep], tapped_step: int | None) -> None:
        """Serve `order` from now on, and keep what is released at `tapped_step` (None: nothing)."""
        self._order, self._to_come = deque(order), set(order)
        self._tapped_step, self.tapped = tapped_step, []

    def next(self) -> ClientStep | None:
        """Whose mini-batch is expected; None at the end of the order."""
        return self._order[0] if self._order else None

    def expects(self, turn: ClientStep) -> bool:
        """Whether it is this one's turn; False if it is to come.

        Raises:
            OutOfTurn: it is over, or never was in the order.
        """
        if turn not in self._to_come:
            raise OutOfTurn(f"step {turn[1]} of client {turn[0]} is not, or no longer, in the turn order")
        return self._order[0] == turn

    def drop(self, client: int) -> None:
        """Expect nothing more of `client`."""
        self._order = deque(turn for turn in self._order if turn[0] != client)
        self._to_come = set(self._order)

    def settle(self) -> None:
        """What is left of the last call, once its answer is on the way; the next call would do it first."""
        with one_thread():
            self.segment.settle()

    def state(self) -> Tensors:
        """The server segment's weights, on the CPU."""
        self.settle()
        return {name: value.cpu() for name, value in state_of(self.segment.module).items()}

    def kept(self) -> tuple[Tensors, int]:
        """What the segment has beside its weights, on the CPU."""
        optimiser, served = self.segment.kept()
        return {name: value.cpu() for name, value in optimiser.items()}, served

    def serve(self, turn: ClientStep, call: str, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Run one call of the Link protocol ('step', 'forward' or 'backward') for the client whose turn it is.

        Raises:
            OutOfTurn: it is another's. NonFinite: NaN or infinity, which would be every client's from then on.
        """
        if not self.expects(turn):
            raise OutOfTurn(f"step {turn[1]} of client {turn[0]} came before that of client {self._order[0][0]}")
        if not all(_finite(tensor) for tensor in tensors):
            raise NonFinite(f"step {turn[1]} of client {turn[0]} has NaN or infinite values")
        if call != "backward" and turn[1] == self._tapped_step:
            labels = tensors[1].clone().cpu() if call == "step" else None
            self.tapped.append(Tapped(*turn, tensors[0].detach().clone().cpu(), labels))
        tensors = [tensor.to(self.place) for tensor in tensors]
        with one_thread():
            if call == "step":
                gradient, loss = self.segment.step(tensors[0], tensors[1])
                answer = [gradient, torch.tensor(loss, dtype=torch.float64)]
            else:
                answer = [(self.segment.forward if call == "forward" else self.segment.backward)(tensors[0])]
        if call != "forward":
            self._to_come.discard(self._order.popleft())
        return answer


def _finite(tensor: Tensor) -> bool:
    """Whether no element is NaN or infinite: then their sum, which is quicker to see, is finite or too large."""
    return math.isfinite(tensor.sum()) or bool(tensor.isfinite().all())
