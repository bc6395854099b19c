"""What `fl-privacy doctor` reports: whether this machine can run the suite, and with what."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from fl_privacy.data import DATASETS, available, data_root
from fl_privacy.simulations.results import environment

FLOWER_PORTS = (39091, 39092)
QUIET = ("FLWR_TELEMETRY_ENABLED", "FLWR_DISABLE_UPDATE_CHECK", "RAY_USAGE_STATS_ENABLED")
SETTINGS = ("FLWR_HOME", "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION", "RAY_ADDRESS", "FL_PRIVACY_DATA")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at; `well` is False only where a run would fail."""

    what: str
    found: str
    well: bool = True


def examine(root: str | os.PathLike[str] | None = None) -> list[Finding]:
    """Look at versions, hardware, data and the environment; nothing is changed and nothing is started."""
    found = [Finding(name, version, version != "missing") for name, version in environment.versions().items()]
    machine = environment.hardware()
    found.append(Finding("processor", f"{machine['processor']}, {machine['cores']} cores"))
    found.append(Finding("GPU", ", ".join(machine["gpus"]) or "none that torch sees: device = cpu"))
    found += _data(data_root(root))
    found += [Finding(name, os.environ.get(name, "not set")) for name in (*QUIET, *SETTINGS)]
    found += [_port(port) for port in FLOWER_PORTS]
    found.append(_writable(Path.cwd()))
    return found


def as_table(findings: list[Finding]) -> Table:
    """The findings as a rich table."""
    table = Table("what", "found", "")
    for each in findings:
        table.add_row(each.what, each.found, "ok" if each.well else "missing")
    return table


def _data(root: Path | None) -> list[Finding]:
    run_context = Finding("data folder", str(root) if root else "none named (--data-root or FL_PRIVACY_DATA)")
    found = {name: available(name, root) for name in DATASETS}
    here = [name for name in DATASETS if found[name]]
    absent = [name for name in DATASETS if found[name] is False]
    return [
        run_context,
        Finding("data sets here", ", ".join(here)),
        Finding("data sets absent", ", ".join(absent) or "none"),
    ]


def _port(port: int) -> Finding:
    with socket.socket() as probe:
        taken = probe.connect_ex(("127.0.0.1", port)) == 0
    return Finding(f"port {port}", "in use: 'flwr run' will talk to whatever listens there" if taken else "free")


def _writable(folder: Path) -> Finding:
    well = os.access(folder, os.W_OK)
    return Finding("this folder", "writable" if well else f"{folder} is not writable: give --out", well)
