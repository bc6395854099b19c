"""How to make a number again: the command, the versions, the hashes."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from fl_privacy.settings import ReadTable
from fl_privacy.simulations.report.page import Block, Command, Paragraphs, Section, Terms

COMMANDS = ("fl-privacy", "cli/__main__.py")
"""How the path of the program ends, installed or run as a module."""


def reproduce(environment: ReadTable, hashes: Mapping[str, str], python: str, note: str) -> Section:
    """The section for what ran in this `environment` (as `environment.describe` has it).

    `python` is the same as code, shown where no command of `fl-privacy` was typed; `note` says what is needed beside.
    """
    argv = [str(each) for each in environment.get("command", ())]
    typed = typed_command(argv)
    blocks: list[Block] = [Command(typed or python)]
    if note:
        blocks.append(Paragraphs([note]))
    blocks.append(Terms({**_code(environment.get("provenance", {})), **hashes}))
    blocks.append(Terms({**_machine(environment.get("hardware", {})), **_versions(environment.get("versions", {}))}))
    return Section("How to reproduce it", blocks)


def typed_command(argv: Sequence[str]) -> str:
    """What was typed, if that was a command of `fl-privacy`; else nothing."""
    if len(argv) < 2 or not Path(argv[0]).as_posix().endswith(COMMANDS):
        return ""
    return shlex.join(["fl-privacy", *argv[1:]])


def _code(provenance: ReadTable) -> dict[str, str]:
    names = {"version": "fl-privacy", "commit": "commit", "source": "SHA-256 of its code"}
    return {words: str(provenance[key]) for key, words in names.items() if provenance.get(key)}


def _machine(hardware: ReadTable) -> dict[str, str]:
    if not hardware:
        return {}
    gpus = ", ".join(map(str, hardware.get("gpus", ()))) or "no GPU"
    return {"machine": f"{hardware.get('system')}, {hardware.get('processor')}, {hardware.get('cores')} cores, {gpus}"}


def _versions(versions: ReadTable) -> dict[str, str]:
    shown = [f"{name} {number}" for name, number in versions.items() if name != "fl-privacy"]
    return {"versions": ", ".join(shown)} if shown else {}
