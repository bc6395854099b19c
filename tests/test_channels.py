"""What experiments of any channel share: training and serving, several attacks, public images, updates."""

import pytest
import torch

from fl_privacy.simulations.channels import CHANNELS
from fl_privacy.simulations.config.build import federation_of
from fl_privacy.simulations.config.load import configure, load_experiment, reconfigure
from fl_privacy.simulations.run.again import attack_again
from fl_privacy.simulations.run.pipeline import simulate

NOISE = {"name": "gaussian_noise", "scale": 0.1}
UPDATES = configure(
    name="updates",
    channel="update",
    dataset={"name": "digits", "size": 16},
    model={"name": "lenet_dlg", "init": "wide"},
    attacks=(
        {"name": "grnn", "iterations": 3, "width": 4},
        {"name": "grnn", "label": "longer", "iterations": 5, "width": 4},
    ),
    protocol={"strategy": "FedAvgM"},
    clients=3,
    clients_per_round=3,
    rounds=2,
)


CONTROLS = ["control: random guess", "control: mean image", "control: class mean"]


def quiet(text):
    """Progress that nobody reads."""


@pytest.fixture(scope="module")
def updates(tmp_path_factory):
    return simulate(UPDATES, out=tmp_path_factory.mktemp("runs") / "updates", backend="local", note=quiet)


def test_updates_are_attacked_and_the_model_moves(updates):
    rows = {row["attack"]: row for row in updates.summary}
    assert list(rows) == ["grnn", "longer", *CONTROLS]
    accuracy = [row["evaluate_metrics_serverapp"]["accuracy"] for row in updates.conditions[0]["rounds"]]
    loss = [row["evaluate_metrics_serverapp"]["loss"] for row in updates.conditions[0]["rounds"]]
    assert len(accuracy) == 3
    assert loss[0] != loss[1] != loss[2]
    assert updates.conditions[0]["rounds"][1]["counts"]["received"] == 3
    assert {row["iterations"] for row in updates.samples if row["attack"] == "longer"} == {5}


def test_reattacking_with_one_attack_runs_no_other(updates):
    again = attack_again(updates.folder, attack="grnn", changes=["attack.iterations=2"], note=quiet)
    assert {row["attack"] for row in again.summary if not row["attack"].startswith("control")} == {"grnn"}


def test_two_settings_of_one_attack_need_labels():
    with pytest.raises(ValueError, match="give one of them a 'label'"):
        reconfigure(UPDATES, attacks=(*UPDATES.attacks, UPDATES.attacks[0]))


def test_updates_need_every_client():
    with pytest.raises(ValueError, match="no seed reaches"):
        reconfigure(UPDATES, clients_per_round=2)
    with pytest.raises(LookupError, match="setting of the protocol of the update channel"):
        reconfigure(UPDATES, protocol={"stratgy": "FedAvg"})
    with pytest.raises(ValueError, match="'strategy' takes"):
        reconfigure(UPDATES, protocol={"strategy": "FedSomething"})


def test_every_training_defence_meets_every_serving_one():
    experiment = configure(
        name="x",
        channel="output",
        model="vicious_small",
        attacks=["vicious"],
        training_defences=[[], [NOISE]],
        inference_defences=[[], [{**NOISE, "scale": 0.2}]],
    )
    assert experiment.condition_labels == (
        "none; serving none",
        "none; serving gaussian_noise(scale=0.2)",
        "gaussian_noise(scale=0.1); serving none",
        "gaussian_noise(scale=0.1); serving gaussian_noise(scale=0.2)",
    )
    assert [each.trained.label for each in experiment.conditions] == ["none"] * 2 + ["gaussian_noise(scale=0.1)"] * 2
    assert [each.label for each in experiment.chains] == ["none", "gaussian_noise(scale=0.2)"] * 2


def test_variants_of_the_protocol_are_arms():
    variants = [{"label": "plain"}, {"label": "momentum", "strategy": "FedAvgM"}]
    experiment = reconfigure(UPDATES, protocol={}, variants=variants, training_defences=([], [NOISE]))
    assert experiment.condition_labels == tuple(
        f"{v}; {d}" for v in ("plain", "momentum") for d in ("none", "gaussian_noise(scale=0.1)")
    )
    assert [condition.protocol.strategy for condition in experiment.conditions] == ["FedAvg"] * 2 + ["FedAvgM"] * 2
    for wrong, words in (([{"strategy": "FedAvg"}], "needs a 'label'"), (variants[:1] * 2, "same label twice")):
        with pytest.raises(ValueError, match=words):
            reconfigure(experiment, variants=wrong)


def test_clients_hold_only_the_images_they_are_given():
    experiment = configure(name="x", dataset={"name": "digits"}, train_images=(100, 200))
    federation = federation_of(experiment.to_json(), None)
    held = torch.cat(federation.parts)
    assert sorted(held.tolist()) == list(range(100, 200))
    with pytest.raises(ValueError, match="'train_images' takes a first image and an end"):
        reconfigure(experiment, train_images=(200, 100))
    with pytest.raises(ValueError, match="ends at 99999"):
        federation_of(reconfigure(experiment, train_images=(0, 99999)).to_json(), None)


def test_public_images_are_the_ones_named():
    public = {"name": "digits", "split": "train", "first": 5, "count": 7}
    federation = federation_of(configure(name="x", public=public).to_json(), None)
    found = federation.public()
    assert torch.equal(found.inputs, federation.data.train.images(slice(5, 12)))
    assert torch.equal(found.labels, federation.data.train.labels[5:12])
    assert federation_of(configure(name="x").to_json(), None).public() is None
    for wrong, words in (
        ({**public, "count": 99999}, "takes images 5 to"),
        ({**public, "size": 16}, r"has images \(1, 16, 16\)"),
    ):
        with pytest.raises(ValueError, match=words):
            federation_of(configure(name="x", public=wrong).to_json(), None).public()
    with pytest.raises(ValueError, match="takes train or test"):
        configure(name="x", public={**public, "split": "validation"})


def test_every_channel_has_a_kind_and_the_shipped_experiments_name_one():
    assert set(CHANNELS) >= {"gradient", "update"}
    assert load_experiment("quickstart").channel in CHANNELS


def test_one_empty_training_chain_is_left_out_of_the_labels():
    variants = ({"label": "plain"}, {"label": "momentum", "strategy": "FedAvgM"})
    assert reconfigure(UPDATES, protocol={}, variants=variants).condition_labels == ("plain", "momentum")
    output = configure(name="x", channel="output", model="vicious_small", attacks=["vicious"])
    assert reconfigure(output, inference_defences=([], [NOISE])).condition_labels == (
        "serving none",
        "serving gaussian_noise(scale=0.1)",
    )
