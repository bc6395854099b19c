"""Means and sums over clients, and an adversary that secure aggregation shows nothing else."""

import dataclasses
import json

import pytest
import torch
import torch.nn.functional as F
from odd_models import CLASSES, KNOWN, SHAPE, dropout
from test_protocol import CLIP, batch_of, federated

from fl_privacy.attacks.gradient.grnn import GRNN
from fl_privacy.attacks.gradient.local_steps import matcher_for
from fl_privacy.attacks.gradient.matching import observed_step
from fl_privacy.evaluation import Truth
from fl_privacy.federated.aggregation import client_sum, weighted_mean
from fl_privacy.observation import ChannelName, LocalTraining, Observation, Spec
from fl_privacy.protocol_check import mismatch
from fl_privacy.simulations.config.load import configure
from fl_privacy.simulations.run.again import attack_again
from fl_privacy.simulations.run.pipeline import simulate
from fl_privacy.strategies.observer import summed


def test_the_mean_is_weighted_and_keeps_the_type():
    mean = weighted_mean([{"w": torch.tensor([1.0, 0.0])}, {"w": torch.tensor([4.0, 8.0])}], weights=[1, 3])
    assert torch.equal(mean["w"], torch.tensor([3.25, 6.0]))
    assert mean["w"].dtype == torch.float32
    counter = weighted_mean([{"n": torch.tensor(3)}, {"n": torch.tensor(3)}], [1, 1])["n"]
    assert counter.dtype == torch.int64
    assert counter == 3


def test_the_mean_of_one_is_itself():
    state = {"w": torch.randn(5), "n": torch.tensor(7)}
    assert all(torch.equal(weighted_mean([state], [3.0])[name], state[name]) for name in state)


def test_the_sum_is_added_up_in_double():
    parts = [{"w": torch.tensor([1e8])}, {"w": torch.tensor([1.0])}, {"w": torch.tensor([-1e8])}]
    assert client_sum(parts)["w"] == 1.0
    assert torch.equal(client_sum(parts[:1])["w"], parts[0]["w"])


def test_nothing_has_no_mean_and_no_sum():
    with pytest.raises(ValueError, match="weights above 0"):
        weighted_mean([], [])
    with pytest.raises(ValueError, match="weights above 0"):
        weighted_mean([{"w": torch.ones(1)}], [0])
    with pytest.raises(ValueError, match="at least one"):
        client_sum([])


def test_whose_message_it_is():
    spec = Spec(image_shape=SHAPE, classes=CLASSES, batch_size=6)
    seen = Observation(channel=ChannelName.GRADIENT, payload={}, spec=spec, round=1, client=4, others=(2, 7))
    assert (seen.clients, seen.examples) == ((4, 2, 7), 2)
    for wrong in ({"others": (4,)}, {"others": (1, 2, 3)}):
        with pytest.raises(ValueError, match="each of them once"):
            dataclasses.replace(seen, **wrong)


@pytest.mark.parametrize("defences", [(), (CLIP,)], ids=["none", "clip"])
@pytest.mark.parametrize("channel", [ChannelName.GRADIENT, ChannelName.UPDATE])
@pytest.mark.parametrize("name", ["plain", "norm"])
def test_a_mean_over_clients_is_simulated_client_by_client(name, channel, defences):
    """Each client normalises with its own batch and clips its own message; the mean of both is what is seen."""
    seen, _ = federated(KNOWN[name], channel, defences, rounds=1, count=2)
    together = summed(seen)
    told = [dataclasses.replace(each, applied=label) for each, label in zip(seen, ("clip", "none"), strict=False)]
    assert summed(told).applied == "clip or none", "one client's word does not stand for another's"
    assert summed([dataclasses.replace(each, applied="clip") for each in seen]).applied == "clip"
    truth = Truth.of_clients([Truth(*batch_of(2)(each.client, each.round)) for each in seen])
    assert together.clients == (0, 1)
    assert len(truth.inputs) == together.spec.batch_size == 4
    targets = F.one_hot(truth.labels, CLASSES).float()
    for count in (1, 2):
        images = truth.inputs.expand(count, -1, -1, -1, -1)
        found = matcher_for([together] * count)(images, targets.expand(count, -1, -1))
        error = (found - observed_step(together)).norm(dim=1)
        assert bool((error < 1e-3 * observed_step(together).norm() + 1e-6).all())
    assert mismatch(together, truth) is None


@pytest.mark.parametrize("protocol", [{}, {"local": {"epochs": 2, "batch_size": 1}}])
def test_a_run_under_secure_aggregation_shows_one_mean_a_round(tmp_path, protocol):
    made = configure(
        name="secure",
        channel="update" if protocol else "gradient",
        dataset={"name": "digits", "size": 16},
        model={"name": "lenet_dlg", "init": "wide"},
        attack={"name": "grnn", "iterations": 5, "restarts": 1},
        protocol={"secure_aggregation": True, **protocol},
        clients=3,
        clients_per_round=3,
        rounds=2,
        batch_size=2,
        attacked_rounds=(1, 2),
        learning_rate=0.02,
    )
    result = simulate(made, out=tmp_path / "run", backend="local", note=str)
    assert not result.not_valid
    files = sorted((tmp_path / "run" / "observations").glob("*_c*.json"))
    assert [path.stem for path in files] == ["0_r1_c0", "0_r2_c0"]
    assert all(json.loads(path.read_text())["others"] == [1, 2] for path in files)
    assert result.summary[0]["images"] == 2 * 3 * 2
    again = attack_again(tmp_path / "run", attack="grnn", changes=["attack.iterations=2"], note=str)
    assert again.summary[0]["images"] == 12
    truths = json.loads((tmp_path / "run" / "contents.json").read_text())["truths"]
    assert set(truths) == {"1_c0+1+2", "2_c0+1+2"}


def test_the_loss_at_the_truth_of_a_mean_over_local_trainings_is_the_floor():
    seen, _ = federated(KNOWN["plain"], ChannelName.UPDATE, rounds=1, count=2)
    together = summed(seen)
    truth = Truth.of_clients([Truth(*batch_of(2)(each.client, each.round)) for each in seen])
    assert GRNN(tv=0.0).loss(together, truth.inputs, truth.labels) < -10
    other = dataclasses.replace(together.spec, local=LocalTraining(learning_rate=0.2))
    assert mismatch(dataclasses.replace(together, spec=other), truth) is not None


def test_clients_of_unequal_sizes_have_no_mean_that_an_observation_could_hold():
    (first, second), _ = federated(KNOWN["plain"], rounds=1, count=2)
    with pytest.raises(ValueError, match="unequal numbers of examples"):
        summed([first, dataclasses.replace(second, spec=dataclasses.replace(second.spec, batch_size=1))])


def test_no_dropout_mask_is_read_from_a_mean_over_clients():
    """A unit that both dropped leaves a zero in the mean, which is no mask of either."""
    seen, _ = federated(dropout, rounds=1, count=1)
    together = summed(seen)
    x, y = (torch.cat(parts) for parts in zip(*(batch_of(1)(each.client, 1) for each in seen), strict=True))
    found = matcher_for([together])(x.unsqueeze(0), F.one_hot(y, CLASSES).float().unsqueeze(0))[0]
    alone = [matcher_for([dataclasses.replace(each, payload=ones(each))]) for each in seen]
    targets = F.one_hot(y, CLASSES).float()
    means = [match(x[i].view(1, 1, *SHAPE), targets[i].view(1, 1, -1))[0] for i, match in enumerate(alone)]
    assert torch.allclose(found, torch.stack(means).mean(0), atol=1e-6), "dropout counts as its mean"


def ones(seen):
    """A payload without a zero, from which no mask can be read."""
    return {name: torch.ones_like(value) for name, value in seen.payload.items()}
