"""An app as Flower's own template writes it: nothing in it knows of this package."""

from __future__ import annotations

import random

import numpy as np
import torch
import torch.nn.functional as F
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import Strategy
from torch import Tensor, nn

from fl_privacy.simulations.backends.local import LocalGrid

NODES, LR = 5, 0.05
WEIGHTS, CONFIG, METRICS = "weights", "settings", "theirs"  # any names do


class Net(nn.Module):
    """An own class with a functional forward, a batch norm's statistics and counter, and no arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.fc = nn.Linear(4 * 4 * 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.max_pool2d(torch.relu(self.norm(self.conv(x))), 2).flatten(1))


def load_data(partition: int) -> tuple[Tensor, Tensor]:
    """Of unequal numbers of examples."""
    rng = torch.Generator().manual_seed(partition)
    count = partition + 2
    return torch.rand(count, 1, 8, 8, generator=rng), torch.randint(3, (count,), generator=rng)


def client_app(*mods: object) -> ClientApp:
    app = ClientApp(mods=list(mods))

    @app.train()
    def train(message: Message, context: Context) -> Message:
        model = Net()
        record = next(iter(message.content.array_records))
        model.load_state_dict(message.content[record].to_torch_state_dict())
        x, y = load_data(int(context.node_config["partition-id"]))
        optimiser = torch.optim.SGD(model.parameters(), LR, momentum=0.9)
        for _ in range(2):
            optimiser.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimiser.step()
        metrics = MetricRecord({"train_loss": loss.item(), "num-examples": len(y)})
        return Message(RecordDict({record: ArrayRecord(model.state_dict()), METRICS: metrics}), reply_to=message)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        metrics = MetricRecord({"eval_loss": 1.0, "num-examples": 3})
        return Message(RecordDict({METRICS: metrics}), reply_to=message)

    return app


def first_weights() -> ArrayRecord:
    torch.manual_seed(0)
    return ArrayRecord(Net().state_dict())


def run(strategy: Strategy, app: ClientApp | None = None, rounds: int = 2, weights: ArrayRecord | None = None):
    """Start a strategy over the app's nodes, as its ServerApp does; every draw is seeded."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 (what Flower draws from)
    torch.manual_seed(0)
    grid = LocalGrid(app or client_app(), NODES)
    config = ConfigRecord({"lr": LR})
    return strategy.start(grid, weights or first_weights(), num_rounds=rounds, train_config=config)
