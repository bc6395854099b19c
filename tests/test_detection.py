"""Detecting a vicious classifier: the equations, the threshold, the AUROC, and that it works on a small case."""

import math
from statistics import NormalDist

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from fl_privacy.data import load
from fl_privacy.joint_training import JointLoss, JointSettings, PairSpec, honest, train
from fl_privacy.joint_training.detection import (
    FineTuning,
    auroc,
    auroc_interval,
    fine_tuned,
    flagged,
    output_entropy,
    similarity,
    threshold,
    viciousness,
)
from fl_privacy.seeding import stream

TINY = {"width": 8, "hidden": 64}
PAIR = PairSpec((1, 16, 16), 10, classifier_settings=TINY, decoder_settings=TINY)
SCORES = st.lists(st.integers(-5, 5).map(float), min_size=1, max_size=12)


@pytest.fixture(scope="module")
def digits():
    return load("digits", None, {"size": 16}).train


@pytest.fixture(scope="module")
def models(digits):
    """Honest and vicious classifiers of three seeds each."""
    vicious = JointSettings(
        loss=JointLoss(beta_r=5), epochs=15, batch_size=64, learning_rate=3e-3, augment=False, schedule="cosine"
    )
    sets = digits.chosen(slice(0, 600)), digits.chosen(slice(600, 800))
    return {
        name: [train(PAIR, chosen, *sets, seed=seed).pair.classifier for seed in range(3)]
        for name, chosen in (("honest", honest(vicious)), ("vicious", vicious))
    }


def test_similarity_is_equation_19():
    a, b = torch.randn(7, 4, generator=torch.Generator().manual_seed(0)), torch.randn(7, 4)
    rows = zip(a.numpy(), b.numpy(), strict=True)
    expected = np.mean([x @ y / (np.linalg.norm(x) * np.linalg.norm(y)) for x, y in rows])
    assert similarity(a, b) == pytest.approx(expected, abs=1e-6)
    assert similarity(a, 3 * a) == pytest.approx(1)
    assert similarity(a, -a) == pytest.approx(-1)


def test_entropy_known_answers():
    assert output_entropy(torch.zeros(5, 8)) == pytest.approx(3)
    assert output_entropy(torch.tensor([[1000.0, 0.0, 0.0]])) == 0


@given(low=SCORES, high=SCORES)
@settings(max_examples=50, deadline=None)
def test_auroc_equals_scikit_learn(low, high):
    expected = roc_auc_score([0] * len(low) + [1] * len(high), low + high)
    assert auroc(low, high) == pytest.approx(expected)
    bottom, top = auroc_interval(low, high)
    assert 0 <= bottom <= top <= 1


def test_auroc_intervals_cover():
    shift = 1.3  # of one normal distribution against another: the true AUROC is Phi(shift / sqrt(2))
    truth, rng = NormalDist().cdf(shift / math.sqrt(2)), stream(0, "auroc")
    hits = 0
    for _ in range(400):
        scores = torch.randn(2, 10, generator=rng)
        low, high = auroc_interval(scores[0].tolist(), (scores[1] + shift).tolist())
        hits += low <= truth <= high
    assert hits / 400 >= 0.93


def test_auroc_interval_of_a_perfect_separation_has_a_width():
    low, high = auroc_interval([0.0] * 10, [1.0] * 10)
    assert 0.7 < low < 0.9
    assert high == 1
    assert auroc_interval([1.0] * 10, [0.0] * 10) == pytest.approx((0, 1 - low))
    assert low < auroc_interval([0.0] * 40, [1.0] * 40)[0]
    assert math.isnan(auroc([], [1.0]))


@given(scores=SCORES, share=st.sampled_from([0.0, 0.05, 0.1, 0.5, 0.9]))
@settings(max_examples=50, deadline=None)
def test_the_threshold_keeps_its_promise_on_the_honest(scores, share):
    assert flagged(scores, threshold(scores, share)) <= share + 1e-9


def test_the_threshold_is_no_stricter_than_it_must_be():
    assert threshold([float(i) for i in range(10)], 0.1) == 8
    assert threshold([1.0, 2.0]) == 2
    with pytest.raises(ValueError, match="honest scores"):
        threshold([])


def test_fine_tuning_leaves_the_model_alone_and_is_reproducible(digits, models):
    model, own = models["honest"][0], digits.chosen(slice(800, 900))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(0)
    first = fine_tuned(model, own, FineTuning(), seed=0)
    torch.manual_seed(1)
    second = fine_tuned(model, own, FineTuning(), seed=0)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    changed = [not torch.equal(a, b) for a, b in zip(first.parameters(), model.parameters(), strict=True)]
    assert any(changed)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    frozen = fine_tuned(model, own, FineTuning(training_mode=False), seed=0)
    assert torch.equal(frozen.conv1[1].running_mean, model.conv1[1].running_mean)
    with pytest.raises(ValueError, match="fewer than a batch"):
        fine_tuned(model, own.chosen(slice(0, 10)), FineTuning(), seed=0)


def test_vicious_models_move_more_than_honest_ones(digits, models):
    own, test = digits.chosen(slice(800, 1000)), digits.images(slice(1000, 1300))
    scores = {
        name: [viciousness(model, own, test, FineTuning(), seed=0) for model in found] for name, found in models.items()
    }
    assert all(0 <= score <= 2 for found in scores.values() for score in found)
    assert auroc(scores["honest"], scores["vicious"]) == 1.0
