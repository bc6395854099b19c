"""Around a strategy of any app: honest replies pass bit for bit, and what is not like what was sent counts as none."""

from __future__ import annotations

import copy
import logging

import flwr.serverapp.strategy as flower
import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, MetricRecord
from ordinary_app import METRICS, NODES, WEIGHTS, client_app, run

from fl_privacy.strategies import Guarded, HonestButCurious

VICTIM = 2
FIRST = "conv.weight"


def fedavg(**settings):
    return flower.FedAvg(arrayrecord_key=WEIGHTS, min_available_nodes=NODES, **settings)


def bits(result):
    return {name: array.numpy().tobytes() for name, array in result.arrays.items()}


def one_that(fault):
    """Clients of whom one changes its reply."""

    def mod(message, context, call_next):
        reply = call_next(message, context)
        if context.node_config["partition-id"] == VICTIM and message.metadata.message_type.startswith("train"):
            fault(reply.content)
        return reply

    return client_app(mod)


def array(change):
    def fault(content):
        record = content[next(iter(content.array_records))]
        record[FIRST] = Array(change(record[FIRST].numpy()))

    return fault


def renamed(content):
    content["other"] = content.pop(next(iter(content.array_records)))


def raw(content):
    name = next(iter(content.array_records))
    content[name][FIRST] = Array("float32", (4, 1, 3, 3), "numpy.ndarray", b"garbage")


FAULTS = {
    "NonFinite": array(lambda values: np.full_like(values, np.nan)),
    "ShapeMismatch": array(lambda values: np.ones(1, np.float32)),
    "TooLarge": array(lambda values: np.zeros(10**7, np.float32)),
    "Undecodable": raw,
    "KeysMismatch: arrays": lambda content: content[next(iter(content.array_records))].pop(FIRST),
    "KeysMismatch: there is no record": renamed,
    "BadWeight": lambda content: content[METRICS].__setitem__("num-examples", 10**12),
    "BadWeight: 'num-examples' is -3": lambda content: content[METRICS].__setitem__("num-examples", -3),
    "NonFinite: metric": lambda content: content[METRICS].__setitem__("train_loss", float("nan")),
    "NonFinite: 'x'": lambda content: content.__setitem__("more", ArrayRecord({"x": Array(np.full(3, np.inf))})),
}


@pytest.mark.parametrize("rounds", [1, 3])
def test_honest_replies_pass_and_no_bit_is_another(rounds, caplog):
    guarded = Guarded(fedavg())
    assert bits(run(guarded, rounds=rounds)) == bits(run(fedavg(), rounds=rounds)), "counters become float64 in round 2"
    assert guarded.rejected == []
    assert not [each for each in caplog.records if "counts as none" in each.message]


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_named_and_costs_only_its_sender(name, caplog, tmp_path):
    guarded = Guarded(fedavg())
    with caplog.at_level(logging.WARNING, "flwr"):
        found = run(HonestButCurious(guarded, out=tmp_path / "seen"), one_that(FAULTS[name]), rounds=1)
    ((round, _, why),) = guarded.rejected
    assert round == 1
    assert why.startswith(name), why
    assert why in caplog.text
    assert bits(found) == bits(run(Without(fedavg()), rounds=1))


class Without(Guarded):
    """The same round where that client is simply left out."""

    def aggregate_train(self, server_round, replies):
        kept = [reply for reply in replies if reply.metadata.src_node_id != 1000 + VICTIM]
        return self.inner.aggregate_train(server_round, kept)


def test_a_weight_of_another_name_is_judged_by_that_name():
    guarded = Guarded(fedavg(weighted_by_key="share"))

    def mod(message, context, call_next):
        reply = call_next(message, context)
        own = -1.0 if context.node_config["partition-id"] == VICTIM else 0.5
        for name in reply.content.metric_records:
            reply.content[name] = MetricRecord({**reply.content[name], "share": own})
        return reply

    run(guarded, client_app(mod), rounds=1)
    assert [why for _, _, why in guarded.rejected] == [
        "BadWeight: 'share' is -1.0, no number above 0 and at most 1000000"
    ]


def test_a_strategy_with_a_loop_of_its_own_is_refused_and_attributes_are_those_of_the_inner_one():
    class Own(flower.FedAvg):
        def start(self, *args, **kwargs):
            return super().start(*args, **kwargs)

    with pytest.raises(ValueError, match="Own has a 'start' of its own"):
        Guarded(Own())
    assert copy.copy(Guarded(fedavg())).arrayrecord_key == WEIGHTS
