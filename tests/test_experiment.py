"""Experiments: what is accepted, what is refused and with which words, and how settings are changed."""

import dataclasses
import json

import pytest
from addresses import ALL
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_privacy.simulations.config.changes import override, parse_value
from fl_privacy.simulations.config.load import configure, from_json, load_experiment
from fl_privacy.simulations.experiment.spec import Experiment

BASE = {"name": "small", "clients": 4, "clients_per_round": 3, "rounds": 2, "attacked_clients": 2}
NOISE = {"name": "gaussian_noise", "scale": 0.1}


def test_the_least_that_an_experiment_needs_is_a_name():
    experiment = configure(name="x")
    assert experiment.condition_labels == ("none",)
    assert experiment.dataset == {"name": "digits"}


def test_a_bare_name_is_a_component():
    assert configure(name="x", attack="grnn") == configure(name="x", attack={"name": "grnn"})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "../up"}, ["'name'", "'../up'"]),
        ({"seed": -1}, ["'seed'", "-1"]),
        ({"seed": 1.5}, ["'seed'", "a whole number", "1.5"]),
        ({"rounds": 0}, ["'rounds'", "at least 1"]),
        ({"rounds": True}, ["'rounds'", "a whole number"]),
        ({"batch_size": "many"}, ["'batch_size'", "a whole number", "'many'"]),
        ({"learning_rate": 0}, ["'learning_rate'", "above 0"]),
        ({"learning_rate": float("inf")}, ["'learning_rate'", "above 0"]),
        ({"learning_rate": float("nan")}, ["'learning_rate'", "a number"]),
        ({"timeout": -3.0}, ["'timeout'", "above 0"]),
        ({"clients_per_round": 5}, ["'clients_per_round' (5)", "'clients' (4)"]),
        ({"attacked_clients": 4}, ["'attacked_clients' (4)", "'clients_per_round' (3)"]),
        ({"min_replies": 4}, ["'min_replies' (4)", "'clients_per_round' (3)"]),
        ({"attacked_rounds": [3]}, ["'attacked_rounds'", "1 to 2", "[3]"]),
        ({"attacked_rounds": []}, ["'attacked_rounds'", "1 to 2"]),
        ({"device": "tpu"}, ["'device'", "cpu, cuda, auto", "'tpu'"]),
        ({"channel": "pigeon"}, ["'pigeon'", "gradient"]),
        ({"roundz": 2}, ["'roundz'", "Did you mean 'rounds'?", "batch_size"]),
        ({"attack": "grn"}, ["'grn'", "Did you mean 'grnn'?"]),
        ({"attack": {"name": "grnn", "iteration": 5}}, ["'iteration'", "Did you mean 'iterations'?"]),
        ({"attack": {"name": "grnn", "iterations": "5"}}, ["attack 'grnn'", "'iterations'", "a whole number", "'5'"]),
        ({"attack": {"name": "grnn", "iterations": 0}}, ["iterations", "at least 1", "0"]),
        ({"attack": {"iterations": 5}}, ["'attacks'", "name"]),
        ({"attack": 5}, ["'attacks'", "name", "5"]),
        ({"dataset": "digit"}, ["'digit'", "Did you mean 'digits'?"]),
        ({"dataset": {"name": "digits", "root": "/"}}, ["'root'", "cannot be set"]),
        ({"dataset": {"name": "digits", "size": "big"}}, ["'size'", "'big'"]),
        ({"partition": {"name": "dirichlet", "beta": 1}}, ["'beta'", "alpha"]),
        ({"model": {"name": "lenet_dlg", "depth": 3}}, ["'depth'", "lenet_dlg"]),
        ({"training_defences": []}, ["'training_defences'", "[[]]"]),
        ({"training_defences": [NOISE]}, ["'training_defences'", "a list of chains"]),
        ({"training_defences": [[{"scale": 1}]]}, ["'training_defences'", "name"]),
        ({"training_defences": [[{"name": "gaussian_noise", "scale": -1}]]}, ["scale", "-1"]),
        ({"training_defences": [[NOISE], [NOISE]]}, ["same chain twice", "gaussian_noise(scale=0.1)"]),
    ],
)
def test_what_does_not_fit_is_named(change, words):
    with pytest.raises((ValueError, LookupError)) as caught:
        configure(**{**BASE, **change})
    for word in words:
        assert word in str(caught.value)


def test_python_users_are_checked_too():
    with pytest.raises(ValueError, match="'rounds' takes a whole number"):
        configure(name="x", rounds="three")
    assert configure(name="x", learning_rate=1).to_json() == configure(name="x", learning_rate=1.0).to_json()


def test_an_attack_of_another_channel_is_refused(monkeypatch):
    from fl_privacy.attacks import ATTACKS
    from fl_privacy.observation import ChannelName

    monkeypatch.setattr(ATTACKS["grnn"], "channels", frozenset({ChannelName.OUTPUT}))
    with pytest.raises(ValueError, match=r"'grnn' reads output messages.*gradient"):
        configure(name="x")


def test_an_attack_that_needs_more_than_its_adversary_has_is_refused(monkeypatch):
    from fl_privacy.attacks import ATTACKS

    monkeypatch.setattr(ATTACKS["grnn"], "needs", frozenset({"model", "labels"}))
    with pytest.raises(ValueError, match=r"needs the observation's labels; .* holds model"):
        configure(name="x")


def test_json_and_back_is_the_same_experiment():
    infinite = {"name": "clip", "norm": float("inf")}
    expected = [{"training_defence": "none", "psnr": 17.1}]
    experiment = configure(**{**BASE, "training_defences": [[], [infinite, NOISE]], "published": expected})
    again = from_json(experiment.to_json())
    assert again == experiment
    assert hash(again) == hash(experiment)
    assert hash(dataclasses.replace(again, seed=1)) != hash(experiment)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("500", 500),
        ("0.1", 0.1),
        ("1e-3", 1e-3),
        (".5", 0.5),
        ("-5.", -5.0),
        ("+.5e-3", 5e-4),
        (".", "."),
        ("inf", float("inf")),
        ("true", True),
        ("grnn", "grnn"),
        ('"500"', "500"),
        (" adam ", "adam"),
        ("", ""),
        ("[1, 2]", [1, 2]),
        ('{name = "clip", norm = 1.0}', {"name": "clip", "norm": 1.0}),
    ],
)
def test_values_are_toml_or_text(text, value):
    assert parse_value(text) == value


@pytest.mark.parametrize(
    ("changes", "key", "value"),
    [
        (["rounds=5"], "rounds", 5),
        (["attacked_rounds=[1, 2]"], "attacked_rounds", [1, 2]),
        (["attack.iterations=9"], "attacks", [{"name": "grnn", "iterations": 9, "tv": 1.0}]),
        (["attack=grnn"], "attacks", [{"name": "grnn", "iterations": 7, "tv": 1.0}]),
        (["attack=grnn_as_published"], "attacks", [{"name": "grnn_as_published"}]),
        (
            ["attack=grnn_as_published", "attack.iterations=9"],
            "attacks",
            [{"name": "grnn_as_published", "iterations": 9}],
        ),
        (["model.init=wide"], "model", {"name": "lenet_dlg", "init": "wide"}),
        (["defence=clip"], "training_defences", [[], [{"name": "clip"}]]),
        (["defence=clip", "defence.norm=2.0"], "training_defences", [[], [{"name": "clip", "norm": 2.0}]]),
        (["defence.scale=0.5"], "training_defences", [[], [{"name": "gaussian_noise", "scale": 0.5}]]),
        (["defence=none"], "training_defences", [[]]),
        (["training_defences=[[]]"], "training_defences", [[]]),
    ],
)
def test_changes(changes, key, value):
    settings = {
        "name": "x",
        "rounds": 2,
        "attacks": [{"name": "grnn", "iterations": 7, "tv": 1.0}],
        "training_defences": [[], [{"name": "gaussian_noise", "scale": 0.1}]],
    }
    before = json.dumps(settings)
    assert override(settings, changes)[key] == value
    assert json.dumps(settings) == before, "override must leave its input alone"
    configure(**override(settings, changes))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("rounds", ["key=value", "'rounds'"]),
        ("=5", ["key=value"]),
        ("attack.=5", ["key=value"]),
        ("seed.x=5", ["'seed.x'", "no such part"]),
        ("attack.a.b=5", ["'attack.a.b'", "no such part"]),
        ("defence.norm=5", ["one defence", "has 0"]),
    ],
)
def test_changes_that_make_no_sense(change, words):
    with pytest.raises(ValueError) as caught:
        override({"name": "x", "seed": 1}, [change])
    for word in words:
        assert word in str(caught.value)


@settings(max_examples=150, deadline=None)
@given(
    st.one_of(
        st.text(max_size=30),
        st.builds(
            "{}{}={}".format,
            st.sampled_from([field.name for field in dataclasses.fields(Experiment)] + ["attack", "defence"]),
            st.sampled_from(["", ".name", ".size", ".x"]),
            st.one_of(st.text(max_size=12), st.integers().map(str), st.floats().map(str), st.just("[[1]]")),
        ),
    )
)
def test_any_change_is_accepted_or_refused_with_a_reason(change):
    try:
        configure(**override(BASE, [change]))
        verdict = "accepted"
    except (ValueError, LookupError) as error:
        verdict = str(error)
    assert verdict


@pytest.mark.parametrize(("name", "profile"), ALL)
def test_shipped_experiments_are_valid(name, profile):
    experiment = load_experiment(name, profile=profile)
    assert experiment.name.startswith(name.replace("/", "_"))


def test_the_given_seed_wins():
    assert load_experiment("quickstart", ["seed=5"]).seed == 5
    assert load_experiment("quickstart", ["seed=5"], seed=7).seed == 7
    assert load_experiment("quickstart", seed=None).seed == 0


def test_an_experiment_file(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('rounds = 3\n[attack]\nname = "grnn"\niterations = 4\n')
    experiment = load_experiment(str(path))
    assert (experiment.name, experiment.rounds, experiment.attacks[0]["iterations"]) == ("mine", 3, 4)


def test_files_that_are_none(tmp_path):
    with pytest.raises(LookupError, match="quickstart"):
        load_experiment("nothing")
    path = tmp_path / "bad.toml"
    path.write_text("rounds = = 3")
    with pytest.raises(ValueError, match="not a TOML file"):
        load_experiment(str(path))


def test_public_images_may_be_a_bare_name():
    assert load_experiment("vicious_quickstart", ["public=digits"]).public == {"name": "digits"}
    with pytest.raises(ValueError, match="'public' takes a name, or a table"):
        load_experiment("vicious_quickstart", ["public=3"])
