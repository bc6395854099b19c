"""Components as plain values: a registered name with its settings, and chains of them."""

from __future__ import annotations

from collections.abc import Mapping

from fl_privacy.settings import PlainTable, ReadTable

Component = ReadTable
"""A registered name and its settings: {'name': 'grnn', 'iterations': 500}."""


def component(key: str, value: object) -> PlainTable:
    """A component as a dict with a name; a bare text is its name.

    Raises:
        ValueError: neither a text nor a table with a name; `key` says where.
    """
    if isinstance(value, str):
        return {"name": value}
    if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
        raise ValueError(f"'{key}' takes a name, or a table that has one such as {{name = \"...\"}}, not {value!r}")
    return dict(value)


def components(key: str, value: object) -> tuple[PlainTable, ...]:
    """A list of at least one component.

    Raises:
        ValueError: no such list, or an empty one; `key` says where.
    """
    if not isinstance(value, list | tuple) or not value:
        raise ValueError(f"'{key}' takes a list of at least one, such as [{{name = \"grnn\"}}], not {value!r}")
    return tuple(component(key, each) for each in value)


def chains(key: str, value: object) -> tuple[tuple[PlainTable, ...], ...]:
    """Chains as tuples: a list of lists of defences; the empty chain defends nothing.

    Raises:
        ValueError: no such list, or an empty one; `key` says where.
    """
    if not isinstance(value, list | tuple) or not all(isinstance(each, list | tuple) for each in value):
        raise ValueError(
            f"'{key}' takes a list of chains, such as [[], [{{name = \"gaussian_noise\", scale = 0.1}}]], not {value!r}"
        )
    if not value:
        raise ValueError(f"'{key}' needs at least one chain; [[]] is a run without any defence")
    return tuple(tuple(component(key, each) for each in chain) for chain in value)


def settings_of(chosen: Component) -> PlainTable:
    """The settings of a component, without its name."""
    return {key: value for key, value in chosen.items() if key != "name"}


def label_of(attack: Component) -> str:
    """How tables name an attack: its label, or else its name."""
    return str(attack.get("label", attack["name"]))
