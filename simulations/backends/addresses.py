"""Whether anybody serves a Ray address: Ray itself would try for minutes, and then end the process."""

from __future__ import annotations

import os
import re
import socket

CONNECT_SECONDS, ANSWER_SECONDS = 5.0, 8.0
HERE = ("", "local")  # Ray's words for no cluster


def ray_address(given: str | None = None) -> str | None:
    """The cluster that is meant: the one that is given, else that of RAY_ADDRESS; None for this machine."""
    address = os.environ.get("RAY_ADDRESS", "") if given is None else given
    return None if address in HERE else address


def is_loopback(address: str) -> bool:
    """Whether an address is of this machine alone, so that no other reaches what listens there."""
    host = address.removeprefix("ray://").rpartition(":")[0].strip("[]")
    return host in ("localhost", "::1") or host.startswith("127.")


def check_address(address: str) -> None:
    """Check that a Ray head answers at HOST:PORT, or ray://HOST:PORT, within 15 s.

    Raises:
        ValueError: nobody does, or it is no address; and what to do.
    """
    if address == "auto":  # Ray looks for one itself, and says at once where there is none
        return
    mend = (
        "Start a cluster there ('ray start --head' prints its address), correct RAY_ADDRESS or --ray-address, or unset "
        "it, and the run uses this machine"
    )
    found = re.fullmatch(r"(?:ray://)?([^\s:/]+|\[[0-9a-fA-F:]+\]):(\d{1,5})", address)
    if found is None:
        raise ValueError(f"the Ray address '{address}' is not HOST:PORT. {mend}")
    host, port = found[1].strip("[]"), int(found[2])
    try:
        socket.create_connection((host, port), CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise ValueError(f"nobody serves the Ray address '{address}' ({error}). {mend}") from error
    if not _speaks_ray(host, port):
        raise ValueError(f"what listens at the Ray address '{address}' is no Ray head: it does not answer. {mend}")


def _speaks_ray(host: str, port: int) -> bool:
    """Whether gRPC, which Ray heads speak, is answered there; True where that is encrypted, and cannot be told."""
    import grpc  # a requirement of Flower

    if os.environ.get("RAY_USE_TLS") == "1":
        return True
    channel = grpc.insecure_channel(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
    try:
        grpc.channel_ready_future(channel).result(timeout=ANSWER_SECONDS)
    except grpc.FutureTimeoutError:
        return False
    finally:
        channel.close()
    return True
