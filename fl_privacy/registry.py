"""A named registry: one decorator line makes an attack, defence, metric, model or data set known everywhere."""

from __future__ import annotations

import dataclasses
import importlib
import typing
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

from fl_privacy.settings import UnknownName, check_settings, no_such

T = TypeVar("T")


def plug_ins(kind: str) -> dict[str, EntryPoint]:
    """What installed packages add to the registry of a kind, by name; nothing is imported.

    The entry-point groups are fl_privacy.attacks, .defences, .metrics, .models, .datasets and .partitions.
    """
    return {each.name: each for each in entry_points(group=f"fl_privacy.{kind.replace(' ', '')}s")}


class Registry(Generic[T]):
    """Entries of one kind by name: registered here, or by an installed package's entry points.

    A package adds its own through an entry point (`plug_ins`); such an entry is loaded when it is
    first used. What is registered here comes first where two have one name.
    """

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

    @cached_property
    def _plug_ins(self) -> Mapping[str, EntryPoint]:
        return plug_ins(self.kind)

    def __getitem__(self, name: str) -> T:
        """The entry called `name`, or the object at `package.module:attribute` for a user's own code.

        Raises:
            UnknownName: there is none, or its code cannot be imported.
        """
        if name in self._entries:
            return self._entries[name]
        if name in self._plug_ins:
            return self._imported(self._plug_ins[name].value.partition("[")[0].strip(), f" of {self.source(name)}")
        if ":" in name:
            return self._imported(name)
        raise no_such(self.kind, name, self.names())

    def _imported(self, path: str, owner: str = "") -> T:
        module, _, attributes = path.partition(":")
        try:
            found: object = importlib.import_module(module)
            for attribute in attributes.split("."):
                found = getattr(found, attribute)
        except Exception as error:  # another's code may fail in any way while it is imported
            said = f"{error}" if isinstance(error, ImportError | AttributeError) else f"{type(error).__name__}: {error}"
            raise UnknownName(
                f"cannot import the {self.kind} '{path}'{owner}: {said}. Write it as module:name; the "
                "command looks in the working directory and among what is installed, Python wherever sys.path says."
            ) from error
        if not callable(found):
            raise UnknownName(f"the {self.kind} '{path}' is a {type(found).__name__}: name a function or a class")
        return typing.cast(T, found)

    def usable(self) -> dict[str, T]:
        """All entries by name, but for those of installed packages that cannot be imported: a warning names each."""
        found: dict[str, T] = {}
        for name in self.names():
            try:
                found[name] = self[name]
            except UnknownName as error:
                warnings.warn(f"the {self.kind} '{name}' is left out: {error}", stacklevel=2)
        return found

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
        return sorted({*self._entries, *self._plug_ins})

    def source(self, name: str) -> str:
        """Where an entry comes from: 'fl-privacy', the module that registered it, or the distribution that added it.

        A user's own code, which is in no catalogue, comes from where its name says: 'module:name'.
        """
        if name in self._entries:
            module = str(getattr(self._entries[name], "__module__", "?"))
            return "fl-privacy" if module.partition(".")[0] == "fl_privacy" else module
        if name in self._plug_ins:
            found = self._plug_ins[name].dist
            return found.name if found else self._plug_ins[name].value
        return name

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __contains__(self, name: object) -> bool:
        return name in self._entries or name in self._plug_ins

    def summary(self, name: str) -> str:
        """The first paragraph of the entry's docstring, in one line."""
        text = (getattr(self[name], "__doc__", None) or "").strip()
        return " ".join(text.partition("\n\n")[0].split())

    def configure(self, name: str, settings: Mapping[str, Any]) -> Any:
        """Construct the dataclass entered as `name` from plain values, naming any key or value that does not fit.

        Raises:
            UnknownName: no such entry, or it has no such setting.
            ValueError: a value has the wrong type or is out of range.
        """
        entry = self[name]
        if not (isinstance(entry, type) and dataclasses.is_dataclass(entry)):
            what = "a class" if isinstance(entry, type) else f"a {type(entry).__name__}"
            raise ValueError(
                f"the {self.kind} '{name}' is {what}, and its settings can only be read from a dataclass: write "
                "`@dataclasses.dataclass(frozen=True)` above the class, its settings as typed fields, and no __init__"
            )
        checked = check_settings(f"{self.kind} '{name}'", entry, settings)
        try:
            return entry(**checked)
        except TypeError as error:
            raise ValueError(f"{self.kind} '{name}': {error}") from error
