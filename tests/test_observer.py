"""The curious server sees everything and changes nothing, whatever strategy it wraps."""

from __future__ import annotations

import random

import pytest
import torch
from flower_apps import CLIENTS, SPEC, client_task, clients, initial, local, model, train_config
from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAdam, FedAvg, FedAvgM, FedMedian, FedProx, Krum

from fl_privacy.observation import ChannelName, Observation
from fl_privacy.simulations.backends.local import LocalGrid
from fl_privacy.strategies.federated.fedsgd import GradientSharing, gradient_app
from fl_privacy.strategies.observer import HonestButCurious
from fl_privacy.strategies.records import ARRAYS, METRICS, pack, unpack

STRATEGIES = {
    "FedAvg": lambda: FedAvg(fraction_train=0.75),
    "FedProx": lambda: FedProx(proximal_mu=0.1),
    "FedAvgM": lambda: FedAvgM(server_momentum=0.9),
    "FedAdam": lambda: FedAdam(),
    "FedMedian": lambda: FedMedian(),
    "Krum": lambda: Krum(num_malicious_nodes=1),
    "GradientSharing": lambda: GradientSharing(3, 0.1, seed=0),
}
UPDATES = sorted(set(STRATEGIES) - {"GradientSharing"})


def _run(strategy, rounds: int = 2):
    random.seed(0)
    grid = local(clients(scale=0.01), deadline=60)
    return strategy.start(grid, initial(), rounds, train_config=train_config()), grid


@pytest.mark.parametrize("name", STRATEGIES)
def test_wrapped_or_bare_every_bit_and_metric_is_the_same(name):
    seen: list[Observation] = []
    channel = ChannelName.GRADIENT if name == "GradientSharing" else ChannelName.UPDATE
    bare, bare_grid = _run(STRATEGIES[name]())
    wrapped, grid = _run(HonestButCurious(STRATEGIES[name](), seen.append, model, SPEC, channel=channel))
    assert [array.data for array in wrapped.arrays.values()] == [array.data for array in bare.arrays.values()]
    assert list(wrapped.arrays) == list(bare.arrays)
    assert wrapped.train_metrics_clientapp == bare.train_metrics_clientapp
    assert wrapped.evaluate_metrics_clientapp == bare.evaluate_metrics_clientapp
    assert grid.rounds == bare_grid.rounds
    trained = [counts for counts in grid.rounds if counts.message_type.startswith("train")]
    assert len(seen) == sum(counts.received for counts in trained)
    assert all(counts.received == counts.expected for counts in trained)


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_round_without_a_valid_reply_is_survived_by_every_strategy(name):
    def fault(message, context):
        if message.metadata.message_type.startswith("train"):
            raise OSError("gone")
        return client_task()

    seen: list[Observation] = []
    grid = local(gradient_app(fault))
    channel = ChannelName.GRADIENT if name == "GradientSharing" else ChannelName.UPDATE
    HonestButCurious(STRATEGIES[name](), seen.append, model, SPEC, channel=channel).start(grid, initial(), 2)
    trained = [counts for counts in grid.rounds if counts.message_type.startswith("train")]
    assert [counts.failed for counts in trained] == [counts.expected for counts in trained]
    assert len(trained) == 2
    assert seen == []


def test_a_gradient_observation_is_the_reply_and_the_model_that_was_sent():
    seen: list[Observation] = []
    strategy = HonestButCurious(GradientSharing(CLIENTS, 0.1, seed=0), seen.append, model, SPEC)
    grid = local()
    replies = grid.send_and_receive(strategy.configure_train(5, initial(), ConfigRecord(), grid))
    strategy.aggregate_train(5, replies)
    assert [(o.channel, o.round, o.client) for o in seen] == [
        (ChannelName.GRADIENT, 5, client) for client in range(CLIENTS)
    ]
    for observation, reply in zip(seen, replies, strict=True):
        received = unpack(reply.content[ARRAYS])
        assert list(observation.payload) == list(received)
        assert all(torch.equal(observation.payload[name], received[name]) for name in received)
    copy = seen[0].model
    assert all(observation.model is copy for observation in seen)
    assert all(torch.equal(value, model().state_dict()[name]) for name, value in copy.state_dict().items())


def test_an_update_observation_is_the_change_of_the_floating_point_arrays():
    seen: list[Observation] = []
    strategy = HonestButCurious(FedAvg(), seen.append, model, SPEC, channel=ChannelName.UPDATE)
    grid = local()
    replies = grid.send_and_receive(strategy.configure_train(1, initial(), train_config(), grid))
    strategy.aggregate_train(1, replies)
    sent = unpack(initial())
    for observation, reply in zip(seen, replies, strict=True):
        received = unpack(reply.content[ARRAYS])
        assert set(received) - set(observation.payload) == {"2.num_batches_tracked"}
        assert all(torch.equal(v, received[name] - sent[name]) for name, v in observation.payload.items())
        assert any(float(value.abs().max()) > 0 for value in observation.payload.values())


@pytest.mark.parametrize("name", UPDATES)
def test_updates_have_the_same_arrays_in_every_round(name):
    seen: list[Observation] = []
    _run(HonestButCurious(STRATEGIES[name](), seen.append, model, SPEC, channel=ChannelName.UPDATE), rounds=3)
    assert len({tuple(observation.payload) for observation in seen}) == 1
    types = {value.dtype for observation in seen for value in observation.payload.values()}
    assert types == {torch.float32}, "an adaptive strategy's weights may be float64, a client's are its model's"


def test_each_round_has_its_own_model_and_only_the_asked_rounds_are_recorded():
    seen: list[Observation] = []
    _run(HonestButCurious(GradientSharing(2, 0.5, seed=0), seen.append, model, SPEC, rounds={1, 3}), rounds=3)
    assert [observation.round for observation in seen] == [1, 1, 3, 3]
    first, third = seen[0].model, seen[2].model
    assert first is not third
    assert not torch.equal(first.state_dict()["1.weight"], third.state_dict()["1.weight"])


def test_a_rejected_reply_is_not_observed():
    seen: list[Observation] = []

    def fault(client: int, round: int) -> None:
        if client == 2:
            raise ValueError("out of luck")

    grid = local(clients(fault=fault))
    HonestButCurious(GradientSharing(CLIENTS, 0.1, seed=0), seen.append, model, SPEC).start(grid, initial(), 1)
    assert [observation.client for observation in seen] == [0, 1, 3]


def test_the_client_is_the_partition_and_not_the_place_in_the_round():
    seen: list[Observation] = []
    result, grid = _run(HonestButCurious(GradientSharing(1, 0.1, seed=3), seen.append, model, SPEC), rounds=8)
    strategy = GradientSharing(1, 0.1, seed=3)
    for observation in seen:
        (message,) = strategy.configure_train(observation.round, initial(), ConfigRecord(), grid)
        assert message.metadata.dst_node_id == 1000 + observation.client
    assert len({observation.client for observation in seen}) > 1
    assert METRICS not in seen[0].payload
    assert result.arrays


def test_other_channels_are_refused():
    with pytest.raises(ValueError, match="gradients or updates"):
        HonestButCurious(FedAvg(), lambda seen: None, model, SPEC, channel=ChannelName.OUTPUT)


def test_clients_of_an_ordinary_flower_app_are_numbered():
    """They send no metric 'client', and the record of their metrics has whatever name they like."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        weights = unpack(message.content.array_records[ARRAYS])
        number = int(context.node_config["partition-id"])
        changed = {name: value + number if value.is_floating_point() else value for name, value in weights.items()}
        content = RecordDict({"arrays": pack(changed), "theirs": MetricRecord({"num-examples": 3, "loss": 1.0})})
        return Message(content, reply_to=message)

    seen: list[Observation] = []
    strategy = HonestButCurious(FedAvg(fraction_evaluate=0.0), seen.append, model, SPEC, channel=ChannelName.UPDATE)
    strategy.start(LocalGrid(app, CLIENTS), initial(), 2)
    assert [each.round for each in seen] == [1] * CLIENTS + [2] * CLIENTS
    of_client = {(each.round, each.client): float(each.payload["1.bias"].mean()) for each in seen}
    assert sorted({client for _, client in of_client}) == list(range(CLIENTS))
    assert len(set(of_client.values())) == CLIENTS
    for client in range(CLIENTS):  # the same one in both rounds
        assert of_client[1, client] == pytest.approx(of_client[2, client], abs=1e-5)
