"""The user's model, tried for one step on the user's images before anything starts."""

from __future__ import annotations

from fl_privacy.sanity import check_model
from fl_privacy.simulations.config.resolve import channel_of
from fl_privacy.simulations.federation import Federation


def preflight(federation: Federation) -> tuple[str, ...]:
    """One forward and one backward pass of every classifier of the run on held-out images; no random stream is touched.

    Returns what is worth a warning, a sentence each.

    Raises:
        ValueError: a model that cannot be trained on these images, with what to change.
    """
    images, labels = federation.held_out
    owner = f"the model '{federation.experiment.model['name']}'"
    found = [
        warning
        for each in channel_of(federation.experiment).rounds.tried(federation)
        for warning in check_model(
            each.model, images[: each.images], labels[: each.images] % each.classes, each.classes, owner
        )
    ]
    return tuple(dict.fromkeys(found))
