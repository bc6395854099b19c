"""FedSGD on Flower equals a bare PyTorch loop; defences change what leaves and nothing else."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from flower_apps import CLIENTS, LOCAL_SGD, batch, client_task, clients, initial, local, model, train_config
from flwr.app import ConfigRecord
from flwr.serverapp.strategy import FedAvg, FedProx
from torch import nn

from fl_privacy.defences import Chain, Defence
from fl_privacy.federated.client import ClientTask
from fl_privacy.seeding import seeded, subseed
from fl_privacy.simulations.backends.local import LocalGrid
from fl_privacy.strategies.federated.fedsgd import GradientSharing, gradient_app, gradient_schema
from fl_privacy.strategies.mods import release
from fl_privacy.strategies.records import ARRAYS, METRICS, ValidatingGrid, unpack

ROUNDS = 3


def _plain_gradient(net: nn.Module, client: int, round: int) -> list[torch.Tensor]:
    x, y = batch(client, round)
    with seeded(0, "forward", client, round):
        F.cross_entropy(net(x), y).backward()
    return [parameter.grad for parameter in net.parameters()]


def test_fedsgd_takes_the_steps_of_a_bare_loop():
    result = GradientSharing(CLIENTS, 0.1, seed=0).start(local(), initial(), ROUNDS)
    weights = model().state_dict()
    buffers = {name for name, _ in model().named_buffers()}
    for round in range(1, ROUNDS + 1):
        slopes = []
        for client in range(CLIENTS):
            net = model()
            net.load_state_dict(weights)
            slopes.append(_plain_gradient(net, client, round))
        for (name, _), *each in zip(model().named_parameters(), *slopes, strict=True):
            weights[name] = weights[name] - 0.1 * torch.stack(each).mean(0)
    final = unpack(result.arrays)
    assert list(final) == list(weights)
    for name, value in final.items():
        torch.testing.assert_close(value, weights[name], rtol=0, atol=1e-6)
        assert name not in buffers or torch.equal(value, model().state_dict()[name])


def test_the_payload_is_the_gradient_bit_for_bit():
    grid = local()
    messages = GradientSharing(CLIENTS, 0.1, seed=0).configure_train(1, initial(), ConfigRecord(), grid)
    for client, reply in enumerate(grid.send_and_receive(messages)):
        payload = unpack(reply.content[ARRAYS])
        expected = _plain_gradient(model(), client, 1)
        assert list(payload) == [name for name, _ in model().named_parameters()]
        assert all(torch.equal(mine, theirs) for mine, theirs in zip(payload.values(), expected, strict=True))


def test_clients_are_drawn_without_replacement_in_order_by_the_seed_and_all_in_turn():
    grid = local()

    def drawn(seed: int, round: int) -> list[int]:
        strategy = GradientSharing(2, 0.1, seed)
        return [m.metadata.dst_node_id for m in strategy.configure_train(round, initial(), ConfigRecord(), grid)]

    draws = [drawn(0, round) for round in range(20)]
    assert draws == [drawn(0, round) for round in range(20)]
    assert all(len(set(d)) == 2 and d == sorted(d) for d in draws)
    assert {node for d in draws for node in d} == set(grid.get_node_ids())
    assert draws != [drawn(1, round) for round in range(20)]


def test_too_many_or_too_few_clients_a_round_are_refused():
    with pytest.raises(ValueError, match="at least 1"):
        GradientSharing(0, 0.1, seed=0)
    with pytest.raises(ValueError, match="is 5, but there are only 4 clients"):
        GradientSharing(5, 0.1, seed=0).start(local(), initial(), 1)


# -- local training ---------------------------------------------------------------------------------------------------


def test_fedprox_reaches_the_clients():
    near = FedProx(proximal_mu=5.0).start(local(), initial(), 1, train_config=train_config())
    far = FedAvg().start(local(), initial(), 1, train_config=train_config())

    def moved(result) -> float:
        final = unpack(result.arrays)
        return sum((final[name] - value.detach()).square().sum().item() for name, value in model().named_parameters())

    assert 0 < moved(near) < moved(far)


def test_local_training_without_its_settings_says_which_are_missing():
    grid = local()
    FedAvg().start(grid, initial(), 1)
    assert "needs 'local-steps' (or 'local-epochs') and 'learning-rate'" in grid.rounds[0].reasons[0]


def test_fedavg_runs_and_evaluates_at_the_clients():
    grid = local()
    result = FedAvg().start(grid, initial(), 2, train_config=train_config())
    assert [c.message_type for c in grid.rounds] == ["train", "evaluate", "train", "evaluate"]
    assert all(c.received == CLIENTS for c in grid.rounds)
    assert 0 <= result.evaluate_metrics_clientapp[2]["eval_accuracy"] <= 1


# -- the defence mod ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recorder(Defence):
    """Adds `shift` and writes down what it was given."""

    seen: list
    shift: float = 0.0

    def on_release(self, payload, rng):
        self.seen.append(payload)
        return payload if self.shift == 0 else {name: value + self.shift for name, value in payload.items()}


def _bytes(reply) -> dict[str, bytes]:
    return {name: array.data for name, array in reply.content[ARRAYS].items()}


def _replies(message_type: str, chain: Chain):
    recorded = ClientTask(model, batch, chain, seed=0)
    inner = LocalGrid(gradient_app(lambda message, context: recorded), CLIENTS)
    grid = ValidatingGrid(inner, CLIENTS, schemas={"train.gradient": gradient_schema(model())})
    messages = GradientSharing(CLIENTS, 0.1, 0).configure_train(1, initial(), ConfigRecord(dict(LOCAL_SGD)), grid)
    for message in messages:
        message.metadata.message_type = message_type
    return grid.send_and_receive(messages)


@pytest.mark.parametrize("kind", ["train.gradient", "train", "train.update"])
def test_a_chain_that_changes_nothing_changes_no_bit(kind):
    bare, neutral = _replies(kind, Chain()), _replies(kind, Chain((Recorder([]),)))
    assert len(bare) == CLIENTS
    for one, other in zip(bare, neutral, strict=True):
        assert [array.data for array in one.content[ARRAYS].values()] == [
            a.data for a in other.content[ARRAYS].values()
        ]
        assert one.content[METRICS] == other.content[METRICS]


def test_the_chain_gets_the_gradient_and_its_result_is_what_leaves():
    seen: list = []
    bare, defended = _replies("train.gradient", Chain()), _replies("train.gradient", Chain((Recorder(seen, 0.5),)))
    for given, one, other in zip(seen, bare, defended, strict=True):
        before, after = unpack(one.content[ARRAYS]), unpack(other.content[ARRAYS])
        assert all(torch.equal(given[name], before[name]) for name in before)
        assert all(torch.equal(after[name], before[name] + 0.5) for name in before)


def test_of_weights_the_chain_gets_the_update_and_counters_pass():
    seen: list = []
    bare, defended = _replies("train", Chain()), _replies("train", Chain((Recorder(seen, 0.5),)))
    start = model().state_dict()
    for given, one, other in zip(seen, bare, defended, strict=True):
        before, after = unpack(one.content[ARRAYS]), unpack(other.content[ARRAYS])
        assert set(before) - set(given) == {"2.num_batches_tracked"}
        assert torch.equal(after["2.num_batches_tracked"], before["2.num_batches_tracked"])
        for name, change in given.items():
            assert torch.equal(change, before[name] - start[name])
            torch.testing.assert_close(after[name], before[name] + 0.5)


def test_release_leaves_names_alone_that_the_defence_hands_back():
    payload = {"a": torch.ones(2), "b": torch.ones(2), "n": torch.tensor(3)}
    out = release(payload, {"a": torch.full((2,), 0.1)}, lambda part: {**part, "b": part["b"] * 2})
    assert out["a"] is payload["a"]
    assert torch.equal(out["b"], torch.full((2,), 2.0))
    assert out["n"] is payload["n"]


def test_noise_is_the_chains_own_stream_of_the_client_and_round_and_differs_between_them():
    def noise(round: int) -> list[torch.Tensor]:
        strategy = GradientSharing(CLIENTS, 0.1, seed=0)
        pairs = []
        for app in (clients(), clients(scale=0.1)):
            grid = local(app)
            replies = grid.send_and_receive(strategy.configure_train(round, initial(), ConfigRecord(), grid))
            pairs.append([unpack(reply.content[ARRAYS]) for reply in replies])
        for client, (bare, noisy) in enumerate(zip(*pairs, strict=True)):
            expected = client_task(0.1).chain.on_release(bare, subseed(0, "release", client, round))
            assert all(torch.equal(noisy[name], expected[name]) for name in expected)
        return [noisy["1.weight"] - bare["1.weight"] for bare, noisy in zip(*pairs, strict=True)]

    draws = noise(1) + noise(2)
    for i, one in enumerate(draws):
        assert 0.05 < float(one.std()) < 0.15
        assert not any(torch.allclose(one, other) for other in draws[:i])
