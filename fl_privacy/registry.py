"""A named registry: one decorator line makes an attack, defence, metric, model or data set known everywhere."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class UnknownName(KeyError):
    """A name or a setting that no registry entry has; the message lists those that exist."""

    def __str__(self) -> str:
        return str(self.args[0])


def _no_such(kind: str, name: str, known: list[str]) -> UnknownName:
    close = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean '{close[0]}'?" if close else ""
    return UnknownName(f"no {kind} is called '{name}'.{hint} Known: {', '.join(known) or 'none'}.")


class Registry(Generic[T]):
    """Entries of one kind by name, each with the facts it was entered with."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T] = {}
        self._facts: dict[str, Mapping[str, Any]] = {}

    def register(self, name: str, **facts: Any) -> Callable[[T], T]:
        """Enter the decorated object under `name`; a second entry of the same name is an error."""

        def enter(entry: T) -> T:
            if name in self._entries:
                raise ValueError(f"two {self.kind}s are called '{name}': names must be unique")
            self._entries[name] = entry
            self._facts[name] = facts
            return entry

        return enter

    def __getitem__(self, name: str) -> T:
        """The entry called `name`, or the object at `package.module:attribute` for a user's own code."""
        if name in self._entries:
            return self._entries[name]
        if ":" in name:
            return self._imported(name)
        raise _no_such(self.kind, name, self.names())

    def _imported(self, path: str) -> T:
        module, _, attribute = path.partition(":")
        try:
            return typing.cast(T, getattr(importlib.import_module(module), attribute))
        except (ImportError, AttributeError) as error:
            raise UnknownName(
                f"cannot import the {self.kind} '{path}': {error}. Write it as module:name; the "
                "command looks in the working directory and among what is installed, Python wherever sys.path says."
            ) from error

    def facts(self, name: str) -> Mapping[str, Any]:
        """What the entry was registered with, such as `more_is_leak` of a metric."""
        return self._facts.get(name, {})

    def name_of(self, entry: T) -> str:
        """The name under which `entry` stands, else its import path."""
        for name, known in self._entries.items():
            if known is entry:
                return name
        return f"{getattr(entry, '__module__', '?')}:{getattr(entry, '__qualname__', '?')}"

    def names(self) -> list[str]:
        return sorted(self._entries)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def summary(self, name: str) -> str:
        """The first sentence of the entry's docstring."""
        lines = (getattr(self[name], "__doc__", None) or "").strip().splitlines()
        return lines[0] if lines else ""

    def configure(self, name: str, settings: Mapping[str, Any]) -> Any:
        """Construct the dataclass entered as `name` from plain values, naming any key or value that does not fit.

        Raises:
            UnknownName: no such entry, or it has no such setting.
            ValueError: a value has the wrong type or is out of range.
        """
        entry = self[name]
        if not (isinstance(entry, type) and dataclasses.is_dataclass(entry)):
            raise TypeError(f"the {self.kind} '{name}' is not a dataclass and cannot be configured")
        checked = check_settings(f"{self.kind} '{name}'", entry, settings)
        try:
            return entry(**checked)
        except TypeError as error:
            raise ValueError(f"{self.kind} '{name}': {error}") from error


def check_settings(owner: str, target: Any, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Check `settings` against a dataclass's fields or a function's parameters; lists become tuples.

    Raises:
        UnknownName: a key that the target does not have.
        ValueError: a value of the wrong type.
    """
    if dataclasses.is_dataclass(target):
        known = [field.name for field in dataclasses.fields(target) if field.init]
    else:
        known = list(typing.get_type_hints(target))
        known = [name for name in known if name != "return"]
    hints = typing.get_type_hints(target)
    checked: dict[str, Any] = {}
    for key, value in settings.items():
        if key not in known:
            raise _no_such(f"setting of {owner}", key, known)
        value = tuple(value) if isinstance(value, list) else value
        if not _fits(value, hints[key]):
            raise ValueError(f"{owner}: '{key}' takes {_readable(hints[key])}, not {value!r}")
        checked[key] = float(value) if hints[key] is float and isinstance(value, int) else value
    return checked


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
    return isinstance(value, hint) if isinstance(hint, type) else True


def _readable(hint: Any) -> str:
    origin = typing.get_origin(hint)
    if origin is typing.Literal:
        return "one of " + ", ".join(map(repr, typing.get_args(hint)))
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_readable(part) for part in typing.get_args(hint))
    names = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", type(None): "nothing"}
    return names.get(hint, str(hint))
