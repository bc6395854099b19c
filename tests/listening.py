"""Where processes listen, from the kernel's own tables."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F"}
"""127.0.0.1, as the tables have it."""


def places(pids: Iterable[int]) -> set[str]:
    """The addresses at which these processes wait for connections."""
    inodes = {link for pid in pids for link in _links(pid)}
    lines = [line for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()]
    rows = [line.split() for line in lines]
    return {row[1].split(":")[0] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in inodes}


def split_sockets(pids: Iterable[int] | None = None) -> set[str]:
    """The names of the sockets at which split servers of this machine, or these processes, wait for clients."""
    lines = [line for line in Path("/proc/net/unix").read_text().splitlines() if "@fl-privacy-" in line]
    if pids is not None:
        inodes = {link for pid in pids for link in _links(pid)}
        lines = [line for line in lines if f"socket:[{line.split()[6]}]" in inodes]
    return {line.rpartition("@")[2] for line in lines}


def _links(pid: int) -> list[str]:
    found = []
    try:
        for each in Path(f"/proc/{pid}/fd").iterdir():
            found.append(os.readlink(each))
    except OSError:  # it is gone meanwhile
        return found
    return found
