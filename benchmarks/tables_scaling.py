"""The tables of what may go wrong, what a federation needs, and what the simulation costs."""

from benchmarks.planning import UNITS, Size, plan
from benchmarks.table_parts import markdown, rows

ON_A_GPU = {"step_s": 50.0, "grnn_iteration_s": 50.0, "inverting_iteration_s": 50.0}
SCENARIOS: dict[str, tuple[dict[str, float], Size]] = {
    "2 cores, as measured": ({}, Size(workers=2)),
    "4 nodes of 32 such cores": ({}, Size(workers=128, nodes=4)),
    "8 GPUs, 4 workers each": (ON_A_GPU, Size(workers=32)),
}
"""By name: how many times as quick as measured these units are taken to be, and the size."""


def scorecard() -> str:
    """One line a check: what became of ours, and of plain Flower."""
    body = []
    for row in rows("reliability"):
        took = "; ".join(f"{what}: {seconds:g} s" for what, seconds in row.get("recovery_s", {}).items())
        skipped = f", {row['skipped']} skipped" if row.get("skipped") else ""
        plain = f"**{row['plain']}**: {row['plain_why']}" if "plain" in row else "not run"
        body.append([str(row["check"]), row["wanted"], f"{row['result']}{skipped}", took, row["note"], plain])
    return markdown(["#", "what has to happen", "fl-privacy", "recovery", "left out", "plain Flower"], body)


def scorecard_totals() -> str:
    """How many passed."""
    found = rows("reliability")
    passed = sum(row["result"] == "passed" for row in found)
    plain = {word: sum(row.get("plain") == word for row in found) for word in ("passed", "failed", "not offered")}
    told = ", ".join(f"{count} {word}" for word, count in plain.items())
    left = len(found) - sum(plain.values())
    rest = f", {left} not run" if left else ""
    return f"fl-privacy: {passed} of {len(found)} passed. Plain Flower: {told}{rest}."


def planning_units() -> str:
    """The measured unit costs."""
    body = [
        [f"`{row['unit']}`", row["what"], f"{row['value']:.4g}", f"{row['low']:.4g} to {row['high']:.4g}"]
        for row in rows("planning")
    ]
    return markdown(["unit", "what", "measured", "range"], body)


def planning() -> str:
    """What follows from them: one column a scenario."""
    units = {row["unit"]: row["value"] for row in rows("planning")}
    if not units.keys() >= UNITS.keys():
        return markdown([], [])
    plans = [
        plan({name: value / quicker.get(name, 1.0) for name, value in units.items()}, size)
        for quicker, size in SCENARIOS.values()
    ]
    names = {
        "start_s": "start, s",
        "round_s": "a round, s",
        "rounds_s": "100 rounds, hours",
        "attack_grnn_s": "`grnn`, 8000 iterations a message, hours",
        "attack_inverting_s": "`inverting_gradients`, as many, hours",
        "driver_gb": "memory of the server's process, GB",
        "node_gb": "memory of a node's workers, GB",
        "disk_gb": "disk of the attacked rounds, GB",
    }
    hours = {"rounds_s", "attack_grnn_s", "attack_inverting_s"}
    body = []
    for key, said in names.items():
        unit = 3600 if key in hours else 1
        body.append([said, *(f"{each[key] / unit:.3g}" for each in plans)])
    return markdown(["", *SCENARIOS], body)


def throughput() -> str:
    """Seconds of the same work by each way, and how they compare."""
    body = []
    for row in rows("throughput"):
        word = "times the bare loop" if row["what"] == "rounds" else "times as quick as one worker"
        seconds = f"{row['seconds']:.3g} s ({row['low']:.3g} to {row['high']:.3g})"
        body.append([row["what"], row["of"], row["how"], seconds, f"{row['times']:.2f} {word}"])
    return markdown(["what", "of", "how", "seconds", "compared"], body)
