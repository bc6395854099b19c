"""A tiny split federation for tests; importable, so that Ray workers find it too."""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from flwr.app import ConfigRecord, Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from torch import Tensor, nn

from fl_privacy.defences.base import Chain
from fl_privacy.defences.noise import LaplaceNoise
from fl_privacy.defences.nopeek import NoPeek
from fl_privacy.observation import Observation, Spec
from fl_privacy.seeding import seeded, stream
from fl_privacy.split.rules import SplitClientTask, SplitRules
from fl_privacy.strategies.records import ValidatingGrid, client_of, pack
from fl_privacy.strategies.split.strategy import SplitLearning, SplitSettings, split_app, split_schemas

CLIENTS = 3
STEPS = {0: 3, 1: 2, 2: 3}
SPEC = Spec(image_shape=(1, 8, 8), classes=4, batch_size=8)
DEFENDED = Chain((LaplaceNoise(0.05), NoPeek(0.5)))


def model() -> nn.Sequential:
    """With batch norm, for its buffers, and dropout on either side of the cut, for its draws."""
    with seeded(0, "net"):
        return nn.Sequential(
            OrderedDict(
                conv=nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.2)),
                flatten=nn.Flatten(),
                fc=nn.Sequential(nn.Linear(144, 12), nn.Tanh(), nn.Dropout(0.1)),
                head=nn.Linear(12, 4),
            )
        )


def batch(client: int, round: int, step: int) -> tuple[Tensor, Tensor]:
    """Eight images; the last mini-batch of client 1 is short, so that clients differ in how they weigh."""
    rng = stream(5, client, round, step)
    count = 5 if (client, step) == (1, 1) else 8
    return torch.rand(count, 1, 8, 8, generator=rng), torch.randint(4, (count,), generator=rng)


def client_task(**rules: Any) -> SplitClientTask:
    return SplitClientTask(
        model=model,
        rules=SplitRules(**{"cut": ("conv",), "learning_rate": 0.01, **rules}),
        batch=batch,
        steps=STEPS.__getitem__,
        held_out=functools.partial(batch, round=0, step=0),
        chain=DEFENDED,
        serving=DEFENDED,
    )


def clients(fault: Callable[[str, int], None] | None = None, **rules: Any) -> ClientApp:
    """The suite's own client app; `fault(message type, client)` runs before every message."""
    shared = client_task(**rules)

    def task_of(message: Message, context: Context) -> SplitClientTask:
        if fault is not None:
            fault(message.metadata.message_type, client_of(context))
        return shared

    return split_app(task_of)


def learn(
    runner: Callable[..., None],
    link: str,
    app: ClientApp | None = None,
    rounds: int = 2,
    rules: dict[str, Any] | None = None,
    infer: int = 0,
    **settings: Any,
) -> tuple[dict[str, Tensor], list[Observation], list[Observation], Any, ValidatingGrid]:
    """Train by `runner`: weights, training observations, those of `infer` rounds, Flower's result, the grid."""
    rules = rules or {}
    seen: list[Observation] = []
    inferred: list[Observation] = []
    kept: list[Any] = []
    server = ServerApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        validating = ValidatingGrid(grid, CLIENTS, schemas=split_schemas())
        chosen = SplitSettings(**{"link": link, "clients_per_round": CLIENTS, "observed_rounds": None, **settings})
        spec = replace(SPEC)
        strategy = SplitLearning(model, client_task(**rules).rules, chosen, spec, seen.append)
        result = strategy.start(
            validating, pack(model().state_dict()), rounds, train_config=ConfigRecord({"condition": 0})
        )
        strategy.sink = None
        for number in range(infer):
            inferred.extend(strategy.infer(validating, result.arrays, rounds + 1 + number))
        kept.extend((result, validating))

    runner(server, app or clients(**rules), CLIENTS)
    result, validating = kept
    weights = {name: torch.from_numpy(array.numpy()) for name, array in result.arrays.items()}
    return weights, seen, inferred, result, validating
