"""List the result files whose code or settings have changed since they were measured: python -m benchmarks.stale"""

import json
from pathlib import Path
from typing import Any

from benchmarks.experiment import chosen, shared_settings
from fl_privacy.settings import UnknownName
from fl_privacy.simulations.results.provenance import installed


def changed(record: dict[str, Any], source: str) -> list[str]:
    """What has changed since `record` was measured, in words; `source` is the hash of today's code."""
    made = record.get("provenance", {}).get("source")
    found = [] if made == source else ["code" if made else "code not recorded"]
    words = record.get("command", "").split()
    settings = record.get("settings")
    if settings is None:
        return [*found, "settings not recorded"]
    if words[2:3] != ["benchmarks.experiment"]:
        return found
    try:
        cells, changes = record.get("cells", []), record.get("changes", [])
        now = shared_settings(chosen(words[3], cells, changes, record.get("profile")))
    except (UnknownName, ValueError, OSError) as error:
        return [*found, f"the experiment does not load any more: {error}"]
    differing = sorted(key for key in now.keys() | settings.keys() if now.get(key) != settings.get(key))
    return [*found, *([f"settings: {', '.join(differing)}"] if differing else [])]


def main() -> None:
    for path in sorted(Path("results").glob("*.json")):
        if found := changed(json.loads(path.read_text()), installed()["source"]):
            print(f"{path}: {'; '.join(found)}")


if __name__ == "__main__":
    main()
