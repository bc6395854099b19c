import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pytest

from fl_privacy.registry import Registry
from fl_privacy.settings import UnknownName, check_settings


@dataclass(frozen=True)
class Thing:
    """A thing."""

    size: int = 1
    scale: float = 0.5
    kind: Literal["a", "b"] = "a"
    limit: float | None = None
    shape: tuple[int, ...] = ()
    pair: tuple[int, str] = (1, "a")
    tables: tuple[Mapping[str, int], ...] = ()


@pytest.fixture
def things():
    registry = Registry("thing")
    registry.register("thing", colour="red")(Thing)
    return registry


def test_a_name_is_entered_once(things):
    with pytest.raises(ValueError, match="two things are called 'thing'"):
        things.register("thing")(Thing)


def test_an_unknown_name_lists_the_known_and_the_closest(things):
    with pytest.raises(UnknownName, match=r"no thing is called 'thin'. Did you mean 'thing'\? Known: thing"):
        things["thin"]


def test_facts_summary_and_name(things):
    assert things.facts("thing") == {"colour": "red"}
    assert things.summary("thing") == "A thing."
    assert things.name_of(Thing) == "thing"
    assert things.names() == list(things) == ["thing"]
    assert "thing" in things


def test_a_users_own_code_by_path(things):
    assert things["collections:OrderedDict"].__name__ == "OrderedDict"
    with pytest.raises(UnknownName, match=r"Write it as module:name"):
        things["no.such.module:Thing"]
    with pytest.raises(UnknownName, match="the thing 'math:pi' is a float: name a function or a class"):
        things["math:pi"]


def test_configure_builds(things):
    built = things.configure("thing", {"size": 3, "scale": 2, "shape": [1, 2], "limit": None})
    assert built == Thing(size=3, scale=2.0, shape=(1, 2))
    assert isinstance(built.scale, float)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 1.5}, "'size' takes a whole number, not 1.5"),
        ({"size": True}, "'size' takes a whole number"),
        ({"scale": "big"}, "'scale' takes a number"),
        ({"scale": float("nan")}, "'scale' takes a number"),
        ({"kind": "c"}, "'kind' takes one of 'a', 'b'"),
        ({"limit": "x"}, "'limit' takes a number or nothing"),
        ({"shape": ["x"]}, "'shape' takes a list, each entry a whole number, not"),
        ({"shape": 1}, "'shape' takes a list, each entry a whole number, not 1"),
        ({"pair": [1]}, "'pair' takes a list of a whole number, a text, not"),
        ({"tables": 1}, "'tables' takes a list, each entry a table, not 1"),
    ],
)
def test_a_wrong_value_is_named(things, settings, message):
    with pytest.raises(ValueError, match=message):
        things.configure("thing", settings)


def test_a_wrong_key_is_named(things):
    with pytest.raises(UnknownName, match=r"no setting of thing 'thing' is called 'sice'. Did you mean 'size'"):
        things.configure("thing", {"sice": 1})


def test_parameters_without_a_type_hint_and_those_of_a_class_are_settings_too():
    def untyped(shape, classes, width=4, *more, **rest):
        return width

    class Net:
        depth: str = "an attribute, which nobody sets"

        def __init__(self, shape, classes, width: int = 4, kind: Any = None):
            self.width = width

    assert check_settings("model", untyped, {"width": [1, 2]}) == {"width": (1, 2)}
    assert check_settings("model", Net, {"width": 8, "kind": 1}) == {"width": 8, "kind": 1}
    with pytest.raises(ValueError, match="'width' takes a whole number"):
        check_settings("model", Net, {"width": "wide"})
    for target, key in ((untyped, "more"), (untyped, "rest"), (Net, "depth"), (Net, "self")):
        with pytest.raises(UnknownName):
            check_settings("model", target, {key: 1})


def test_a_partial_function_and_an_object_that_can_be_called_have_settings_too():
    def net(shape, classes, width: int = 4, depth: int = 2):
        return width, depth

    class Maker:
        def __call__(self, shape, classes, width: int = 4):
            return width

    for target in (functools.partial(net, depth=3), Maker()):
        assert check_settings("model", target, {"width": 8}) == {"width": 8}
        with pytest.raises(UnknownName, match="'height'"):
            check_settings("model", target, {"height": 8})


def test_a_functions_parameters_are_settings_too():
    def load(root: str, *, size: int = 8) -> int:
        return size

    assert check_settings("loader", load, {"size": 4}) == {"size": 4}
    with pytest.raises(UnknownName):
        check_settings("loader", load, {"return": 4})
