"""Plain values, as TOML and JSON have them, checked against the settings of a dataclass or a function."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import types
import typing
from collections.abc import Mapping
from typing import Any

PlainTable = dict[str, Any]
"""A table of plain values, as TOML and JSON have them."""
ReadTable = Mapping[str, Any]
"""Such a table that is only read."""


class UnknownName(KeyError):
    """A name or a setting that no registry entry has; the message lists those that exist."""

    def __str__(self) -> str:
        return str(self.args[0])


def no_such(kind: str, name: str, known: list[str]) -> UnknownName:
    close = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean '{close[0]}'?" if close else ""
    return UnknownName(f"no {kind} is called '{name}'.{hint} Known: {', '.join(known) or 'none'}.")


def check_settings(owner: str, target: Any, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Check `settings` against the fields of a dataclass or the parameters of a function or class; lists become tuples.

    A table in the place of a dataclass becomes that dataclass. A parameter without a type hint takes any value.

    Raises:
        UnknownName: a key that the target does not have.
        ValueError: a value of the wrong type.
    """
    hints = _parameters(target)
    checked: dict[str, Any] = {}
    for key, value in settings.items():
        if key not in hints:
            raise no_such(f"setting of {owner}", key, list(hints))
        value = _as_tuples(value)
        if dataclasses.is_dataclass(hints[key]) and isinstance(value, Mapping):
            value = hints[key](**check_settings(f"'{key}' of {owner}", hints[key], value))
        if not _fits(value, hints[key]):
            raise ValueError(f"{owner}: '{key}' takes {_readable(hints[key])}, not {value!r}")
        checked[key] = float(value) if hints[key] is float and isinstance(value, int) else value
    return checked


def _parameters(target: Any) -> dict[str, Any]:
    """The names that can be set, with their types."""
    if dataclasses.is_dataclass(target):
        hints = typing.get_type_hints(target)
        return {field.name: hints[field.name] for field in dataclasses.fields(target) if field.init}
    hinted: Any = target.__init__ if isinstance(target, type) else target  # type: ignore[misc]
    try:
        hints = typing.get_type_hints(hinted)
    except TypeError:  # a partial function, or an object that can be called, has a signature and no hints of its own
        hints = {}
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = inspect.signature(target).parameters.values()
    return {each.name: hints.get(each.name, Any) for each in parameters if each.kind not in several}


def _as_tuples(value: object) -> Any:
    """A list, and every list in it, as a tuple."""
    return tuple(map(_as_tuples, value)) if isinstance(value, list) else value


def _fits(value: object, hint: Any) -> bool:
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, part) for part in typing.get_args(hint))
    if origin is typing.Literal:
        return value in typing.get_args(hint)
    if origin is tuple:
        parts = typing.get_args(hint)
        if not isinstance(value, tuple):
            return False
        if len(parts) == 2 and parts[1] is Ellipsis:
            return all(_fits(item, parts[0]) for item in value)
        return len(value) == len(parts) and all(map(_fits, value, parts))
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and value == value
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint is None:
        return value is None
    return isinstance(value, hint) if isinstance(hint, type) and hint is not Any else True


def _readable(hint: Any) -> str:
    origin = typing.get_origin(hint)
    if origin is typing.Literal:
        return "one of " + ", ".join(map(repr, typing.get_args(hint)))
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_readable(part) for part in typing.get_args(hint))
    if origin is tuple:
        parts = [_readable(part) for part in typing.get_args(hint) if part is not Ellipsis]
        return f"a list, each entry {parts[0]}" if len(set(parts)) == 1 else f"a list of {', '.join(parts)}"
    if origin is Mapping:
        return "a table"
    names = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", type(None): "nothing"}
    return names.get(hint, str(hint))
