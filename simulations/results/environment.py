"""What a run ran on: versions, hardware, code."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from fl_privacy.settings import PlainTable
from fl_privacy.simulations.results.provenance import provenance

PACKAGES = ("fl-privacy", "flwr", "ray", "torch", "torchvision", "numpy", "scipy", "scikit-learn", "pytorch-msssim")

DECIDING = ("torch", "flwr", "numpy", "scipy", "scikit-learn")
"""Those of which another version may give other bits."""


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that decide the numbers."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "missing"
    return found


def deciding() -> dict[str, str]:
    """The versions on which the bits of a run depend."""
    found = versions()
    return {name: found[name] for name in DECIDING}


def hardware() -> PlainTable:
    """The machine, in a few words."""
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "gpus": gpus,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def describe() -> PlainTable:
    """Everything above, as config.json keeps it."""
    return {"versions": versions(), "hardware": hardware(), "provenance": provenance(), "command": sys.argv}
