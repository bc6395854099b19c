"""An attacker who knows the defence gets more than one who does not: the mask, the grid, the norm, the law."""

import dataclasses

import pytest

from fl_privacy import data
from fl_privacy.attacks.gradient.inverting_gradients import InvertingGradients
from fl_privacy.attacks.gradient.map import MaximumAPosteriori
from fl_privacy.defences import chain
from fl_privacy.evaluation import Truth, evaluate
from fl_privacy.federated.client import gradient
from fl_privacy.models import build_model
from fl_privacy.observation import ChannelName, Images, LocalTraining, Observation, Spec

SHAPE, VICTIMS = (1, 16, 16), 2
MAP = MaximumAPosteriori(prior="public_by_class", outer=10, inner=10)


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", None, {"size": 16})


def observed(digits, defence):
    model, known = build_model("convnet", SHAPE, 10, 0), chain(defence)
    public = Images(digits.train.images(slice(0, 500)), digits.train.labels[:500])
    spec = Spec(image_shape=SHAPE, classes=10, batch_size=1, local=LocalTraining(learning_rate=0.1))
    truths = [Truth(digits.test.images(slice(i, i + 1)), digits.test.labels[i : i + 1]) for i in range(VICTIMS)]
    seen = [
        Observation(
            channel=ChannelName.GRADIENT,
            payload=known.on_release(gradient(model, truth.inputs, truth.labels)[0], client),
            spec=spec,
            round=1,
            client=client,
            model=model,
            public=public,
            defence=known,
        )
        for client, truth in enumerate(truths)
    ]
    return seen, truths


def decibels(attack, seen, truths):
    scores = evaluate(attack, seen, truths, 0)
    return sum(float(each.images["psnr"].mean()) for each in scores) / len(scores), scores


@pytest.mark.parametrize(
    ("defence", "attack", "gain"),
    [
        ({"name": "prune", "share": 0.05}, MAP, 8.0),
        ({"name": "prune", "share": 0.1}, InvertingGradients(iterations=120, restarts=1), 3.0),
        ({"name": "quantise", "bits": 2}, MAP, 0.2),
    ],
)
def test_the_adaptive_attacker_gets_more(defence, attack, gain, digits):
    seen, truths = observed(digits, [defence])
    adaptive, scores = decibels(attack, seen, truths)
    static, _ = decibels(attack, [dataclasses.replace(each, defence=None) for each in seen], truths)
    assert adaptive >= static + gain
    assert all(each.label_accuracy == 1 for each in scores)
