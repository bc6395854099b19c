"""The way past Ray on one machine: mini-batches between client and server process over a Unix socket.

A call by Ray costs milliseconds of its own, this some tenths of one. The socket's name is in Linux's abstract
namespace: it is no file, ends with the server's process, however that ends, and is reached from this machine alone.
Both ends ask the kernel whether the other is of the same user. A frame is one line of JSON, then the tensors' bytes.
"""

from __future__ import annotations

import json
import math
import os
import socket
import struct
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO

import torch
from torch import Tensor

from fl_privacy.strategies.split.link import ClientTransport
from fl_privacy.strategies.split.server import ClientStep

Serve = Callable[[ClientStep, str, Sequence[Tensor]], Sequence[Tensor]]

CALLS = ("step", "forward", "backward")
NUMBERS = ("float16", "bfloat16", "float32", "float64", "uint8", "int8", "int16", "int32", "int64", "bool")
DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in NUMBERS}
MOST_BYTES = 2**30  # of a frame's tensors, as in the guard of messages
LONGEST_LINE, LONGEST_REASON = 2**16, 5000
ROOM = 2**20  # that the kernel keeps for bytes under way: a sender seldom waits for its reader


class MalformedFrame(ValueError):
    """Bytes that are no frame, or half of one."""


class RefusedByServer(RuntimeError):
    """The split server raised an error at this call; its name and words."""


def listen(serve: Serve, settle: Callable[[], None] = lambda: None) -> str | None:
    """Answer calls by `serve(turn, call, tensors)`, on threads of their own, until this process ends.

    `settle` is called when an answer is on its way: what the client need not wait for. Returns the name by which `dial`
    reaches it, None on a system that has no such sockets.
    """
    name = f"fl-privacy-{uuid.uuid4().hex}"
    if not hasattr(socket, "SO_PEERCRED"):
        return None
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(f"\0{name}")
        listener.listen()
    except OSError:  # forbidden here
        listener.close()
        return None
    threading.Thread(target=_accept, args=(listener, serve, settle), daemon=True).start()
    return name


def _accept(listener: socket.socket, serve: Serve, settle: Callable[[], None]) -> None:
    with listener:  # closed if this fails, so that no client waits for it
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=_attend, args=(connection, serve, settle), daemon=True).start()


def _attend(connection: socket.socket, serve: Serve, settle: Callable[[], None]) -> None:
    """Answer one client until it goes, or sends what is no frame."""
    with suppress(OSError), connection, connection.makefile("rb") as stream:
        if not _is_own(connection):
            return
        _make_room(connection)
        while True:
            try:
                frame = receive(stream)
                if frame is None:
                    return
                turn, call = _call(frame[0])
            except MalformedFrame as error:
                send(connection, _reason(error))
                return
            try:
                answer = serve(turn, call, frame[1])
            except Exception as error:
                send(connection, _reason(error))
            else:
                send(connection, {}, answer)
                settle()


def _reason(error: Exception) -> dict[str, str]:
    return {"error": f"{type(error).__name__}: {error}"[:LONGEST_REASON]}


@contextmanager
def dial(name: str | None, seconds: float) -> Iterator[Callable[[ClientStep], ClientTransport] | None]:
    """The client's end of the socket of this name, which waits `seconds` for an answer; None: it is not reached.

    So it is on another machine, or in another container of this one.
    """
    connection = _reached(name, seconds) if name else None
    if connection is None:
        yield None
        return
    with connection, connection.makefile("rb") as stream:
        yield lambda turn: ClientTransport(lambda call, tensors: _ask(connection, stream, turn, call, tensors))


def _reached(name: str, seconds: float) -> socket.socket | None:
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.settimeout(seconds)
        connection.connect(f"\0{name}")
        if not _is_own(connection):
            raise PermissionError("it is another user's")
        _make_room(connection)
    except OSError:
        connection.close()
        return None
    return connection


def _ask(
    connection: socket.socket, stream: BinaryIO, turn: ClientStep, call: str, tensors: Sequence[Tensor]
) -> list[Tensor]:
    try:
        send(connection, {"turn": turn, "call": call}, tensors)
        frame = receive(stream)
    except ConnectionError:
        frame = None
    if frame is None:
        raise ConnectionError("the split server's process has ended")
    if "error" in frame[0]:
        raise RefusedByServer(frame[0]["error"])
    return frame[1]


def _make_room(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, ROOM)


def _is_own(connection: socket.socket) -> bool:
    """Whether the process at the other end is this user's."""
    facts = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, user, _ = struct.unpack("3i", facts)
    return bool(user == os.getuid())


def send(connection: socket.socket, header: Mapping[str, object], tensors: Sequence[Tensor] = ()) -> None:
    """Write one frame."""
    here = [tensor.detach().cpu().contiguous() for tensor in tensors]
    described = [[str(tensor.dtype).removeprefix("torch."), list(tensor.shape)] for tensor in here]
    parts = [memoryview(json.dumps({**header, "tensors": described}).encode() + b"\n"), *map(_bytes, here)]
    sent = connection.sendmsg(parts)  # all at once: the other end wakes once
    for part in parts:
        if sent < len(part):
            connection.sendall(part[sent:])
        sent = max(0, sent - len(part))


def receive(stream: BinaryIO) -> tuple[dict[str, Any], list[Tensor]] | None:
    """Read one frame: its header and tensors; None when the other end is closed.

    Raises:
        MalformedFrame: what comes is no frame, or ends within one.
    """
    line = stream.readline(LONGEST_LINE)
    if not line:
        return None
    if not line.endswith(b"\n"):
        raise MalformedFrame("the frame ends within its header, or that is too long")
    try:
        header = json.loads(line)
        claimed = [(str(name), tuple(shape)) for name, shape in header["tensors"]]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise MalformedFrame(f"the frame's header is none of this link: {type(error).__name__}") from error
    _check(claimed)
    tensors = [torch.empty(shape, dtype=DTYPES[name]) for name, shape in claimed]
    for tensor in tensors:
        if stream.readinto(_bytes(tensor)) < tensor.nbytes:  # type: ignore[attr-defined]
            raise MalformedFrame("the frame ends within its tensors")
    return header, tensors


def _bytes(tensor: Tensor) -> memoryview:
    """The memory of a contiguous tensor on the CPU."""
    found: memoryview = tensor.reshape(-1).view(torch.uint8).numpy().data
    return found


def _check(claimed: Sequence[tuple[str, tuple[object, ...]]]) -> None:
    """Refuse tensors that are none of this link's, before there is memory for them."""
    size = 0
    for name, shape in claimed:
        sides = [side for side in shape if type(side) is int and side >= 0]
        if name not in DTYPES or len(sides) < len(shape):
            raise MalformedFrame(f"a tensor of dtype {name[:40]} and shape {str(shape)[:80]} is none of this link")
        size += math.prod(sides) * DTYPES[name].itemsize
    if size > MOST_BYTES:
        raise MalformedFrame(f"the frame claims {size} bytes of tensors, and {MOST_BYTES} are the most")


def _call(header: Mapping[str, Any]) -> tuple[ClientStep, str]:
    """Whose turn a header claims, and which call."""
    turn, call = header.get("turn"), header.get("call")
    if not (isinstance(turn, list) and len(turn) == 2 and all(type(number) is int for number in turn)):
        raise MalformedFrame(f"{str(turn)[:80]} is no turn, which is a client and a step")
    if call not in CALLS:
        raise MalformedFrame(f"{str(call)[:40]} is no call of this link: {', '.join(CALLS)}")
    return (turn[0], turn[1]), call
