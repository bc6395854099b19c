"""The facts of a protocol that an audit needs: what is missing is asked for at once, and only then is anything read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from torch import nn

from fl_privacy.observation import ONE_STEP, LocalTraining
from fl_privacy.settings import check_settings
from fl_privacy.simulations.auditing.weight_files import Weights
from fl_privacy.simulations.config.changes import parse_value
from fl_privacy.simulations.config.own import model_factory, own_object

Model = str | nn.Module | Callable[..., object]
"""A name (module:name), a model, or what builds one."""
Kind = Literal["update", "weights", "gradient"]
Local = str | Mapping[str, object] | LocalTraining


@dataclass(frozen=True)
class Facts:
    """What is public of the protocol, and where the message lies.

    `kind`: an update (what changed), weights (what came back, no difference yet), or a gradient. `assumed`: what was
    not given and was taken to be so, a sentence each.
    """

    weights: Weights
    message: Weights
    kind: Kind
    model: Callable[..., object] | nn.Module
    image_shape: tuple[int, int, int]
    classes: int
    images: int
    local: LocalTraining
    assumed: tuple[str, ...]


def facts(
    global_weights: Weights | None,
    messages: Mapping[Kind, Weights | None],
    model: Model | None,
    shape: str | tuple[int, ...] | None,
    classes: int | None,
    local: Local | None,
    images: int | None,
    hint: str = "",
) -> Facts:
    """The facts, as the command line or Python gives them; `messages` holds the message under its kind.

    `hint`: what else is known of what may be missing.

    Raises:
        ValueError: some are missing, all of them in one message, or do not fit. UnknownName: no such model or setting.
    """
    given: list[Kind] = [each for each, message in messages.items() if message is not None]
    kind: Kind = given[0] if given else "update"
    message = messages.get(kind)
    if len(given) > 1:
        raise ValueError("give one of --update, --weights and --gradient: each is the message, in another way")
    training = ONE_STEP if local is None and kind == "gradient" else None if local is None else local_training(local)
    count = images or (training.batch_size if training and training.epochs == 1 and not training.steps else 0)
    _ask_for_missing(global_weights, message, model, shape, classes, training, count, kind, hint)
    assert global_weights is not None
    assert message is not None
    assert model is not None
    assert shape is not None
    assert classes is not None
    assert training is not None
    assumed = []
    if not images:
        assumed.append(f"one mini-batch of {count} images, because --images was not given")
    if kind == "gradient":  # of all images at once, whatever the client does with it
        training = LocalTraining(normalise=training.normalise, loss=training.loss, mode=training.mode)
    if training.batch_size > count:
        assumed.append(f"mini-batches of {count}, because there are no more images, in place of {training.batch_size}")
        training = replace(training, batch_size=count)
    return Facts(
        weights=global_weights,
        message=message,
        kind=kind,
        model=model_factory(model) if isinstance(model, str) else model,
        image_shape=image_shape(shape),
        classes=classes,
        images=count,
        local=training,
        assumed=tuple(assumed),
    )


def _ask_for_missing(
    global_weights: Weights | None,
    message: Weights | None,
    model: Model | None,
    shape: str | tuple[int, ...] | None,
    classes: int | None,
    training: LocalTraining | None,
    count: int,
    kind: Kind,
    hint: str,
) -> None:
    missing = {
        "--global": (global_weights is None, "the weights that the server sent, such as global.safetensors"),
        "--update": (
            message is None,
            "what the client changed (new weights minus old ones), --weights with the weights that it "
            "sent back, or --gradient with its gradient",
        ),
        "--model": (model is None, "the model: module:Class of your own, or a name of `fl-privacy list models`"),
        "--shape": (shape is None, "channels, height and width of one image, such as 3,32,32"),
        "--classes": (not classes, "how many classes the model tells apart, such as 10"),
        "--local": (
            kind != "gradient" and (training is None or not training.learning_rate),
            "how the client trained, such as '{learning_rate=0.1, epochs=1, batch_size=8}', or module:name of a "
            "LocalTraining; without the learning rate an update says nothing of gradients. Pixels lie in [0, 1]: what "
            "the app takes from them and divides by goes into normalise=[[means], [deviations]]",
        ),
        "--images": (not count, "how many images the update was trained on (Flower's num-examples)"),
    }
    asked = [f"  {option}: {words}" for option, (absent, words) in missing.items() if absent]
    if asked:
        raise ValueError(
            "the audit needs what a server knows of its own protocol, and lacks (from Python the arguments of the same "
            "names, but audit(global, update), or new_weights=...; a folder of observations has the first two):\n"
            + "\n".join(asked)
            + hint
        )


def local_training(given: Local) -> LocalTraining:
    """Local training from a TOML table, a mapping, or the object at module:name.

    Raises:
        ValueError: it is none. UnknownName: it has no such setting.
    """
    value: object = parse_value(given) if isinstance(given, str) else given
    if isinstance(value, str):
        value = own_object("local training", value)
    if isinstance(value, Mapping):
        value = LocalTraining(**check_settings("the local training", LocalTraining, value))
    if not isinstance(value, LocalTraining):
        raise ValueError(
            "the local training is a table such as {learning_rate=0.1, epochs=1, batch_size=8}, or module:name of a "
            f"fl_privacy.LocalTraining, not {value!r}"
        )
    return value


def image_shape(given: str | tuple[int, ...]) -> tuple[int, int, int]:
    """(C, H, W) from '3,32,32' or a tuple.

    Raises:
        ValueError: it is not three whole numbers above 0.
    """
    parts = given.replace("x", ",").split(",") if isinstance(given, str) else given
    try:
        channels, height, width = (int(part) for part in parts)
    except (TypeError, ValueError):
        channels = height = width = 0
    if min(channels, height, width) < 1:
        raise ValueError(f"--shape is channels, height and width, such as 3,32,32, not {given!r}")
    return channels, height, width
