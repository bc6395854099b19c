"""The fl-privacy command as a user meets it: what it prints, and how it exits."""

import json
import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from fl_privacy.simulations.cli import app
from fl_privacy.simulations.config.early import LISTED as KINDS
from fl_privacy.simulations.listing import entries

FAST = """
dataset = {name = "digits", size = 16}
model = {name = "lenet_dlg", init = "wide"}
attack = {name = "grnn", iterations = 2, width = 4}
training_defences = [[], [{name = "gaussian_noise", scale = 0.1}]]
clients = 2
clients_per_round = 2
"""


@pytest.fixture
def cli(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FL_PRIVACY_DATA", raising=False)
    (tmp_path / "fast.toml").write_text(FAST)
    return lambda *words: CliRunner().invoke(app, [str(word) for word in words])


def test_help_needs_no_heavy_import():
    code = (
        "import sys, fl_privacy.simulations.cli;"
        "print([m for m in ('torch', 'flwr', 'ray', 'matplotlib', 'sklearn', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_telemetry_is_off_in_every_process_that_runs_something():
    """Flower reads its variable when it is imported, which `prepare_process` comes after."""
    code = (
        "import os, flwr.supercore.telemetry as flower;"
        "from fl_privacy.simulations.backends.process import prepare_process;"
        "prepare_process();"
        "print(flower.FLWR_TELEMETRY_ENABLED, [os.environ[n] for n in "
        "('FLWR_TELEMETRY_ENABLED', 'FLWR_DISABLE_UPDATE_CHECK', 'RAY_USAGE_STATS_ENABLED')])"
    )
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("FLWR_", "RAY_"))}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=clean)
    assert done.stdout.strip() == "0 ['0', '1', '0']"


def test_a_run_ends_in_a_table_and_paths(cli, tmp_path):
    done = cli("run", "fast.toml", "--backend", "local", "--seed", 3, "--out", "here")
    assert done.exit_code == 0, done.output
    for word in (
        "PSNR",
        "SSIM",
        "MSE",
        "labels",
        "loss at",
        "accuracy",
        "control: mean image",
        "control: class mean",
        "control: random guess",
    ):
        assert word in done.output
    assert str(tmp_path / "here" / "figures" / "reconstructions.png") in done.output
    assert "round 1 of 1" in done.output, "progress is shown"
    rows = [json.loads(line) for line in (tmp_path / "here" / "samples.jsonl").read_text().splitlines()]
    assert {row["seed"] for row in rows} == {3}

    again = cli("report", "here")
    assert again.exit_code == 0, again.output
    assert done.output.endswith(again.output), "the same table and paths"

    attacked = cli("attack", "here", "--attack", "grnn_as_published", "--set", "attack.iterations=1")
    assert attacked.exit_code == 0, attacked.output
    assert "grnn_as_published" in attacked.output


def test_the_default_folder_is_below_outputs(cli, tmp_path):
    assert cli("run", "fast.toml", "--backend", "local").exit_code == 0
    (folder,) = (tmp_path / "outputs" / "fast").iterdir()
    assert folder.name.endswith("_0")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "quickstar"], "Known: "),
        (["run", "quickstart", "--set", "attack=grn"], "Did you mean 'grnn'?"),
        (["run", "quickstart", "--set", "attack.iterations=many"], "'iterations' takes a whole number"),
        (["run", "quickstart", "--set", "rounds"], "key=value"),
        (["run", "quickstart", "--backend", "slurm"], "ray or local"),
        (["run", "quickstart", "--seed", "-1"], "'seed'"),
        (["run", "quickstart", "--device", "tpu"], "'device'"),
        (["run", "quickstart", "--workers", "0"], "'workers'"),
        (["run", "quickstart", "--set", "dataset=mnist", "--data-root", "."], "Three ways to get it"),
        (["run", "fast.toml", "--out", "."], "not empty"),
        (["run", "fast.toml", "--seed", "one"], "not a valid int"),
        (["attack", "nowhere"], "is not a run: it has no config.json"),
        (["report", "."], "not a finished run"),
        (["list", "things"], "attacks, defences"),
    ],
)
def test_bad_input_exits_2_with_the_reason_and_no_traceback(cli, words, message):
    done = cli(*words)
    assert done.exit_code == 2
    assert message in " ".join(done.output.replace("│", " ").split())
    assert "Traceback" not in done.output


def test_a_failed_run_exits_1_and_keeps_the_traceback(cli, tmp_path, monkeypatch):
    from fl_privacy.simulations.federation import Federation

    def failing(self, client, round):
        raise RuntimeError("no disk anywhere")

    monkeypatch.setattr(Federation, "batch", failing)
    done = cli("run", "fast.toml", "--backend", "local", "--out", "here")
    assert done.exit_code == 1
    assert "no disk anywhere" in done.output
    assert "Traceback" not in done.output
    assert "Traceback" in (tmp_path / "here" / "error.txt").read_text()
    assert not (tmp_path / "here" / "results.json").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_list_shows_every_entry(cli, kind):
    done = cli("list", kind, "--json")
    assert done.exit_code == 0
    listed = json.loads(done.stdout)
    assert [each["name"] for each in listed] == [each["name"] for each in entries(kind)]
    assert all(each["summary"] for each in listed)
    table = cli("list", kind)
    assert table.exit_code == 0
    assert all(each["name"] in table.output for each in listed)


def test_list_says_which_data_sets_are_here(cli):
    here = {each["name"]: each["available"] for each in json.loads(cli("list", "datasets", "--json").stdout)}
    assert here["digits"] is True
    assert here["mnist"] is False


def test_doctor(cli):
    done = cli("doctor")
    assert done.exit_code == 0
    for word in ("flwr", "torch", "cores", "GPU", "digits", "FLWR_TELEMETRY_ENABLED"):
        assert word in done.output


def test_doctor_fails_where_a_package_is_missing(cli, monkeypatch):
    from fl_privacy.simulations.results import environment

    monkeypatch.setattr(environment, "PACKAGES", ("no-such-package",))
    done = cli("doctor")
    assert done.exit_code == 1
    assert "missing" in done.output
