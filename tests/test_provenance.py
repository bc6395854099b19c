"""A number is tied to the code that made it, and to no other repository's commit."""

import subprocess
from pathlib import Path

import pytest

from fl_privacy.simulations.results import provenance


def git(folder: Path, *words: str) -> str:
    names = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    return subprocess.run(
        ["git", *names, *words], cwd=folder, capture_output=True, text=True, check=True
    ).stdout.strip()


def repository(folder: Path, project: str, tracked: bool) -> Path:
    source = folder / "lib" / "simulations" / "provenance.py"
    source.parent.mkdir(parents=True)
    source.write_text("x = 1\n")
    (folder / "pyproject.toml").write_text(f'[project]\nname = "{project}"\n')
    git(folder, "init", "-q")
    git(folder, "add", "." if tracked else "pyproject.toml")
    git(folder, "commit", "-q", "-m", "first")
    return source


@pytest.mark.parametrize(("project", "tracked"), [("users-own", False), ("users-own", True), ("fl-privacy", False)])
def test_another_repository_gives_no_commit(tmp_path, project, tracked):
    assert provenance.commit(repository(tmp_path, project, tracked)) is None


def test_a_checkout_gives_its_commit_and_says_where_it_was_changed(tmp_path):
    source = repository(tmp_path, "fl-privacy", True)
    head = git(tmp_path, "rev-parse", "HEAD")
    assert provenance.commit(source) == head
    source.write_text("x = 2\n")
    assert provenance.commit(source) == head + "+changes"


def test_no_repository_gives_no_commit(tmp_path):
    assert provenance.commit(tmp_path / "provenance.py") is None


def test_a_changed_moved_or_added_source_gives_another_hash():
    sources = {"a.py": b"1", "simulations/b.py": b"2"}
    others = [
        sources | {"a.py": b"3"},
        {"c.py": b"1", "simulations/b.py": b"2"},
        sources | {"strategies/c.py": b""},
    ]
    found = {provenance.hashes(each)["source"] for each in (sources, *others)}
    assert len(found) == 4


def test_experiments_and_other_files_are_no_source():
    sources = {"a.py": b"1"}
    wider = sources | {"simulations/experiments/q.toml": b"x = 1", "README.md": b"", "mine.toml": b""}
    assert provenance.hashes(wider)["source"] == provenance.hashes(sources)["source"]
    assert provenance.hashes(wider)["experiments"] != provenance.hashes(sources)["experiments"]


def test_the_hash_does_not_depend_on_where_the_package_lies(tmp_path):
    root = provenance.PACKAGE
    for name, content in provenance.read(root).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    assert provenance.hashes(provenance.read(tmp_path)) == provenance.installed()
