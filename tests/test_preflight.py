"""Own code that cannot work is told before anything starts, with what to change; what works costs no draw."""

from __future__ import annotations

import dataclasses
import re
import time

import pytest
import torch
from torch import nn

from fl_privacy.defences import Defence, chain
from fl_privacy.simulations.config.build import federation_of
from fl_privacy.simulations.config.load import configure, load_experiment
from fl_privacy.simulations.config.preflight import preflight
from fl_privacy.simulations.report.divergence import broken as broken_down
from fl_privacy.simulations.report.divergence import ruins
from fl_privacy.simulations.run.pipeline import plan, simulate

BASE = {
    "dataset": {"name": "digits", "size": 8},
    "attack": {"name": "grnn", "iterations": 2, "restarts": 1, "latent": 4, "width": 2},
    "clients": 2,
    "clients_per_round": 2,
}


def head(image_shape, outputs, *more):
    channels, height, width = image_shape
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * height * width, 8), nn.Tanh(), nn.Linear(8, outputs), *more)


def wide_head(image_shape, classes):
    return head(image_shape, 100)


def narrow_head(image_shape, classes):
    return head(image_shape, 7)


def one_logit(image_shape, classes):
    return head(image_shape, 1)


def softmax_head(image_shape, classes):
    return head(image_shape, classes, nn.Softmax(1))


def flat_norm(image_shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, classes))


class _Of(nn.Module):
    def __init__(self, net, forward):
        super().__init__()
        self.net, self.says = net, forward

    def forward(self, x):
        return self.says(self.net(x))


def dictionary(image_shape, classes):
    return _Of(head(image_shape, classes), lambda out: {"logits": out})


def nothing(image_shape, classes):
    return _Of(head(image_shape, classes), lambda out: None)


def not_in_stages(image_shape, classes):
    return _Of(head(image_shape, classes), lambda out: out)


def broken(image_shape, classes):
    raise RuntimeError("boom")


def without_arguments():
    return head((1, 8, 8), 10)


def no_module(image_shape, classes):
    return lambda images: images


ME = __name__
WRONG = [
    ({"model": f"{ME}:wide_head"}, "100 outputs, more than the 10 classes"),
    ({"model": f"{ME}:narrow_head"}, "7 outputs, fewer than the 10 classes"),
    ({"model": f"{ME}:one_logit"}, "one logit"),
    ({"model": f"{ME}:dictionary"}, "returns a dict"),
    ({"model": f"{ME}:nothing"}, "returns a NoneType"),
    ({"model": "odd_models:pair_of"}, r"returns a tuple.*return self\.net\(x\)\[0\]"),
    ({"model": f"{ME}:broken"}, r"broken' cannot be built: .*\(1, 8, 8\) and 10 classes.*RuntimeError: boom"),
    ({"model": f"{ME}:without_arguments"}, r"without_arguments' cannot be built: called with image_shape"),
    ({"model": f"{ME}:no_module"}, r"no_module' is no torch\.nn\.Module: .* returns a function"),
    ({"model": f"{ME}:flat_norm"}, "batches of 1: batch normalisation"),
    (
        {
            "model": f"{ME}:flat_norm",
            "channel": "update",
            "batch_size": 5,
            "protocol": {"local": {"batch_size": 2}},
        },
        "batches of 1: batch normalisation",
    ),
]
SPLIT = {
    "channel": "activation",
    "attack": {"name": "decoder", "steps": 2},
    "public": {"name": "digits", "size": 8, "first": 0, "count": 64},
    "batch_size": 8,
}


@pytest.mark.parametrize(("settings", "words"), WRONG)
@pytest.mark.parametrize("channel", ["gradient", "update"])
def test_a_model_that_cannot_work_is_told_before_anything_starts(settings, words, channel, tmp_path):
    with pytest.raises(ValueError, match=f"(?s){words}"):
        plan(configure(**{"channel": channel, **BASE, **settings}), tmp_path / "run", backend="local")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"model": f"{ME}:not_in_stages"}, r"cannot be cut after fc1.*nn\.Sequential.*OrderedDict"),
        ({"model": "lenet_dlg"}, r"cannot cut after 'fc1': the model's stages are"),
        ({"model": f"{ME}:narrow_head"}, "7 outputs, fewer"),
    ],
)
def test_a_model_that_cannot_be_cut_is_told_before_anything_starts(settings, words, tmp_path):
    with pytest.raises(ValueError, match=f"(?s){words}"):
        plan(configure(**{**BASE, **SPLIT, **settings}), tmp_path / "run", backend="local")
    assert not (tmp_path / "run").exists()


def test_a_softmax_head_is_warned_of_when_the_run_starts(tmp_path):
    said: list[str] = []
    result = simulate(
        configure(**BASE, model=f"{ME}:softmax_head"), out=tmp_path / "run", backend="local", note=said.append
    )
    assert [each for each in said if "warning: the model" in each and "ends in a softmax" in each]
    assert ["ends in a softmax" in each for each in result.warnings] == [True]


@pytest.mark.parametrize("name", ["quickstart", "split_quickstart", "vicious_quickstart"])
def test_shipped_models_pass_quickly_and_without_a_draw(name):
    federation = federation_of(load_experiment(name).to_json(), None)
    state = torch.get_rng_state()
    preflight(federation)
    start = time.perf_counter()
    assert preflight(federation) == ()
    assert time.perf_counter() - start < 5  # 0.02 s on a quiet machine
    assert torch.equal(torch.get_rng_state(), state)


class Plain(Defence):
    """No dataclass."""


@dataclasses.dataclass
class Changeable(Defence):
    scale: float = 1.0


@dataclasses.dataclass(frozen=True)
class Alien:
    scale: float = 1.0


def function():
    return None


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Plain", r"is a class, and its settings.*dataclass\(frozen=True\)"),
        ("function", "is a function, and its settings"),
        ("Changeable", r"can be changed.*frozen=True"),
        ("Alien", r"derive from fl_privacy\.Defence"),
    ],
)
def test_a_class_that_is_no_defence_is_told_how_to_become_one(name, words):
    with pytest.raises(ValueError, match=f"(?s){words}"):
        chain([{"name": f"{ME}:{name}"}])
    with pytest.raises(ValueError, match=f"(?s){words}"):
        configure(**BASE, training_defences=[[{"name": f"{ME}:{name}"}]])


@pytest.mark.parametrize(
    ("name", "words"), [("Plain", "is a class, and its settings"), ("Alien", r"derive from fl_privacy\.Attack")]
)
def test_a_class_that_is_no_attack_is_told_how_to_become_one(name, words):
    with pytest.raises(ValueError, match=words):
        configure(**{**BASE, "attack": {"name": f"{ME}:{name}"}})


def rounds(defence, *losses):
    """The rounds of a condition as results.json has them."""
    return {
        "defence": defence,
        "rounds": [{"round": i, "evaluate_metrics_serverapp": {"loss": loss}} for i, loss in enumerate(losses)],
    }


@pytest.mark.parametrize(
    ("losses", "words"),
    [
        ((2.3, 1.9), None),
        ((2.3, 9.0, 3.0), None),
        ((0.01, 0.5), None),
        ((2.3, 4.1e8), r"grew from 2\.3 to 4\.1e\+08 after round 1"),
        ((2.3, 5.0, None), "to no number after round 2"),
        ((2.3, float("nan")), "to no number"),
        ((2.3,), None),
        ((None, None), None),
    ],
)
def test_divergence_is_a_loss_that_is_no_number_or_ten_times_the_first(losses, words):
    found = ruins(broken_down([rounds("none", *losses), rounds("clip", 2.3, 2.0)]), [0.1])
    assert len(found) == (words is not None)
    assert all(re.search(words, each) and "'none'" in each for each in found)


def test_divergence_is_none_where_nothing_is_measured():
    assert broken_down([{"defence": "none", "rounds": [{"round": 0, "evaluate_metrics_serverapp": None}]}]) == {}


def test_a_learning_rate_of_a_thousand_million_is_told_in_the_table(tmp_path, capsys):
    experiment = configure(**BASE, learning_rate=1e9, rounds=2)
    result = simulate(experiment, out=tmp_path / "run", backend="local", note=lambda text: None)
    assert len(result.warnings) == 1
    result.show()
    assert "WARNING: training diverged under 'none'" in " ".join(capsys.readouterr().out.split())
    assert "WARNING: training diverged" in result._repr_html_()
    calm = simulate(configure(**BASE), out=tmp_path / "calm", backend="local", note=lambda text: None)
    assert list(calm.warnings) == []
