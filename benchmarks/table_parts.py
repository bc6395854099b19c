"""What every table of results is made of: the measured rows, their means, and Markdown."""

import json
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
Row = dict[str, Any]


def record(name: str) -> dict[str, Any]:
    """results/NAME.json; without rows where it was not measured."""
    path = ROOT / "results" / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else {"rows": [], "published": []}


def rows(*names: str) -> list[Row]:
    """The measured rows of results/NAME.json, of all of them in turn."""
    return [row for name in names for row in record(name)["rows"]]


def with_missing(table: str, *names: str) -> str:
    """The table with a line of what was asked for and is not measured, where a run was cut short."""
    left = [each for name in names for each in record(name).get("missing", [])]
    return f"{table}\n\nAsked for, and not measured: {'; '.join(left)}." if left else table


def by_arm(name: str) -> dict[tuple[str, str], list[Row]]:
    """The rows of an experiment by condition and attack: one a seed."""
    conditions: dict[tuple[str, str], list[Row]] = {}
    for row in rows(name):
        conditions.setdefault((row["defence"], row["attack"]), []).append(row)
    return conditions


def markdown(header: list[str], body: Iterable[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *body]
    if len(lines) == 2:
        return "*Not measured yet.*"
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def seeds(name: str) -> str:
    """How many seeds results/NAME.json has, for a line whose cells are means over them."""
    count = len({row["seed"] for row in rows(name)})
    return "1 seed" if count == 1 else f"{count} seeds"


def experiments(names: list[str], columns: dict[str, tuple[str, str]]) -> str:
    """One line a condition and attack of these experiments, each value as mean over the seeds; published rows beneath.

    `columns`: heading to (key, format).
    """
    body = []
    for name in names:
        expected = record(name)["published"]
        for (defence, attack), mine in by_arm(name).items():
            blind = attack.startswith("control")
            label = ["", attack] if blind else [defence, attack]
            body += line([name, *label, str(len(mine))], cells(mine, columns))
            for published in expected if not blind else []:
                if published["defence"] == defence and published.get("attack", attack) == attack:
                    body.append([name, f"*{defence}*", "*published*", "", *cells([published], columns)])
        body += ceiling(name, columns)
    return markdown(["experiment", "condition", "attack", "seeds", *columns], body)


def line(label: list[str], found: list[str]) -> list[list[str]]:
    """A line of a table; none where it would say nothing."""
    return [[*label, *found]] if any(found) else []


def ceiling(name: str, columns: dict[str, tuple[str, str]]) -> list[list[str]]:
    """What can be read in the private images themselves, for the table's last line, where somebody measured it."""
    by_seed = {
        row["seed"]: row["class_recognised_originals"] for row in rows(name) if "class_recognised_originals" in row
    }
    found = cells([{"class_recognised": value} for value in by_seed.values()], columns)
    return line([name, "", "the private images themselves", str(len(by_seed))], found)


def cells(mine: list[Row], columns: dict[str, tuple[str, str]]) -> list[str]:
    """The means of rows that differ in their seed alone; empty where nothing was measured.

    Behind them: the lowest and highest seed where they differ, or of one seed's PSNR its 95 % interval over the images.
    """
    found = []
    for key, form in columns.values():
        values = [row[key] for row in mine if row.get(key) is not None]
        cell = form.format(statistics.fmean(values)) if values else ""
        ends = [min(values), max(values)] if len(set(values)) > 1 else []
        if len(values) == 1 and mine[0].get(f"{key}_low") is not None:
            ends = [mine[0][f"{key}_low"], mine[0][f"{key}_high"]]
        found.append(f"{cell} ({form.format(ends[0])} to {form.format(ends[1])})" if ends else cell)
    return found


def grid(corner: str, found: Iterable[tuple[str, str, str]]) -> str:
    """One line and one column a name, in the order of their first cell, from (line, column, cell)."""
    cells = {(line, column): cell for line, column, cell in found}
    columns = list(dict.fromkeys(column for _, column in cells))
    lines = dict.fromkeys(line for line, _ in cells)
    return markdown([corner, *columns], [[line, *(cells.get((line, c), "") for c in columns)] for line in lines])


def means(name: str, form: str, *keys: str) -> dict[tuple[str, str], str]:
    """By condition and attack of an experiment: the means of these values over the seeds, written by `form`."""
    return {
        condition: form.format(*(statistics.fmean(row[key] for row in mine) for key in keys))
        for condition, mine in by_arm(name).items()
        if all(row.get(key) is not None for row in mine for key in keys)
    }
