"""The table of what defences of gradients hide, guarantee and cost."""

import statistics

from benchmarks.table_parts import Row, markdown, rows, seeds

STATIC = ", static"


def gradient_defences() -> str:
    """One line a defence: the most that an attacker got who does not know it and who does, its epsilon, its cost."""
    found = rows("gradient_defences")
    body = []
    for defence in dict.fromkeys(row["defence"] for row in found if not _control(row)):
        mine = [row for row in found if row["defence"] == defence and not _control(row)]
        static = _strongest([row for row in mine if row["attack"].endswith(STATIC)])
        adaptive = _strongest([row for row in mine if not row["attack"].endswith(STATIC)])
        first = mine[0]
        limits = [row["identification_bound"] for row in adaptive if row.get("identification_bound") is not None]
        body.append(
            [
                defence,
                str(sum(row["images"] for row in adaptive)),
                _psnr(static),
                _psnr(adaptive),
                f"{statistics.fmean(row['success_rate'] for row in adaptive):.0%}",
                first["epsilon"] if first["epsilon"] == "none" else f"{first['epsilon']:.3g}",
                f"{statistics.fmean(limits):.0%}" if limits else "",
                f"{statistics.fmean(row['label_accuracy'] for row in adaptive):.0%}",
                f"{statistics.fmean(row['model_accuracy'] for row in adaptive):.1%}",
            ]
        )
    for control in dict.fromkeys(row["attack"] for row in found if _control(row)):
        mine = [row for row in found if row["attack"] == control]
        right = statistics.fmean(row["success_rate"] for row in mine)
        body.append([control, str(sum(row["images"] for row in mine)), "", _psnr(mine), f"{right:.0%}", "", "", "", ""])
    header = [
        "defence",
        f"images, {seeds('gradient_defences')}",
        "strongest static, PSNR by seed",
        "strongest adaptive",
        "recovered",
    ]
    return markdown([*header, "epsilon", "at most (DP)", "labels", "accuracy"], body)


def _control(row: Row) -> bool:
    return str(row["attack"]).startswith("control")


def _strongest(found: list[Row]) -> list[Row]:
    """The rows, one a seed, of the attack whose mean PSNR over seeds is highest."""
    attacks: dict[str, list[Row]] = {}
    for row in found:
        attacks.setdefault(row["attack"], []).append(row)
    return max(attacks.values(), key=lambda mine: statistics.fmean(row["psnr"] for row in mine))


def _psnr(mine: list[Row]) -> str:
    decibels = [row["psnr"] for row in mine]
    name = "" if _control(mine[0]) else f", {mine[0]['attack'].removesuffix(STATIC)}"
    return f"{statistics.fmean(decibels):.1f} ({min(decibels):.1f} to {max(decibels):.1f}){name}"
