"""A run in a folder on a disk of its own, that is too small at first: python small_disk.py FOLDER KILOBYTES TOML

Only in mounts of one's own (`namespaces.inside`). Prints what happened as JSON.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

from fl_privacy import checkpoints

RUN = """
from fl_privacy.strategies import resumable
from fl_privacy.simulations.cli import main

resumable.EVERY_SECONDS = 0.0
main()
"""
"""The command, with a checkpoint after every round."""


def run(toml: str, out: Path, *more: str) -> dict[str, object]:
    words = [sys.executable, "-c", RUN, "run", toml, "--out", str(out), "--backend", "local", *more]
    done = subprocess.run(words, capture_output=True, text=True)
    return {"code": done.returncode, "said": done.stdout + done.stderr}


def mount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(folder)], check=True)


def observed(out: Path) -> dict[str, int]:
    """The files of observations, each with a number that a new one would not have."""
    return {path.name: path.stat().st_ino for path in (out / "observations").glob("*_r*")}


def main(folder: Path, kilobytes: str, toml: str) -> None:
    told: dict[str, object] = {}
    folder.mkdir()
    mount(folder, "ro")
    told["read-only"] = run(toml, folder / "out")
    subprocess.run(["umount", str(folder)], check=True)
    mount(folder, f"size={kilobytes}k")
    out = folder / "out"
    told["full"] = run(toml, out)
    told["round"] = reached = checkpoints.load(out / "checkpoints" / "0.safetensors")[1]["round"]
    finished = {name: number for name, number in observed(out).items() if int(name.split("_")[1][1:]) <= reached}
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
    told["read-only in the middle"] = run(toml, out, "--resume")
    subprocess.run(["mount", "-o", "remount,rw,size=100m", str(folder)], check=True)
    told["resumed"] = run(toml, out, "--resume")
    after = observed(out)
    told["kept"] = bool(finished) and all(after[name] == number for name, number in finished.items())
    told["digests"] = json.loads((out / "results.json").read_text())["digests"]
    shutil.rmtree(out)
    print(json.dumps(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
