"""The report stage: results.json, samples.jsonl and the figures."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from fl_privacy.observation import Observation
from fl_privacy.settings import PlainTable, ReadTable
from fl_privacy.simulations.config.published import beside
from fl_privacy.simulations.config.resolve import channel_of
from fl_privacy.simulations.federation import Federation
from fl_privacy.simulations.report.gallery import draw
from fl_privacy.simulations.report.result import Result
from fl_privacy.simulations.report.verdict import verdicts
from fl_privacy.simulations.results import files, layout, storage
from fl_privacy.simulations.results.records import Key, Scored
from fl_privacy.simulations.scoring import faults, rows, summary


def write(
    federation: Federation,
    folder: Path,
    conditions: Sequence[ReadTable],
    seen: Mapping[Key, Observation],
    scored: Sequence[Scored],
    payloads: Mapping[str, str],
    originals: bool,
    figures: bool = True,
) -> Result:
    """Write results.json, samples.jsonl and, if wanted, figures; private images only where `originals` says so."""
    samples = rows(federation, scored)
    measured = {
        condition["defence"]: condition["rounds"][-1]["evaluate_metrics_serverapp"] or {} for condition in conditions
    }
    averages = summary(channel_of(federation.experiment), federation, seen, scored, measured)
    results = {
        "conditions": conditions,
        "summary": averages,
        "verdicts": [asdict(each) for each in verdicts(federation.experiment, averages)],
        "published": beside(federation.experiment),
        "digests": _digests(samples, scored, payloads),
        "not_valid": faults(federation, seen, scored),
    }
    files.write_jsonl(folder / layout.SAMPLES, samples)
    files.write_json(folder / layout.RESULTS, results)  # before the figures: `report` can draw these again
    if figures:
        draw(federation, folder, seen, scored, averages, originals)
    return Result.of(folder, federation.experiment)


def _digests(samples: Sequence[ReadTable], scored: Sequence[Scored], payloads: Mapping[str, str]) -> PlainTable:
    """SHA-256 of every payload and reconstruction, and of all rows; times are no part of any of them."""
    timeless = [{key: value for key, value in row.items() if key != "seconds"} for row in samples]
    guesses = {
        f"{each.attack}/{each.key.stem}": storage.guess_digest(each.guess) for each in scored if each.control is None
    }
    text = json.dumps(timeless, sort_keys=True)
    return {"payloads": payloads, "reconstructions": guesses, "samples": hashlib.sha256(text.encode()).hexdigest()}
