"""In which order a client took its examples: a search by the attack's own loss, over swaps between mini-batches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fl_privacy.federated.local_training import minibatches
from fl_privacy.observation import Observation

Judge = Callable[[Tensor], Tensor]
"""Orders (K, V, L) to how badly each explains what was seen, (K, V)."""


@dataclass(frozen=True)
class Taken:
    """How each of `clients` takes its `examples`: in mini-batches of `size`, `length` positions in all its epochs."""

    clients: int
    examples: int
    size: int
    length: int

    @classmethod
    def of(cls, seen: Observation) -> Taken:
        """As it was behind an update."""
        local, examples = seen.spec.local, seen.examples
        parts = minibatches(local, examples, None)
        return cls(len(seen.clients), examples, local.batch_size or examples, sum(map(len, parts)))

    @property
    def ordered(self) -> bool:
        """Whether the order makes a difference."""
        return self.size < self.examples

    def as_they_stand(self) -> Tensor:
        """The order (clients * length,) in which every epoch takes the examples as they stand."""
        return (torch.arange(self.length) % self.examples).repeat(self.clients)

    def changed(self, order: Tensor, rng: torch.Generator, afresh: bool) -> Tensor:
        """An order with one epoch of one client drawn `afresh`, or two examples of its mini-batches swapped."""
        order, epochs = order.clone(), -(-self.length // self.examples)
        client, epoch = (_whole(count, rng) for count in (self.clients, epochs))
        first = client * self.length + epoch * self.examples
        mine = order[first : min(first + self.examples, (client + 1) * self.length)]
        batches = -(-len(mine) // self.size)
        if afresh:
            mine.copy_(torch.randperm(self.examples, generator=rng)[: len(mine)])
        elif batches > 1:
            one, other = torch.randperm(batches, generator=rng)[:2].tolist()
            i, j = (b * self.size + _whole(min(self.size, len(mine) - b * self.size), rng) for b in (one, other))
            mine[[i, j]] = mine[[j, i]]
        return order


def improved(orders: Tensor, judge: Judge, taken: Taken, rng: torch.Generator, tries: int, rounds: int) -> Tensor:
    """The best orders (V, clients * length) that `rounds` of `tries` changes of each find.

    Each victim keeps what its own judgement prefers. In the first half of the rounds every second try draws anew.
    """
    least, victims = judge(orders[None])[0], torch.arange(len(orders))
    for round in range(rounds):
        changed = torch.stack(
            [
                taken.changed(order, rng, afresh=2 * round < rounds and k % 2 == 0)
                for k in range(tries)
                for order in orders
            ]
        ).view(tries, *orders.shape)
        value, which = judge(changed).nan_to_num(float("inf")).min(0)
        better = value < least
        orders = torch.where(better[:, None], changed[which, victims], orders)
        least = torch.where(better, value, least)
    return orders


def _whole(below: int, rng: torch.Generator) -> int:
    return int(torch.randint(below, (), generator=rng))
