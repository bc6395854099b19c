"""DLG, iDLG and Inverting Gradients on real digits: what they are known to reach, and what is special to each."""

import copy
import dataclasses

import pytest
import torch
import torch.nn.functional as F
from test_attacks import observe

import fl_privacy as flp
from fl_privacy.attacks import ATTACKS
from fl_privacy.attacks.gradient.dlg import DLG, IDLG, DLGAsPublished
from fl_privacy.attacks.gradient.inverting_gradients import InvertingGradients
from fl_privacy.attacks.gradient.pixels import Pixels, labels_read
from fl_privacy.attacks.inversion.first_order import Descent
from fl_privacy.data import load
from fl_privacy.evaluation import score
from fl_privacy.federated.local_training import train_locally
from fl_privacy.observation import ChannelName, LocalTraining
from fl_privacy.seeding import stream

SMALL = {
    "dlg": {"iterations": 5, "restarts": 2},
    "dlg_as_published": {"iterations": 5},
    "idlg": {"iterations": 5, "restarts": 2},
    "inverting_gradients": {"iterations": 5},
    "inverting_gradients_as_published": {"iterations": 5},
}


@pytest.fixture(scope="module")
def digits():
    return load("digits", None, {"size": 32})


def reached(attack, seen, truths):
    guesses = attack(seen, stream(0, "attack"))
    return [score(attack, *each) for each in zip(seen, guesses, truths, strict=True)]


@pytest.mark.parametrize("name", SMALL)
def test_each_conforms(name):
    flp.testing.check_attack(ATTACKS[name], SMALL[name])


@pytest.mark.parametrize(
    ("attack", "least"),
    [
        (DLG(iterations=200, restarts=2), 25),
        (IDLG(iterations=200, restarts=2), 25),
        (DLGAsPublished(iterations=400), 25),
        (InvertingGradients(), 20),
    ],
)
def test_a_single_digit_on_a_small_sigmoid_network_comes_back(digits, attack, least):
    """Zhu et al. 2019, figure 4: one image of a sigmoid LeNet converges."""
    seen, truths = observe(digits, clients=2)
    for each in reached(attack, seen, truths):
        assert each.images["psnr"].min() > least
        assert each.label_accuracy == 1.0


def test_labels_are_read_before_the_search_and_those_granted_are_taken(digits):
    seen, truths = observe(digits, clients=2, batch=4)
    for observation, labels, truth in zip(seen, labels_read(seen), truths, strict=True):
        assert labels.bincount(minlength=10).tolist() == truth.labels.bincount(minlength=10).tolist()
        assert labels.shape == observation.payload["head.bias"].new_empty(4).shape
    granted = [dataclasses.replace(each, labels=torch.tensor([1, 2, 3, 4])) for each in seen]
    assert labels_read(granted).tolist() == [[1, 2, 3, 4]] * 2
    guesses = IDLG(iterations=2, restarts=2)(granted, stream(0))
    assert all(guess.labels.tolist() == [1, 2, 3, 4] for guess in guesses)


def test_known_labels_are_certain():
    seen = flp.testing.observations(ChannelName.GRADIENT, count=1)[0]
    guesses = Pixels(seen, 1, stream(0), torch.tensor([[3, 7]]))
    assert torch.equal(guesses()[1].softmax(-1), F.one_hot(torch.tensor([[3, 7]]), 10).float())
    assert [name for name, _ in guesses.named_parameters()] == ["images"]


def test_the_direction_alone_counts_for_inverting_gradients(digits):
    (seen,), (truth,) = observe(digits, clients=1)
    attack = InvertingGradients(tv=0.0)
    doubled = dataclasses.replace(seen, payload={name: 2 * value for name, value in seen.payload.items()})
    assert attack.loss(doubled, truth.inputs, truth.labels) == pytest.approx(0, abs=1e-5)
    assert DLG().loss(doubled, truth.inputs, truth.labels) > 1e-3


def test_guesses_of_inverting_gradients_stay_inside(digits):
    seen, _ = observe(digits, clients=1)
    (guess,) = InvertingGradients(iterations=20, restarts=1)(seen, stream(0))
    attack = InvertingGradients(iterations=20, restarts=1)
    assert guess.loss == pytest.approx(attack.loss(seen[0], guess.inputs, guess.labels), abs=1e-5)


def test_the_reported_loss_is_that_of_the_clamped_guess(digits):
    seen, _ = observe(digits, clients=1)
    attack = IDLG(iterations=3, restarts=1)
    (guess,) = attack(seen, stream(0))
    assert guess.loss == pytest.approx(attack.loss(seen[0], guess.inputs, guess.labels), rel=1e-4)


def test_the_learning_rate_falls_at_the_published_iterations():
    rates = [Descent("adam", 0.1, "steps", 24_000).rate(at) for at in (0, 8_999, 9_000, 15_000, 21_000, 23_999)]
    assert rates == pytest.approx([1, 1, 0.1, 0.01, 0.001, 0.001])


FIVE_STEPS = LocalTraining(epochs=5, learning_rate=0.05)
WITH_MOMENTUM = LocalTraining(steps=3, learning_rate=0.02, momentum=0.9, weight_decay=0.01)


@pytest.mark.parametrize("local", [FIVE_STEPS, WITH_MOMENTUM])
def test_local_training_of_several_steps_is_inverted_through_its_simulation(digits, local):
    seen, truths = observe(digits, clients=1)
    net = copy.deepcopy(seen[0].model)
    train_locally(net, truths[0].inputs, truths[0].labels, local, stream(0, "shuffle"))
    change = {name: net.get_parameter(name).detach() - value for name, value in seen[0].model.state_dict().items()}
    spec = dataclasses.replace(seen[0].spec, local=local)
    update = dataclasses.replace(seen[0], channel=ChannelName.UPDATE, payload=change, spec=spec)
    (found,) = reached(IDLG(iterations=150, restarts=2), [update], truths)
    assert found.images["psnr"].mean() > 20
    assert found.label_accuracy == 1.0


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [(DLG, {"history": 0}), (DLG, {"restarts": 0}), (InvertingGradients, {"tv": -1.0}), (IDLG, {"learning_rate": 0.0})],
)
def test_bad_settings_teach(kind, wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        kind(**wrong)
