"""What `fl-privacy list` shows: the entries of every registry with their settings."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.table import Table

from fl_privacy.attacks import ATTACKS
from fl_privacy.data import DATASETS, PARTITIONS, available
from fl_privacy.defences import DEFENCES
from fl_privacy.metrics import METRICS
from fl_privacy.models import MODELS
from fl_privacy.registry import Registry
from fl_privacy.simulations.config.load import shipped

REGISTRIES: dict[str, Registry[Any]] = {
    "attacks": ATTACKS,
    "defences": DEFENCES,
    "metrics": METRICS,
    "models": MODELS,
    "datasets": DATASETS,
    "partitions": PARTITIONS,
}
KINDS = (*REGISTRIES, "experiments")


def entries(kind: str, root: Path | None = None) -> list[dict[str, Any]]:
    """The entries of one kind: name, summary, settings with their defaults; data sets also whether they are here."""
    if kind == "experiments":
        return [{"name": name, "summary": _first_comment(path), "path": str(path)} for name, path in shipped().items()]
    registry = REGISTRIES[kind]
    listed = []
    for name in registry:
        entry = _entry(registry, name)
        if kind == "attacks":
            entry["channels"] = sorted(registry[name].channels)
        if kind == "datasets":
            entry["available"] = available(name, root)
        listed.append(entry)
    return listed


def _entry(registry: Registry[Any], name: str) -> dict[str, Any]:
    return {"name": name, "summary": registry.summary(name), "settings": _settings(registry[name])}


def as_table(kind: str, found: list[dict[str, Any]]) -> Table:
    """The entries as a rich table."""
    columns = ["name", "summary", *(key for key in found[0] if key not in ("name", "summary", "path"))]
    table = Table(title=kind)
    for column in columns:
        table.add_column(column, overflow="fold")
    for entry in found:
        table.add_row(*(_readable(entry[column]) for column in columns))
    return table


def _readable(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}={each}" for key, each in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _settings(entry: Callable[..., Any]) -> dict[str, Any]:
    if dataclasses.is_dataclass(entry):
        return {each.name: each.default for each in dataclasses.fields(entry) if each.init}
    parameters = inspect.signature(entry).parameters.values()
    return {each.name: each.default for each in parameters if each.default is not each.empty}


def _first_comment(path: Path) -> str:
    lines = path.read_text(encoding="utf-8").splitlines()
    return next((line.removeprefix("#").strip() for line in lines if line.startswith("#")), "")
