"""Which code made a number: the package's version, a hash of its sources, and the commit of a checkout."""

from __future__ import annotations

import hashlib
import os
import subprocess
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from fl_privacy.settings import PlainTable

PACKAGE = Path(__file__).parents[2]
EXPERIMENTS = "simulations/experiments/"
ENDINGS = (".py", ".toml", ".csv")


def digest(sources: Mapping[str, bytes]) -> str:
    """SHA-256 (hex) over sorted pairs of path and content, each with its length, so that no two sets run together."""
    total = hashlib.sha256()
    for name in sorted(sources):
        for part in (name.encode(), sources[name]):
            total.update(len(part).to_bytes(8, "big") + part)
    return total.hexdigest()


def hashes(sources: Mapping[str, bytes]) -> dict[str, str]:
    """`source`: the hash of a package's Python files; `experiments`: that of the shipped experiments, TOML and CSV."""
    return {
        "source": digest({name: content for name, content in sources.items() if name.endswith(".py")}),
        "experiments": digest(
            {
                name: c
                for name, c in sources.items()
                if name.startswith(EXPERIMENTS) and name.endswith((".toml", ".csv"))
            }
        ),
    }


def read(package: Path) -> dict[str, bytes]:
    """The Python, TOML and CSV files of a package, by their path relative to it."""
    # a checkout links strategies/ and simulations/ into the package, and Path.rglob passes links over
    paths = (Path(folder) / name for folder, _, names in os.walk(package, followlinks=True) for name in names)
    return {path.relative_to(package).as_posix(): path.read_bytes() for path in paths if path.suffix in ENDINGS}


def commit(source: Path) -> str | None:
    """The commit of the checkout that contains `source`, with '+changes' where tracked files differ from it.

    None unless git tracks that very file and the repository's pyproject.toml is this package's: an environment that
    lies in a user's own repository has no commit of ours.
    """
    try:
        top = Path(_git(source.parent, "rev-parse", "--show-toplevel"))
        _git(source.parent, "ls-files", "--error-unmatch", source.name)
        project = tomllib.loads((top / "pyproject.toml").read_text()).get("project", {})
        if project.get("name") != "fl-privacy":
            return None
        head = _git(source.parent, "rev-parse", "HEAD")
        changes = _git(source.parent, "status", "--porcelain", "--untracked-files=no")
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return head + ("+changes" if changes else "")


@cache
def installed() -> dict[str, str]:
    """The hashes of the package that is running, as it was when first asked."""
    return hashes(read(PACKAGE))


def provenance() -> PlainTable:
    """Version, hashes and, in a checkout, the commit of the package that is running."""
    try:
        number = version("fl-privacy")
    except PackageNotFoundError:
        number = "missing"
    return {"version": number, **installed(), "commit": commit(Path(__file__).resolve())}


def _git(folder: Path, *words: str) -> str:
    done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, timeout=10, check=True)
    return done.stdout.strip()
