"""Runs that are killed in one of their writes, and what runs say."""

from __future__ import annotations

import json
import os
from pathlib import Path

from fl_privacy import atomic
from fl_privacy.simulations.run.pipeline import simulate


class Killed(BaseException):
    """What stands for a SIGKILL: nothing in the suite catches it."""


def quiet(text):
    """Progress that nobody reads."""


def killing(monkeypatch, at):
    """The process dies in its `at`-th write, with the draft on the disk; the files that were written before."""
    written, replace = [], os.replace

    def write(draft, path):
        if len(written) + 1 == at:
            (Path(path).parent / f".{Path(path).name}.0.tmp").write_bytes(b"half")
            raise Killed
        written.append(f"{Path(path).parent.name}/{Path(path).name}")
        replace(draft, path)

    monkeypatch.setattr(atomic.os, "replace", write)
    return written


def whole(experiment, out, **choices):
    return simulate(experiment, out=out, backend="local", note=quiet, **choices)


def told(folder):
    """All that a run says, but for the seconds that things took."""
    results = json.loads((folder / "results.json").read_text())
    rows = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    rounds = json.loads((folder / "rounds.json").read_text())
    timeless = [
        {key: value for key, value in row.items() if "seconds" not in key} for row in (*results["summary"], *rows)
    ]
    return results["digests"], timeless, rounds
