"""The folder that an honest-but-curious server wrote (`strategies.recorder` says how), read back."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from fl_privacy.settings import PlainTable, ReadTable
from fl_privacy.simulations.results.files import read_object
from fl_privacy.strategies.recorder import ABOUT, LAYOUT, ROUND

PARTITION = ("partition-id", "partition_id", "partition", "client", "client-id", "client_id", "cid")
"""The metrics by which an app may say which client answered."""


@dataclass(frozen=True)
class Heard:
    """One reply: `images` is how many the client says (0: it does not), `partition` which client it says it is.

    `config` is what was sent along with the weights, all records in one.
    """

    round: int
    client: int
    node: str
    partition: int | None
    weights: Path
    message: Path
    images: int
    applied: str | None
    config: ReadTable

    @property
    def name(self) -> str:
        return f"round {self.round}, client {self.client}"


@dataclass(frozen=True)
class Recorded:
    """What a folder holds: `left_out` says of each reply that holds nothing to attack why."""

    folder: Path
    strategy: str
    model: str | None
    run_config: ReadTable
    heard: tuple[Heard, ...]
    left_out: tuple[PlainTable, ...]


def read_folder(folder: Path, rounds: Collection[int] | None, clients: Collection[int] | None) -> Recorded:
    """Every reply of these rounds and clients, in their order; None for all.

    Raises:
        ValueError: this is no such folder, it is damaged, or nothing is left of it.
    """
    if not (folder / ABOUT).is_file():
        more = [each.name for each in sorted(folder.iterdir()) if (each / ABOUT).is_file()] if folder.is_dir() else []
        raise ValueError(
            f"{folder} is no folder of observations: it has no {ABOUT}. HonestButCurious(..., out=...) makes one when "
            "the first round is over, and the app's log says where" + (f"; here lie {', '.join(more)}" if more else "")
        )
    about = read_object(folder / ABOUT, "layout", "strategy")
    if about["layout"] != LAYOUT:
        raise ValueError(f"{folder} has layout {about['layout']}, and this version reads layout {LAYOUT}: update it")
    found, left = list[Heard](), list[PlainTable]()
    written = sorted(int(each.parent.name.partition("_")[2]) for each in folder.glob(f"round_*/{ROUND}"))
    for number in written:
        if rounds is None or number in rounds:
            _read_round(folder / f"round_{number}", about, clients, found, left)
    if not found:
        asked = "" if rounds is None and clients is None else " of the rounds and clients that were asked for"
        raise ValueError(
            f"{folder} holds no reply{asked} with arrays in it: it has rounds {written or 'of no kind'}"
            + "".join(f"; round {each['round']}, client {each['client']}: {each['reason']}" for each in left[:3])
        )
    run_config = about.get("run_config") or {}
    return Recorded(folder, str(about["strategy"]), about.get("model"), run_config, tuple(found), tuple(left))


def _read_round(
    folder: Path, about: ReadTable, clients: Collection[int] | None, found: list[Heard], left: list[PlainTable]
) -> None:
    told = read_object(folder / ROUND, "round", "config", "replies", "left_out")
    number = int(told["round"])
    config = {key: value for record in told["config"].values() for key, value in record.items()}
    out = [(each["client"], each["reason"]) for each in told["left_out"]]
    out += [(each["client"], _last_line(each["error"])) for each in told["replies"] if each["error"] is not None]
    left += [
        {"round": number, "client": client, "reason": reason}
        for client, reason in out
        if clients is None or client in clients
    ]
    for each in told["replies"]:
        if each["file"] is None or (clients is not None and each["client"] not in clients):
            continue
        metrics = {key: value for record in each["metrics"].values() for key, value in record.items()}
        found.append(
            Heard(
                round=number,
                client=int(each["client"]),
                node=str(each["node"]),
                partition=next((int(metrics[key]) for key in PARTITION if _whole(metrics.get(key))), None),
                weights=folder / Path(each["global"]).name,
                message=folder / Path(each["file"]).name,
                images=_images(metrics, about),
                applied=each["applied"],
                config=config,
            )
        )


def _images(metrics: ReadTable, about: ReadTable) -> int:
    said = metrics.get(str(about.get("weighted_by") or "num-examples"))
    return max(0, int(said)) if said is not None and _whole(said) else 0


def _whole(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and float(value).is_integer()


def _last_line(error: str) -> str:
    return "the client failed: " + (error.strip().splitlines() or ["it does not say why"])[-1][:200]
