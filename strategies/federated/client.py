"""The client side of federated learning: a message in, a function of `fl_privacy.federated.client`, a reply out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from torch import Tensor, nn

from fl_privacy.federated.client import ClientTask, SlopeOf, accuracy
from fl_privacy.federated.example_gradients import gradient_under
from fl_privacy.federated.local_training import train_locally
from fl_privacy.observation import LocalTraining
from fl_privacy.seeding import one_thread, seeded, stream
from fl_privacy.settings import check_settings
from fl_privacy.strategies.mods import TaskOf, task_mod
from fl_privacy.strategies.records import ARRAYS, CONFIG, client_of, reply_with, round_of, unpack
from fl_privacy.weights import load_weights

KEYS = {
    "local-epochs": "epochs",
    "local-batch-size": "batch_size",
    "local-steps": "steps",
    "optimiser": "optimiser",
    "learning-rate": "learning_rate",
    "momentum": "momentum",
    "weight-decay": "weight_decay",
    "proximal-mu": "proximal",
    "loss": "loss",
    "mode": "mode",
}
"""The keys of a message's config, and the fields of `LocalTraining` that they give."""
Scalars = float | str | list[float]


def gradient_app(task_of: TaskOf) -> ClientApp:
    """The clients: 'train.gradient', 'train' and 'train.update' (local training), 'evaluate', 'query.hello'.

    `task_of(message, context)` gives the client's task; its `model()` decides the mode of each of its modules. Local
    training reads its settings (`local_training`) from the message's config, where FedProx puts 'proximal-mu' too.
    """
    app = ClientApp(mods=[task_mod(task_of)])

    @app.train("gradient")
    def share_gradient(message: Message, context: Context) -> Message:
        client_task = task_of(message, context)
        with _at_work(message, context, client_task) as (model, x, y):
            released, loss = _slope_of(message, context, client_task)(model, x, y)
        return reply_with(message, _metrics(context, y, train_loss=loss), released)

    @app.train("update")
    def share_update(message: Message, context: Context) -> Message:
        local, client_task = local_training(message.content.config_records[CONFIG]), task_of(message, context)
        order = stream(client_task.seed, "shuffle", client_of(context), round_of(message))
        with _at_work(message, context, client_task) as (model, x, y):
            loss = train_locally(model, x, y, local, order, _slope_of(message, context, client_task))
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


def local_config(local: LocalTraining) -> dict[str, Scalars]:
    """What a strategy's `train_config` tells clients of their local training; what is as by default is left out."""
    found: dict[str, Scalars] = {"local-steps": local.steps, "learning-rate": local.learning_rate}
    if local.normalise is not None:
        found |= {"normalise-means": list(local.normalise[0]), "normalise-deviations": list(local.normalise[1])}
    default = LocalTraining()
    told = {
        key: getattr(local, field) for key, field in KEYS.items() if getattr(local, field) != getattr(default, field)
    }
    return found | told


def local_training(config: Mapping[str, Any]) -> LocalTraining:
    """The local training that a message's config asks for.

    Raises:
        ValueError: it has no 'learning-rate', says neither 'local-steps' nor 'local-epochs', or a value does not fit.
    """
    if not {"local-steps", "local-epochs"} & set(config) or "learning-rate" not in config:
        raise ValueError(
            "local training needs 'local-steps' (or 'local-epochs') and 'learning-rate' in the strategy's train_config"
        )
    settings = {field: config[key] for key, field in KEYS.items() if key in config}
    if "normalise-means" in config:
        settings["normalise"] = [list(config["normalise-means"]), list(config["normalise-deviations"])]
    return LocalTraining(**check_settings("the strategy's train_config", LocalTraining, settings))


@contextmanager
def _at_work(message: Message, context: Context, client_task: ClientTask) -> Iterator[tuple[nn.Module, Tensor, Tensor]]:
    """The client's model with the received weights, and its batch, on its device; one thread, for the last bits."""
    client, round = client_of(context), round_of(message)
    with one_thread(), seeded(client_task.seed, "forward", client, round):  # dropout
        model = client_task.model()
        load_weights(model, unpack(message.content.array_records[ARRAYS]))
        place = torch.device(client_task.device)
        x, y = client_task.batch(client, round)
        yield model.to(place), x.to(place), y.to(place)


def _slope_of(message: Message, context: Context, client_task: ClientTask) -> SlopeOf:
    noise = stream(client_task.seed, "examples", client_of(context), round_of(message))
    return gradient_under(client_task.chain, noise)


def _metrics(context: Context, y: Tensor, **measured: float) -> dict[str, int | float]:
    return {"num-examples": len(y), "client": client_of(context), **measured}
