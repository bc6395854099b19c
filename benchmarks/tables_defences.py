"""The table of what defences of gradients hide, guarantee and cost."""

import statistics

from benchmarks.table_parts import Row, markdown, rows, seeds

STATIC = ", static"


def gradient_defences() -> str:
    """One line a defence: the most that an attacker got who does not know it and who does, its epsilon, its cost."""
    found = rows("gradient_defences")
    found += [row for row in rows("gradient_rivals") if not _control(row)]  # controls of the same messages
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


def secure_sums() -> str:
    """What a sum over K clients of one image each shows: one line a data set and K, both attacks, the controls."""
    return _by_cell("images of, clients in the sum", "secure_sums")


def size_as_defence() -> str:
    """The same for more images in a message (b) and more local steps on four (s)."""
    return _by_cell("images of, images (b) or steps (s)", "size_as_defence", "size_as_defence_cifar10")


CONTROLS = ("control: mean image", "control: class mean")


def _by_cell(what: str, *names: str) -> str:
    """One line a cell: the PSNR by seed of every attack, what came back of the strongest's, labels, the controls."""
    found, body = rows(*names), []
    attacks = [each for each in dict.fromkeys(row["attack"] for row in found) if not each.startswith("control")]
    for cell in dict.fromkeys(row["cell"] for row in found):
        by_attack: dict[str, list[Row]] = {}
        for row in found:
            if row["cell"] == cell:
                by_attack.setdefault(row["attack"], []).append(row)
        best = _strongest([row for row in found if row["cell"] == cell and not _control(row)])
        body.append(
            [
                cell.replace("/", ", "),
                f"{sum(row['images'] for row in best)}, {len(best)}",
                *(" / ".join(f"{row['psnr']:.1f}" for row in by_attack.get(each, [])) for each in attacks),
                f"{statistics.fmean(row['success_rate'] for row in best):.0%}",
                f"{statistics.fmean(row['label_accuracy'] for row in best):.0%}",
                *(f"{statistics.fmean(row['psnr'] for row in by_attack[each]):.1f}" for each in CONTROLS),
                f"{statistics.fmean(row['success_rate'] for row in by_attack[CONTROLS[1]]):.0%}",
            ]
        )
    header = [what, "images, seeds", *(f"{each}, PSNR by seed" for each in attacks), "recovered", "labels"]
    return markdown([*header, "mean image", "class mean", "class mean recovers"], body)


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
