"""Rewrite the README's result tables from the files in results/; with --check, fail if they differ.

    python -m benchmarks.tables [--check]

A table stands between `<!-- table: NAME -->` and `<!-- end -->`.
"""

import argparse
import json
import re
import statistics
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
Row = dict[str, Any]


def rows(name: str) -> list[Row]:
    """The rows of results/NAME.json; none where it was not measured."""
    path = ROOT / "results" / f"{name}.json"
    return json.loads(path.read_text())["rows"] if path.exists() else []


def markdown(header: list[str], body: Iterable[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *body]
    if len(lines) == 2:
        return "*Not measured yet.*"
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def grnn_quality() -> str:
    body = []
    for model in ("lenet_grnn", "lenet_dlg"):
        for batch in (1, 8):
            found = rows(f"grnn_quality_{model}_b{batch}")
            for attack in ("grnn_as_published", "grnn", "control: mean image", "control: random guess"):
                body += grnn_line([row for row in found if row["attack"] == attack])
            longer = rows(f"grnn_quality_{model}_b{batch}_8000")
            body += grnn_line([row for row in longer if row["attack"] == "grnn_as_published"])
    header = ["victim", "batch", "attack", "iterations", "images, seeds", "median PSNR", "by seed", "worst by seed"]
    return markdown([*header, "labels", "CPU s a seed"], body)


def grnn_line(mine: list[Row]) -> list[list[str]]:
    """One line of the table from the rows of one attack, one a seed; none where it was not measured."""
    if not mine:
        return []
    labels = [row["label_accuracy"] for row in mine if "label_accuracy" in row]
    seconds = [row["cpu_seconds"] for row in mine if "cpu_seconds" in row]
    line = [
        mine[0]["model"],
        str(mine[0]["batch"]),
        mine[0]["attack"],
        str(mine[0].get("iterations", "")),
        f"{sum(row['images'] for row in mine)}, {len(mine)}",
        f"{statistics.median(decibels):.1f}" if (decibels := [v for row in mine for v in row.get("psnr", [])]) else "",
        " / ".join(f"{row['psnr_median']:.1f}" for row in mine),
        " / ".join(f"{row['psnr_worst']:.1f}" for row in mine),
        f"{100 * statistics.fmean(labels):.1f} %" if labels else "",
        f"{statistics.fmean(seconds):.0f}" if seconds else "",
    ]
    return [line]


def attack_speed() -> str:
    found = rows("attack_speed")
    body = [
        [
            row["model"],
            str(row["batch"]),
            str(row["victims"]),
            row["attack"],
            f"{row['ms_per_iteration_and_victim']:.2f}",
            f"{row['times_faster_than_textbook']:.2f}",
        ]
        for row in found
    ]
    return markdown(["victim", "batch", "victims at once", "loop", "ms a victim", "times faster"], body)


def gradient_noise() -> str:
    """One line a defence and control, averaged over the seeds, with the lowest and highest seed."""
    lines: dict[str, list[Row]] = {}
    for row in rows("gradient_noise"):
        name = row["attack"] if row["attack"].startswith("control") else row["defence"]
        lines.setdefault(name, []).append(row)
    body = []
    for name, mine in lines.items():
        accuracies = [row["model_accuracy"] for row in mine if row.get("model_accuracy") is not None]
        psnr = [row["psnr"] for row in mine]
        body.append(
            [
                name,
                str(sum(row["images"] for row in mine)),
                f"{statistics.fmean(psnr):.1f} ({min(psnr):.1f} to {max(psnr):.1f})",
                f"{statistics.fmean(row['ssim'] for row in mine):.2f}",
                f"{100 * statistics.fmean(row['label_accuracy'] for row in mine):.0f} %",
                f"{statistics.fmean(row['loss_at_guess'] for row in mine):.2f}",
                f"{statistics.fmean(row['loss_at_truth'] for row in mine):.2f}",
                f"{100 * statistics.fmean(accuracies):.1f} %" if accuracies else "",
            ]
        )
    header = ["defence", "images", "PSNR, by seed", "SSIM", "labels", "loss at guess", "at truth", "model accuracy"]
    return markdown(header, body)


def detection() -> str:
    """One line a kind of model, with both detectors side by side."""
    found = [row for row in rows("detection") if "detector" in row]
    lines: dict[tuple[str, int, str], dict[str, Row]] = {}
    for row in found:
        lines.setdefault((row["dataset"], row["classes"], row["kind"]), {})[row["detector"]] = row
    body = []
    for (dataset, classes, kind), by in lines.items():
        first = by["likelihood"]
        line = [dataset, str(classes), kind, str(first["models"]), f"{100 * first['accuracy']:.1f} %"]
        for detector, digits in (("likelihood", 3), ("entropy", 2)):
            row = by[detector]
            low, high = row["auroc_95"]
            line.append(f"{row['mean']:.{digits}f} ({row['lowest']:.{digits}f} to {row['highest']:.{digits}f})")
            line.append(f"{round(row['flagged'] * row['models'])} of {row['models']}")
            line.append(f"{row['auroc']:.2f} ({low:.2f} to {high:.2f})")
        body.append(line)
    header = ["data", "classes", "model", "models", "accuracy", "1 - S (range)", "flagged", "AUROC (95 %)"]
    return markdown([*header, "entropy, bits (range)", "flagged", "AUROC (95 %)"], body)


def experiments(names: list[str], columns: dict[str, tuple[str, str]], shown: list[str] | None = None) -> str:
    """One line an arm and attack of these experiments, each value as mean over the seeds; published rows beneath.

    `columns`: heading to (key, format). `shown`: the arms to show; all of them by default.
    """
    body = []
    for name in names:
        path = ROOT / "results" / f"{name}.json"
        if not path.exists():
            continue
        record = json.loads(path.read_text())
        lines: dict[tuple[str, str], list[Row]] = {}
        for row in record["rows"]:
            lines.setdefault((row["defence"], row["attack"]), []).append(row)
        for (defence, attack), mine in lines.items():
            blind = attack.startswith("control")
            if blind or shown is None or defence in shown:
                label = ["", attack] if blind else [defence, attack]
                body.append([name, *label, str(len(mine)), *cells(mine, columns)])
            for published in record["expected"] if not blind else []:
                if published["defence"] == defence and published.get("attack", attack) == attack:
                    body.append([name, f"*{defence}*", "*published*", "", *cells([published], columns)])
    return markdown(["experiment", "arm", "attack", "seeds", *columns], body)


def cells(mine: list[Row], columns: dict[str, tuple[str, str]]) -> list[str]:
    """The means of rows that differ in their seed alone; empty where nothing was measured."""
    found = []
    for key, form in columns.values():
        values = [row[key] for row in mine if row.get(key) is not None]
        found.append(form.format(statistics.fmean(values)) if values else "")
    return found


def vicious() -> str:
    columns = {
        "PSNR": ("psnr", "{:.1f}"),
        "PSNR pooled": ("pooled_psnr", "{:.2f}"),
        "SSIM": ("ssim", "{:.3f}"),
        "R as published": ("risk_published", "{:.3f}"),
        "R well-posed": ("risk_well_posed", "{:.3f}"),
        "accuracy": ("model_accuracy", "{:.2%}"),
    }
    return experiments(["vicious_mnist", "vicious_fashion"], columns)


def titcombe() -> str:
    columns = {
        "accuracy": ("model_accuracy", "{:.2%}"),
        "PSNR": ("psnr", "{:.1f}"),
        "SSIM": ("ssim", "{:.3f}"),
        "dCor x, z (squared, n = 32)": ("model_dcor", "{:.3f}"),
        "its floor": ("model_dcor_floor", "{:.3f}"),
        "dCor guess": ("dcor_guess", "{:.3f}"),
        "class read": ("class_read", "{:.1%}"),
    }
    return experiments(["titcombe_undefended"], columns)


TABLES: dict[str, Callable[[], str]] = {
    "grnn_quality": grnn_quality,
    "attack_speed": attack_speed,
    "gradient_noise": gradient_noise,
    "detection": detection,
    "vicious": vicious,
    "titcombe": titcombe,
}


def filled(text: str) -> str:
    """The README with every table made anew."""

    def table(match: re.Match[str]) -> str:
        return f"<!-- table: {match[1]} -->\n{TABLES[match[1]]()}\n<!-- end -->"

    return re.sub(r"<!-- table: (\w+) -->\n.*?<!-- end -->", table, text, flags=re.DOTALL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    readme = ROOT / "README.md"
    text = readme.read_text()
    if parser.parse_args().check:
        same = filled(text) == text
        sys.exit(0 if same else "README.md's tables differ from results/: run python -m benchmarks.tables")
    readme.write_text(filled(text))


if __name__ == "__main__":
    main()
