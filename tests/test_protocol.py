"""The attacker's copy of the protocol is the protocol that ran: at the truth, its gradient is the released one."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
import torch.nn.functional as F
from flwr.app import ConfigRecord
from flwr.serverapp.strategy import FedAvg
from odd_models import CLASSES, DRAWN, KNOWN, SHAPE, Tied, dropout, frozen, norm, norm_mixed, plain

from fl_privacy.attacks.gradient.dropout import read_masks
from fl_privacy.attacks.gradient.grnn import GRNN
from fl_privacy.attacks.gradient.matching import adversary_copy, observed_gradient
from fl_privacy.attacks.gradient.optimise import matcher_for
from fl_privacy.defences import Chain, chain
from fl_privacy.evaluation import Truth
from fl_privacy.federated.client import ClientTask, accuracy, calibrate, gradient
from fl_privacy.observation import ChannelName, LocalTraining, Observation, Spec
from fl_privacy.protocol_check import mismatch
from fl_privacy.seeding import seeded, stream
from fl_privacy.simulations.backends.local import LocalGrid
from fl_privacy.simulations.results.storage import load_observations, save_observation
from fl_privacy.strategies.federated.fedsgd import GradientSharing, gradient_app, gradient_schema
from fl_privacy.strategies.observer import HonestButCurious
from fl_privacy.strategies.records import ValidatingGrid, pack, unpack
from fl_privacy.weights import load_weights, tied, trainable

CLIENTS, RATE = 2, 0.1
CLIP = {"name": "clip", "norm": 0.01}
NOISE = {"name": "gaussian_noise", "scale": 0.01}
ATTACK = GRNN(iterations=3, restarts=2, latent=4, width=2, tv=0.0, tv_defended=0.0)
FLOOR = -12.0


def built(factory):
    with seeded(0, "model"):
        return factory()


def size(name):
    return 2 if name in ("norm", "norm mixed", "frozen") else 1


def batch_of(count):
    def batch(client, round):
        rng = stream(0, "batch", client, round)
        return torch.rand(count, *SHAPE, generator=rng), torch.randint(CLASSES, (count,), generator=rng)

    return batch


def federated(factory, channel=ChannelName.GRADIENT, defences=(), rounds=2, count=1, rate=RATE):
    """What a curious server sees of two clients, and the final arrays."""
    law, seen = chain(list(defences)), []
    spec = Spec(image_shape=SHAPE, classes=CLASSES, batch_size=count, local=LocalTraining(learning_rate=rate))

    def model():
        return built(factory)

    app = gradient_app(lambda message, context: ClientTask(model, batch_of(count), law, 0))
    grid = ValidatingGrid(LocalGrid(app, CLIENTS), CLIENTS, schemas={"train.gradient": gradient_schema(model())})
    inner = FedAvg(fraction_evaluate=0.0, min_train_nodes=CLIENTS, min_available_nodes=CLIENTS)
    if channel is ChannelName.GRADIENT:
        inner = GradientSharing(CLIENTS, rate, 0, tied(model()))
    config = ConfigRecord({"local-steps": 1, "learning-rate": rate})
    strategy = HonestButCurious(inner, seen.append, model, spec, channel=channel)
    result = strategy.start(grid, pack(model().state_dict()), rounds, train_config=config)
    assert len(seen) == rounds * CLIENTS, grid.rounds
    return [dataclasses.replace(each, defence=law) for each in seen], unpack(result.arrays)


@pytest.mark.parametrize("defences", [(), (CLIP,)], ids=["none", "clip"])
@pytest.mark.parametrize("channel", [ChannelName.GRADIENT, ChannelName.UPDATE])
@pytest.mark.parametrize("name", KNOWN)
def test_the_loss_at_the_truth_is_the_floor(name, channel, defences):
    seen, _ = federated(KNOWN[name], channel, defences, count=size(name))
    batches = [batch_of(size(name))(o.client, o.round) for o in seen]
    for observation, (x, y) in zip(seen, batches, strict=True):
        assert ATTACK.loss(observation, x, y) < FLOOR
        assert mismatch(observation, Truth(x, y)) is None
    first, images = seen[:CLIENTS], torch.stack([x for x, _ in batches[:CLIENTS]])
    targets = torch.stack([F.one_hot(y, CLASSES).float() for _, y in batches[:CLIENTS]])
    together = matcher_for(first)(images, targets)
    for found, observation in zip(together, first, strict=True):
        difference = (found - observed_gradient(observation)).norm()
        assert difference < 1e-3 * observed_gradient(observation).norm() + 1e-6, "many victims at once"
    assert all(torch.isfinite(guess.inputs).all() for guess in ATTACK(seen, stream(0)))


@pytest.mark.parametrize("name", [*DRAWN, "dropout"])
def test_a_model_that_draws_is_attacked_with_the_same_bits_every_time(name):
    seen, _ = federated({**KNOWN, **DRAWN}[name])
    x, y = batch_of(1)(seen[0].client, seen[0].round)
    runs = []
    for seed in (1, 2):  # what the global generator holds must not matter
        torch.manual_seed(seed)
        runs.append((ATTACK(seen, stream(0)), ATTACK.loss(seen[0], x, y)))
    (first, at_truth), (second, again) = runs
    assert at_truth == again
    assert all(torch.equal(a.inputs, b.inputs) and a.loss == b.loss for a, b in zip(first, second, strict=True))
    assert mismatch(seen[0], Truth(x, y)) is None, "draws that nobody can know are no fault of the protocol"


def test_noise_hides_a_dropout_mask_and_the_attacker_then_takes_its_mean():
    (clear, *_), _ = federated(dropout)
    (noisy, *_), _ = federated(dropout, defences=[NOISE])
    (mask,) = read_masks(adversary_copy(clear.model, True), [clear]).values()
    assert set(mask.unique().tolist()) == {0.0, 2.0}
    mean = built(dropout)
    mean[3].eval()
    x, y = batch_of(1)(0, 1)
    masks = read_masks(adversary_copy(noisy.model, True), [noisy])
    assert all(torch.equal(mask, torch.ones_like(mask)) for mask in masks.values())
    expected, _ = gradient(mean, x, y)
    found = matcher_for([noisy])(x.unsqueeze(0), F.one_hot(y, CLASSES).float().unsqueeze(0))[0]
    assert torch.allclose(found, torch.cat([value.flatten() for value in expected.values()]), atol=1e-6)


def test_modes_are_kept_by_module_through_copy_storage_and_evaluation(tmp_path):
    seen, _ = federated(norm_mixed, count=2)
    wanted = [module.training for module in built(norm_mixed).modules()]
    assert True in wanted
    assert False in wanted
    save_observation(tmp_path, 0, seen[0])
    # a factory that does not say the modes: the file does
    (loaded,) = load_observations(tmp_path, lambda spec: built(norm_mixed).train(), (Chain(),)).values()
    assert [module.training for module in loaded.model.modules()] == wanted
    assert [module.training for module in adversary_copy(loaded.model, True).modules()] == wanted
    accuracy(loaded.model, *batch_of(4)(0, 1))
    calibrate(loaded.model, batch_of(4)(0, 1)[0])
    assert [module.training for module in loaded.model.modules()] == wanted
    every = adversary_copy(loaded.model, False)
    assert not any(module.training for module in every.modules()), "the spec may say that all ran in eval mode"


def test_an_attack_changes_no_buffer_of_the_observed_model():
    for name in ("norm", "norm mixed", "spectral norm"):
        seen, _ = federated(KNOWN[name], ChannelName.UPDATE, [CLIP], count=2)
        before = copy.deepcopy(seen[0].model.state_dict())
        ATTACK(seen, stream(0))
        assert all(torch.equal(value, before[key]) for key, value in seen[0].model.state_dict().items())


# -- updates are defended in their own unit ----------------------------------------------------------------------------


def test_a_bound_on_an_update_is_a_bound_on_the_gradient_over_the_rate():
    losses = []
    for rate, bound in ((1.0, 0.01), (0.1, 0.001)):
        (seen, *_), _ = federated(plain, ChannelName.UPDATE, [{"name": "clip", "norm": bound}], rate=rate)
        assert float(torch.cat([v.flatten() for v in seen.payload.values()]).norm()) == pytest.approx(bound, rel=1e-3)
        losses.append(ATTACK.loss(seen, *batch_of(1)(seen.client, seen.round)))
    assert losses[0] == pytest.approx(losses[1], abs=0.5)
    assert max(losses) < FLOOR


# -- shared, frozen and unused weights ---------------------------------------------------------------------------------


@pytest.mark.parametrize("channel", [ChannelName.GRADIENT, ChannelName.UPDATE])
def test_a_shared_weight_moves_as_in_torch(channel):
    _, final = federated(Tied, channel, rounds=5, count=4, rate=0.5)
    reference = built(Tied)
    sgd = torch.optim.SGD(reference.parameters(), 0.5)
    for round in range(1, 6):
        sgd.zero_grad()
        batches = [batch_of(4)(client, round) for client in range(CLIENTS)]
        sum(F.cross_entropy(reference(x), y) for x, y in batches).div(CLIENTS).backward()
        sgd.step()
    start = built(Tied).l1.weight
    assert float((reference.l1.weight - start).detach().abs().max()) > 0.01
    assert torch.equal(final["l1.weight"], final["l2.weight"])
    torch.testing.assert_close(final["l1.weight"], reference.l1.weight.detach(), rtol=0, atol=1e-5)


def test_noise_on_an_update_keeps_shared_weights_shared_and_frozen_ones_as_they_are():
    seen, final = federated(Tied, ChannelName.UPDATE, [NOISE])
    assert torch.equal(final["l1.weight"], final["l2.weight"])
    assert torch.equal(seen[0].payload["l1.weight"], seen[0].payload["l2.weight"])
    _, final = federated(frozen, ChannelName.UPDATE, [NOISE], count=2)
    start = built(frozen).state_dict()
    assert torch.equal(final["0.weight"], start["0.weight"])
    assert not torch.equal(final["0.bias"], start["0.bias"])


def test_the_first_name_of_a_shared_weight_counts():
    model = built(Tied)
    assert tied(model) == {"l2.weight": "l1.weight"}
    state = {name: value.clone() for name, value in model.state_dict().items()}
    state["l1.weight"] = state["l1.weight"] + 1
    load_weights(model, state)
    assert torch.equal(model.l2.weight, state["l1.weight"])
    without = {name: value for name, value in state.items() if name != "l2.weight"}
    load_weights(model, without)
    assert torch.equal(model.l1.weight, state["l1.weight"])


def test_nothing_is_released_of_frozen_weights_and_zeros_of_unused_ones():
    seen, _ = federated(frozen, count=2)
    assert "0.weight" not in seen[0].payload
    assert list(seen[0].payload) == list(trainable(built(frozen)))
    seen, _ = federated(KNOWN["unused"])
    assert float(seen[0].payload["aux.weight"].abs().max()) == 0
    with pytest.raises(ValueError, match="nothing to train"):
        gradient(plain().requires_grad_(False), *batch_of(1)(0, 1))


# -- batch normalisation under FedSGD ----------------------------------------------------------------------------------


def test_calibrated_statistics_are_those_of_the_inputs_and_frozen_ones_stay():
    x = torch.rand(7, *SHAPE, generator=stream(0))
    model = built(norm)
    assert calibrate(model, x, batch=100)
    maps = model[0](x)
    torch.testing.assert_close(model[1].running_mean, maps.mean((0, 2, 3)))
    torch.testing.assert_close(model[1].running_var, maps.var((0, 2, 3)))
    assert model[1].momentum == 0.1
    assert calibrate(model, x, batch=6), "no batch of one is left over"
    mixed = built(norm_mixed)
    assert calibrate(mixed, x)
    assert torch.equal(mixed[1].running_mean, torch.full((4,), 0.3))
    untouched = built(norm).eval()
    before = copy.deepcopy(untouched.state_dict())
    assert not calibrate(untouched, x)
    assert all(torch.equal(value, before[name]) for name, value in untouched.state_dict().items())


# -- the remedy --------------------------------------------------------------------------------------------------------


def with_local(spec, **changes):
    return dataclasses.replace(spec, local=dataclasses.replace(spec.local, **changes))


def _told(seen: Observation, **changes) -> float:
    found = mismatch(
        dataclasses.replace(seen, **changes), Truth(*batch_of(seen.spec.batch_size)(seen.client, seen.round))
    )
    assert found is not None
    return found.relative


def test_an_attack_on_another_protocol_is_noticed():
    (seen, *_), _ = federated(norm_mixed, count=2)
    assert _told(seen, model=copy.deepcopy(seen.model).train()) > 0.01
    assert _told(seen, spec=with_local(seen.spec, mode="eval")) > 0.01
    other = copy.deepcopy(seen.model)
    with torch.no_grad():
        other[0].weight.mul_(1.1)
    assert _told(seen, model=other) > 0.01
    assert _told(seen, payload={name: 1.01 * value for name, value in seen.payload.items()}) > 0.005
    assert _told(seen, payload={name: 0 * value for name, value in seen.payload.items()}) == float("inf")
    (moved, *_), _ = federated(plain, ChannelName.UPDATE)
    assert _told(moved, spec=with_local(moved.spec, learning_rate=10 * RATE)) > 0.5


def test_a_defended_payload_need_not_match():
    (seen, *_), _ = federated(plain, defences=[NOISE])
    assert mismatch(seen, Truth(*batch_of(1)(seen.client, seen.round))) is None
    assert _told(seen, defence=None) > 0.01, "nor is a defence that the observation does not tell of"
