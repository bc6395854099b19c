"""Records keep every bit, and the grid keeps order, count and deadline."""

from __future__ import annotations

import itertools
import random
import time

import pytest
import torch
from flower_apps import CLIENTS, clients, initial, local, model, one_round, train_config
from flwr.app import ConfigRecord, Error
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg

from fl_privacy.simulations.backends.local import LocalGrid
from fl_privacy.strategies.federated.fedsgd import GradientSharing, gradient_schema
from fl_privacy.strategies.records import (
    METRICS,
    ValidatingGrid,
    pack,
    unpack,
)

DTYPES = [torch.float16, torch.float32, torch.float64, torch.int64, torch.uint8, torch.bool]


# -- tensors as records ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 0, 2), (5, 4)])
def test_pack_and_unpack_keep_order_shape_type_and_bits(dtype, shape):
    values = torch.randint(0, 2, shape).to(dtype)
    tensors = {"z": values, "a": values.clone()}
    back = unpack(pack(tensors))
    assert list(back) == ["z", "a"]
    for name, value in tensors.items():
        assert back[name].dtype == dtype
        assert back[name].shape == value.shape
        assert torch.equal(back[name], value)


def test_pack_keeps_nan_infinity_signed_zero_and_the_smallest_numbers():
    odd = torch.tensor([float("nan"), float("inf"), -float("inf"), -0.0, 1e-45])
    back = unpack(pack({"odd": odd}))["odd"]
    assert torch.equal(back.view(torch.int32), odd.view(torch.int32))


def test_pack_takes_transposed_tensors_and_gives_contiguous_ones_back():
    matrix = torch.arange(6.0).view(2, 3).t()
    back = unpack(pack({"m": matrix}))["m"]
    assert torch.equal(back, matrix)
    assert back.is_contiguous()


def test_pack_says_what_to_do_about_bfloat16():
    with pytest.raises(TypeError, match=r"'w' is bfloat16.*float32"):
        pack({"w": torch.zeros(2, dtype=torch.bfloat16)})


# -- the grid ----------------------------------------------------------------------------------------------------------


class Shuffled(Grid):
    """Node ids and replies in an order that has nothing to do with the partitions, as in Flower's own simulation."""

    def __init__(self) -> None:
        self.grid, self.greeted = LocalGrid(clients(), CLIENTS), 0

    def get_node_ids(self):
        return random.sample(self.grid.get_node_ids(), CLIENTS)

    def push_messages(self, messages):
        messages = list(messages)
        self.greeted += sum(message.metadata.message_type == "query.hello" for message in messages)
        return self.grid.push_messages(messages)

    def pull_messages(self, message_ids):
        replies = self.grid.pull_messages(message_ids)
        return random.sample(replies, len(replies))

    def send_and_receive(self, messages, *, timeout=None):
        raise NotImplementedError

    create_message = set_run = send_and_receive
    run = None


def test_nodes_and_replies_come_in_partition_order():
    for _ in range(5):
        inner = Shuffled()
        grid = ValidatingGrid(inner, CLIENTS)
        assert grid.get_node_ids() == [1000, 1001, 1002, 1003]
        assert inner.greeted == CLIENTS
        strategy = GradientSharing(CLIENTS, 0.1, seed=0)
        grid.schemas["train.gradient"] = gradient_schema(model())
        replies = grid.send_and_receive(strategy.configure_train(1, initial(), ConfigRecord(), grid))
        assert [reply.content[METRICS]["client"] for reply in replies] == [0, 1, 2, 3]


def test_fedavg_samples_the_same_clients_for_the_same_seed_of_random():
    def sampled(seed: int) -> list[int]:
        random.seed(99)  # the shuffling's own draws must not matter
        grid = ValidatingGrid(Shuffled(), CLIENTS)
        grid.get_node_ids()
        random.seed(seed)
        messages = FedAvg(fraction_train=0.5).configure_train(1, initial(), train_config(), grid)
        return [message.metadata.dst_node_id for message in messages]

    draws = [sampled(seed) for seed in range(8)]
    assert draws == [sampled(seed) for seed in range(8)]
    assert len({tuple(draw) for draw in draws}) > 1


def test_where_the_clients_are_known_one_in_each_process_is_greeted_and_no_other_made():
    inner = LocalGrid(clients(), 10_000)
    grid = ValidatingGrid(inner, 10_000)
    assert grid.get_node_ids() == list(range(1000, 11_000))
    assert len(inner._contexts) == 1
    grid.send_and_receive(GradientSharing(3, 0.1, seed=0).configure_train(1, initial(), ConfigRecord(), grid))
    assert len(inner._contexts) <= 4


class Silent(LocalGrid):
    """Clients 1 and up never answer after the hello."""

    def pull_messages(self, message_ids):
        replies = super().pull_messages(message_ids)
        return [r for r in replies if r.metadata.src_node_id == 1000 or r.metadata.message_type == "query.hello"]


def test_the_exchange_ends_at_the_deadline_and_the_missing_are_counted():
    grid = ValidatingGrid(Silent(clients(), CLIENTS), CLIENTS, deadline=0.2)
    grid.schemas["train.gradient"] = gradient_schema(model())
    start = time.monotonic()
    one_round(grid)
    assert time.monotonic() - start < 2
    counts = grid.rounds[0]
    assert (counts.expected, counts.received, counts.timed_out) == (4, 1, 3)
    assert counts.reasons == ["client 1 timed out", "client 2 timed out", "client 3 timed out"]


def test_the_callers_timeout_counts_where_it_is_shorter():
    grid = ValidatingGrid(Silent(clients(), CLIENTS), CLIENTS, deadline=60)
    messages = GradientSharing(CLIENTS, 0.1, seed=0).configure_train(1, initial(), ConfigRecord(), grid)
    start = time.monotonic()
    grid.send_and_receive(messages, timeout=0.1)
    assert time.monotonic() - start < 2


class Failing(LocalGrid):
    """Some clients answer with an error, some not at all, some with rubbish; `fates` says which."""

    def __init__(self, fates: tuple[str, ...]) -> None:
        super().__init__(clients(), CLIENTS)
        self.fates = dict(zip(self.get_node_ids(), fates, strict=True))

    def pull_messages(self, message_ids):
        answered = []
        for reply in super().pull_messages(message_ids):
            fate = "well" if reply.metadata.message_type == "query.hello" else self.fates[reply.metadata.src_node_id]
            if fate == "rubbish":
                reply.content.pop(METRICS)
            if fate == "error":
                reply.__dict__.update(_content=None, _error=Error(0, "ValueError: it broke"))
            answered += [reply] if fate != "silent" else []
        return answered


@pytest.mark.parametrize(
    "fates",
    itertools.islice(itertools.combinations_with_replacement(["well", "error", "rubbish", "silent"], CLIENTS), 35),
)
def test_every_message_is_counted_exactly_once(fates):
    grid = ValidatingGrid(Failing(fates), CLIENTS, deadline=0.05, schemas={"train.gradient": gradient_schema(model())})
    messages = GradientSharing(CLIENTS, 0.1, seed=0).configure_train(1, initial(), ConfigRecord(), grid)
    replies = grid.send_and_receive(messages)
    counts = grid.rounds[0]
    assert counts.expected == CLIENTS
    assert counts.received == len(replies) == fates.count("well")
    assert (counts.failed, counts.rejected) == (fates.count("error"), fates.count("rubbish"))
    assert counts.timed_out == fates.count("silent")
    if "error" in fates:
        assert any("failed: ValueError: it broke" in reason for reason in counts.reasons)


@pytest.mark.parametrize(("needed", "skipped"), [(3, False), (4, True)])
def test_a_round_with_too_few_valid_replies_is_skipped_and_the_model_kept(needed, skipped):
    inner = Failing(("rubbish", "well", "well", "well"))
    schemas = {"train.gradient": gradient_schema(model())}
    grid = ValidatingGrid(inner, CLIENTS, min_replies=needed, schemas=schemas)
    result = GradientSharing(CLIENTS, 0.1, seed=0).start(grid, initial(), 1)
    assert (len(result.arrays) == 0) == skipped  # Flower's result holds arrays only after an aggregation
    assert (
        any("round skipped: 3 valid replies, at least 4 needed" in reason for reason in grid.rounds[0].reasons)
        == skipped
    )
    assert grid.rounds[0].received == 3


def test_too_few_clients_is_an_error_that_says_so():
    grid = ValidatingGrid(LocalGrid(clients(), 2), CLIENTS, start_deadline=0.1)
    with pytest.raises(TimeoutError, match="2 of 4 clients registered"):
        grid.get_node_ids()


def test_clients_that_cannot_start_are_an_error_with_the_cause():
    from flwr.clientapp import ClientApp

    with pytest.raises(RuntimeError, match="could not start: ValueError: No query function registered"):
        ValidatingGrid(LocalGrid(ClientApp(), CLIENTS), CLIENTS).get_node_ids()


def test_the_cause_of_a_failure_is_named_without_its_traceback():
    def fault(client: int, round: int) -> None:
        if client == 1:
            raise OSError("no such\n  data set")

    grid = local(clients(fault=fault))
    one_round(grid)
    assert grid.rounds[0].reasons == ["client 1 failed: OSError: no such data set"]
