"""Split training against plain training of the uncut model, and its rules."""

import copy
import functools
from collections import OrderedDict
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fl_privacy.defences.base import Chain
from fl_privacy.defences.noise import GaussianNoise, LaplaceNoise
from fl_privacy.defences.nopeek import NoPeek
from fl_privacy.metrics.distance_correlation import distance_correlation
from fl_privacy.models import build_model
from fl_privacy.seeding import seeded, stream
from fl_privacy.split.cutting import cut
from fl_privacy.split.loop import SplitLoop, step_seed, turns
from fl_privacy.split.rules import TITCOMBE, SplitClientTask, SplitRules
from fl_privacy.split.segments import ServerSegment, client_step, segments


def batch(client, round, step):
    rng = stream(5, client, round, step)
    return torch.rand(8, 1, 8, 8, generator=rng), torch.randint(4, (8,), generator=rng)


def net():
    with seeded(0, "net"):
        return nn.Sequential(
            OrderedDict(
                conv=nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.2)),
                flatten=nn.Flatten(),
                fc=nn.Sequential(nn.Linear(144, 12), nn.Tanh(), nn.Dropout(0.1)),
                head=nn.Linear(12, 4),
            )
        )


def plain():
    """Without random layers, so that an uncut run can be compared."""
    model = net()
    model.conv[3].p = model.fc[2].p = 0.0
    return model


def client_task(model=plain, steps=5, **settings):
    rules = SplitRules(**{"cut": ("conv",), "learning_rate": 0.01, **settings})
    held_out = functools.partial(batch, round=0, step=0)
    return SplitClientTask(model=model, rules=rules, batch=batch, steps=lambda client: steps, held_out=held_out)


def in_place(inplace):
    """A model whose second segment begins with an activation function."""
    with seeded(0, "net"):
        rest = nn.Sequential(nn.ReLU(inplace=inplace), nn.Flatten(), nn.Linear(144, 4))
        return nn.Sequential(OrderedDict(conv=nn.Conv2d(1, 4, 3), mid=nn.Conv2d(4, 4, 1), rest=rest))


@pytest.mark.parametrize("rules", [{}, {"labels": "client"}, {"labels": "client", "cut": ("conv", "mid")}])
def test_a_segment_may_begin_with_a_layer_that_works_in_place(rules):
    found = []
    for inplace in (True, False):
        loop = SplitLoop(client_task(functools.partial(in_place, inplace), **{"cut": ("mid",), **rules}))
        loop.round(1, [0])
        found.append(loop.model().state_dict())
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())


def uncut(steps, optimiser=torch.optim.Adam):
    model = plain().train()
    stepper = optimiser(model.parameters(), lr=0.01)
    for step in range(steps):
        x, y = batch(0, 1, step)
        stepper.zero_grad()
        F.cross_entropy(model(x), y).backward()
        stepper.step()
    return model


def same(a, b):
    return all(torch.equal(value, b.state_dict()[name]) for name, value in a.state_dict().items())


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"optimiser": "sgd"},
        {"cut": ("fc",)},
        {"labels": "client"},
        {"labels": "client", "cut": ("conv", "fc")},
    ],
)
def test_one_undefended_client_trains_the_uncut_model_bit_for_bit(settings):
    loop = SplitLoop(client_task(**settings))
    loop.round(1, [0])
    kind = torch.optim.SGD if settings.get("optimiser") == "sgd" else torch.optim.Adam
    assert same(loop.model(), uncut(5, kind))


@pytest.mark.parametrize("penalise", ["clean", "released"])
def test_a_step_with_noise_and_nopeek_is_the_gradient_of_the_joint_loss(penalise):
    rules = SplitRules(cut=("conv",), optimiser="sgd", learning_rate=0.1, penalise=penalise)
    chain = Chain((GaussianNoise(0.3), NoPeek(2.0)))
    x, y = batch(0, 1, 0)
    model = plain()
    by_hand = copy.deepcopy(model).train()
    client, module = segments(model, rules)
    client_step(client, x, y, chain, ServerSegment(module, rules), seed=9)

    front, rest = cut(by_hand, "conv")
    clean = front(x)
    released = chain.on_release({"activation": clean}, 9)["activation"]
    term = distance_correlation(x, clean if penalise == "clean" else released)
    (F.cross_entropy(rest(released), y) + 2.0 * term).backward()
    torch.optim.SGD(by_hand.parameters(), lr=0.1).step()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, by_hand.state_dict()[name], rtol=0, atol=1e-7)


def test_nopeek_does_not_reach_the_server_segment():
    without, with_term = (SplitLoop(replace(client_task(steps=1), chain=Chain(c))) for c in ((), (NoPeek(5.0),)))
    for loop in (without, with_term):
        loop.round(1, [0])
    assert same(without.server.module, with_term.server.module)
    assert not same(without.model(), with_term.model())


def test_a_fixed_client_segment_stays_while_the_server_learns_on_noise():
    loop = SplitLoop(replace(client_task(train_client=False), chain=Chain((LaplaceNoise(0.5),))))
    before = loop.model()
    loop.round(1, [0])
    after = loop.model()
    assert same(before.conv, after.conv)
    assert not same(before.head, after.head)


def test_sequential_is_the_concatenation_of_the_clients_turns():
    loop = SplitLoop(client_task(steps=2, optimiser="sgd"))
    loop.round(1, [0, 1])
    model = plain().train()
    stepper = torch.optim.SGD(model.parameters(), lr=0.01)
    for client in (0, 1):
        for step in range(2):
            x, y = batch(client, 1, step)
            stepper.zero_grad()
            F.cross_entropy(model(x), y).backward()
            stepper.step()
    assert same(loop.model(), model)


def test_parallel_averages_the_client_segments_by_hand():
    loop = SplitLoop(client_task(steps=1))
    loop.round(1, [0, 1, 2], parallel=True, together=3)
    server = ServerSegment(cut(plain(), "conv")[1], client_task().rules)
    states = []
    for client in range(3):
        segment, _ = segments(plain(), client_task().rules)
        client_step(segment, *batch(client, 1, 0), Chain(), server, step_seed(loop.client_task, client, 1, 0))
        states.append(segment.owned.state_dict())
    for name, value in loop.state.items():
        mean = sum(state[name].double() for state in states) / 3
        torch.testing.assert_close(value, mean.to(value.dtype), rtol=0, atol=1e-7)
    assert same(loop.server.module, server.module)


def test_random_layers_and_noise_repeat_whatever_the_global_generator_does():
    loops = [SplitLoop(replace(client_task(net), chain=Chain((LaplaceNoise(0.1),)))) for _ in range(2)]
    for index, loop in enumerate(loops):
        torch.manual_seed(index)
        loop.round(1, [0, 1], parallel=True, together=2)
    assert same(loops[0].model(), loops[1].model())
    other = SplitLoop(replace(client_task(net), chain=Chain((LaplaceNoise(0.1),)), seed=1))
    other.round(1, [0, 1], parallel=True, together=2)
    assert not same(loops[0].model(), other.model())


def test_turn_order_is_waves_of_round_robin_and_misses_no_step():
    assert turns({3: 2, 1: 3, 2: 1}, 2) == [[(3, 0), (1, 0), (3, 1), (1, 1), (1, 2)], [(2, 0)]]
    assert turns({}, 2) == []


def test_the_published_presets_are_kept_apart_and_build():
    published, paper = TITCOMBE["as-published"], TITCOMBE["paper"]
    assert (published.rules.learning_rate, paper.rules.learning_rate) == (1e-4, 1e-3)
    assert (published.estimator, paper.estimator) == ("squared", "euclidean")
    for preset in TITCOMBE.values():
        model = build_model("split_cnn", (1, 28, 28), 10, 0, preset.model)
        client, server = cut(model, *preset.rules.cut)
        # papers.md 2.2, computed from the published code
        assert sum(p.numel() for p in client.parameters()) == 4_627_316
        assert sum(p.numel() for p in server.parameters()) == 65_418
        total = float(model(torch.zeros(1, 1, 28, 28)).detach().sum())
        assert (abs(total - 1) < 1e-6) == preset.model["softmax"]


def test_errors_teach():
    with pytest.raises(ValueError, match="labels='client'"):
        SplitRules(cut=("a", "b"))
    with pytest.raises(ValueError, match="one stage, or two"):
        SplitRules(cut=())
    with pytest.raises(RuntimeError, match="forward, then backward"):
        ServerSegment(nn.Sequential(nn.Linear(2, 2)), SplitRules(cut=("a",))).backward(torch.zeros(1, 2))
