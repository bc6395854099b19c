"""A package outside the repository adds one of each kind: by entry points or module:name; a broken one harms nobody."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import fl_privacy as flp
from fl_privacy.settings import UnknownName
from fl_privacy.simulations import load_experiment, simulate
from fl_privacy.simulations.config.early import check_early
from fl_privacy.simulations.doctor import examine
from fl_privacy.simulations.listing import REGISTRIES, entries

ROOT = Path(__file__).parent.parent
OUTSIDE = '''
"""One of each kind, by somebody else."""

from dataclasses import dataclass

import torch
from torch import nn

import fl_privacy as flp


@dataclass(frozen=True)
class Grey(flp.Attack):
    """Guesses grey images."""

    level: float = 0.5
    channels = frozenset({flp.ChannelName.GRADIENT})

    def reconstruct(self, seen, rng):
        shapes = [(each.spec.batch_size, *each.spec.image_shape) for each in seen]
        return [flp.Reconstruction(inputs=torch.full(shape, self.level)) for shape in shapes]


@dataclass(frozen=True)
class Halve(flp.Defence):
    """Releases half of everything."""

    factor: float = 0.5

    def on_release(self, payload, rng):
        return {name: value * self.factor for name, value in payload.items()}


def largest_error(guess, truth):
    """The largest error of a pixel, per image."""
    return (guess - truth).abs().flatten(1).amax(1)


def linear(image_shape, classes, bias=True):
    """One layer."""
    return nn.Sequential(nn.Flatten(), nn.Linear(torch.Size(image_shape).numel(), classes, bias=bias))


def stripes(root, *, count=60):
    """Horizontal and vertical stripes."""
    images = torch.zeros(count, 1, 8, 8)
    images[0::2, :, ::2] = 1
    images[1::2, :, :, ::2] = 1
    labels = torch.arange(count) % 2
    return flp.from_tensors("stripes", (images, labels), (images, labels), classes=2)


def in_turns(labels, clients, rng):
    """One example to each client in turn."""
    return [torch.arange(client, len(labels), clients) for client in range(clients)]
'''
MINE = {
    "attacks": ("outside_grey", "Grey"),
    "defences": ("outside_halve", "Halve"),
    "metrics": ("outside_largest_error", "largest_error"),
    "models": ("outside_linear", "linear"),
    "datasets": ("outside_stripes", "stripes"),
    "partitions": ("outside_in_turns", "in_turns"),
}
"""Kind to the name of the entry point and of the object."""
BROKEN = {
    "absent": "outside_absent:thing",
    "typing_error": "outside_broken:thing",
    "no_attribute": "outside_parts:gone",
}


@pytest.fixture
def outside(tmp_path, monkeypatch):
    """A module that nobody has installed, on the path; returns its folder."""
    (tmp_path / "outside_parts.py").write_text(OUTSIDE)
    (tmp_path / "outside_broken.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    yield tmp_path
    for name in ("outside_parts", "outside_broken"):
        sys.modules.pop(name, None)


@pytest.fixture
def installed(outside):
    """The same as an installed distribution with an entry point a kind; returns its folder."""
    made = outside / "outside_parts-1.2.dist-info"
    made.mkdir()
    (made / "METADATA").write_text("Metadata-Version: 2.1\nName: outside-parts\nVersion: 1.2\n")
    lines = [f"[fl_privacy.{kind}]\n{name} = outside_parts:{entry}" for kind, (name, entry) in MINE.items()]
    (made / "entry_points.txt").write_text("\n".join(lines))
    _read_again()
    yield outside
    made.rename(outside / "gone")
    _read_again()


def _break(folder):
    """Add entry points of every kind that cannot be imported, each in another way."""
    made = folder / "broken_parts-0.dist-info"
    made.mkdir()
    (made / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-parts\nVersion: 0\n")
    lines = [f"{name} = {path}" for name, path in BROKEN.items()]
    (made / "entry_points.txt").write_text(
        "\n".join(line for kind in MINE for line in (f"[fl_privacy.{kind}]", *lines))
    )
    _read_again()


def _read_again():
    importlib.invalidate_caches()
    for registry in REGISTRIES.values():
        registry.__dict__.pop("_plug_ins", None)  # read once a process


def experiment(name_of):
    """A small experiment with one component of each kind, as `name_of(kind)` names it."""
    return {
        "clients": 2,
        "clients_per_round": 2,
        "dataset": {"name": name_of("datasets"), "count": 40},
        "partition": name_of("partitions"),
        "model": {"name": name_of("models"), "bias": True},
        "attacks": [{"name": name_of("attacks"), "level": 0.25}],
        "training_defences": [[], [{"name": name_of("defences"), "factor": 0.25}]],
    }


def toml_of(settings, path):
    def value(each):
        if isinstance(each, dict):
            return "{" + ", ".join(f"{key} = {value(part)}" for key, part in each.items()) + "}"
        return f"[{', '.join(map(value, each))}]" if isinstance(each, list) else json.dumps(each)

    path.write_text("".join(f"{key} = {value(each)}\n" for key, each in settings.items()))
    return path


def check_run(folder, settings, metric):
    result = simulate(
        load_experiment(str(toml_of(settings, folder / "mine.toml"))), backend="local", out=folder / "run"
    )
    measured = [row for row in result.summary if not row["attack"].startswith("control")]
    assert [row["defence"].partition("(")[2] for row in measured] == ["", "factor=0.25)"]
    assert all(row[metric] == pytest.approx(0.75, abs=1e-6) for row in measured), "white stripes, grey guesses of 0.25"
    assert metric.rpartition("_")[2] in result._repr_html_()


def test_one_of_each_kind_is_found_by_its_entry_point(installed):
    check_run(installed, experiment(lambda kind: MINE[kind][0]), "outside_largest_error")


def test_one_of_each_kind_is_found_by_module_and_name(outside):
    def path(kind):
        return f"outside_parts:{MINE[kind][1]}"

    check_run(outside, {**experiment(path), "metrics": [path("metrics")]}, path("metrics"))


@pytest.mark.parametrize("key", ["dataset", "partition", "model", "attacks", "training_defences"])
def test_each_alone_passes_the_check_that_imports_nothing(key, installed):
    ours = {"dataset": "digits", "partition": "iid", "model": "convnet", "attacks": ["grnn"], "training_defences": [[]]}
    theirs = experiment(lambda kind: MINE[kind][0])
    check_early(str(toml_of({**ours, key: theirs[key]}, installed / "mine.toml")))


def test_an_unknown_metric_is_named(outside):
    with pytest.raises(UnknownName, match=r"no metric is called 'psnt'\. Did you mean 'psnr'"):
        load_experiment("quickstart", ['metrics=["psnt"]'])


@pytest.mark.parametrize("kind", MINE)
def test_the_list_says_where_each_comes_from(kind, installed):
    (found,) = [each for each in entries(kind) if each["name"] == MINE[kind][0]]
    assert found["from"] == "outside-parts"
    assert found["summary"], "its docstring"
    assert found.get("available") is None, "whether another's data are here, nobody knows"


def test_the_doctor_does_not_call_anothers_data_absent(installed):
    (absent,) = [each.found for each in examine() if each.what == "data sets absent"]
    assert "outside_stripes" not in absent


def test_each_passes_its_check(installed):
    checks = {"attacks": "attack", "defences": "defence", "metrics": "metric", "models": "model"}
    for kind, what in {**checks, "datasets": "dataset", "partitions": "partition"}.items():
        getattr(flp.testing, f"check_{what}")(REGISTRIES[kind][MINE[kind][0]])


@pytest.mark.parametrize("kind", MINE)
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_one_is_named_where_it_is_used_and_listed(kind, name, installed):
    _break(installed)
    with pytest.raises(UnknownName, match=f"cannot import .* '{BROKEN[name]}' of broken-parts"):
        REGISTRIES[kind][name]
    (found,) = [each for each in entries(kind) if each["name"] == name]
    assert found["from"] == "broken-parts"
    assert found["summary"].startswith("unusable: cannot import")


def test_what_is_no_attack_is_listed_as_unusable(installed):
    text = (installed / "outside_parts-1.2.dist-info" / "entry_points.txt").read_text()
    (installed / "outside_parts-1.2.dist-info" / "entry_points.txt").write_text(text.replace(":Grey", ":linear"))
    _read_again()
    (found,) = [each for each in entries("attacks") if each["name"] == "outside_grey"]
    assert found["summary"].startswith("unusable: AttributeError")


def test_broken_ones_of_every_kind_do_not_harm_a_run_and_its_metrics_are_named(installed):
    _break(installed)
    with pytest.warns(
        UserWarning, match="the metric 'typing_error' is left out: .* of broken-parts: ZeroDivisionError"
    ):
        check_run(installed, experiment(lambda kind: MINE[kind][0]), "outside_largest_error")


def test_a_package_is_found_on_pythonpath_by_the_command(installed):
    _break(installed)
    toml = toml_of(experiment(lambda kind: MINE[kind][0]), installed / "mine.toml")
    path = os.pathsep.join((str(installed), str(ROOT)))
    command = [sys.executable, "-m", "fl_privacy.simulations.cli", "run", str(toml), "--backend", "local"]
    done = subprocess.run(
        [*command, "--out", str(installed / "out")],
        env={**os.environ, "PYTHONPATH": path},
        cwd=installed,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "largest" in done.stdout
    assert "'absent' is left out" in done.stderr
