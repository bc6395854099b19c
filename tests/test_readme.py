"""What the README says is what the repository does."""

import json
import re
import sys
import tomllib
from pathlib import Path

from typer.testing import CliRunner

from benchmarks.tables import TABLES, filled
from fl_privacy.simulations.cli import app
from fl_privacy.simulations.config.load import load_experiment

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
MORE = (ROOT / "results" / "README.md").read_text()


def test_its_tables_are_made_from_the_results():
    assert sorted(re.findall(r"<!-- table: (\w+) -->", README + MORE)) == sorted(TABLES)
    for page in (README, MORE):
        assert filled(page) == page, "run python -m benchmarks.tables"


def test_every_result_says_how_it_was_made():
    for path in (ROOT / "results").glob("*.json"):
        record = json.loads(path.read_text())
        assert {"command", "seeds", "versions", "hardware", "rows"} <= set(record), path.name
        assert record["command"].startswith("python -m benchmarks.")


def test_every_experiment_that_a_command_names_is_there():
    notebooks = [path.read_text() for path in (ROOT / "notebooks").glob("*.py")]
    recorded = [json.loads(path.read_text())["command"] for path in (ROOT / "results").glob("*.json")]
    command = r"(?:fl-privacy run|benchmarks\.experiment) ([\w/]+)(?:$|[ `\n])"
    named = set(re.findall(command, "\n".join([README, MORE, *notebooks, *recorded])))
    assert {"quickstart", "vicious_table1/mnist", "nopeek/testbed"} <= named
    for address in sorted(named):
        assert load_experiment(address).name == address.replace("/", "_")


def test_its_commands_are_single_lines_that_install_and_run():
    commands = re.findall(r"<!-- (?:main|test) command -->\n```sh\n(.*)\n```", README)
    assert commands == ["pip install . && fl-privacy run quickstart", 'pip install -e ".[test]" && pytest']


def test_its_pictures_and_folders_are_there():
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / link).exists(), link


def test_its_own_model_and_data_run(tmp_path, monkeypatch):
    for name, text in re.findall(r"<!-- file: (\S+) -->\n```\w+\n(.*?)```", README, re.DOTALL):
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])  # the command adds the working directory
    quick = ["--set", "attack.steps=20", "--set", "rounds=2"]
    done = CliRunner().invoke(app, ["run", "mine.toml", "--backend", "local", *quick])
    assert done.exit_code == 0, done.output
    assert "decoder on mine:images" in done.output


def test_the_repository_is_a_flower_app():
    package = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["flwr"]["app"]
    assert package["publisher"]
    assert package["components"] == {
        "serverapp": "fl_privacy.simulations.flower_app:server",
        "clientapp": "fl_privacy.simulations.flower_app:client",
    }
