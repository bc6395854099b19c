"""The split federation that benchmarks/split.py times, importable by Ray workers, and the bare loop beside it."""

from __future__ import annotations

import time
from functools import cache

import torch
import torch.nn.functional as F
from flwr.clientapp import ClientApp
from torch import Tensor, nn

from fl_privacy.models import build_model
from fl_privacy.seeding import stream
from fl_privacy.split.cutting import cut
from fl_privacy.split.rules import SplitClientTask, SplitRules
from fl_privacy.strategies.split.strategy import split_app

BATCH, DISTINCT = 32, 50
RULES = SplitRules(cut=("conv1",), optimiser="sgd", learning_rate=0.01)


def model() -> nn.Module:
    return build_model("lenet_grnn", (1, 28, 28), 10, 0)


@cache
def data() -> tuple[Tensor, Tensor]:
    rng = stream(0, "data")
    return torch.rand(DISTINCT, BATCH, 1, 28, 28, generator=rng), torch.randint(10, (DISTINCT, BATCH), generator=rng)


def batch(client: int, round: int, step: int) -> tuple[Tensor, Tensor]:
    x, y = data()
    return x[(step + client) % DISTINCT], y[(step + client) % DISTINCT]


def clients(steps: int) -> ClientApp:
    """The suite's client app; every client takes `steps` mini-batches a turn."""
    client_task = SplitClientTask(
        model=model, rules=RULES, batch=batch, steps=lambda c: steps, held_out=lambda c: batch(c, 0, 0)
    )
    return split_app(lambda message, context: client_task)


def bare_loop(steps: int) -> float:
    """Steps a second of split training as one would write it in a script: two modules, two optimisers, no suite."""
    torch.set_num_threads(1)
    client, server = cut(model(), "conv1")
    first = torch.optim.SGD(client.parameters(), lr=0.01)
    second = torch.optim.SGD(server.parameters(), lr=0.01)
    start = time.perf_counter()
    for step in range(steps):
        x, y = batch(0, 1, step)
        activation = client(x)
        received = activation.detach().requires_grad_()
        second.zero_grad()
        torch.autograd.backward(F.cross_entropy(server(received), y))
        second.step()
        first.zero_grad()
        torch.autograd.backward(activation, received.grad)
        first.step()
    return steps / (time.perf_counter() - start)
