"""The doors: what a user imports is there, importing changes nothing, and examples use nothing else."""

import ast
import importlib
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

import fl_privacy as flp
from fl_privacy.attacks import ATTACKS, Attack
from fl_privacy.data import DATASETS, PARTITIONS
from fl_privacy.defences import DEFENCES, Defence
from fl_privacy.metrics import METRICS
from fl_privacy.models import MODELS
from fl_privacy.observation import ChannelName, Reconstruction

ROOT = Path(__file__).parent.parent
DOORS = ("fl_privacy", "fl_privacy.strategies", "fl_privacy.simulations")


@pytest.mark.parametrize("door", DOORS)
def test_everything_named_is_there_and_explained(door):
    module = importlib.import_module(door)
    assert dir(module) == sorted(module.__all__)
    for name in module.__all__:
        found = getattr(module, name)
        assert name.isupper() or (found.__doc__ or "").strip(), f"{door}.{name} has no docstring"
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        module.nothing  # noqa: B018


@pytest.mark.parametrize("door", DOORS)
def test_importing_a_door_is_light_and_changes_nothing(door):
    code = (
        "import os, sys; before = dict(os.environ);"
        f"import {door};"
        "heavy = [m for m in ('torch', 'flwr', 'ray', 'numpy', 'matplotlib') if m in sys.modules];"
        "print(heavy, dict(os.environ) == before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[] True"


def examples():
    """Python code that users read: the notebooks, and the blocks of README and docs."""
    found = {str(path.relative_to(ROOT)): path.read_text() for path in (ROOT / "notebooks").glob("*.py")}
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("**/*.md")]:
        for number, block in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)):
            found[f"{page.relative_to(ROOT)} block {number}"] = block
    return found


@pytest.mark.parametrize("name", examples())
def test_examples_import_from_the_doors_alone(name):
    used = set()
    for node in ast.walk(ast.parse(examples()[name])):
        if isinstance(node, ast.ImportFrom):
            used.add(node.module)
        elif isinstance(node, ast.Import):
            used |= {alias.name for alias in node.names}
    assert {each for each in used if each.startswith("fl_privacy")} <= set(DOORS)


@pytest.mark.parametrize("name", [name for name in ATTACKS if name in ("grnn", "grnn_as_published", "class_mean")])
def test_our_attacks_pass_the_check_for_plug_ins(name):
    settings = {"iterations": 3, "latent": 4, "width": 2} if name.startswith("grnn") else {}
    flp.testing.check_attack(ATTACKS[name], settings)


@pytest.mark.parametrize("name", DEFENCES)
def test_our_defences_pass_the_check_for_plug_ins(name):
    flp.testing.check_defence(DEFENCES[name])


@pytest.mark.parametrize("name", METRICS)
def test_our_metrics_pass_the_check_for_plug_ins(name):
    flp.testing.check_metric(METRICS[name])


@pytest.mark.parametrize("name", ["convnet", "lenet_dlg", "lenet_grnn"])
def test_our_models_pass_the_check_for_plug_ins(name):
    flp.testing.check_model(MODELS[name])


def test_our_data_and_partitions_pass_the_check_for_plug_ins():
    assert flp.testing.check_dataset(DATASETS["digits"], size=16).classes == 10
    for name in PARTITIONS:
        flp.testing.check_partition(PARTITIONS[name])


@dataclass(frozen=True)
class Blind(Attack):
    """Grey images: an attack without an objective."""

    channels = frozenset({ChannelName.GRADIENT})
    noisy: bool = False

    def reconstruct(self, seen, rng):
        return [
            Reconstruction(inputs=torch.rand(o.spec.batch_size, *o.spec.image_shape) if self.noisy else _grey(o))
            for o in seen
        ]


def _grey(observation):
    return torch.full((observation.spec.batch_size, *observation.spec.image_shape), 0.5)


@dataclass(frozen=True)
class InPlace(Defence):
    """Halves the payload where it lies."""

    def on_release(self, payload, rng):
        return {name: value.mul_(0.5) for name, value in payload.items()}


@dataclass(frozen=True)
class GlobalNoise(Defence):
    """Draws from torch's own stream."""

    def on_release(self, payload, rng):
        return {name: value + torch.randn_like(value) for name, value in payload.items()}


class NoDataclass(Defence):
    """Has no settings that anybody could name."""


def test_an_attack_without_an_objective_passes():
    flp.testing.check_attack(Blind)


@pytest.mark.parametrize(
    ("check", "words"),
    [
        (lambda: flp.testing.check_attack(Blind, {"noisy": True}), "other bits for the same seed"),
        (lambda: flp.testing.check_defence(InPlace), "changed in place"),
        (lambda: flp.testing.check_defence(GlobalNoise), "draws from `rng` alone"),
        (lambda: flp.testing.check_defence(NoDataclass), "no dataclass"),
        (lambda: flp.testing.check_metric(lambda guess, truth: (guess - truth).mean()), "one number an image"),
        (lambda: flp.testing.check_model(lambda shape, classes: torch.nn.Flatten()), "logits"),
        (lambda: flp.testing.check_dataset(lambda root: None), "returns a DataSet"),
        (lambda: flp.testing.check_partition(lambda labels, clients, rng: [labels] * clients), "two clients"),
    ],
)
def test_what_does_not_conform_is_told(check, words):
    with pytest.raises(AssertionError, match=words):
        check()
