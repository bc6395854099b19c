"""The audit of what a server saw: a folder of observations, or one saved message; for Python and for the command."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from fl_privacy.attacks import Attack
from fl_privacy.data import data_root as find_root
from fl_privacy.observation import Images, Reconstruction
from fl_privacy.settings import PlainTable
from fl_privacy.simulations.auditing.asked import Kind
from fl_privacy.simulations.auditing.folder import Heard, Recorded, read_folder
from fl_privacy.simulations.auditing.granted import public_images
from fl_privacy.simulations.auditing.kept import audit_folder, begin, identity, keep, kept
from fl_privacy.simulations.auditing.messages import Message, recorded_messages, saved_message
from fl_privacy.simulations.auditing.result import Audit
from fl_privacy.simulations.auditing.told import message_report
from fl_privacy.simulations.auditing.tries import Try, chosen, tries
from fl_privacy.simulations.auditing.weight_files import Weights
from fl_privacy.simulations.auditing.wishes import Wishes
from fl_privacy.simulations.progress import Note
from fl_privacy.simulations.report.audit_folder import verdict
from fl_privacy.simulations.results import files, layout
from fl_privacy.simulations.results.environment import describe
from fl_privacy.simulations.run.pipeline import resolved_device
from fl_privacy.simulations.run.resume import alone, tidy


@dataclass(frozen=True)
class AuditPlan:
    """An audit whose every input was checked; `recorded` and `left_out` where it is of a folder.

    `about` says what decides its guesses; `begun`: some of them may lie in `out`.
    """

    messages: tuple[Message, ...]
    attacks: dict[str, Attack]
    public: Images | None
    wishes: Wishes
    device: str
    out: Path
    about: PlainTable
    begun: bool
    recorded: Recorded | None = None
    left_out: tuple[PlainTable, ...] = ()


def audit(
    seen: Weights | None = None,
    update: Weights | None = None,
    *,
    new_weights: Weights | None = None,
    gradient: Weights | None = None,
    rounds: Collection[int] | None = None,
    clients: Collection[int] | None = None,
    note: Note = lambda text: None,
    **wishes: object,
) -> Audit:
    """What a federation gives away: what its server saw is looked at, attacked, and the result written and returned.

        from fl_privacy.simulations import audit

        found = audit("observations", model="my_app.task:Net", local={"normalise": ((0.5,) * 3, (0.5,) * 3)})
        found.show()

    `seen` is a folder that HonestButCurious wrote, of which `rounds` and `clients` are audited (None: all). Or it is
    the weights that a server sent, beside one message: `update` (what changed), `new_weights` (what came back) or
    `gradient`; each a file (.safetensors, .npz, a torch state dict), tensors by name, or a Flower ArrayRecord.

    The `wishes` are the fields of `Wishes`. `model`: an nn.Module, a factory (image_shape, classes), a class without
    arguments, or the name of one. `shape`, `classes`, `local` (how clients train) and `images` (how many entered a
    message) are looked for in the folder and the model where they are not given. `public`: images that an adversary may
    own; `truth`: the client's own (images, labels) or a function that gives them, with which guesses are scored and
    which no attack sees; `defence`: the chain that clients ran, where they do not say it. `attacks`: their names, for
    at most `minutes` in all, on `device`. `out`: a new or empty folder, by default below outputs/audit; each result is
    written there as it is found, and with `resume` an audit goes on there that was killed, to the same bits.

    Raises:
        ValueError: facts are missing, or what was handed in cannot be attacked: all reasons in one message.
        UnknownName: a name that does not exist.
    """
    messages: dict[Kind, Weights | None] = {"update": update, "weights": new_weights, "gradient": gradient}
    return execute_audit(plan_audit(seen, messages, rounds, clients, _wishes(wishes)), note)


def _wishes(given: PlainTable) -> Wishes:
    names = [each.name for each in fields(Wishes)]
    if unknown := [name for name in given if name not in names]:
        raise TypeError(f"audit() has no argument '{unknown[0]}': there are {', '.join(names)}")
    return Wishes(**given)


def plan_audit(
    seen: Weights | None,
    messages: Mapping[Kind, Weights | None],
    rounds: Collection[int] | None,
    clients: Collection[int] | None,
    wishes: Wishes,
) -> AuditPlan:
    """Check every input of an audit and make its folder; arguments and errors are those of `audit`."""
    device = resolved_device(wishes.device)
    public = public_images(wishes.public, find_root(wishes.data_root))
    picked = chosen(wishes.attacks, public is not None)
    if isinstance(seen, str | Path) and Path(seen).is_dir():
        recorded = read_folder(Path(seen), rounds, clients)
        if any(each is not None for each in messages.values()):
            raise ValueError(
                "a folder of observations holds its messages: leave --update, --weights and --gradient away"
            )
        found, left = recorded_messages(recorded, wishes, public)
        out = _out(found, picked, public, wishes, device)
        return AuditPlan(found, picked, public, wishes, device, *out, recorded, (*recorded.left_out, *left))
    if rounds is not None or clients is not None:
        raise ValueError("--rounds and --clients choose from a folder of observations, and none was given")
    found = (saved_message(seen, messages, wishes, public),)
    return AuditPlan(found, picked, public, wishes, device, *_out(found, picked, public, wishes, device))


def _out(
    messages: tuple[Message, ...], attacks: dict[str, Attack], public: Images | None, wishes: Wishes, device: str
) -> tuple[Path, PlainTable, bool]:
    """The audit's folder, what decides its guesses, and whether it is begun there."""
    about = identity(messages, attacks, public, wishes, device)
    folder, begun = audit_folder(wishes, about)
    return folder, about, begun


def execute_audit(plan: AuditPlan, note: Note) -> Audit:
    """Attack, each result written as it is found, score where the truth is granted, and write the whole.

    Raises:
        RuntimeError: another process is at this folder.
    """
    note(f"audit folder: {plan.out} (stopped, it goes on with --resume --out {plan.out})")
    with alone(plan.out):
        if plan.begun:
            tidy(plan.out)
        else:
            begin(plan.out, plan.about)
        done = _tried(plan, note)
        report, guesses = _told(plan, done)
        files.write_json(plan.out / layout.AUDIT, report)
    note(f"written to {plan.out}")
    return Audit(plan.out, report, guesses)


def _tried(plan: AuditPlan, note: Note) -> list[list[Try]]:
    folders = [plan.out / each.place for each in plan.messages]
    earlier = {
        (place, name): result
        for place, folder in enumerate(folders)
        for name, attack in plan.attacks.items()
        if (result := kept(folder, name, attack)) is not None
    }
    if plan.begun:
        note(f"{len(earlier)} of {len(folders) * len(plan.attacks)} results are there already")
    seen, wishes = [each.case.seen for each in plan.messages], plan.wishes

    def found(place: int, result: Try) -> None:
        keep(folders[place], result)

    return tries(seen, plan.attacks, wishes.minutes, wishes.seed, note, plan.device, earlier, found)


def _told(plan: AuditPlan, done: list[list[Try]]) -> tuple[PlainTable, dict[str, Reconstruction]]:
    """The whole report, and every guess by where it lies."""
    reports, guesses = list[PlainTable](), dict[str, Reconstruction]()
    for message, found in zip(plan.messages, done, strict=True):
        told = message_report(message.facts, message.case, found, message.truth, plan.public, plan.wishes.seed)
        reports.append(told if message.heard is None else {**_of(message.heard), **told})
        for each in found:
            if each.guess is not None:
                guesses[f"{message.place}/{each.name}".lstrip("/")] = each.guess
    if plan.recorded is None:
        return {**reports[0], "environment": describe()}, guesses
    return _whole(plan, plan.recorded, reports), guesses


def _of(heard: Heard) -> PlainTable:
    return {
        "round": heard.round,
        "client": heard.client,
        "node": heard.node,
        "partition": heard.partition,
        "applied": heard.applied,
    }


def _whole(plan: AuditPlan, recorded: Recorded, reports: list[PlainTable]) -> PlainTable:
    """The report of a folder; what was assumed of every message is said once."""
    first = reports[0]
    common = [each for each in first["assumed"] if all(each in other["assumed"] for other in reports)]
    for each in reports:
        each["assumed"] = [said for said in each["assumed"] if said not in common]
    report: PlainTable = {
        "observations": str(recorded.folder.absolute()),
        "strategy": recorded.strategy,
        "app_model": recorded.model,
        "image_shape": first["image_shape"],
        "classes": first["classes"],
        "minutes": plan.wishes.minutes,
        "seed": plan.wishes.seed,
        "device": plan.device,
        "messages": reports,
        "left_out": list(plan.left_out),
        "assumed": common,
        "environment": describe(),
    }
    report["verdict"] = verdict(report)
    return report
