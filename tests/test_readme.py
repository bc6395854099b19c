"""What the README says is what the repository does."""

import json
import re
import tomllib
from pathlib import Path

from benchmarks.tables import TABLES, filled

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


def test_its_commands_are_single_lines_that_install_and_run():
    commands = re.findall(r"<!-- (?:main|test) command -->\n```sh\n(.*)\n```", README)
    assert commands == ["pip install . && fl-privacy run quickstart", 'pip install -e ".[test]" && pytest']


def test_its_pictures_and_folders_are_there():
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / link).exists(), link


def test_the_repository_is_a_flower_app():
    app = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["flwr"]["app"]
    assert app["publisher"]
    assert app["components"] == {"serverapp": "simulations.app:server", "clientapp": "simulations.app:client"}
