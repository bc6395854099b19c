"""Defences that learn on the client: one seam, the same bits by every way, and what the learning is for."""

from __future__ import annotations

import functools
import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from split_apps import CLIENTS, batch, client_task, learn, model
from test_activation_channel import PROTOCOL, TINY, changed, federation, local
from test_resume_channels import learned

from fl_privacy.attacks.activation.likelihood import measured
from fl_privacy.defences import chain
from fl_privacy.defences.adversarial_cut import AdversarialCut
from fl_privacy.defences.base import Chain
from fl_privacy.defences.learning import Companion, learns, with_learnt
from fl_privacy.defences.noise import LaplaceNoise
from fl_privacy.defences.shredder import NoiseTensors, Shredder
from fl_privacy.seeding import one_thread, stream
from fl_privacy.simulations.backends.local import run_local
from fl_privacy.simulations.backends.ray import run_ray
from fl_privacy.simulations.config.load import reconfigure
from fl_privacy.simulations.run.stages import observed
from fl_privacy.split.loop import SplitLoop
from fl_privacy.split.segments import ACTIVATION, ServerSegment, client_step, segments
from fl_privacy.strategies.split.client import split_app

LEARNING = Chain((AdversarialCut(5.0, width=4), LaplaceNoise(0.05)))
SHRED = {"name": "shredder", "scale": 0.5, "members": 3}
"""As an experiment names it."""


@pytest.fixture
def learning(monkeypatch):
    """The tiny federation of the split tests, whose clients learn a decoder beside their segments."""

    def task(**rules):
        return replace(client_task(**rules), chain=LEARNING, serving=LEARNING)

    app = split_app(lambda message, context: task())
    monkeypatch.setattr("fl_privacy.strategies.resumable.EVERY_SECONDS", 0.0)
    monkeypatch.setattr("test_resume_channels.clients", lambda **rules: app)
    return task


@one_thread()
def looped(task, rounds=2):
    plain = SplitLoop(task)
    for number in range(1, rounds + 1):
        plain.round(number, range(CLIENTS))
    return plain.model().state_dict()


@pytest.mark.parametrize("link", ["local", "messages"])
def test_what_clients_learn_gives_the_bits_of_the_plain_loop_by_every_link(link, learning):
    task = learning()
    found = learn(run_local, link, app=split_app(lambda message, context: task))[0]
    wanted = looped(task)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    other = looped(client_task())
    assert any(not torch.equal(other[name], wanted[name]) for name in wanted)


@pytest.mark.ray
def test_what_clients_learn_gives_the_same_bits_on_ray(learning):
    task = learning()
    app = split_app(lambda message, context: task)
    found = learn(functools.partial(run_ray, workers=1), "ray", app=app)[0]
    wanted = looped(task)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("stop", [1, 2])
def test_what_was_learnt_goes_on_over_resume(stop, learning):
    wanted = learned(run_local, {}, {"link": "local"})
    last = learned(run_local, {}, {"link": "local"}, stop=stop)
    assert "split.learnt" in json.dumps(last[1]), "the checkpoint has it"
    assert learned(run_local, {}, {"link": "local"}, last=last) == wanted


def test_a_weight_of_zero_learns_nothing_and_changes_no_bit():
    neutral = Chain((AdversarialCut(0.0), *client_task().chain.defences))
    assert Companion(neutral, (1, 8, 8), (4, 6, 6)).optimiser is None
    plain = looped(replace(client_task(), chain=Chain(client_task().chain.defences[1:])))
    beside = looped(replace(client_task(), chain=Chain((*client_task().chain.defences[1:], AdversarialCut(0.0)))))
    assert all(torch.equal(plain[name], beside[name]) for name in plain)


def test_the_decoder_goes_down_its_error_and_the_segment_up():
    image, weight = (1, 8, 8), 7.0
    companion = Companion(Chain((AdversarialCut(weight, width=4),)), image, (4, 6, 6), seed=1)
    x, z = torch.rand(8, *image, generator=stream(0)), torch.randn(8, 4, 6, 6, generator=stream(1)).requires_grad_()
    network = companion.modules["0"]
    plain = torch.nn.functional.mse_loss(network(z), x)
    down = torch.autograd.grad(plain, [z, *network.parameters()])
    term = companion.chain.extra_loss(x, z)
    found = torch.autograd.grad(term, [z, *network.parameters()])
    assert torch.allclose(term, plain, rtol=1e-4)
    assert torch.allclose(found[0], -weight * down[0], rtol=1e-3, atol=1e-6)
    assert all(
        torch.allclose(ours, theirs, rtol=1e-3, atol=1e-6) for ours, theirs in zip(found[1:], down[1:], strict=True)
    )


@one_thread()
def test_the_decoder_beside_the_segment_gets_less_the_more_the_segment_works_against_it():
    errors = []
    for weight in (1e-6, 300.0):  # at 30 another order of summing alone moves the ratio between 1.2 and 1.7
        client, module = segments(model(), client_task().rules)
        server, defence = ServerSegment(module, client.rules), Chain((AdversarialCut(weight, width=8),))
        for step in range(200):
            x, y = batch(0, 1, step % 3)
            client_step(client, x, y, defence, server, step)
        with torch.no_grad():
            errors.append(float(client.companion.chain.extra_loss(x, client.front(x))))
    assert errors[1] > 1.2 * errors[0]


def test_noise_is_learnt_while_both_segments_stay():
    whole = model()
    client, module = segments(whole, client_task(train_client=False, train_server=False).rules)
    server = ServerSegment(module, client.rules)
    before = {name: value.clone() for name, value in whole.state_dict().items()}
    shredding = chain([{**SHRED, "weight": 0.0, "learning_rate": 0.05}])
    losses = []
    for step in range(120):
        losses.append(client_step(client, *batch(0, 1, 0), shredding, server, step))
        if step == 0:
            begun = client.companion.modules["0"].tensors.detach().clone()
    assert all(torch.equal(value, before[name]) for name, value in whole.state_dict().items())
    assert sum(losses[-10:]) < sum(losses[:10])
    assert not torch.equal(begun, client.companion.modules["0"].tensors)


def bound(**settings):
    shapes = (1, 8, 8), (5, 4)
    made = with_learnt(chain([{**SHRED, **settings}]), Companion(chain([SHRED]), *shapes, seed=3).kept(), *shapes)
    return made, made.defences[0].learnt.tensors


def test_one_tensor_is_drawn_for_every_image():
    defence, tensors = bound()
    clean = torch.randn(200, 5, 4, generator=stream(0))
    added = defence.on_release({ACTIVATION: clean}, 9)[ACTIVATION].detach() - clean
    nearest = torch.cdist(added.flatten(1), tensors.flatten(1))
    assert float(nearest.min(1).values.max()) < 1e-2
    assert set(nearest.argmin(1).tolist()) == {0, 1, 2}
    mean = defence.without_noise({ACTIVATION: clean})[ACTIVATION] - clean
    assert torch.allclose(mean[0], tensors.mean(0), atol=1e-6)
    seen = defence.as_seen({ACTIVATION: clean}, {ACTIVATION: clean + added})[ACTIVATION]
    assert torch.allclose(seen, clean + added, atol=1e-4), "a release shows whoever knows the tensors which one it has"
    assert (measured(defence, clean).deviation or 0.0) < 1e-4


def test_a_fitted_draw_keeps_the_order_and_the_spread_of_its_tensor():
    noise = NoiseTensors(1, (400,), 2.0)
    draws = noise.fitted(50, stream(1)).detach()
    tensor = noise.tensors.detach()[0]
    assert all(torch.equal(each.argsort(), tensor.argsort()) for each in draws)
    assert float(draws.abs().mean()) == pytest.approx(float(tensor.abs().mean()), rel=0.1)
    assert len(draws.unique(dim=0)) == 50
    left = draws - noise.expected(True)
    assert float(left.square().mean()) < 0.1 * float(draws.square().mean()), "little of it is not known beforehand"


def test_the_told_adversary_has_the_noise_of_the_client_that_it_attacks_and_the_untold_none(tmp_path):
    shredded = {"training_defences": ([],), "inference_defences": ([], [SHRED])}
    result = local(reconfigure(TINY, **shredded, protocol={**PROTOCOL, "defence_epochs": 1}), tmp_path / "run")
    learnt = load_file(result.folder / "models" / "1_learnt.safetensors")
    assert {name.split("/")[0] for name in learnt} == {"0", "1"}, "each client has its own"
    assert not torch.equal(learnt["0/learnt/0.tensors"], learnt["1/learnt/0.tensors"])
    assert not (result.folder / "models" / "0_learnt.safetensors").exists()
    seen = observed(federation(result.experiment), result.folder)
    for key, each in seen.items():
        if key.condition == 1:
            held = each.defence.defences[0].learnt.tensors
            assert torch.equal(held, learnt[f"{key.client}/learnt/0.tensors"])
            clean = each.query(torch.zeros(1, 1, 8, 8))
            assert each.payload[ACTIVATION].shape[1:] == clean.shape[1:]
    alone = federation(changed(result.experiment, adversary="server"))
    assert all(each.defence is None for each in observed(alone, result.folder).values())


def test_errors_teach():
    payload = {ACTIVATION: torch.zeros(2, 5)}
    with pytest.raises(ValueError, match="defence_epochs"):
        chain([SHRED]).on_release(payload, 0)
    with pytest.raises(ValueError, match="not in 'training_defences'"):
        reconfigure(TINY, training_defences=([SHRED],), inference_defences=())
    with pytest.raises(ValueError, match="defence_epochs"):
        reconfigure(TINY, inference_defences=([SHRED],))
    with pytest.raises(ValueError, match="name one"):
        changed(TINY, server_epochs=1, defence_epochs=1)
    for settings in ({"scale": -1.0}, {"members": 0}, {"learning_rate": 0.0}):
        with pytest.raises(ValueError, match=next(iter(settings))):
            Shredder(**settings)
    for settings in ({"weight": -1.0}, {"width": 0}, {"learning_rate": 0.0}):
        with pytest.raises(ValueError, match=next(iter(settings))):
            AdversarialCut(**settings)


def test_a_client_hands_out_what_it_learnt_only_where_its_task_says_so():
    assert not client_task().tells_learnt
    assert not learns(client_task().chain)
    kept = Companion(LEARNING, (1, 8, 8), (4, 6, 6)).kept()
    made = with_learnt(LEARNING, kept, (1, 8, 8), (4, 6, 6))
    assert made == LEARNING, "settings alone say which defence it is"
    assert made.defences[0].learnt is not None
    assert not made.defences[0].learnt.training
