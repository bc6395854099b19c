"""The client side of federated learning: a message in, a function of `fl_privacy.federated.client`, a reply out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from torch import Tensor, nn

from fl_privacy.federated.client import ClientTask, accuracy, gradient
from fl_privacy.seeding import one_thread, seeded
from fl_privacy.strategies.mods import TaskOf, defence_mod
from fl_privacy.strategies.records import ARRAYS, CONFIG, client_of, reply_with, round_of, unpack
from fl_privacy.weights import load_weights, trainable


def gradient_app(task_of: TaskOf) -> ClientApp:
    """The clients: 'train.gradient', 'train' and 'train.update' (local SGD), 'evaluate', 'query.hello'.

    `party_of(message, context)` gives the Party; its `model()` decides the mode (train or eval) of each of its modules.
    Local SGD reads 'local-steps', 'learning-rate' and, for FedProx, 'proximal-mu' from the message's config.
    """
    app = ClientApp(mods=[defence_mod(task_of)])

    @app.train("gradient")
    def share_gradient(message: Message, context: Context) -> Message:
        with _at_work(message, context, task_of(message, context)) as (model, x, y):
            released, loss = gradient(model, x, y)
        return reply_with(message, _metrics(context, y, train_loss=loss), released)

    @app.train("update")
    def share_update(message: Message, context: Context) -> Message:
        config = message.content.config_records[CONFIG]
        if "local-steps" not in config or "learning-rate" not in config:
            raise ValueError("local SGD needs 'local-steps' and 'learning-rate' in the strategy's train_config")
        steps, rate, mu = (config.get(key, 0) for key in ("local-steps", "learning-rate", "proximal-mu"))
        with _at_work(message, context, task_of(message, context)) as (model, x, y):
            loss = local_sgd(model, x, y, int(steps), float(rate), float(mu))  # type: ignore[arg-type]
        return reply_with(message, _metrics(context, y, train_loss=loss), model.state_dict())

    app.train()(share_update)  # what FedAvg and its kin send

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        with _at_work(message, context, task_of(message, context)) as (model, x, y):
            hits, loss = accuracy(model, x, y)
        return reply_with(message, _metrics(context, y, eval_loss=loss, eval_accuracy=hits))

    @app.query("hello")
    def hello(message: Message, context: Context) -> Message:
        return reply_with(message, {"client": client_of(context)})

    return app


def local_sgd(model: nn.Module, x: Tensor, y: Tensor, steps: int, rate: float, mu: float = 0.0) -> float:
    """Take `steps` SGD steps on one batch, in place, and return the loss before the first.

    x (B, C, H, W), y (B,); `mu` pulls back to the received weights (Li et al. 2020, FedProx, equation 2).
    """
    start = {name: value.detach().clone() for name, value in trainable(model).items()}
    first = float("nan")
    for step in range(steps):
        slope, loss = gradient(model, x, y)
        first = loss if step == 0 else first
        with torch.no_grad():
            for name, value in trainable(model).items():
                pull = mu * (value - start[name]) if mu else torch.zeros(())
                value.sub_(rate * (slope[name] + pull))
    return first


@contextmanager
def _at_work(message: Message, context: Context, client_task: ClientTask) -> Iterator[tuple[nn.Module, Tensor, Tensor]]:
    """The client's model with the received weights and its batch; one thread, because more change the last bits."""
    client, round = client_of(context), round_of(message)
    with one_thread(), seeded(client_task.seed, "forward", client, round):  # dropout
        model = client_task.model()
        load_weights(model, unpack(message.content.array_records[ARRAYS]))
        yield model, *client_task.batch(client, round)


def _metrics(context: Context, y: Tensor, **measured: float) -> dict[str, int | float]:
    return {"num-examples": len(y), "client": client_of(context), **measured}
