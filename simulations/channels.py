"""What a channel's rounds consist of: the one place that knows one channel from another."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flwr.serverapp.strategy import Strategy

from fl_privacy.observation import Channel, Observation
from strategies.curious import Curious
from strategies.gradient import GradientSharing, gradient_schema
from strategies.messages import Schema

if TYPE_CHECKING:
    from simulations.world import World

Sink = Callable[[Observation], None]


@dataclass(frozen=True)
class Kind:
    """How the rounds of one channel run.

    `server` makes the strategy of one arm, which hands every observation to a sink; `schemas` says by message type what
    the guard lets through; `grants` are the optional fields that this channel's adversary holds.
    """

    server: Callable[[World, Sink], Strategy]
    schemas: Callable[[World], Mapping[str, Schema]]
    grants: frozenset[str]


def _gradient_server(world: World, sink: Sink) -> Strategy:
    experiment = world.experiment
    honest = GradientSharing(experiment.clients_per_round, experiment.learning_rate, experiment.seed)
    return Curious(honest, sink, world.model, world.spec, experiment.attacked_rounds, Channel.GRADIENT)


def _gradient_schemas(world: World) -> Mapping[str, Schema]:
    return {"train.gradient": gradient_schema(world.model(), max_examples=world.experiment.batch_size)}


CHANNELS: Mapping[str, Kind] = {
    Channel.GRADIENT: Kind(server=_gradient_server, schemas=_gradient_schemas, grants=frozenset({"model"})),
}
