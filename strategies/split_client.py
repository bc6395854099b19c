"""The client side of split learning: a message in, functions of `fl_privacy.split_training`, a reply out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fl_privacy.client import accuracy
from fl_privacy.seeding import one_thread, subseed
from fl_privacy.split_rules import SplitParty
from fl_privacy.split_training import ACTIVATION, ClientSegment, segments
from strategies.messages import ARRAYS, CONFIG, client_of, reply_with, round_of, unpack
from strategies.split_turns import LABELS, OUTPUTS, Turns

PartyOf = Callable[[Message, Context], SplitParty]


def split_app(party_of: PartyOf) -> ClientApp:
    """The clients of split learning; `party_of(message, context)` gives the SplitParty.

    'train.split' takes a range of mini-batches over a link, 'train.split_forward', '..._respond' and '..._backward' one
    mini-batch by messages, 'query.activation' releases held-out inputs, 'evaluate.split_outputs' scores what came back.
    The chain of defences runs in here, on what is released, and not in a mod.
    """
    app = ClientApp()

    @app.query("hello")
    def hello(message: Message, context: Context) -> Message:
        return reply_with(message, {"client": client_of(context)})

    @app.query("split_steps")
    def steps(message: Message, context: Context) -> Message:
        client = client_of(context)
        return reply_with(message, {"client": client, "steps": party_of(message, context).steps(client)})

    @app.train("split")
    def turn(message: Message, context: Context) -> Message:
        with one_thread():
            return Turns(message, context, party_of(message, context)).over_the_link()

    @app.train("split_forward")
    def forward(message: Message, context: Context) -> Message:
        with one_thread():
            return Turns(message, context, party_of(message, context)).forward()

    @app.train("split_respond")
    def respond(message: Message, context: Context) -> Message:
        with one_thread():
            return Turns(message, context, party_of(message, context)).respond()

    @app.train("split_backward")
    def backward(message: Message, context: Context) -> Message:
        with one_thread():
            return Turns(message, context, party_of(message, context)).backward()

    @app.query("activation")
    def activation(message: Message, context: Context) -> Message:
        with one_thread():
            return _released(message, context, party_of(message, context))

    @app.evaluate("split_outputs")
    def scored(message: Message, context: Context) -> Message:
        with one_thread():
            return _scored(message, context, party_of(message, context))

    return app


def _owned(message: Message, party: SplitParty) -> ClientSegment:
    segment, _ = segments(party.model(), party.rules)
    segment.owned.load_state_dict(unpack(message.content.array_records[ARRAYS]))
    return segment


def _released(message: Message, context: Context, party: SplitParty) -> Message:
    """Held-out inputs through the received segment and the serving chain; labels where the server may have them."""
    client = client_of(context)
    x, y = party.held_out(client)
    seed = subseed(party.seed, "serve", client, round_of(message))
    arrays = {ACTIVATION: _owned(message, party).serve(x, party.serving, seed)}
    config: Any = message.content.config_records[CONFIG]
    if config.get("labels") and party.rules.labels == "server":
        arrays[LABELS] = y
    return reply_with(message, {"client": client, "num-examples": len(y)}, arrays)


def _scored(message: Message, context: Context, party: SplitParty) -> Message:
    """U-shape: the server's outputs for the held-out inputs through the head, against the labels that never left."""
    client = client_of(context)
    _, y = party.held_out(client)
    arrays = unpack(message.content.array_records[ARRAYS])
    outputs = arrays.pop(OUTPUTS)
    segment, _ = segments(party.model(), party.rules)
    segment.owned.load_state_dict(arrays)
    hits, loss = accuracy(segment.head, outputs, y)
    metrics = {"client": client, "num-examples": len(y), "eval_loss": loss, "eval_accuracy": hits}
    return reply_with(message, metrics)
