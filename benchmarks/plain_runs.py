"""Plain Flower's own simulation under the faults of the scorecard that need a run."""

from __future__ import annotations

import functools
import os
import random
import resource
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from benchmarks.plain_app import NODES, Played, all_raise, die_once, hang, play, raise_and_exit, session
from benchmarks.plain_outcome import Outcome, judged, not_offered
from fl_privacy.simulations.backends.leftovers import processes

DEADLINE, HANGS, GRACE = 10.0, 30.0, 10.0


def killed_worker(folder: Path) -> dict[int, Outcome]:
    played = play(functools.partial(die_once, folder / "died"))
    words = f"valid replies + errors a round: {played.words}; {played.lost} client-rounds lost by one killed worker"
    return {1: judged(_whole(played, 4) and played.lost <= 1, words)}


def raising_clients(folder: Path) -> dict[int, Outcome]:
    some, everyone = play(raise_and_exit), play(all_raise, rounds=1)
    named = any("the disk of client 1 is gone" in reason for reason in some.reasons)
    words = (
        f"one raises in round 2, one calls sys.exit in round 3, valid + errors: {some.words}; the first reason is "
        f"{'' if named else 'not '}named; where all raise, the run {'fails' if everyone.raised else 'ends as usual'}"
    )
    return {2: judged(named and some.lost <= 2 and bool(everyone.raised), words)}


def hanging_client(folder: Path) -> dict[int, Outcome]:
    played = play(functools.partial(hang, HANGS), rounds=2, timeout=DEADLINE)
    words = f"deadline {DEADLINE:g} s, client asleep for {HANGS:g} s, valid + errors: {played.words}"
    counted = len(played.rounds) == 2 and played.rounds[-1][1] == NODES
    return {
        5: judged(counted and played.seconds < HANGS, f"{words}; its worker is not freed, and the run waits for it"),
        6: judged(counted, f"{words}; the lost client is in neither number" if not counted else words),
    }


def same_seed(folder: Path) -> dict[int, Outcome]:
    found = []
    for _ in range(2):
        random.seed(0)
        found.append(play(rounds=3, fraction_train=0.5).digest)
    words = "no seed of a run; two runs with every generator seeded, half of the clients a round: "
    return {12: not_offered(words + f"{len(set(found))} different model{'s' * (len(set(found)) > 1)}")}


def long_run(folder: Path) -> dict[int, Outcome]:
    """30 rounds of 8 clients, messages of 1.2 MB, as ours, in a process that has torch loaded, as ours has."""
    import torch  # noqa: F401 -- a share of a process that has nothing else would say less

    held, spilled, places = list[int](), list[Path](), list[Path]()

    def look(round: int) -> None:
        held.append(int(Path("/proc/self/statm").read_text().split()[1]))
        places.append(session())
        spilled.extend(places[-1].glob("**/ray_spilled_objects*/*"))

    played = play(rounds=30, nodes=8, size=300_000, after=look)
    growth = max(held[-10:]) / max(held[:10]) - 1 if len(held) == 30 else float("nan")
    stays = "stays" if places and places[0].exists() else "is removed"
    grown = (max(held[-10:]) - max(held[:10])) * resource.getpagesize() / 1e6 if held else float("nan")
    words = f"the driver grew by {grown:.0f} MB ({growth:.1%}) after ten of 30 rounds, {len(spilled)} files spilled"
    return {23: judged(_whole(played, 30) and growth < 0.05 and not spilled, f"{words}; Ray's folder in /tmp {stays}")}


def leftovers(folder: Path) -> dict[int, Outcome]:
    """What is left ten seconds after a run was told to end, in three ways at once."""
    ways = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
    command = [sys.executable, "-m", "benchmarks.plain_runs"]
    marks = [folder / how.name for how in ways]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        runs = [subprocess.Popen([*command, str(mark)], stderr=subprocess.DEVNULL) for mark in marks]
    finally:
        signal.signal(signal.SIGINT, before)
    end = time.monotonic() + 35
    while not all(mark.exists() for mark in marks) and time.monotonic() < end:
        time.sleep(0.1)
    for run, how in zip(runs, ways, strict=True):
        run.send_signal(how)
    time.sleep(GRACE)
    began = all(mark.exists() for mark in marks)
    left = {how.name: _of(run.pid) for how, run in zip(ways, runs, strict=True)}
    for pid in (*(run.pid for run in runs), *(pid for pids in left.values() for pid in pids)):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    for run in runs:
        run.wait()
    if not began:
        raise TimeoutError("the runs had not begun in time")
    told = ", ".join(f"{name} {len(pids)}" for name, pids in left.items())
    clean = not left["SIGINT"] and not left["SIGTERM"]
    return {24: judged(clean, f"processes left {GRACE:g} s later (SIGKILL not counted): {told}")}


def without_network(folder: Path) -> dict[int, Outcome]:
    inside = [
        "unshare",
        "-rn",
        sys.executable,
        str(Path("tests/namespaces.py").absolute()),
        "-m",
        "benchmarks.plain_runs",
    ]
    done = subprocess.run([*inside, str(folder / "mark"), "2"], capture_output=True, text=True)
    words = "a whole run in a namespace without network; telemetry and the update check are on by default"
    return {27: judged(done.returncode == 0 and (folder / "mark").exists(), words)}


def _whole(played: Played, rounds: int) -> bool:
    return len(played.rounds) == rounds and not played.raised


def _of(driver: int) -> list[int]:
    """The processes of the Ray sessions that this process has started."""
    return [pid for folder in Path("/tmp/ray").glob(f"session_*_{driver}") for pid in processes(folder)]


def _mark(mark: Path, round: int) -> None:
    mark.write_text(str(session()))


def main() -> None:
    """Play until somebody ends it, or for some rounds, and leave a mark of the session after each."""
    mark, *rounds = sys.argv[1:]
    played = play(rounds=int(rounds[0]) if rounds else 10**6, after=functools.partial(_mark, Path(mark)))
    sys.exit(bool(played.raised))


if __name__ == "__main__":
    main()
