"""Whole runs with models whose protocol is easily mistaken, and what a run says when it was mistaken."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from fl_privacy.simulations.cli import app
from fl_privacy.simulations.config.load import configure
from fl_privacy.simulations.run.again import attack_again, reopen
from fl_privacy.simulations.run.pipeline import plan, simulate
from fl_privacy.simulations.run.stages import ProtocolMismatch

BASE = {
    "name": "modes",
    "dataset": {"name": "digits", "size": 16},
    "attack": {"name": "grnn", "iterations": 3, "restarts": 1, "latent": 4, "width": 2},
    "clients": 2,
    "clients_per_round": 2,
    "rounds": 1,
}


def quiet(text):
    """Progress that nobody reads."""


def run(out, **settings):
    return simulate(configure(**{**BASE, **settings}), out=out, backend="local", note=quiet)


@pytest.fixture
def mistaken(tmp_path):
    """A run whose saved modes say that its frozen batch normalisation ran in training mode."""
    source = run(tmp_path / "run", model={"name": "odd_models:frozen_norm_of"}, batch_size=2).folder
    for path in (source / "observations").glob("*.json"):
        facts = json.loads(path.read_text())
        assert facts["training"] == []
        path.write_text(json.dumps({**facts, "training": ["", "0", "1", "2", "3", "4"]}))
    return source


def test_an_attack_on_another_protocol_is_an_error_that_costs_no_file(mistaken, tmp_path):
    out = tmp_path / "again"
    with pytest.raises(ProtocolMismatch, match=r"modules in another mode.*again, marked as not valid"):
        attack_again(mistaken, out=out, note=quiet, trust=True)
    again = reopen(out, trust=True)
    assert "another protocol than the one that ran" in again.not_valid[0]
    assert again.summary[0]["psnr"] > 0
    assert again.figures
    assert again.table().title.startswith("NOT VALID")
    assert "NOT VALID: 1 attacked payloads of 'none'" in again.table().caption


def test_the_command_fails_and_says_so(mistaken, tmp_path):
    done = CliRunner().invoke(app, ["attack", str(mistaken), "--trust", "--out", str(tmp_path / "again")])
    assert done.exit_code == 1
    assert "ProtocolMismatch" in done.output
    shown = CliRunner().invoke(app, ["report", str(tmp_path / "again"), "--trust"])
    assert "NOT VALID" in shown.output


def test_a_valid_run_says_nothing(tmp_path):
    result = run(tmp_path / "run", model={"name": "odd_models:frozen_norm_of"})
    assert result.not_valid == []
    assert "NOT VALID" not in result.table().title
    assert result.summary[0]["loss_at_truth"] < -12


def test_statistics_that_stay_behind_do_not_cost_the_accuracy(tmp_path):
    """Under FedSGD no client sends running statistics; measured with those of the start this is near 56 %."""
    model = {"name": "odd_models:norm_of"}
    training = {"rounds": 60, "learning_rate": 0.3, "clients": 4, "clients_per_round": 4, "batch_size": 16}
    told = []
    experiment = configure(**{**BASE, **training, "model": model})
    result = simulate(experiment, out=tmp_path / "run", backend="local", note=told.append)
    assert 0.8 < result.summary[0]["model_accuracy"] < 0.95
    assert sum("no client sends running statistics" in line for line in told) == 1


def test_a_model_without_logits_is_refused_before_anything_starts(tmp_path):
    digits = {"name": "digits", "size": 8}  # as that model has them
    with pytest.raises(ValueError, match="returns a tuple"):
        plan(configure(**{**BASE, "dataset": digits, "model": {"name": "odd_models:pair_of"}}), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("channel", ["gradient", "update"])
@pytest.mark.parametrize(("name", "words"), [("once_of", "differentiate twice"), ("all_frozen_of", "nothing to train")])
def test_a_model_that_no_gradient_attack_can_take_is_refused_before_anything_starts(tmp_path, name, words, channel):
    with pytest.raises(ValueError, match=words):
        plan(configure(**{**BASE, "channel": channel, "model": {"name": f"odd_models:{name}"}}), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("local", [None, {"epochs": 2, "batch_size": 4}])
def test_the_attacked_batch_is_not_that_of_training(tmp_path, local):
    """Rounds without an attack train as they do where nothing is attacked; an attacked message has its own images."""
    channel = {"channel": "update", "protocol": {"local": local}} if local else {}
    training = {**channel, "rounds": 3, "batch_size": 12, "attacked_rounds": (3,), "learning_rate": 0.3}
    same = run(tmp_path / "same", **training)
    apart = run(tmp_path / "apart", **training, attacked_batch_size=2)
    trained = [json.loads((each.folder / "rounds.json").read_text())[0]["rounds"] for each in (same, apart)]
    assert [row["evaluate_metrics_serverapp"] for row in trained[0]][:3] == [
        row["evaluate_metrics_serverapp"] for row in trained[1]
    ][:3]
    assert trained[0][3] != trained[1][3]
    assert (same.summary[0]["images"], apart.summary[0]["images"]) == (12, 2)
    assert not apart.not_valid, "the payload is what the simulation makes of its two images"
    assert same.digests["payloads"] != apart.digests["payloads"]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"attacked_batch_size": -1}, "at least 0"),
        ({"attacked_batch_size": 2, "channel": "activation"}, "on the activation channel leave it out"),
        (
            {"channel": "update", "attacked_batch_size": 9, "protocol": {"local": {"steps": 2, "batch_size": 1}}},
            "9: lower",
        ),
    ],
)
def test_an_attacked_batch_that_cannot_be_is_refused(wrong, words):
    with pytest.raises(ValueError, match=words):
        configure(**{**BASE, **wrong})
