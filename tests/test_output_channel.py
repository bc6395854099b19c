"""Vicious classifiers through the suite: training once, private inference, attacks, report."""

import dataclasses
import json
import math

import pytest
import torch

from fl_privacy.data import ImageSet
from fl_privacy.defences import Chain, chain
from fl_privacy.joint_training import load_pair, outputs
from fl_privacy.metrics import reconstruction_risk
from fl_privacy.seeding import subseed
from fl_privacy.simulations.channels import CHANNELS
from fl_privacy.simulations.channels.output import pairs as output_pairs
from fl_privacy.simulations.channels.output.protocol import JointServer
from fl_privacy.simulations.channels.output.scores import bits, entropy, measures, use
from fl_privacy.simulations.config import build
from fl_privacy.simulations.config.build import federation_of
from fl_privacy.simulations.config.load import configure, reconfigure
from fl_privacy.simulations.results.files import read_json
from fl_privacy.simulations.run.again import attack_again
from fl_privacy.simulations.run.pipeline import plan, simulate
from fl_privacy.simulations.run.stages import observed

SOFT = [{"name": "softmax"}, {"name": "rounding", "decimals": 1}]
TINY = configure(
    name="tiny",
    channel="output",
    dataset={"name": "digits", "size": 8},
    model={"name": "vicious_small", "width": 4, "hidden": 16},
    attacks=(
        {"name": "vicious"},
        {"name": "output_decoder", "steps": 3, "batch_size": 8},
        {"name": "output_decoder", "label": "on honest", "conditions": ("honest",), "steps": 1, "batch_size": 8},
    ),
    public={"name": "digits", "size": 8, "count": 50},
    inference_defences=([], SOFT),
    protocol={
        "decoder": {"name": "small", "width": 4, "hidden": 16},
        "epochs": 2,
        "pair_batch": 50,
        "images": 200,
        "validation": 100,
        "labelled": 50,
    },
    training_defences=([], SOFT),
    variants=({"label": "vicious"}, {"label": "honest", "beta_r": 0.0}),
    clients=4,
    clients_per_round=4,
    attacked_clients=3,
    batch_size=20,
)
ARMS = [
    f"{variant}; {trained}; serving {served}"
    for variant in ("vicious", "honest")
    for trained in ("none", "softmax + rounding(decimals=1)")
    for served in ("none", "softmax + rounding(decimals=1)")
]


def quiet(text):
    """Progress that nobody reads."""


def local(experiment, out, **choices):
    return simulate(experiment, out=out, backend="local", note=choices.pop("note", quiet), **choices)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return local(TINY, tmp_path_factory.mktemp("runs") / "tiny")


@pytest.fixture(scope="module")
def federation():
    return federation_of(TINY.to_json(), None)


def rows(result, attack=None):
    return {row["defence"]: row for row in result.summary if row["attack"] == attack}


def test_every_distinct_pair_is_trained_once(tiny):
    pairs = read_json(tiny.folder / "pairs.json")
    names = [pair["checkpoint"].rsplit("/", 1)[-1] for pair in pairs]
    assert names[0] == names[1] != names[2] == names[3], "one training serves every chain"
    assert names[4] == names[5] == names[6] == names[7], "an honest server has no decoder that defences matter to"
    assert len(set(names)) == 3
    assert {path.name for path in (tiny.folder / "models").glob("*.safetensors")} == set(names)
    assert [len(pair["epochs"]) for pair in pairs] == [2] * 8
    assert pairs[2]["identity"]["law"] == "softmax + rounding(decimals=1)"


def test_the_server_sees_the_defended_answers_of_the_trained_classifier(tiny, federation):
    seen = observed(federation, tiny.folder)
    assert len(seen) == 8 * 4
    checkpoints = [pair["checkpoint"] for pair in read_json(tiny.folder / "pairs.json")]
    for key, each in seen.items():
        clean = outputs(
            load_pair(tiny.folder / checkpoints[key.condition]).classifier, federation.batch(key.client, 1)[0]
        )
        seed = subseed(subseed(0, "party", key.condition), "release", key.client, 1)
        released = TINY.chains[key.condition].on_release({"outputs": clean}, seed)["outputs"]
        assert torch.equal(each.payload["outputs"], released)
        assert torch.equal(each.query(federation.batch(key.client, 1)[0]), clean)
        assert len(each.public) == 50


def test_clients_hold_test_images_each_its_own(federation):
    held = torch.cat(federation.parts)
    assert sorted(held.tolist()) == list(range(len(federation.data.test)))
    x, y = federation.batch(2, 1)
    drawn = federation.drawn(2, 1)
    assert torch.equal(drawn.images(), x)
    assert torch.equal(drawn.labels, y)
    assert all(any(torch.equal(image, other) for other in federation.data.test.images()) for image in x[:3])


def test_the_table_has_a_row_an_attack_and_arm_and_none_where_there_is_no_decoder(tiny):
    assert list(rows(tiny, "vicious")) == ARMS[:4]
    assert list(rows(tiny, "output_decoder")) == ARMS
    assert list(rows(tiny, "on honest")) == ARMS[4:]
    assert {row["attack"] for row in tiny.summary if row["attack"].startswith("control")} == {
        "control: random guess",
        "control: mean image",
        "control: class mean",
    }
    assert all(row["images"] == 60 for row in tiny.summary)


def test_accuracy_is_that_of_what_all_clients_released(tiny, federation):
    seen = observed(federation, tiny.folder)
    for index, label in enumerate(ARMS):
        mine = [each for key, each in seen.items() if key.condition == index]
        right = [
            (each.payload["outputs"].argmax(1) == federation.batch(each.client, 1)[1]).double().mean() for each in mine
        ]
        assert len(right) == 4
        assert rows(tiny, "output_decoder")[label]["model_accuracy"] == pytest.approx(float(torch.stack(right).mean()))


def test_labels_are_scored_image_by_image(tiny):
    samples = [row for row in tiny.samples if row["attack"] == "vicious" and row["defence"] == ARMS[0]]
    right = sum(row["label_correct"] for row in samples) / len(samples)
    assert rows(tiny, "vicious")[ARMS[0]]["label_accuracy"] == pytest.approx(right)


def test_set_scores_are_those_of_all_attacked_images(tiny, federation):
    row = rows(tiny, "vicious")[ARMS[0]]
    samples = [each for each in tiny.samples if each["attack"] == "vicious" and each["defence"] == ARMS[0]]
    pooled = -10 * math.log10(sum(each["mse"] for each in samples) / len(samples))
    assert row["pooled_psnr"] == pytest.approx(pooled, abs=1e-4)
    mean = rows(tiny, "control: mean image")["none"]
    assert mean["risk_published"] == pytest.approx(1, abs=0.05), "the mean of other images is R's yardstick"
    for name, factors in measures(federation).items():
        assert row[f"{name}_cut"] == factors.label
        truth = torch.cat([federation.batch(client, 1)[0] for client in range(3)])
        assert reconstruction_risk(factors, truth, truth).exact == len(truth)
    assert 0 <= row["risk_published_closer"] <= 1
    assert mean["risk_published_closer"] == pytest.approx(0.5, abs=0.02), "a guess that is the same for all"
    assert 0 <= row["instance_right"] <= 1
    assert mean["instance_right"] == pytest.approx(mean["instance_chance"]) == pytest.approx(10 / 60, abs=0.01)
    assert "no secret" in CHANNELS["output"].evaluation.reading(tiny.summary)
    assert "rtol 1.0e-03" in row["risk_well_posed_cut"]
    assert row["risk_published_cut"] in CHANNELS["output"].evaluation.reading(tiny.summary)


def test_the_cache_is_shared_and_a_cached_pair_is_not_trained_again(tmp_path):
    settings = {**TINY.protocol, "cache": str(tmp_path / "cache")}
    one = reconfigure(
        TINY, protocol=settings, variants=(), training_defences=([],), inference_defences=(), attacks=TINY.attacks[:1]
    )
    first, second = [], []
    runs = [local(one, tmp_path / str(number), note=notes.append) for number, notes in enumerate((first, second))]
    assert runs[0].digests == runs[1].digests
    assert any("epoch 2 of 2" in line for line in first)
    assert not any("epoch" in line and "validation" in line for line in second)
    assert len(list((tmp_path / "cache").glob("*.safetensors"))) == 1
    other = dataclasses.replace(one, seed=1)
    assert local(other, tmp_path / "other").digests != runs[0].digests
    assert len(list((tmp_path / "cache").glob("*.safetensors"))) == 2


def test_a_run_that_was_stopped_goes_on_from_its_last_epoch(tmp_path, monkeypatch):
    settings = {**TINY.protocol, "cache": str(tmp_path / "cache")}
    one = reconfigure(
        TINY, protocol=settings, variants=(), training_defences=([],), inference_defences=(), attacks=TINY.attacks[:1]
    )

    def stopping(label, note, report):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(output_pairs, "_progress", stopping)
        with pytest.raises(KeyboardInterrupt):
            local(one, tmp_path / "stopped")
    notes = []
    resumed = local(one, tmp_path / "resumed", note=notes.append)
    assert [line.split(",")[0] for line in notes if "validation accuracy" in line] == ["3/1: epoch 2 of 2"]
    through = local(dataclasses.replace(one, protocol=TINY.protocol), tmp_path / "through")
    assert through.digests == resumed.digests


def test_attacking_again_finds_the_decoder(tiny, tmp_path):
    again = attack_again(tiny.folder, changes=["attacked_clients=1"], out=tmp_path / "again", note=quiet)
    assert list(rows(again, "vicious")) == ARMS[:4]
    assert all(row["images"] == 20 for row in again.summary)


def test_a_checkpoint_that_is_gone_is_named(tmp_path):
    (tmp_path / "pairs.json").write_text(json.dumps([{"checkpoint": "/nowhere/pair.safetensors"}]))
    with pytest.raises(ValueError, match=r"/nowhere/pair.safetensors of this run is gone"):
        output_pairs.pair_of(tmp_path, 0)


def marked(data):
    """Two attributes of digits: even, and above four."""

    def with_attributes(part):
        return ImageSet(part.pixels, part.labels, torch.stack([part.labels % 2 == 0, part.labels > 4], 1))

    return dataclasses.replace(
        data, train=with_attributes(data.train), test=with_attributes(data.test), attributes=("even", "high")
    )


def test_attributes_have_an_output_each_and_arms_may_differ_in_how_many(tmp_path, monkeypatch):
    genuine = build.load
    monkeypatch.setattr(build, "load", lambda *choices: marked(genuine(*choices)))
    build.federation_of.cache_clear()
    one, two = {"label": "one", "attributes": ("high",)}, {"label": "two"}
    task = {**TINY.protocol, "task": "attributes", "labelled": 0}
    several = reconfigure(
        TINY,
        protocol=task,
        variants=(one, two),
        training_defences=([],),
        inference_defences=(),
        attacks=TINY.attacks[:1],
    )
    try:
        result = local(several, tmp_path / "attributes")
        seen = observed(federation_of(several.to_json(), None), result.folder)
        with pytest.raises(ValueError, match=r"no attribute odd. Known: even, high"):
            local(dataclasses.replace(several, variants=({"label": "x", "attributes": ("odd",)},)), tmp_path / "odd")
    finally:
        build.federation_of.cache_clear()
    assert {key.condition: each.payload["outputs"].shape[1] for key, each in seen.items()} == {0: 1, 1: 2}
    found = rows(result, "vicious")
    assert found["one"]["model_accuracy of high"] == pytest.approx(found["one"]["model_accuracy"])
    parts = [found["two"][f"model_accuracy of {name}"] for name in ("even", "high")]
    assert found["two"]["model_accuracy"] == pytest.approx(sum(parts) / 2)
    assert found["two"]["label_accuracy"] is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"train_images": (0, 10)}, "'protocol.images'"),
        ({"rounds": 2}, "every client answers once"),
        ({"protocol": {"task": "attributes"}}, "exclude each other"),
        ({"protocol": {"attributes": ("x",)}}, "are the outputs of task"),
        ({"protocol": {"images": -1}}, "must not be negative"),
        ({"protocol": {"decoder": "smal"}}, "Did you mean 'small'"),
        ({"protocol": {"decoder": {"name": "small", "widht": 3}}}, "setting of decoder 'small'"),
        ({"protocol": {"decoder": 3}}, "'decoder' takes a name"),
        ({"protocol": {"epochs": 0}}, "epochs must be at least 1"),
        ({"protocol": {"beta_r": 0, "beta_c": 0}}, "must be above 0"),
        (
            {"attacks": ({**TINY.attacks[2], "conditions": ("hones",)},)},
            "'conditions' of an attack names 'hones', and the conditions are: 'vicious; none",
        ),
        ({"attacks": ({**TINY.attacks[2], "conditions": "honest"},)}, "takes a list of conditions"),
        ({"public": {}}, "needs the observation's public"),
        ({"attacks": ["grnn"]}, "Attacks for it: class_mean, output_decoder, vicious"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_starts(change, words):
    with pytest.raises((ValueError, LookupError), match=words):
        reconfigure(TINY, **change)


def test_too_few_training_images_are_named(federation):
    with pytest.raises(ValueError, match=r"ask for 1400 \+ 100 training images, and 'digits' has 1437"):
        output_pairs.split(federation, JointServer(images=1400, validation=100))


def test_a_plan_is_refused_before_anything_is_trained(tmp_path):
    greedy = reconfigure(TINY, protocol={**TINY.protocol, "images": 1400})
    with pytest.raises(ValueError, match=r"ask for 1400 \+ 100"):
        plan(greedy, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_validation_images_are_no_training_images(federation):
    for shuffled in (True, False):
        own = output_pairs.split(federation, JointServer(validation=100, shuffled=shuffled))
        assert (len(own.train), len(own.validation)) == (1337, 100)
        order = torch.cat([own.train.labels, own.validation.labels])
        assert torch.equal(order.bincount(), federation.data.train.labels.bincount())
        assert torch.equal(order, federation.data.train.labels) is not shuffled


def test_entropy_and_bits_of_answers():
    uniform = torch.zeros(3, 8)
    assert entropy(uniform, Chain()) == pytest.approx(3)
    assert entropy(uniform, chain(SOFT)) == pytest.approx(3), "a row rounded to nothing says nothing"
    certain = torch.eye(8)[:3]
    assert entropy(certain, chain([{"name": "arg_max"}])) == 0
    assert entropy(certain, Chain()) > 1
    assert bits(chain([*SOFT, {"name": "arg_max"}]), 10) == {"bits": pytest.approx(math.log2(10))}
    assert entropy(torch.full((2, 8), 0.3), chain([{"name": "sigmoid"}])) == pytest.approx(3)
    rules, wanted = JointServer(task="attributes"), torch.tensor([[1, 0], [0, 0]])
    sent = torch.tensor([[2.0, -1.0], [-3.0, 1.0]])
    for law, answers in (([], sent), ([{"name": "sigmoid"}], sent.sigmoid())):
        assert use(rules, ["a", "b"], chain(law), answers, wanted)["accuracy"] == 0.75
    counted = bits(chain(SOFT), 10)
    assert counted["bits_eq18"] == pytest.approx(math.log2(math.comb(19, 9)))
    assert counted["bits"] > counted["bits_eq18"]
    assert bits(chain([{"name": "rounding", "decimals": 1}]), 10) == {}, "logits have no largest value"


@pytest.mark.ray
def test_ray_and_this_process_give_the_same_digests(tiny, tmp_path):
    result = simulate(TINY, out=tmp_path / "ray", backend="ray", workers=1, note=quiet)
    assert result.digests == tiny.digests
