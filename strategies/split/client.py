"""The client side of split learning: a message in, functions of `fl_privacy.split.segments`, a reply out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flwr.app import ArrayRecord, Context, Message
from flwr.clientapp import ClientApp

from fl_privacy.defences.learning import MODULES
from fl_privacy.federated.client import accuracy
from fl_privacy.seeding import one_thread, subseed
from fl_privacy.split.rules import SplitClientTask
from fl_privacy.split.segments import ACTIVATION, ClientSegment, segments
from fl_privacy.strategies.records import ARRAYS, CONFIG, client_of, reply_with, round_of, state_release, unpack
from fl_privacy.strategies.split.client_messages import LABELS, OUTPUTS, ClientMessages, accompanied, learnt_by

TaskOf = Callable[[Message, Context], SplitClientTask]


def split_app(task_of: TaskOf) -> ClientApp:
    """The clients of split learning; `party_of(message, context)` gives the SplitParty.

    'train.split' takes a range of mini-batches over a link, 'train.split_forward', '..._respond' and '..._backward' one
    mini-batch by messages, 'query.activation' releases held-out inputs, 'evaluate.split_outputs' scores what came back.
    'query.learnt' hands out what the serving defences have learnt, where the task says so.
    The chain of defences runs in here, on what is released, and not in a mod.
    """
    app = ClientApp()

    @app.query("hello")
    def hello(message: Message, context: Context) -> Message:
        return reply_with(message, {"client": client_of(context)})

    @app.query("split_steps")
    def steps(message: Message, context: Context) -> Message:
        client = client_of(context)
        return reply_with(message, {"client": client, "steps": task_of(message, context).steps(client)})

    @app.train("split")
    def turn(message: Message, context: Context) -> Message:
        with one_thread():
            return ClientMessages(message, context, task_of(message, context)).over_the_link()

    @app.train("split_forward")
    def forward(message: Message, context: Context) -> Message:
        with one_thread():
            return ClientMessages(message, context, task_of(message, context)).forward()

    @app.train("split_respond")
    def respond(message: Message, context: Context) -> Message:
        with one_thread():
            return ClientMessages(message, context, task_of(message, context)).respond()

    @app.train("split_backward")
    def backward(message: Message, context: Context) -> Message:
        with one_thread():
            return ClientMessages(message, context, task_of(message, context)).backward()

    @app.query("activation")
    def activation(message: Message, context: Context) -> Message:
        with one_thread():
            return _released(message, context, task_of(message, context))

    @app.query("learnt")
    def learnt(message: Message, context: Context) -> Message:
        return _learnt(message, context, task_of(message, context))

    @app.evaluate("split_outputs")
    def scored(message: Message, context: Context) -> Message:
        with one_thread():
            return _scored(message, context, task_of(message, context))

    return app


def _owned(message: Message, client_task: SplitClientTask) -> ClientSegment:
    segment, _ = segments(client_task.model().to(client_task.device), client_task.rules)
    segment.owned.load_state_dict(unpack(message.content.array_records[ARRAYS]))
    return segment


def _released(message: Message, context: Context, client_task: SplitClientTask) -> Message:
    """Held-out inputs through the received segment and the serving chain; labels where the server may have them."""
    client = client_of(context)
    x, y = client_task.held_out(client)
    seed = subseed(client_task.seed, "serve", client, round_of(message))
    segment, chain, x = _owned(message, client_task), client_task.serving, x.to(client_task.device)
    if learnt_by(chain) in context.state:
        chain = accompanied(segment, chain, context, x, seed)
    arrays = {ACTIVATION: segment.serve(x, chain, seed)}
    config: Any = message.content.config_records[CONFIG]
    if config.get("labels") and client_task.rules.labels == "server":
        arrays[LABELS] = y
    reply = reply_with(message, {"client": client, "num-examples": len(y)}, arrays)
    state_release(reply, client_task.serving.label)
    return reply


def _learnt(message: Message, context: Context, client_task: SplitClientTask) -> Message:
    """What the serving defences have learnt here, without their optimiser's state."""
    if not client_task.tells_learnt:
        raise PermissionError("what a client's defences have learnt is its own: tells_learnt=True would hand it out")
    kept = context.state.array_records.get(learnt_by(client_task.serving), ArrayRecord())
    learnt = {name: value for name, value in unpack(kept).items() if name.startswith(MODULES)}
    return reply_with(message, {"client": client_of(context)}, learnt)


def _scored(message: Message, context: Context, client_task: SplitClientTask) -> Message:
    """U-shape: the server's outputs for the held-out inputs through the head, against the labels that never left."""
    client = client_of(context)
    _, y = client_task.held_out(client)
    arrays = unpack(message.content.array_records[ARRAYS])
    outputs = arrays.pop(OUTPUTS)
    segment, _ = segments(client_task.model(), client_task.rules)
    segment.owned.load_state_dict(arrays)
    hits, loss = accuracy(segment.head, outputs, y)
    metrics = {"client": client, "num-examples": len(y), "eval_loss": loss, "eval_accuracy": hits}
    return reply_with(message, metrics)
