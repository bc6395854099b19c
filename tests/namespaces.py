"""Commands in namespaces of Linux that need no rights: without a network, or with mounts of their own."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import struct
import subprocess
import sys
from functools import cache
from pathlib import Path

NO_NETWORK, OWN_MOUNTS = "-rn", "-rm"
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1


@cache
def why_not(kind: str) -> str:
    """Why no command can be put there; '' where one can."""
    if shutil.which("unshare") is None:
        return "there is no `unshare` here"
    done = subprocess.run(["unshare", kind, "true"], capture_output=True, text=True)
    return f"`unshare {kind}` is refused here: {done.stderr.strip()}" if done.returncode else ""


def inside(kind: str, *command: str) -> list[str]:
    """The command line that runs a Python command there; without a network the loopback is up."""
    enter = ["unshare", kind, sys.executable]
    return [*enter, *([str(Path(__file__).absolute())] if kind == NO_NETWORK else []), *command]


def bring_up_loopback() -> None:
    with socket.socket() as asked:
        flags = struct.unpack("16sh14x", fcntl.ioctl(asked, SIOCGIFFLAGS, struct.pack("16s16x", b"lo")))[1]
        fcntl.ioctl(asked, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | IFF_UP))


if __name__ == "__main__":
    bring_up_loopback()
    os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
