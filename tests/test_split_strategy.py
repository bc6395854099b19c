"""Split learning on Flower equals the plain loop bit for bit, by every link; and what goes wrong stays where it is."""

from __future__ import annotations

import functools
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from flwr.app import ConfigRecord
from split_apps import CLIENTS, DEFENDED, STEPS, batch, client_task, clients, learn, model

from fl_privacy.federated.client import accuracy
from fl_privacy.optimiser_state import load_optimiser_state, optimiser_state
from fl_privacy.seeding import one_thread, stream, subseed
from fl_privacy.simulations.backends.local import run_local
from fl_privacy.simulations.backends.ray import run_ray
from fl_privacy.split.loop import SplitLoop
from fl_privacy.split.segments import segments
from fl_privacy.strategies.split.server import OutOfTurn, SplitServer
from fl_privacy.strategies.split.strategy import SplitLearning, SplitSettings
from fl_privacy.strategies.split.transport import connect, open_transport
from fl_privacy.strategies.split.transport_ray import RaySplitServer

KINDS = {
    "sequential": {},
    "parallel in waves": {"parallel": True, "together": 2},
    "parallel all at once": {"parallel": True, "together": CLIENTS},
}
RULES = {
    "labels at the server": {},
    "labels at the client": {"labels": "client"},
    "u-shaped": {"labels": "client", "cut": ("conv", "fc")},
    "server alone learns": {"train_client": False},
    "sgd": {"optimiser": "sgd", "penalise": "released"},
}


@one_thread()
def loop(rounds=2, rules=None, **settings):
    """The weights, and the last round's mean loss over examples."""
    plain = SplitLoop(client_task(**(rules or {})))
    for number in range(1, rounds + 1):
        losses = plain.round(number, range(CLIENTS), settings.get("parallel", False), settings.get("together", 1))
    examples = {c: sum(len(batch(c, rounds, step)[1]) for step in range(STEPS[c])) for c in range(CLIENTS)}
    mean = sum(examples[c] * losses[c] for c in examples) / sum(examples.values())
    return plain.model().state_dict(), mean


def assert_same(a, b):
    assert list(a) == list(b)
    for name, value in a.items():
        assert torch.equal(value, b[name]), name


@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
@pytest.mark.parametrize("settings", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("link", ["local", "messages"])
def test_the_weights_are_those_of_the_plain_loop_bit_for_bit(link, settings, rules):
    weights, _, _, result, grid = learn(run_local, link, rules=rules, **settings)
    expected, loss = loop(rules=rules, **settings)
    assert_same(weights, expected)
    assert result.train_metrics_clientapp[2]["train_loss"] == pytest.approx(loss, rel=1e-12)
    assert all(counts.received == counts.expected for counts in grid.rounds)


@pytest.mark.ray
@pytest.mark.parametrize(
    ("link", "workers", "settings", "rules"),
    [
        ("ray", 1, {}, {}),
        ("ray", 2, {}, {}),
        ("ray", 1, {"parallel": True}, {}),
        ("ray", 2, {"parallel": True, "together": 2}, {}),
        ("ray", 2, {"parallel": True, "together": 2}, {"labels": "client", "cut": ("conv", "fc")}),
        ("messages", 2, {"parallel": True, "together": 2}, {}),
    ],
)
def test_ray_gives_the_same_bits_with_one_worker_and_two(link, workers, settings, rules):
    here, seen_here, _, _, _ = learn(run_local, "local", rules=rules, **settings)
    runner = functools.partial(run_ray, workers=workers)
    there, seen_there, _, _, grid = learn(runner, link, rules=rules, **settings)
    assert_same(there, here)
    assert [(o.round, o.client) for o in seen_there] == [(o.round, o.client) for o in seen_here]
    for a, b in zip(seen_there, seen_here, strict=True):
        assert torch.equal(a.payload["activation"], b.payload["activation"])
    assert all(counts.received == counts.expected for counts in grid.rounds)


@pytest.mark.ray
def test_a_client_that_fails_on_ray_keeps_no_other_waiting_for_ever():
    def fault(kind, client):
        if kind == "train.split" and client == 0:
            raise RuntimeError("client 0 is unwell")

    app = clients(fault)
    settings = {"parallel": True, "together": 2, "patience": 15.0, "rounds": 1}
    weights, seen, _, result, grid = learn(functools.partial(run_ray, workers=2), "ray", app, **settings)
    assert {o.client for o in seen} == {1, 2}
    assert result.train_metrics_clientapp[1]["clients"] == 2
    assert all(torch.isfinite(value).all() for value in weights.values())
    assert any("unwell" in reason for counts in grid.rounds for reason in counts.reasons)


@pytest.mark.parametrize("link", ["local", "messages"])
@pytest.mark.parametrize("settings", KINDS.values(), ids=KINDS)
def test_a_client_that_fails_is_left_out_and_the_others_go_on(link, settings):
    def fault(kind, client):
        if client == 1 and kind.startswith("train."):
            raise RuntimeError("client 1 is unwell")

    _, seen, _, result, grid = learn(run_local, link, clients(fault), **settings)
    assert {o.client for o in seen} == {0, 2}
    assert [result.train_metrics_clientapp[r]["clients"] for r in (1, 2)] == [2, 2]
    assert all(counts.expected == counts.received + counts.failed for counts in grid.rounds)


@one_thread()
def test_the_server_sees_the_first_mini_batch_as_released_and_black_box_only_by_default():
    _, seen, _, _, _ = learn(run_local, "local", rounds=2, observed_rounds=[2])
    assert [(o.round, o.client) for o in seen] == [(2, 0), (2, 1), (2, 2)]
    first = seen[0]
    segment, _ = segments(model(), client_task().rules)
    plain = SplitLoop(client_task())
    plain.round(1, range(CLIENTS))
    segment.owned.load_state_dict(plain.state)
    x, y = batch(0, 2, 0)
    _, released = segment.release(x, DEFENDED, subseed(0, "split", 0, 2, 0))
    assert torch.equal(first.payload["activation"], released.detach())
    assert torch.equal(first.labels, y)
    assert first.model is None
    assert first.query(x).shape == released.shape
    assert first.spec.training_mode


def test_labels_that_stay_at_the_client_are_never_seen():
    _, seen, _, _, grid = learn(run_local, "messages", rules={"labels": "client"})
    assert seen
    assert all(o.labels is None for o in seen)
    assert all(o.spec.training_mode for o in seen), "released by a model in training mode, whoever has the labels"
    assert all(counts.failed == counts.rejected == 0 for counts in grid.rounds)


@one_thread()
def test_inference_rounds_release_the_same_inputs_with_fresh_noise():
    weights, _, inferred, _, _ = learn(run_local, "local", infer=2, adversary_knowledge=frozenset({"model", "query"}))
    assert [(o.round, o.client) for o in inferred] == [(r, c) for r in (3, 4) for c in range(CLIENTS)]
    first, again = inferred[0], inferred[CLIENTS]
    x, _ = batch(0, 0, 0)
    clean = first.query(x)
    with torch.no_grad():
        assert torch.equal(first.model.eval()(x), clean)
    expected = DEFENDED.on_release({"activation": clean}, subseed(0, "serve", 0, 3))["activation"]
    assert torch.equal(first.payload["activation"], expected)
    assert not torch.equal(first.payload["activation"], again.payload["activation"])
    assert (first.labels, first.spec.training_mode, first.spec.batch_size) == (None, False, 8)
    assert all(torch.equal(value, weights[name]) for name, value in first.model.state_dict().items())


@pytest.mark.parametrize("rules", [{}, {"labels": "client"}, {"labels": "client", "cut": ("conv", "fc")}])
def test_evaluation_goes_through_the_served_activations(rules):
    weights, _, _, result, _ = learn(run_local, "local", rules=rules, evaluate=True, rounds=1)
    net = model().eval()
    net.load_state_dict(weights)
    hits = []
    for client in range(CLIENTS):
        x, y = batch(client, 0, 0)
        with torch.no_grad():
            released = DEFENDED.on_release({"activation": net.conv(x)}, subseed(0, "serve", client, 1))["activation"]
        hits.append(accuracy(net[1:], released, y)[0])
    found = result.evaluate_metrics_clientapp[1]
    assert found["eval_accuracy"] == pytest.approx(sum(hits) / CLIENTS, abs=1e-6)
    assert found["num-examples"] == 8 * CLIENTS


def test_the_number_of_threads_of_the_process_changes_no_bit():
    threads = torch.get_num_threads()
    found = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            found.append(learn(run_local, "messages", rounds=1)[0])
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(threads)
    assert_same(*found)


def test_partial_participation_is_seeded_and_covers_all():
    runs = [learn(run_local, "local", rounds=6, clients_per_round=1, seed=s)[1] for s in (0, 0, 1)]
    drawn = [[o.client for o in seen] for seen in runs]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(drawn[0]) == 6
    assert len(set(drawn[0])) > 1


def test_a_new_arm_starts_with_a_fresh_optimiser():
    kept = {}

    def runner(server, app, supernodes):
        from flwr.app import Context, RecordDict

        from fl_privacy.simulations.backends.local import LocalGrid, run_local  # noqa: F401

        kept.setdefault("grid", LocalGrid(app, supernodes))
        server(kept["grid"], Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={}))

    first = learn(runner, "local", clients(), rounds=1)[0]
    original = SplitLearning.start

    def second_arm(self, *args, **kwargs):
        return original(self, *args, **{**kwargs, "train_config": ConfigRecord({"condition": 1})})

    try:
        SplitLearning.start = second_arm
        assert_same(learn(runner, "local", rounds=1)[0], first)
    finally:
        SplitLearning.start = original


def test_the_desk_serves_in_order_and_says_who_is_out_of_turn():
    _, module = segments(model(), client_task().rules)
    server = SplitServer(module, client_task().rules, 0)
    server.begin([(0, 0), (1, 0), (0, 1)], None)
    release = [torch.zeros(8, 4, 6, 6), torch.zeros(8, dtype=torch.long)]
    with pytest.raises(OutOfTurn, match="before that of client 0"):
        server.serve((1, 0), "step", release)
    server.serve((0, 0), "step", release)
    with pytest.raises(OutOfTurn, match="no longer"):
        server.serve((0, 0), "step", release)
    server.drop(1)
    assert server.next() == (0, 1)


def test_visitors_of_the_ray_desk_wait_for_their_turn_and_not_for_ever():
    _, module = segments(model(), client_task().rules)
    server = RaySplitServer(module, client_task().rules, 0, patience=60.0)
    release = [torch.zeros(8, 4, 6, 6).numpy(), torch.zeros(8, dtype=torch.long).numpy()]
    with ThreadPoolExecutor() as visitors:
        server.begin([(0, 0), (1, 0)], 0)
        early = visitors.submit(server.serve, (1, 0), "step", *release)
        server.serve((0, 0), "step", *release)
        early.result(timeout=20)
        assert [kept.client for kept in server.tapped()] == [0, 1]
        server.patience = 0.2
        server.begin([(0, 0), (1, 0), (0, 1)], None)
        visitors.submit(server.serve, (1, 0), "step", *release).result(timeout=20)
    with pytest.raises(OutOfTurn, match="no longer"):
        server.serve((0, 0), "step", *release)
    assert server.server.next() is None, "the client that kept another waiting is dropped whole"


def test_errors_teach():
    with pytest.raises(ValueError, match="'ray', 'messages' or 'local'"):
        open_transport("pigeon", segments(model(), client_task().rules)[1], client_task().rules, 0, 1.0, 1)
    with pytest.raises(RuntimeError, match="link = 'ray'"), connect({"link": "local", "server": "gone"}):
        pass
    with pytest.raises(ValueError, match="at least 1"):
        SplitSettings(clients_per_round=0)


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.SGD])
def test_an_optimiser_goes_on_from_its_state_bit_for_bit(kind):
    def run(steps, start=None, state=None):
        weights = [torch.ones(3).requires_grad_() if start is None else start.clone().requires_grad_()]
        optimiser = kind(weights, lr=0.1)
        load_optimiser_state(optimiser, state or {})
        for step in steps:
            weights[0].grad = torch.randn(3, generator=stream(0, step))
            optimiser.step()
        return weights[0].detach(), optimiser_state(optimiser)

    straight, _ = run(range(6))
    half, state = run(range(3))
    resumed, _ = run(range(3, 6), half, state)
    assert torch.equal(resumed, straight)
    assert optimiser_state(None) == {}
    assert STEPS
