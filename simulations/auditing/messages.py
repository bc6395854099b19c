"""The messages of an audit, each with all that is known of it: from one saved message, or a folder of observations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from fl_privacy.defences import Chain, chain_of
from fl_privacy.evaluation import Truth
from fl_privacy.observation import Images
from fl_privacy.settings import PlainTable, UnknownName
from fl_privacy.simulations.auditing.asked import Facts, Kind, facts
from fl_privacy.simulations.auditing.case import Case, case
from fl_privacy.simulations.auditing.folder import Heard, Recorded
from fl_privacy.simulations.auditing.granted import check_public, granted_truth
from fl_privacy.simulations.auditing.guess import app_config, guessed_local, guessed_sizes
from fl_privacy.simulations.auditing.weight_files import Weights
from fl_privacy.simulations.auditing.wishes import Wishes


@dataclass(frozen=True)
class Message:
    """One message, its observation, and where the user grants it the truth; `heard` where a folder holds it."""

    facts: Facts
    case: Case
    truth: Truth | None
    heard: Heard | None = None

    @property
    def place(self) -> str:
        """Where in the audit's folder its files go."""
        return "" if self.heard is None else f"round_{self.heard.round}/client_{self.heard.client}"


def saved_message(
    global_weights: Weights | None, kinds: Mapping[Kind, Weights | None], wishes: Wishes, public: Images | None
) -> Message:
    """One message that somebody saved.

    Raises:
        ValueError: facts are missing, or it cannot be attacked. UnknownName: a name that does not exist.
    """
    told = (wishes.model, wishes.shape, wishes.classes, wishes.local, wishes.images)
    known = facts(global_weights, kinds, *told)
    check_public(public, known.image_shape)
    checked = case(known, public)
    chain = None if wishes.defence is None else chain_of(wishes.defence)
    checked = replace(checked, seen=replace(checked.seen, defence=chain or None))
    return Message(known, checked, granted_truth(wishes.truth, known.images, known.image_shape, public))


def recorded_messages(
    recorded: Recorded, wishes: Wishes, public: Images | None
) -> tuple[tuple[Message, ...], list[PlainTable]]:
    """The messages of a folder that can be attacked, and of each other one the reason.

    Raises:
        ValueError: none can be, for the first one's reason, or the truth is no truth. UnknownName: no such name.
    """
    shape, classes, sizes = guessed_sizes(wishes.model, wishes.shape, wishes.classes)
    sized = replace(wishes, shape=shape, classes=classes)
    here = app_config(Path.cwd())
    found, left = list[tuple[Heard, Facts, Case]](), list[PlainTable]()
    for heard in recorded.heard:
        try:
            found.append((heard, *_checked(heard, recorded, sized, sizes, here, public)))
        except ValueError as error:
            left.append({"round": heard.round, "client": heard.client, "reason": str(error)})
    if not found:
        more = f" ({len(left)} replies, of which the first is told)" if len(left) > 1 else ""
        raise ValueError(f"no reply in {recorded.folder} can be attacked{more}: {left[0]['reason']}")
    check_public(public, found[0][1].image_shape)
    messages = []
    for heard, known, checked in found:
        names = {"partition": heard.partition, "client": heard.client, "node": heard.node, "round": heard.round}
        real = granted_truth(wishes.truth, known.images, known.image_shape, public, names)
        messages.append(Message(known, checked, real, heard))
    return tuple(messages), left


def _checked(
    heard: Heard,
    recorded: Recorded,
    wishes: Wishes,
    sizes: list[str],
    here: Mapping[str, object],
    public: Images | None,
) -> tuple[Facts, Case]:
    told = [
        ("the config that the server sends", heard.config),
        ("the app's recorded run config", recorded.run_config),
        ("pyproject.toml here", {} if recorded.run_config else here),
    ]
    local, said = guessed_local(wishes.local, told)
    hint = f"\n(the app's own model is {recorded.model})" if recorded.model and wishes.model is None else ""
    images = wishes.images or heard.images
    known = facts(
        heard.weights, {"weights": heard.message}, wishes.model, wishes.shape, wishes.classes, local, images, hint
    )
    checked = case(known, public)
    chain, doubts, more = _defence(wishes, heard.applied)
    seen = replace(checked.seen, round=heard.round, client=heard.client, applied=heard.applied, defence=chain)
    return known, Case(seen, (*checked.doubts, *doubts), (*sizes, *said, *checked.assumed, *more))


def _defence(wishes: Wishes, applied: str | None) -> tuple[Chain | None, list[str], list[str]]:
    """The chain that the attacker knows, what is odd about it, and what was assumed."""
    if wishes.defence is not None:
        chain, odd = chain_of(wishes.defence), list[str]()
        if applied is not None and applied != chain.label:
            odd.append(
                f"the client says that it ran '{applied}', and --defence says '{chain.label}', which was believed"
            )
        return chain or None, odd, []
    if applied is None:
        return (
            None,
            [],
            ["no defence, because the client does not say that it ran any: name what it ran with --defence"],
        )
    try:
        if ":" in applied:  # a client must not choose whose code is imported here
            raise ValueError("it is not of this package")
        return chain_of(applied) or None, [], []
    except (ValueError, UnknownName) as error:
        odd = [f"the client says that it ran '{applied}', which is not known here ({error}): name it with --defence"]
        return None, odd, []
