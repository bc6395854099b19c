"""How a measurement is written down: command, seeds, versions, hardware, rows."""

import argparse
import json
import os
import platform
import shlex
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fl_privacy.atomic import write_atomic
from fl_privacy.simulations.results.provenance import provenance


def hardware() -> dict[str, Any]:
    """The processor, its core count and the accelerator, if any."""
    import torch

    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text().splitlines()
        names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
        model = names[0] if names else model
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"cpu": model, "cores": os.cpu_count(), "gpu": gpu, "torch_threads": torch.get_num_threads()}


def write(path: Path, rows: list[dict[str, Any]], *, settings: dict[str, Any], **facts: Any) -> None:
    """Write rows with all that is needed to make them again, atomically: settings, code, versions, hardware."""
    import torch

    names = ["flwr", "ray", "torchvision", "numpy", "pytorch-msssim"]
    record = {
        "command": shlex.join(["python", "-m", _module(), *_arguments()]),
        "settings": settings,
        **facts,
        "provenance": provenance(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, **{n: version(n) for n in names}},
        "hardware": hardware(),
        "rows": rows,
    }
    write_atomic(path, (json.dumps(record, indent=1) + "\n").encode())


def options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The command's own settings: all that was asked for but for where things lie."""
    return {key: value for key, value in vars(arguments).items() if key not in ("out", "data_root", "cache", "keep")}


def _arguments() -> list[str]:
    """What the command was given, but for where this machine keeps its data sets."""
    given = sys.argv[1:]
    return ["DATA" if before == "--data-root" else word for before, word in zip(["", *given], given, strict=False)]


def _module() -> str:
    spec = sys.modules["__main__"].__spec__
    return spec.name if spec else sys.argv[0]
