"""A tiny federation for the tests of everything that speaks Flower; importable, so that Ray workers find it too."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from torch import Tensor, nn

from fl_privacy.defences import Chain
from fl_privacy.defences.noise import GaussianNoise
from fl_privacy.federated.client import ClientTask
from fl_privacy.observation import Observation, Spec
from fl_privacy.seeding import seeded, stream
from fl_privacy.simulations.backends.local import LocalGrid
from fl_privacy.strategies.federated.fedsgd import GradientSharing, gradient_app, gradient_schema
from fl_privacy.strategies.observer import HonestButCurious
from fl_privacy.strategies.records import ValidatingGrid, client_of, pack, round_of, unpack

CLIENTS = 4
SPEC = Spec(image_shape=(1, 4, 4), classes=4, batch_size=3)
LOCAL_SGD = {"local-steps": 2, "learning-rate": 0.1}


def model() -> nn.Module:
    """A classifier of 4x4 images with a batch norm, for its buffers, and dropout, for its draws."""
    with seeded(0, "model"):
        return nn.Sequential(
            nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.Dropout(0.1), nn.Sigmoid(), nn.Linear(8, 4)
        )


def batch(client: int, round: int) -> tuple[Tensor, Tensor]:
    rng = stream(0, "batch", client, round)
    return torch.rand(3, 1, 4, 4, generator=rng), torch.randint(4, (3,), generator=rng)


def client_task(scale: float = 0.0) -> ClientTask:
    chain = Chain((GaussianNoise(scale),)) if scale else Chain()
    return ClientTask(model, batch, chain, seed=0)


def clients(scale: float = 0.0, fault: Callable[[int, int], None] | None = None) -> ClientApp:
    """The suite's own client app; `fault(client, round)` runs before every gradient."""

    def task_of(message: Message, context: Context) -> ClientTask:
        if fault is not None and message.metadata.message_type == "train.gradient":
            fault(client_of(context), round_of(message))
        return client_task(scale)

    return gradient_app(task_of)


def initial() -> ArrayRecord:
    return pack(model().state_dict())


def validating(grid: Grid, **settings: Any) -> ValidatingGrid:
    return ValidatingGrid(grid, CLIENTS, schemas={"train.gradient": gradient_schema(model())}, **settings)


def local(app: ClientApp | None = None, **settings: Any) -> ValidatingGrid:
    """An orderly grid over clients in this process."""
    return validating(LocalGrid(app or clients(), CLIENTS), **settings)


def one_round(grid: ValidatingGrid) -> dict[str, Tensor]:
    """The weights after one round of gradient sharing."""
    return unpack(GradientSharing(CLIENTS, 0.1, seed=0).start(grid, initial(), 1).arrays)


def sha256(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, value in tensors.items():
        digest.update(f"{name}{tuple(value.shape)}{value.dtype}".encode() + value.numpy().tobytes())
    return digest.hexdigest()


def federate(runner: Callable[..., None], app: ClientApp, rounds: int = 2, share: int = 3, **settings: Any) -> Any:
    """Run FedSGD by `runner`; gives what the server saw as (round, client, hash of the payload), and the grid."""
    seen: list[Observation] = []
    kept: list[ValidatingGrid] = []
    server = ServerApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        kept.append(validating(grid, **settings))
        strategy = HonestButCurious(GradientSharing(share, 0.1, seed=1), seen.append, model, SPEC)
        strategy.start(kept[0], initial(), rounds)

    runner(server, app, CLIENTS)
    return [(o.round, o.client, sha256(o.payload)) for o in seen], kept[0]


def train_config() -> ConfigRecord:
    return ConfigRecord(dict(LOCAL_SGD))


def die_once(flag: Path) -> Callable[[int, int], None]:
    """Client 1 takes its whole process down in round 2, the first time; the second time it says when that was."""

    def fault(client: int, round: int) -> None:
        if (client, round) == (1, 2) and not flag.exists():
            flag.touch()
            os._exit(1)
        if (client, round) == (1, 2):
            flag.with_suffix(".again").touch()

    return fault


def hang(client: int, round: int) -> None:
    """Client 1 sleeps for an hour in round 1."""
    if (client, round) == (1, 1):
        time.sleep(3600)
