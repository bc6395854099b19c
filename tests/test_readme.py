"""What the README says is what the repository does."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks.tables import TABLES, filled
from fl_privacy.simulations.cli import app
from fl_privacy.simulations.config.load import load_experiment

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
DOCS = sorted((ROOT / "docs").rglob("*.md"))


def test_the_tables_are_made_from_the_results():
    text = "".join(page.read_text() for page in DOCS)
    assert sorted(re.findall(r"<!-- table: (\w+) -->", text)) == sorted(TABLES)
    for page in DOCS:
        assert filled(page.read_text()) == page.read_text(), f"{page}: run python -m benchmarks.tables"


def test_it_is_short_and_every_page_is_reached_from_it():
    assert len(README.splitlines()) <= 150
    for page in DOCS:
        assert f"](docs/{page.relative_to(ROOT / 'docs')}" in README, page


def test_every_result_says_how_it_was_made():
    for path in (ROOT / "results").glob("*.json"):
        record = json.loads(path.read_text())
        assert {"command", "settings", "seeds", "versions", "hardware", "provenance", "rows"} <= set(record), path.name
        assert record["command"].startswith("python -m benchmarks.")


def test_every_experiment_that_a_command_names_is_there():
    notebooks = [path.read_text() for path in (ROOT / "notebooks").glob("*.py")]
    recorded = [json.loads(path.read_text())["command"] for path in (ROOT / "results").glob("*.json")]
    command = r"(?:fl-privacy run|benchmarks\.experiment) ([\w/]+)((?: --cells(?: [\w/]+)+)?)(?:$|[ `\n])"
    found = re.findall(command, "\n".join([README, *(page.read_text() for page in DOCS), *notebooks, *recorded]))
    named = {f"{name}/{cell}" if cell else name for name, cells in found for cell in cells.split()[1:] or [""]}
    assert {"quickstart", "vicious_table1/mnist", "nopeek/testbed"} <= named
    for address in sorted(named):
        assert load_experiment(address).name == address.replace("/", "_")


def test_its_commands_are_single_lines_that_install_and_run():
    commands = re.findall(r"<!-- (?:main|test) command -->\n```sh\n(.*)\n```", README)
    assert commands == ["pip install . && fl-privacy run quickstart", 'pip install -e ".[test]" && pytest']


def anchors(page):
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [ROOT / "README.md", *DOCS], ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for link, anchor in re.findall(r"\]\((?!http)([^)#]*)#?([^)]*)\)", page.read_text()):
        target = page.parent / link if link else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), f"{link}#{anchor}"


def written(page, folder):
    """Write the files that a page shows; parts of one file follow each other."""
    parts = {}
    for name, text in re.findall(r"<!-- file: (\S+) -->\n```\w+\n(.*?)```", page.read_text(), re.DOTALL):
        parts.setdefault(name, []).append(text)
    for name, texts in parts.items():
        (folder / name).write_text("\n\n".join(texts))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])  # the command adds the working directory
    yield tmp_path
    sys.modules.pop("mine", None)


def test_its_own_model_and_data_run(folder):
    written(ROOT / "README.md", folder)
    quick = ["--set", "attack.steps=20", "--set", "rounds=2"]
    done = CliRunner().invoke(app, ["run", "mine.toml", "--backend", "local", *quick])
    assert done.exit_code == 0, done.output
    assert "decoder on mine:images" in done.output


def test_gradients_of_its_own_model_run(folder):
    written(ROOT / "README.md", folder)
    written(ROOT / "docs" / "own-model.md", folder)
    done = CliRunner().invoke(app, ["run", "mine_gradient.toml", "--backend", "local"])
    assert done.exit_code == 0, done.output
    (results,) = folder.glob("outputs/mine_gradient/*/results.json")
    rows = {(row["defence"], row["attack"]): row["psnr"] for row in json.loads(results.read_text())["summary"]}
    mean = rows["none", "control: mean image"]
    assert rows["none", "map"] > 40 > mean
    assert rows["gaussian_noise(scale=0.3)", "map"] > mean


CONTROLS = ("control: random guess", "control: mean image", "control: class mean")


def test_the_page_on_extending_is_executed(folder):
    written(ROOT / "docs" / "extending.md", folder)
    checked = subprocess.run([sys.executable, "check_mine.py"], capture_output=True, text=True, env=ENVIRONMENT)
    assert (checked.returncode, checked.stdout) == (0, ""), checked.stderr
    done = CliRunner().invoke(app, ["run", "mine.toml", "--backend", "local"])
    assert done.exit_code == 0, done.output
    (results,) = folder.glob("outputs/mine/*/results.json")
    rows = json.loads(results.read_text())["summary"]
    assert {row["attack"] for row in rows} == {"mine:MeanOfPublic", *CONTROLS}
    assert {row["defence"] for row in rows} == {"none", "mine:SignOnly(share=1.0)"}
    assert all(0 < row["mine:worst_pixel"] <= 1 for row in rows)


def test_the_repository_is_a_flower_app():
    package = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["flwr"]["app"]
    assert package["publisher"]
    assert package["components"] == {
        "serverapp": "fl_privacy.simulations.flower_app:server",
        "clientapp": "fl_privacy.simulations.flower_app:client",
    }
