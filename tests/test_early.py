"""A wrong name is told at once: before torch, Flower and Ray are imported, and in the words of the full check."""

import dataclasses
import inspect
import json
import subprocess
import sys
import time

import pytest

from fl_privacy.attacks import ATTACKS
from fl_privacy.data import DATASETS, PARTITIONS
from fl_privacy.defences import DEFENCES
from fl_privacy.models import MODELS
from fl_privacy.settings import UnknownName
from fl_privacy.simulations import listing
from fl_privacy.simulations.channels import CHANNELS
from fl_privacy.simulations.config import early, names
from fl_privacy.simulations.config.load import configure, load_experiment

REGISTRIES = {
    "ATTACKS": ATTACKS,
    "DATASETS": DATASETS,
    "DEFENCES": DEFENCES,
    "MODELS": MODELS,
    "PARTITIONS": PARTITIONS,
}
HEAVY = ("torch", "flwr", "ray", "numpy", "matplotlib", "scipy", "sklearn")
GENEROUS = 10  # seconds, on a busy machine; a quiet one takes 0.3, and importing torch and Flower some 5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "quickstart", "--set", "attack=grn"], "Did you mean 'grnn'"),
        (["run", "quickstart", "--set", "attack.iteratons=5"], "Did you mean 'iterations'"),
        (["run", "quickstart", "--set", "model=lenet"], "no model is called 'lenet'"),
        (["run", "quickstart", "--set", "dataset=digit"], "Did you mean 'digits'"),
        (["run", "quickstart", "--set", "partition=idd"], "Did you mean 'iid'"),
        (["run", "quickstart", "--set", "defence=gausian_noise"], "Did you mean 'gaussian_noise'"),
        (["run", "quickstart", "--set", "channel=gradients"], "Known: activation, gradient"),
        (["run", "quickstart", "--set", "client=3"], "Did you mean 'clients'"),
        (["run", "quickstart", "--set", "clients=0"], "must be at least 1"),
        (["run", "quickstart", "--set", "clients=many"], "takes a whole number"),
        (["run", "quickstart", "--seed", "-1"], "'seed' must be at least 0"),
        (["run", "quickstart", "--profile", "ful"], "profile of quickstart"),
        (["run", "quickstart", "--backend", "rai"], "'backend' takes ray or local"),
        (["run", "quickstar"], "Did you mean 'quickstart'"),
        (["attack", "nowhere", "--attack", "grn"], "Did you mean 'grnn'"),
        (["attack", "nowhere"], "nowhere"),
        (["report", "nowhere"], "nowhere"),
        (["list", "attack"], "Did you mean 'attacks'"),
        (["run", "quickstart", "--workers", "0"], "'workers' must be at least 1"),
        (["run", "quickstart", "--device", "tpu"], "'device' takes one of"),
    ],
)
def test_the_command_answers_before_anything_heavy_is_imported(words, message):
    code = (
        "import json, sys\n"
        "from fl_privacy.simulations.cli import app\n"
        f"try:\n    app({words!r}, standalone_mode=True)\n"
        "finally:\n"
        f"    print(json.dumps([each for each in {HEAVY!r} if each in sys.modules]))"
    )
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert time.perf_counter() - start < GENEROUS
    assert done.returncode == 2
    assert message in done.stderr
    assert json.loads(done.stdout) == []


def test_the_names_read_from_the_sources_are_the_registries():
    assert {key: sorted(found) for key, found in names.registered().items() if key in REGISTRIES} == {
        key: sorted(registry._entries) for key, registry in REGISTRIES.items()
    }
    assert sorted(early.CHANNELS) == sorted(CHANNELS)
    assert ("channels", *listing.REGISTRIES, "experiments") == early.LISTED


@pytest.mark.parametrize("key", REGISTRIES)
def test_the_settings_read_from_the_sources_are_those_that_are_taken(key):
    for name, definition in names.registered()[key].items():
        entry = REGISTRIES[key][name]
        if dataclasses.is_dataclass(entry):
            wanted = [field.name for field in dataclasses.fields(entry) if field.init]
        else:
            kinds = {"DATASETS": (inspect.Parameter.KEYWORD_ONLY,), "PARTITIONS": (inspect.Parameter.KEYWORD_ONLY,)}
            taken = inspect.signature(entry).parameters.values()
            wanted = [each.name for each in taken if each.kind in kinds.get(key, (each.kind,))]
        found = names.settings_of(definition, keyword_only=key in ("DATASETS", "PARTITIONS"))
        assert found == wanted, (key, name)


@pytest.mark.parametrize(
    "change", ["attack=grn", "attack.iteratons=5", "model=lenet", "dataset.sise=3", "defence=clipp", "clients=0"]
)
def test_the_early_words_are_those_of_the_full_check(change):
    with pytest.raises((UnknownName, ValueError)) as soon:
        early.check_early("quickstart", [change])
    with pytest.raises((UnknownName, ValueError)) as late:
        load_experiment("quickstart", [change])
    assert str(soon.value) == str(late.value)


def test_where_code_of_the_users_own_is_named_nothing_is_said_too_early():
    """Importing it may register the other name."""
    early.check_early("quickstart", ["dataset=mine:load", "attack=mine"])


def test_an_installed_package_counts(monkeypatch):
    monkeypatch.setattr(early, "plug_ins", lambda kind: {"theirs"} if kind == "attack" else set())
    early.check_early("quickstart", ["attack=theirs"])
    with pytest.raises(UnknownName, match="theirs"):
        early.check_early("quickstart", ["attack=their"])


def test_without_sources_nothing_is_said_too_early(monkeypatch):
    monkeypatch.setattr(early, "registered", dict)
    early.check_names(configure())
