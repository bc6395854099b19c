"""What a user names beside an experiment: a model of any constructor, an object of their own, an attack by name."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from torch import nn

from fl_privacy.models import MODELS
from fl_privacy.seeding import seeded


def own_object(what: str, name: str) -> object:
    """The object at `package.module:attribute`.

    Raises:
        ValueError: the text is no such address, or it cannot be imported.
    """
    if ":" not in name:
        raise ValueError(f"the {what} is called module:name, such as my_app.task:load_data, not '{name}'")
    module, _, attributes = name.partition(":")
    try:
        found: object = import_module(module)
        for attribute in attributes.split("."):
            found = getattr(found, attribute)
    except Exception as error:  # the user's own code can raise anything while it is imported
        raise ValueError(
            f"cannot import the {what} '{name}': {type(error).__name__}: {error}. The command looks in the working "
            "directory and among what is installed, Python wherever sys.path says"
        ) from error
    return found


def model_factory(name: str) -> Callable[..., object]:
    """The factory or class of a model: one of the catalogue's, or the user's module:name.

    Raises:
        UnknownName: there is none.
    """
    return MODELS[name]


def built_models(
    factory: Callable[..., object], image_shape: tuple[int, int, int], classes: int
) -> tuple[list[nn.Module], list[str]]:
    """What a factory (image_shape, classes) -> Module, or a class without arguments, makes, called in either way.

    Both ways may work, and then the weights tell which one is meant. The second list says why a way failed.
    """
    ways: dict[str, tuple[object, ...]] = {"(image_shape, classes)": (image_shape, classes), "()": ()}
    models, reasons = list[nn.Module](), list[str]()
    for way, given in ways.items():
        try:
            with seeded(0, "audit", "model"):
                made: object = factory(*given)
        except Exception as error:  # the user's own code can raise anything
            reasons.append(f"called as {way} it fails with {type(error).__name__}: {error}")
            continue
        if isinstance(made, nn.Module):
            models.append(made)
        else:
            reasons.append(f"called as {way} it returns a {type(made).__name__}")
    return models, reasons
