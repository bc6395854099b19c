"""Who holds which training images: partitions are disjoint, complete and a pure function of a seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fl_privacy.data.base import keyword_settings
from fl_privacy.registry import Registry
from fl_privacy.seeding import stream

Partitioner = Callable[..., list[Tensor]]
"""(labels (N,), clients, rng, **settings) -> a list of `clients` index tensors that cover 0 ... N - 1 once."""

PARTITIONS: Registry[Partitioner] = Registry("partition")


def partition(name: str, labels: Tensor, clients: int, seed: int, settings: Mapping[str, Any]) -> list[Tensor]:
    """The indices of every client, sorted, by the partition `name` (or a user's `package.module:function`).

    Raises:
        UnknownName: no such partition, or it has no such setting.
        ValueError: fewer examples than clients, a setting out of range, or parts that overlap or leave out an example.
    """
    if clients < 1 or len(labels) < clients:
        raise ValueError(f"{len(labels)} examples cannot be dealt to {clients} clients: each needs at least one")
    partitioner = PARTITIONS[name]
    checked = keyword_settings(f"partition '{name}'", partitioner, settings)
    try:
        parts = [part.sort().values for part in partitioner(labels, clients, stream(seed, "partition"), **checked)]
    except ValueError:
        raise
    except Exception as error:  # the user's own code can raise anything, and return anything
        raise ValueError(
            f"partition '{name}' must return a list of index tensors, one a client; for {len(labels)} labels and "
            f"{clients} clients it fails with {type(error).__name__}: {error}"
        ) from error
    dealt = torch.cat(parts).sort().values if parts else labels.new_empty(0)
    if len(parts) != clients or not torch.equal(dealt, torch.arange(len(labels))):
        raise ValueError(
            f"partition '{name}' must deal each of {len(labels)} examples to one of {clients} clients, once"
        )
    return parts


@PARTITIONS.register("iid")
def iid(labels: Tensor, clients: int, rng: torch.Generator) -> list[Tensor]:
    """Dealt at random; the sizes differ by one at most."""
    return list(torch.randperm(len(labels), generator=rng).tensor_split(clients))


@PARTITIONS.register("dirichlet")
def dirichlet(
    labels: Tensor, clients: int, rng: torch.Generator, *, alpha: float = 0.5, min_size: int = 1
) -> list[Tensor]:
    """The shares of every class are drawn from Dirichlet(alpha): the smaller alpha, the more the clients differ.

    A client that got fewer than `min_size` examples takes random ones from the largest, so it always ends.
    Source: Hsu, Qi and Brown, Measuring the effects of non-identical data distribution, 2019 (shares drawn per class).

    Raises:
        ValueError: alpha not above 0 or not finite, min_size below 1, or fewer examples than clients * min_size.
    """
    if not 0 < alpha < float("inf"):
        raise ValueError(f"dirichlet: alpha must be above 0 and finite, not {alpha}; for equal shares use 'iid'")
    if min_size < 1 or clients * min_size > len(labels):
        raise ValueError(
            f"dirichlet: min_size must be 1 to {len(labels) // clients} for {len(labels)} examples, {clients} clients"
        )
    draw = np.random.default_rng(int(torch.randint(2**62, (), generator=rng)))  # torch has no seeded Dirichlet
    parts: list[list[Tensor]] = [[] for _ in range(clients)]
    for label in sorted(set(labels.tolist())):
        members = (labels == label).nonzero().flatten()
        members = members[torch.randperm(len(members), generator=rng)]
        cuts = (draw.dirichlet(np.full(clients, alpha)).cumsum()[:-1] * len(members)).round().astype(int)
        for part, piece in zip(parts, members.tensor_split(torch.from_numpy(cuts)), strict=True):
            part.append(piece)
    return _topped_up([torch.cat(part) for part in parts], min_size, rng)


@PARTITIONS.register("shards")
def shards(labels: Tensor, clients: int, rng: torch.Generator, *, per_client: int = 2) -> list[Tensor]:
    """Sorted by label, cut into clients * per_client equal shards, `per_client` random shards to each client.

    Source: McMahan et al., Communication-efficient learning of deep networks, 2017, section 3.

    Raises:
        ValueError: per_client below 1, or fewer examples than shards.
    """
    count = clients * per_client
    if per_client < 1 or count > len(labels):
        raise ValueError(
            f"shards: per_client must be 1 to {len(labels) // clients} for {len(labels)} examples and {clients} clients"
        )
    mixed = torch.randperm(len(labels), generator=rng)
    pieces = mixed[labels[mixed].argsort(stable=True)].tensor_split(count)
    dealt = torch.randperm(count, generator=rng).view(clients, per_client)
    return [torch.cat([pieces[int(shard)] for shard in hand]) for hand in dealt]


def client_batch(indices: Tensor, seed: int, client: int, round: int, batch_size: int) -> Tensor:
    """The `batch_size` indices that `client` trains on in `round`, drawn without replacement from `indices`.

    Raises:
        ValueError: the client holds fewer examples than that: nothing is repeated or left short in silence.
    """
    if not 1 <= batch_size <= len(indices):
        raise ValueError(
            f"client {client} holds {len(indices)} examples, so its batch_size must be 1 to {len(indices)}, not "
            f"{batch_size}: lower batch_size or clients, or raise the partition's min_size (dirichlet)"
        )
    chosen = torch.randperm(len(indices), generator=stream(seed, "batch", client, round))[:batch_size]
    return indices[chosen]


def _topped_up(parts: list[Tensor], min_size: int, rng: torch.Generator) -> list[Tensor]:
    for poor in range(len(parts)):
        while len(parts[poor]) < min_size:
            rich = max(range(len(parts)), key=lambda client: len(parts[client]))
            kept = parts[rich][torch.randperm(len(parts[rich]), generator=rng)]
            parts[poor], parts[rich] = torch.cat([parts[poor], kept[:1]]), kept[1:]
    return parts
