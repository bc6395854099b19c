"""What a run that was killed has left behind: its Ray's processes and folder, found by the folder's name.

A temporary folder may be shared with other machines and containers, whose process numbers say nothing here: a name
also tells of which machine's start, and of which container's processes, its number is one.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import signal
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

PREFIX = "flp-"
GRACE_SECONDS = 3.0


def session_folder() -> Path:
    """A new folder for the Ray of this process, in the machine's temporary folder, whose name tells whose it is."""
    # short, because the paths of Ray's sockets have at most 107 characters
    folder = Path(tempfile.gettempdir()) / f"{PREFIX}{os.getuid()}-{_here()}-{os.getpid()}-{_born(os.getpid())}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def sweep() -> list[Path]:
    """End the processes, and remove the folders, of sessions of this user that are over; the folders.

    A session is over when the process that started it is no longer there, or, for this process's own, now. Those of
    other machines and containers are left to them.
    """
    over = []
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}{os.getuid()}-{_here()}-*"):
        found = re.fullmatch(rf"{PREFIX}\d+-[0-9a-f]+-(\d+)-(\d+)", folder.name)
        if found is None or not _is_own(folder):
            continue
        pid, born = int(found[1]), found[2]
        if pid == os.getpid() or _born(pid) != born:
            over.append(folder)
            _end(list(processes(folder)))
            shutil.rmtree(folder, ignore_errors=True)
    return over


@cache
def _here() -> str:
    """Six hex digits: this start of this machine, and the container whose process numbers are seen here."""
    boot, numbers = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
    try:
        facts = f"{boot.read_text()}|{os.readlink(numbers)}"
    except OSError:  # no Linux, or one that does not tell: two such machines have other names at least
        facts = platform.node()
    return hashlib.sha256(facts.encode()).hexdigest()[:6]


def _is_own(folder: Path) -> bool:
    """Whether a folder is this user's, and still there: another process may have removed it meanwhile."""
    try:
        about = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(about.st_mode) and about.st_uid == os.getuid()


def _born(pid: int) -> str:
    """When a process started, in ticks since the machine did, so that a reused number is told; '' for no process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def processes(folder: Path) -> Iterator[int]:
    """This user's processes whose command line names the folder, or that have a file open there.

    Ray's agents write their title over their command line, and outlive a driver that is killed.
    """
    name = f"{folder}/".encode()
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ValueError):
            if entry.stat().st_uid == os.getuid() and int(entry.name) != os.getpid():
                words = (entry / "cmdline").read_bytes()
                if name in words or f"{folder}\0".encode() in words or _has_open(entry, folder):
                    yield int(entry.name)


def _has_open(process: Path, folder: Path) -> bool:
    """Whether a process has a file of the folder open, even one that is gone."""
    for handle in (process / "fd").iterdir():
        with suppress(OSError):  # closed meanwhile
            if os.readlink(handle).startswith(f"{folder}/"):
                return True
    return False


def _end(pids: list[int]) -> None:
    """End processes, kindly first."""
    for how in (signal.SIGTERM, signal.SIGKILL):
        for pid in pids:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, how)
        end = time.monotonic() + GRACE_SECONDS
        while time.monotonic() < end and (pids := [pid for pid in pids if _runs(pid)]):
            time.sleep(0.05)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (OSError, IndexError):
        return False
