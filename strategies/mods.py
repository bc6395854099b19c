"""The one client mod: it runs the chain of defences on what is about to leave."""

from __future__ import annotations

from collections.abc import Callable, Collection

from flwr.app import Context, Message
from flwr.clientapp.typing import ClientAppCallable, Mod

from fl_privacy.federated.client import ClientTask
from fl_privacy.observation import Tensors
from fl_privacy.seeding import subseed
from fl_privacy.strategies.records import ARRAYS, client_of, pack, round_of, state_release, unpack
from fl_privacy.weights import constant, tied, with_tied

TaskOf = Callable[[Message, Context], ClientTask]


def defence_mod(task_of: TaskOf) -> Mod:
    """A mod that runs the party's chain on the arrays of every reply; put it first, so that it is outermost.

    Replies to 'train' and 'train.update' hold weights: there the chain gets the update, new minus received, and what it
    makes of it is added to the weights received, and arrays go back in the dtype in which they came. Where the chain
    changes nothing the reply keeps every bit. Arrays that hold no floating-point numbers (counters) pass, and so do
    frozen weights, which have no update; a weight that layers share is defended once, and goes back under each name.
    """

    def mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        base = received_weights(message)
        reply = call_next(message, context)
        if not reply.has_content() or ARRAYS not in reply.content:
            return reply
        client_task = task_of(message, context)
        if not (client_task.chain or base):
            state_release(reply, client_task.chain.label)
            return reply
        seed = subseed(client_task.seed, "release", client_of(context), round_of(message))
        payload = unpack(reply.content.array_records[ARRAYS])
        model = client_task.model() if client_task.chain and base else None
        fixed = frozenset() if model is None else constant(model)
        payload = release(payload, base, lambda change: client_task.chain.on_release(change, seed), fixed)
        payload = payload if model is None else with_tied(payload, tied(model))
        # Flower's averages turn counters into float64, and the guard wants back what was sent
        reply.content[ARRAYS] = pack({n: v.to(base[n].dtype) if n in base else v for n, v in payload.items()})
        state_release(reply, client_task.chain.label)
        return reply

    return mod


def received_weights(message: Message) -> Tensors:
    """The weights to which a reply to this message will be relative; none if it will not be."""
    if message.metadata.message_type not in ("train", "train.update"):
        return {}
    return unpack(message.content.array_records[ARRAYS])


def release(
    payload: Tensors, base: Tensors, defend: Callable[[Tensors], Tensors], fixed: Collection[str] = ()
) -> Tensors:
    """`payload` with what `defend` makes of its floating-point part (relative to `base`, for names that it has).

    The arrays of the names in `fixed` are no part of it.
    """
    moving = {n: v for n, v in payload.items() if v.is_floating_point() and n not in fixed}
    part = {n: v - base[n] if n in base else v for n, v in moving.items()}
    defended = defend(part)
    changed = {n: v + base[n] if n in base else v for n, v in defended.items() if v is not part[n]}
    return {**payload, **changed}
