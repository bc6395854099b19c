"""The evaluation stage: whose losses the controls have, what they may guess from, what a row may name."""

import dataclasses
import json

import pytest
import torch
from typer.testing import CliRunner

import fl_privacy as flp
from fl_privacy.metrics import METRICS, SET_METRICS
from fl_privacy.settings import UnknownName
from fl_privacy.simulations import configure, reconfigure, simulate
from fl_privacy.simulations.channels import CHANNELS
from fl_privacy.simulations.cli import app
from fl_privacy.simulations.config.build import federation_of
from fl_privacy.simulations.config.load import load_experiment
from fl_privacy.simulations.federation import Positions
from fl_privacy.simulations.listing import entries
from fl_privacy.simulations.results import files, storage
from fl_privacy.simulations.run.stages import observed
from fl_privacy.simulations.scoring import faults, score_all

NOISE = {"name": "gaussian_noise", "scale": 0.1}
GRADIENT = configure(
    name="scored",
    dataset={"name": "digits", "size": 8},
    model="convnet",
    attacks=({"name": "grnn", "iterations": 2, "restarts": 1, "latent": 4, "width": 2},),
    clients=2,
    clients_per_round=2,
    attacked_clients=2,
)
OUTPUT = configure(
    name="scored",
    channel="output",
    dataset={"name": "digits", "size": 8},
    model={"name": "vicious_small", "width": 4, "hidden": 16},
    attacks=({"name": "vicious"},),
    protocol={
        "decoder": {"name": "small", "width": 4, "hidden": 16},
        "epochs": 1,
        "images": 1000,
        "validation": 300,
        "shuffled": False,
    },
)


def quiet(_):
    pass


def local(experiment, out):
    return simulate(experiment, out=out, backend="local", note=quiet)


@pytest.mark.parametrize("channel", ["gradient", "update"])
def test_defences_of_inference_are_refused_where_nothing_is_served(channel):
    with pytest.raises(ValueError, match=f"no meaning on the {channel} channel.*'training_defences'"):
        reconfigure(GRADIENT, channel=channel, inference_defences=([NOISE],))


@pytest.mark.parametrize("channel", ["gradient", "update"])
def test_a_row_that_names_another_defence_than_the_clients_ran_is_not_valid(channel, tmp_path):
    experiment = reconfigure(GRADIENT, channel=channel, training_defences=([], [NOISE]))
    result = local(experiment, tmp_path / "run")
    assert not result.not_valid
    federation = federation_of(experiment.to_json(), None)
    seen = observed(federation, result.folder)
    assert {key.condition: each.applied for key, each in seen.items()} == {0: "none", 1: "gaussian_noise(scale=0.1)"}
    guesses = {"grnn": storage.load_guesses(files.guesses_folder(result.folder, "grnn"))}
    scored = score_all(CHANNELS[channel], federation, seen, guesses)
    swapped = {key: dataclasses.replace(each, applied="clip(norm=1.0)") for key, each in seen.items()}
    (first, *_) = faults(federation, swapped, scored)
    assert "'none'" in first
    assert "its clients say that they ran 'clip(norm=1.0)'" in first
    assert [row.get("applied") for row in result.summary] == ["none", "gaussian_noise(scale=0.1)", None, None, None]


def test_the_controls_losses_are_those_of_an_undefended_message_or_none(tmp_path):
    both = local(reconfigure(GRADIENT, training_defences=([NOISE], [])), tmp_path / "both")
    plain = local(GRADIENT, tmp_path / "plain")
    rows = [{row["attack"]: row for row in each.summary} for each in (both, plain)]
    for name in ("control: random guess", "control: mean image", "control: class mean"):
        first, second = (each[name] for each in rows)
        assert first["loss_at_truth"] == pytest.approx(second["loss_at_truth"]), "the noise came first in the list"
        assert first["loss_at_truth"] < -5
    defended = local(reconfigure(GRADIENT, training_defences=([NOISE],)), tmp_path / "defended")
    assert all(row["loss_at_truth"] is None for row in defended.summary if row["attack"].startswith("control"))


@pytest.mark.parametrize(
    ("experiment", "read"),
    [
        (GRADIENT, True),
        (reconfigure(GRADIENT, channel="update"), True),
        (OUTPUT, True),
        (load_experiment("split_quickstart"), True),
        (load_experiment("split_quickstart", ["protocol.adversary='data owner'"]), False),
    ],
)
def test_the_class_is_read_where_it_leaks_or_is_sent(experiment, read):
    assert CHANNELS[experiment.channel].evaluation.class_is_read(experiment) is read


def overlap(experiment):
    federation = federation_of(experiment.to_json(), None)
    evaluation = CHANNELS[experiment.channel].evaluation
    pool = evaluation.control_pool(federation)
    used = [evaluation.trained_on(federation, condition) for condition in range(len(experiment.conditions))]
    shared = [
        sum(int(torch.isin(pool.index, each.index).sum()) for each in some if each.split == pool.split) for some in used
    ]
    return len(pool.index), shared


@pytest.mark.parametrize("changed", [{"images": 1130}, {"validation": 10, "images": 1400}, {"shuffled": True}])
def test_no_condition_was_trained_on_an_image_of_the_controls(changed):
    count, shared = overlap(reconfigure(OUTPUT, variants=({"label": "as it is"}, {"label": "other", **changed})))
    assert shared == [0, 0]
    assert count > 0


def test_controls_without_any_blind_image_are_refused_before_anything_starts(tmp_path):
    """The only validation image of the one is a training image of the other."""
    one = {**OUTPUT.protocol, "validation": 1, "images": 1}
    other = {"label": "b", "validation": 1, "images": 1436, "shuffled": True}
    experiment = reconfigure(OUTPUT, protocol=one, variants=({"label": "a"}, other))
    with pytest.raises(ValueError, match="no image is left"):
        local(experiment, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_scorer_refuses_a_pool_that_somebody_was_trained_on(tmp_path, monkeypatch):
    kind = type(CHANNELS["gradient"].evaluation)
    monkeypatch.setattr(kind, "control_pool", lambda self, federation: Positions("train", torch.arange(100)))
    with pytest.raises(AssertionError, match="was trained on 100 of the 100 images of the controls"):
        local(GRADIENT, tmp_path / "run")


def line(root):
    rng = torch.Generator().manual_seed(0)
    images, labels = torch.rand(80, 1, 1, 32, generator=rng), torch.arange(80) % 2
    return flp.from_tensors("line", (images[:40], labels[:40]), (images[40:], labels[40:]), classes=2)


def flat(image_shape, classes):
    channels, height, width = image_shape
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(channels * height * width, classes))


def two_layers(image_shape, classes):
    channels, height, width = image_shape
    first = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(channels * height * width, 16), torch.nn.ReLU())
    return torch.nn.Sequential(first, torch.nn.Linear(16, classes))


def broken(guess, truth):
    raise KeyError("nobody wrote this part")


def of_another_shape(guess, truth):
    return guess.mean()


def darkness(guess, truth):
    return 1 - guess.flatten(1).mean(1)


def test_a_metric_that_cannot_be_computed_costs_no_other(tmp_path):
    own = ("test_scoring:broken", "test_scoring:of_another_shape", "test_scoring:darkness")
    experiment = reconfigure(GRADIENT, dataset={"name": "test_scoring:line"}, model="test_scoring:flat", metrics=own)
    result = local(experiment, tmp_path / "run")
    (row,) = (each for each in result.summary if each["attack"] == "grnn")
    assert row["psnr"] > 0
    assert row["ssim"] is None
    assert 0 <= row["test_scoring:darkness"] <= 1
    assert "at least 2 x 2 pixels" in row["unmeasured"]["ssim"]
    assert "nobody wrote this part" in row["unmeasured"][own[0]]
    assert "one number an image" in row["unmeasured"][own[1]]
    shown = CliRunner().invoke(app, ["report", str(result.folder), "--trust"]).output
    assert "darkness" in shown
    assert "ssim could not be measured" in shown.replace("\n", " ")


@dataclasses.dataclass(frozen=True)
class Above:
    """The share of pixels whose error is above `limit`."""

    limit: float = 0.5

    def __call__(self, guess, truth):
        return ((guess - truth).abs() > self.limit).float().flatten(1).mean(1)


def spread(matched):
    return {"spread": float(matched.guesses.std()), "images_seen": len(matched.guesses)}


def takes_a_column(matched):
    return {"psnr": 99.0}


def test_own_metrics_reach_the_rows_and_the_table(tmp_path):
    own = ({"name": "test_scoring:Above", "limit": 0.0}, "test_scoring:spread", "pooled_psnr", "label_accuracy")
    result = local(reconfigure(GRADIENT, metrics=own), tmp_path / "run")
    for row in result.summary:
        assert row["test_scoring:Above"] > 0.5, "the limit is 0, and not the class's own 0.5"
        assert row["images_seen"] == row["images"]
        assert row["pooled_psnr"] <= row["psnr"], "the PSNR of a mean error is below the mean PSNR"
        assert row["asked_for"] == ["spread", "images_seen", "pooled_psnr"]
    assert all("test_scoring:Above" in sample for sample in result.samples)
    headings = {column.header.replace("\n", " ") for column in result.table().columns}
    assert {"test scoring: Above", "spread", "images seen", "pooled psnr"} <= headings


def test_a_metric_of_sets_that_fails_costs_no_other(tmp_path):
    own = ("test_scoring:takes_a_column", "test_scoring:spread")
    result = local(reconfigure(GRADIENT, metrics=own), tmp_path / "run")
    for row in result.summary:
        assert row["psnr"] < 99
        assert row["spread"] > 0
        assert list(row["unmeasured"]) == ["test_scoring:takes_a_column"]
        assert "psnr" in row["unmeasured"]["test_scoring:takes_a_column"]


@pytest.mark.parametrize(
    ("metrics", "words"),
    [
        (("psn",), "Did you mean 'psnr'"),
        (("distance_corelation",), "Did you mean 'distance_correlation'"),
        (("reconstruction_risk",), "needs geometry, which the evaluator of this channel does not have"),
        (("test_scoring:darkness", "test_scoring:darkness"), "names one twice"),
        (({"name": "test_scoring:darkness", "limit": 1},), "no settings"),
        (({"name": "test_scoring:Above", "limmit": 1},), "Did you mean 'limit'"),
        (("test_scoring:GRADIENT",), "is a Experiment: name a function or a class"),
    ],
)
def test_a_metric_that_cannot_be_had_is_refused_at_once(metrics, words):
    with pytest.raises((ValueError, UnknownName), match=words):
        reconfigure(GRADIENT, metrics=metrics)


def test_a_run_folder_that_names_a_metric_is_data(tmp_path):
    result = local(reconfigure(GRADIENT, metrics=("test_scoring:darkness",)), tmp_path / "run")
    with pytest.raises(ValueError, match=r"test_scoring:darkness.*--trust"):
        type(result).read(result.folder)


def untaught(federation):
    raise RuntimeError("nobody taught it")


def test_split_learning_on_a_line_of_pixels_ends_in_a_table_whatever_cannot_judge_it(tmp_path, monkeypatch):
    monkeypatch.setattr("fl_privacy.simulations.channels.activation.channel.judge", untaught)
    experiment = configure(
        name="line",
        channel="activation",
        dataset={"name": "test_scoring:line"},
        model="test_scoring:two_layers",
        protocol={"cut": ["0"], "targets": [0, 4], "white_box": True},
        attacks=({"name": "rmle", "iterations": 3},),
        clients=2,
        clients_per_round=2,
        attacked_clients=2,
        batch_size=4,
    )
    result = local(experiment, tmp_path / "run")
    for row in result.summary:
        assert row["psnr"] > 0
        assert list(row["unmeasured"]) == ["ssim", "class_recognition"]
        assert "nobody taught it" in row["unmeasured"]["class_recognition"]
    assert "class_recognition could not be measured" in " ".join(str(result.table().caption).split())


def test_every_metric_is_listed_with_what_it_is_of():
    found = {each["name"]: each for each in entries("metrics")}
    assert set(found) == {*METRICS, *SET_METRICS}
    assert found["psnr"]["of"] == "an image"
    for name, need in (
        ("reconstruction_risk", "geometry"),
        ("class_recognition", "judge"),
        ("label_accuracy", "labels"),
    ):
        assert found[name]["of"] == "a set"
        assert need in found[name]["summary"]
    assert "distance_correlation" in found
    listed = json.loads(CliRunner().invoke(app, ["list", "metrics", "--json"]).output)
    assert {each["name"] for each in listed} == set(found)
