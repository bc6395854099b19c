"""What `fl-privacy list` shows: the entries of every registry with their settings, and where each comes from."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from fl_privacy.attacks import ATTACKS
from fl_privacy.data import DATASETS, PARTITIONS, available
from fl_privacy.defences import DEFENCES
from fl_privacy.metrics import METRICS, SET_METRICS
from fl_privacy.models import MODELS
from fl_privacy.registry import Registry
from fl_privacy.settings import PlainTable, ReadTable, UnknownName
from fl_privacy.simulations.channels import CHANNELS
from fl_privacy.simulations.config.files import cells, profiles, shipped
from fl_privacy.simulations.report.columns import first_paragraph

REGISTRIES: dict[str, Registry[Any]] = {
    "attacks": ATTACKS,
    "defences": DEFENCES,
    "metrics": METRICS,
    "models": MODELS,
    "datasets": DATASETS,
    "partitions": PARTITIONS,
}
OWN = "fl-privacy"


def entries(kind: str, root: Path | None = None) -> list[PlainTable]:
    """The entries of one kind: name, summary, where it comes from, and its settings with their defaults.

    Attacks also say their channels, data sets whether they are here, experiments their profiles (the default first) and
    the cells of their matrix, which stand behind their name: NAME/CELL. What cannot be imported is there with the
    reason.
    """
    if kind == "experiments":
        return [
            {
                "name": name,
                "summary": _first_comment(path),
                "profiles": profiles(path),
                "cells": cells(path),
                "from": OWN,
                "path": str(path),
            }
            for name, path in shipped().items()
        ]
    if kind == "channels":
        return [
            {"name": name, "summary": first_paragraph(channel), "from": OWN, "settings": _settings(channel.protocol)}
            for name, channel in CHANNELS.items()
        ]
    found = [_entry(kind, name, root) for name in REGISTRIES[kind]]
    return found + [_set_metric(name) for name in SET_METRICS] if kind == "metrics" else found


def _set_metric(name: str) -> PlainTable:
    needs = ", ".join(SET_METRICS.facts(name).get("needs", ())).replace("_", " ")
    told = SET_METRICS.summary(name) + (f" Needs: {needs}." if needs else "")
    return {"name": name, "summary": told, "from": SET_METRICS.source(name), "settings": {}, "of": "a set"}


def _entry(kind: str, name: str, root: Path | None) -> PlainTable:
    registry = REGISTRIES[kind]
    entry: PlainTable = {"name": name, "summary": "", "from": registry.source(name), "settings": {}}
    try:
        entry |= {"summary": registry.summary(name), "settings": _settings(registry[name])}
        if kind == "metrics":
            entry["of"] = "an image"
        if kind == "attacks":
            entry["channels"] = sorted(registry[name].channels)
    except Exception as error:  # another package's, which is installed and broken: the others can be listed still
        said = error if isinstance(error, UnknownName) else f"{type(error).__name__}: {error}"
        return {**entry, "summary": f"unusable: {said}"}
    if kind == "datasets":
        entry["available"] = available(name, root)
    return entry


def as_table(kind: str, found: Sequence[PlainTable]) -> Table:
    """The entries as a rich table: each one's settings, profiles and cells stand below its summary."""
    facts = [key for key in ("of", "channels", "available") if any(key in entry for entry in found)]
    table = Table(title=kind, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in ("name", _heading(found), *facts, "from"):
        table.add_column(column, overflow="fold")
    for entry in found:
        text = "\n".join([escape(entry["summary"]), *(f"[dim]{escape(line)}[/dim]" for line in _details(entry))])
        table.add_row(escape(entry["name"]), text, *(_readable(entry.get(key)) for key in facts), escape(entry["from"]))
    return table


def _heading(found: Sequence[PlainTable]) -> str:
    if any("cells" in entry for entry in found):
        return "what it is; --profile NAME chooses a profile, NAME/CELL one cell"
    return "what it is, and its settings"


def _details(entry: ReadTable) -> list[str]:
    settings = ", ".join(f"{key}={value}" for key, value in entry.get("settings", {}).items())
    lists = [f"{key}: {', '.join(entry[key])}" for key in ("profiles", "cells") if entry.get(key)]
    return [line for line in (settings, *lists) if line]


def _readable(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return {True: "yes", False: "no", None: "?"}[value] if isinstance(value, bool | None) else str(value)


def _settings(entry: Callable[..., Any]) -> PlainTable:
    if dataclasses.is_dataclass(entry):
        return {each.name: _default(each) for each in dataclasses.fields(entry) if each.init}
    parameters = inspect.signature(entry).parameters.values()
    return {each.name: each.default for each in parameters if each.default is not each.empty}


def _default(field: dataclasses.Field[Any]) -> object:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return "(required)" if field.default is dataclasses.MISSING else field.default


def _first_comment(path: Path) -> str:
    lines = path.read_text(encoding="utf-8").splitlines()
    return next((line.removeprefix("#").strip() for line in lines if line.startswith("#")), "")
