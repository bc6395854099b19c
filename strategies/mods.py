"""The one client mod: it runs a chain of defences on what is about to leave."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from flwr.app import Context, Message, MetricRecord
from flwr.clientapp.typing import ClientAppCallable, Mod
from torch import nn

from fl_privacy.defences import Chain, chain_of
from fl_privacy.federated.client import ClientTask
from fl_privacy.observation import Tensors
from fl_privacy.seeding import subseed
from fl_privacy.strategies.records import pack, state_release, unpack
from fl_privacy.weights import constant, tied, with_tied

TaskOf = Callable[[Message, Context], ClientTask]
STATE, COUNT = "fl-privacy", "releases"
LOG = logging.getLogger("flwr")


def defence_mod(
    chain: Chain | str | Sequence[Mapping[str, Any]],
    seed: int | None,
    *,
    model: Callable[[], nn.Module] | None = None,
    in_training: bool = False,
) -> Mod:
    """A mod that runs a chain on the arrays of every reply; put it first, so that it is outermost and sees them last.

        app = ClientApp(mods=[defence_mod("clip(norm=1.0) + gaussian_noise(scale=0.1)", seed=None)])

    `chain` is a Chain, tables, or text, such as a value of the run config. With a `seed` every draw can be repeated, by
    client and round, and whoever knows the seed can take the noise away: None draws anew, as outside a simulation.

    Replies to 'train' and 'train.update' hold weights, as Flower's strategies want: there the chain gets the change,
    new minus received, and what it makes of it is added to the weights received, and arrays go back in the dtype in
    which they came. A reply that is nearer to zero than to the weights received is a change already, and the chain gets
    it as it is, as every other kind of reply. Where the chain changes nothing the reply keeps every bit. Arrays without
    floating-point numbers (counters) pass; several records are one payload. The reply says which chain was run.

    Which weights are frozen or shared no reply tells: they are defended like others, unless `model` shows them. Frozen
    weights then pass, and a weight that layers share is defended once, and goes back under each name.

    `in_training`: the app computes its gradients by `federated.example_gradients.gradient_under`, as a chain needs that
    acts there, such as DP-SGD, which clips those of single examples.

    Raises:
        ValueError, UnknownName: no such chain, or one that comes too late here.
    """
    known = chain_of(chain)
    if known.in_training and not in_training:
        raise ValueError(
            f"the chain '{known.label}' acts where gradients are computed, and a mod sees what is sent, where they are "
            "added up already: take each step by fl_privacy.federated.example_gradients.gradient_under in place of "
            "your own backward pass, and tell the mod so with in_training=True"
        )

    def mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        base = _received(message)
        reply = call_next(message, context)
        if not reply.has_content() or not reply.content.array_records:
            return reply
        if known or base:
            _defend(reply, base, known, _draws(seed, message, context), model)
        state_release(reply, known.label)
        return reply

    return mod


def task_mod(task_of: TaskOf) -> Mod:
    """The same for clients whose chain a message decides: this package's own."""

    def mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        task = task_of(message, context)
        return defence_mod(task.chain, task.seed, model=task.model, in_training=True)(message, context, call_next)

    return mod


def _received(message: Message) -> dict[str, Tensors]:
    """The weights to which a reply to this message will be relative, by record; none if it will not be."""
    if message.metadata.message_type not in ("train", "train.update"):
        return {}
    return {name: unpack(record) for name, record in message.content.array_records.items()}


def _defend(
    reply: Message,
    received: Mapping[str, Tensors],
    chain: Chain,
    seed: int,
    factory: Callable[[], nn.Module] | None,
) -> None:
    """Put what the chain makes of a reply's arrays in their place."""
    records = {name: unpack(record) for name, record in reply.content.array_records.items()}
    if len(received) == len(records) == 1:  # a client may answer under another name
        received = dict(zip(records, received.values(), strict=True))
    payload, base = _joined(records, len(records) > 1), _joined(received, len(records) > 1)
    if _is_change(payload, base):
        LOG.info("fl-privacy: the reply is a change of the weights, and is defended as it is")
        base = {}
    model = factory() if factory is not None and chain and base else None
    fixed = frozenset() if model is None else constant(model)
    payload = release(payload, base, lambda change: chain.on_release(change, seed), fixed)
    payload = payload if model is None else with_tied(payload, tied(model))
    # Flower's averages turn counters into float64, and the guard wants back what was sent
    payload = {name: value.to(base[name].dtype) if name in base else value for name, value in payload.items()}
    for record, tensors in records.items():
        prefix = f"{record}/" if len(records) > 1 else ""
        reply.content[record] = pack({name: payload[f"{prefix}{name}"] for name in tensors})


def _joined(records: Mapping[str, Tensors], named: bool) -> Tensors:
    return {f"{r}/{name}" if named else name: v for r, tensors in records.items() for name, v in tensors.items()}


def _is_change(payload: Tensors, base: Tensors) -> bool:
    """Whether a reply of the names of the weights lies nearer to zero than to them; training moves by less."""
    both = [name for name, value in payload.items() if name in base and value.is_floating_point()]
    if not both:
        return False
    new = torch.cat([payload[name].flatten().double() for name in both])
    old = torch.cat([base[name].flatten().double() for name in both])
    return bool((new - old).norm() > new.norm())


def _draws(seed: int | None, message: Message, context: Context) -> int:
    """The seed of this client's release in this round; where no message names a round, of its so-many-eth release."""
    if seed is None:
        return secrets.randbits(62)
    client = int(context.node_config.get("partition-id", context.node_id))
    for record in message.content.config_records.values():
        if "server-round" in record:
            return subseed(seed, "release", client, int(record["server-round"]))  # type: ignore[arg-type]
    told = context.state.metric_records.get(STATE)
    count = 0 if told is None else int(told[COUNT])  # type: ignore[arg-type]
    context.state[STATE] = MetricRecord({COUNT: count + 1})
    return subseed(seed, "release", client, count)


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
