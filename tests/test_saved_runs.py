"""A run folder is data: nothing in it runs, it may move, and its names still stand for what they stood for."""

import copy
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import fl_privacy
from fl_privacy.data import load as load_set
from fl_privacy.joint_training import JointSettings, load_pair, train
from fl_privacy.joint_training.pair import PairSpec
from fl_privacy.simulations.channels.output.pairs import pair_of
from fl_privacy.simulations.cli import app
from fl_privacy.simulations.config.build import federation_of
from fl_privacy.simulations.config.load import configure, reconfigure
from fl_privacy.simulations.config.saved import PROSE, UntrustedCode
from fl_privacy.simulations.report.result import Result
from fl_privacy.simulations.results import files
from fl_privacy.simulations.run.again import attack_again, plan_again, reopen
from fl_privacy.simulations.run.pipeline import simulate

GRADIENT = configure(
    name="tiny",
    dataset={"name": "digits", "size": 16},
    model={"name": "lenet_dlg", "init": "wide"},
    attacks=(
        {"name": "grnn", "iterations": 1, "width": 4},
        {"name": "grnn_as_published", "label": "as: published", "iterations": 1},
    ),
    training_defences=([], [{"name": "gaussian_noise", "scale": 0.1}]),
    clients=2,
    clients_per_round=2,
)
OUTPUT = configure(
    name="tiny",
    channel="output",
    dataset={"name": "digits", "size": 8},
    model={"name": "vicious_small", "width": 4, "hidden": 16},
    attacks=(
        {"name": "vicious"},
        {"name": "output_decoder", "steps": 1, "batch_size": 8, "decoder": "small"},
    ),
    public={"name": "digits", "size": 8, "count": 50},
    inference_defences=([], [{"name": "softmax"}]),
    variants=({"label": "vicious", "decoder": {"name": "small", "width": 4, "hidden": 16}},),
    protocol={
        "decoder": {"name": "small", "width": 4, "hidden": 16},
        **{"epochs": 1, "pair_batch": 50, "images": 100, "validation": 50, "labelled": 50},
    },
    clients=2,
    clients_per_round=2,
    batch_size=20,
)
PROBE = """
from pathlib import Path

from fl_privacy.models import MODELS

Path(__file__).with_name("ran").touch()


def function(image_shape, classes, *more, **others):
    return MODELS["lenet_dlg"](image_shape, classes)
"""


def quiet(text):
    """Progress that nobody reads."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for name, experiment in (("gradient", GRADIENT), ("output", OUTPUT)):
        simulate(experiment, out=folder / name, backend="local", note=quiet)
    return folder


@pytest.fixture
def probe(tmp_path, monkeypatch):
    """A working directory with a module that leaves the file `ran` when it is imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "probe.py").write_text(PROBE)
    yield tmp_path
    sys.modules.pop("probe", None)
    federation_of.cache_clear()


def name_fields(settings, at=()):
    """The places of every text in an experiment that is looked up somewhere."""
    if isinstance(settings, dict):
        for key, value in settings.items():
            if key not in PROSE:
                yield from name_fields(value, (*at, key))
    elif isinstance(settings, list):
        for index, value in enumerate(settings):
            yield from name_fields(value, (*at, index))
    elif isinstance(settings, str):
        yield at


def planted(settings, at):
    changed = copy.deepcopy(settings)
    part = changed
    for key in at[:-1]:
        part = part[key]
    part[at[-1]] = "probe:function"
    return changed


@pytest.mark.parametrize("channel", ["gradient", "output"])
def test_code_in_any_field_of_a_strangers_run_is_refused_and_never_runs(runs, probe, channel):
    run = shutil.copytree(runs / channel, probe / "run")
    config = json.loads((run / "config.json").read_text())
    places = list(name_fields(config["experiment"]))
    whole = [
        ("dataset",),
        ("partition",),
        ("model",),
        ("public",),
        ("attacks", 0),
        ("attacks", 1),
        ("training_defences", 0),
    ]
    heads = {at[0] for at in places}
    assert heads >= {"dataset", "partition", "model", "attacks"}
    assert heads >= (
        {"public", "inference_defences", "protocol", "variants"} if channel == "output" else {"training_defences"}
    )
    for at in [*places, *whole]:
        files.write_json(run / "config.json", {**config, "experiment": planted(config["experiment"], at)})
        for read in (Result.read, reopen, plan_again):
            with pytest.raises(UntrustedCode, match=r"probe:function.*--trust.*trust=True"):
                read(run)
        for words in (["report", "run"], ["attack", "run"], ["attack", "run", "--attack", "grnn"]):
            done = CliRunner().invoke(app, words)
            assert (done.exit_code, "probe:function" in done.output) == (2, True), (at, words, done.output)
        assert not (probe / "ran").exists(), at
    assert "probe" not in sys.modules


@pytest.mark.parametrize("words", [["report", "."], ["attack", ".", "--out", "again"]])
def test_nothing_that_lies_in_a_strangers_folder_is_imported_by_who_stands_in_it(runs, tmp_path, words):
    run = shutil.copytree(runs / "gradient", tmp_path / "run")
    (run / "left.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n\n\ndef probe(*_):\n    return 0.0\n")
    shutil.copy(run / "left.py", run / "IPython.py")  # one that others look for, and need not find
    package = run / "left-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: left\nVersion: 1.0\n")
    groups = ("attacks", "defences", "metrics", "models", "datasets", "partitions")
    (package / "entry_points.txt").write_text("".join(f"[fl_privacy.{each}]\nleft = left:probe\n" for each in groups))
    command = [sys.executable, "-P", "-c", "from fl_privacy.simulations.cli import main; main()", *words]
    path = os.pathsep.join([str(Path(fl_privacy.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        command, cwd=run, env={**os.environ, "PYTHONPATH": path.rstrip(os.pathsep)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "ran").exists()


def test_trusted_code_runs_and_names_on_the_command_line_are_the_users_own(runs, probe):
    mine = reconfigure(GRADIENT, model={"name": "probe:function"}, attacks=GRADIENT.attacks[:1])
    simulate(mine, out=probe / "run", backend="local", note=quiet)
    assert (probe / "ran").exists()
    assert CliRunner().invoke(app, ["report", "run"]).exit_code == 2
    done = CliRunner().invoke(app, ["report", "run", "--trust"])
    assert done.exit_code == 0, done.output
    assert Result.read(probe / "run", trust=True).experiment == mine
    done = CliRunner().invoke(app, ["attack", "run", "--trust", "--set", "attack.iterations=2"])
    assert done.exit_code == 0, done.output
    (probe / "own.py").write_text("from fl_privacy.attacks.gradient.grnn import GRNN\n")
    done = CliRunner().invoke(app, ["attack", str(runs / "gradient"), "--attack", "own:GRNN", "--out", "again"])
    assert "names code" not in done.output
    assert json.loads((probe / "again" / "config.json").read_text())["experiment"]["attacks"][0]["name"] == "own:GRNN"


def test_a_checkpoint_that_names_code_is_refused(runs, probe):
    data = load_set("digits", None, {"size": 16})
    spec = PairSpec((1, 16, 16), 10, "probe:function", "small", {}, {"width": 4, "hidden": 16})
    settings = JointSettings(epochs=1, batch_size=50)
    some = data.train.chosen(torch.arange(100))
    train(spec, settings, some, some, seed=0, checkpoint=probe / "pair.safetensors")
    (probe / "ran").unlink()
    sys.modules.pop("probe")
    with pytest.raises(ValueError, match=r"asks for the model 'probe:function'.*trusted"):
        load_pair(probe / "pair.safetensors")
    run = shutil.copytree(runs / "output", probe / "run")
    shutil.copy(probe / "pair.safetensors", pair_of(run, 0)["checkpoint"])
    (run / "contents.json").unlink()
    with pytest.raises(ValueError, match="asks for the model 'probe:function'"):
        attack_again(run, note=quiet)
    assert not (probe / "ran").exists()
    assert load_pair(probe / "pair.safetensors", ["probe:function"])


def test_a_run_and_the_attack_inside_it_may_move(runs, tmp_path):
    run = shutil.copytree(runs / "output", tmp_path / "run")
    inner = attack_again(run, note=quiet).folder
    assert not os.path.isabs(json.loads((inner / "config.json").read_text())["observations"])
    moved = run.rename(tmp_path / "moved")
    again = moved / inner.relative_to(run)
    assert reopen(again).summary == Result.read(str(again)).summary
    assert attack_again(again, note=quiet).digests == Result.read(again).digests
    assert pair_of(moved, 0)["checkpoint"].startswith(str(moved))


def test_runs_of_older_versions_name_their_source_by_an_absolute_path(runs, tmp_path):
    run = shutil.copytree(runs / "gradient", tmp_path / "run")
    inner = attack_again(run, note=quiet).folder
    config = json.loads((inner / "config.json").read_text())
    files.write_json(inner / "config.json", {**config, "observations": "/gone/run"})
    assert reopen(inner).summary
    alone = shutil.copytree(inner, tmp_path / "far" / "away" / "alone")
    with pytest.raises(ValueError, match=r"observations of /gone/run, which are gone: put that folder"):
        reopen(alone)


def test_data_that_are_not_those_of_the_run_are_refused(probe, monkeypatch):
    run = probe / "run"
    simulate(GRADIENT, out=run, backend="local", note=quiet)
    assert reopen(run)
    federation = federation_of(Result.read(run).experiment.to_json(), None)
    changed = dataclasses.replace(federation, parts=tuple(reversed(federation.parts)))
    monkeypatch.setattr("fl_privacy.simulations.run.again.federation_of", lambda *_: changed)
    for read in (reopen, plan_again):
        with pytest.raises(ValueError, match="the data are not those of the run"):
            read(run)
    for words in (["report", "run"], ["attack", "run"]):
        done = CliRunner().invoke(app, words)
        assert (done.exit_code, "not those of the run" in done.output) == (2, True)
    assert not (run / "attacks").exists(), "no folder is left behind"


def test_a_picture_that_was_added_to_the_folder_is_noticed(probe):
    for number in range(12):
        (probe / "images" / str(number % 2)).mkdir(parents=True, exist_ok=True)
        pixels = torch.randint(0, 256, (16, 16), generator=torch.Generator().manual_seed(number), dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(probe / "images" / str(number % 2) / f"{number:02}.png")
    mine = reconfigure(
        GRADIENT, dataset={"name": "folder", "path": "images", "grey": True}, attacks=GRADIENT.attacks[:1]
    )
    simulate(mine, out=probe / "run", data_root=probe, backend="local", note=quiet)
    federation_of.cache_clear()
    assert plan_again(probe / "run", data_root=probe, out=probe / "again")
    shutil.copy(probe / "images" / "0" / "00.png", probe / "images" / "0" / "copy.png")
    federation_of.cache_clear()
    with pytest.raises(ValueError, match="the data are not those of the run"):
        plan_again(probe / "run", data_root=probe)


def test_other_weights_are_refused(runs, tmp_path):
    run = shutil.copytree(runs / "gradient", tmp_path / "run")
    weights = next((run / "observations").glob("*_model.safetensors"))
    shutil.copy(next(path for path in (run / "observations").glob("1_r1_c*.safetensors")), weights)
    with pytest.raises(ValueError, match="not the weights of the run"):
        plan_again(run)


READ = (
    "config.json",
    "contents.json",
    "results.json",
    "observations/0_r1_c0.json",
    "observations/0_r1_c0.safetensors",
    "observations/0_r1_model.safetensors",
    "reconstructions/grnn/0_r1_c0.json",
    "reconstructions/grnn/0_r1_c0.safetensors",
)


@pytest.mark.parametrize("name", READ)
def test_a_file_that_is_cut_off_or_gone_is_named(runs, tmp_path, name):
    run = shutil.copytree(runs / "gradient", tmp_path / "run")
    whole = (run / name).read_bytes()
    for content in (b"", b"{}", b"[]", b"null", b"\xff\xfe", whole[: len(whole) // 2]):
        (run / name).write_bytes(content)
        with pytest.raises(ValueError, match=Path(name).stem):
            reopen(run)
    (run / name).unlink()
    if name not in ("contents.json", "reconstructions/grnn/0_r1_c0.json"):  # nothing says that these must be there
        with pytest.raises(ValueError, match="0_r1_c0" if name.endswith("c0.json") else Path(name).name):
            reopen(run)


def test_a_run_without_its_reconstructions_is_told(runs, tmp_path):
    run = shutil.copytree(runs / "gradient", tmp_path / "run")
    shutil.rmtree(run / "reconstructions")
    with pytest.raises(ValueError, match="reconstructions is damaged or gone"):
        reopen(run)


def test_weights_of_another_model_are_told(runs, tmp_path):
    run = shutil.copytree(runs / "gradient", tmp_path / "run")
    config = json.loads((run / "config.json").read_text())
    files.write_json(
        run / "config.json", {**config, "experiment": {**config["experiment"], "model": {"name": "convnet"}}}
    )
    done = CliRunner().invoke(app, ["report", str(run)])
    assert (done.exit_code, "_r1_model.safetensors does not fit the model that config.json names" in done.output) == (
        2,
        True,
    ), done.output


def test_a_users_changed_module_is_refused(probe):
    mine = reconfigure(GRADIENT, model={"name": "probe:function"}, attacks=GRADIENT.attacks[:1])
    simulate(mine, out=probe / "run", backend="local", note=quiet)
    assert reopen(probe / "run", trust=True)
    (probe / "probe.py").write_text(PROBE + "\n# another\n")
    with pytest.raises(ValueError, match="the source of 'probe:function' is not that of the run"):
        reopen(probe / "run", trust=True)


def test_contents_hold_digests_and_no_image(runs):
    contents = json.loads((runs / "gradient" / "contents.json").read_text())
    assert set(contents["truths"]) == {"1_c0", "1_c1"}
    assert all(len(digest) == 64 for part in contents.values() for digest in part.values())


def test_a_damaged_observation_is_named_by_its_path_before_a_folder_is_made(runs, tmp_path):
    finished = shutil.copytree(runs / "gradient", tmp_path / "run")
    (path, *_) = sorted((finished / "observations").glob("*_c*.safetensors"))
    good = path.read_bytes()
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(ValueError, match=f"{re.escape(str(path))} is damaged"):
        plan_again(finished)
    path.unlink()
    with pytest.raises(ValueError, match=f"{re.escape(str(path))} is damaged or gone"):
        plan_again(finished)
    assert not (finished / "attacks").exists()
