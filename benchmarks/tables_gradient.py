"""The tables of the gradient channel."""

import statistics
from typing import Any

from benchmarks.table_parts import Row, grid, markdown, record, rows, with_missing

BATCHES = ("batches", "batches_seed0", "batches_seed1", "batches_seed2", "batches_long")


def grnn_quality() -> str:
    body = []
    for model in ("lenet_grnn", "lenet_dlg"):
        for batch in (1, 8):
            found = rows(f"grnn_quality_{model}_b{batch}")
            for attack in (
                "grnn_as_published",
                "grnn",
                "control: class mean",
                "control: mean image",
                "control: random guess",
            ):
                body += grnn_line([row for row in found if row["attack"] == attack])
            for kind in ("map", "fast"):
                measured = record(f"grnn_quality_{model}_b{batch}_{kind}")
                together = measured["rows"]
                body += grnn_line([row | {"attack": "grnn, there"} for row in together if row["attack"] == "grnn"])
                # its trace leaves out the stages of smooth pooling
                searched = [row | {"iterations": ""} for row in together if row["attack"] == "map"]
                body += grnn_line([row | {"attack": f"map, {measured['settings']['map']} steps"} for row in searched])
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
            f"{row['of_textbook']:.3f}",
            str(row["added_mb"]),
        ]
        for row in found
    ]
    return markdown(["victim", "batch", "victims at once", "loop", "ms a victim", "of textbook", "MB added"], body)


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


def map_quality() -> str:
    """MAP by prior against noise of known law: mean PSNR over seeds, lowest and highest seed, CPU seconds a victim."""
    groups: dict[tuple[str, float], list[Row]] = {}
    for row in [*rows("map_quality"), *rows("map_quality_cifar10")]:
        line = f"{row['dataset']}, {row['law']}: {row['attack']}"
        groups.setdefault((line, row["deviation"]), []).append(row)
    found = []
    for (line, deviation), mine in groups.items():
        decibels = [row["psnr_mean"] for row in mine]
        cell = f"{statistics.fmean(decibels):.1f} ({min(decibels):.1f} to {max(decibels):.1f})"
        seconds = [row["cpu_seconds"] for row in mine if row.get("cpu_seconds")]
        cell += f", {statistics.fmean(seconds):.2f} s" if seconds else ""
        found.append((f"{line} ({len(mine)} seeds)", f"deviation {deviation:g}", cell))
    return grid("victims, law, attack", sorted(found, key=lambda each: float(each[1].split()[1])))


def exact_attacks() -> str:
    """Closed forms: one line an attack, network, batch and defence, pooled over the seeds; the controls below."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    later = rows("exact_attacks_batches")
    again = {(row["attack"], row["batch"]) for row in later}
    first = [row for row in rows("exact_attacks") if (row["attack"], row["batch"]) not in again]
    for row in first + later:
        if row["attack"] != "label_counts":
            where = (row.get("model", ""), str(row["batch"]), row.get("defence", "none" if "model" in row else ""))
            groups.setdefault((row["attack"], *where), []).append(row)
    body = []
    for name, mine in groups.items():
        pooled = [value for row in mine for value in row.get("psnr", [])]
        middle = statistics.median(pooled) if pooled else statistics.fmean(row["psnr_median"] for row in mine)
        labels = [row["labels_right"] for row in mine if row.get("labels_right") is not None]
        seconds = [row["cpu_seconds_a_gradient"] for row in mine if "cpu_seconds_a_gradient" in row]
        body.append(
            [
                *name,
                f"{sum(row['images'] for row in mine)}, {len(mine)}",
                f"{middle:.1f}",
                " / ".join(f"{row['psnr_median']:.1f}" for row in mine),
                f"{min(row['psnr_worst'] for row in mine):.1f}",
                f"{statistics.fmean(labels):.0%}" if labels else "",
                f"{statistics.fmean(seconds):.1f}" if seconds else "",
            ]
        )
    header = ["attack", "victim", "batch", "defence", "images, seeds", "median PSNR", "by seed", "worst", "labels"]
    return with_missing(markdown([*header, "CPU s a gradient"], body), "exact_attacks_batches")


def label_counts() -> str:
    """How many labels of a batch one formula reads rightly: one line a victim and prior, one column a batch."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows("exact_attacks"):
        if row["attack"] == "label_counts":
            line = f"{row['model']}, images of the mean answer: {row['prior'] or 'none'}"
            groups.setdefault((line, str(row["batch"])), []).append(row)
    found = []
    for (line, batch), mine in groups.items():
        right, exact = (statistics.fmean(row[key] for row in mine) for key in ("labels_right", "exact_share"))
        found.append(
            (f"{line} ({len(mine)} seeds)", f"batch {batch}", f"{right:.1%} right, {exact:.0%} of batches exact")
        )
    return grid("victim", found)


def local_training() -> str:
    """Updates of local training: one line a case and attack, mean over seeds, lowest and highest seed."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in [*rows("local_training"), *rows("local_training_adam"), *rows("local_training_cases")]:
        groups.setdefault((row["case"], row["attack"]), []).append(row)
    body = []
    for (case, attack), mine in groups.items():
        medians = [row["psnr_median"] for row in mine if "psnr_median" in row]
        worst = [row["psnr_worst"] for row in mine if "psnr_worst" in row]
        labels = [row["label_accuracy"] for row in mine if "label_accuracy" in row]
        seconds = [row["cpu_seconds"] for row in mine if "cpu_seconds" in row]
        body.append(
            [
                f"{case}, {mine[0]['batch']} images",
                attack,
                f"{sum(row.get('images', 0) for row in mine) or ''}",
                str(len(mine)),
                " / ".join(f"{value:.1f}" for value in medians),
                f"{min(worst):.1f}" if worst else "",
                f"{statistics.fmean(labels):.0%}" if labels else "",
                f"{statistics.fmean(seconds):.1f}" if seconds else "",
            ]
        )
    header = ["local training", "attack", "images", "seeds", "median PSNR by seed", "worst", "labels"]
    return markdown([*header, "CPU s a message"], body)


def batches() -> str:
    """Batches by MAP: pooled over seeds, unique labels and shared ones apart; beside it GRNN on the same gradients."""
    groups: dict[tuple[str, int, str], list[Row]] = {}
    for row in [row for name in BATCHES for row in rows(name)]:
        groups.setdefault((row["dataset"], row["batch"], row["part"]), []).append(row)
    body = []
    for (dataset, batch, part), both in groups.items():
        mine = [row for row in both if "psnr" in row]
        pairs = [pair for row in mine for pair in zip(_flat(row["psnr"]), _flat(row["shared"]), strict=True)]
        alone, together = ([value for value, shared in pairs if shared == which] for which in (False, True))
        control = [row["psnr_median"] for row in both if row["attack"] == "control: class mean"]
        grnn = _same_gradients(mine) if (dataset, batch) == ("cifar10", 8) else []
        body.append(
            [
                f"{dataset}, batch {batch}" + (", 2,000 iterations of L-BFGS" if part == "long" else ""),
                f"{sum(row['gradients'] for row in mine)}, {len(mine)}",
                _middle([value for value, _ in pairs]),
                " / ".join(f"{row['psnr_median']:.1f}" for row in mine),
                _middle(alone),
                _middle(together),
                f"{min(value for value, _ in pairs):.1f}",
                f"{_middle(grnn)}, {min(grnn):.1f}" if grnn else "",
                f"{statistics.fmean(control):.1f}",
                f"{statistics.fmean(row['labels_right'] for row in mine):.0%}",
                f"{statistics.fmean(row['cpu_seconds_a_gradient'] for row in mine):.1f}",
            ]
        )
    header = ["victims", "gradients, seeds", "median PSNR", "by seed", "unique labels", "shared labels", "worst"]
    return markdown([*header, "GRNN there: median, worst", "class mean", "label sets right", "CPU s a gradient"], body)


def batches_curve() -> str:
    """PSNR over the batch size, one seed: the attack, what the gradient determines at best, the mean of the class."""
    bounds = {(row["dataset"], row["batch"]): row for row in rows("batch_bound")}
    found = rows("batches_curve")
    control = {(row["dataset"], row["batch"]): row for row in found if row["attack"] == "control: class mean"}
    body = []
    for row in (row for row in found if "psnr" in row):
        key = (row["dataset"], row["batch"])
        low, high = row["psnr_mean_95"]
        body.append(
            [
                f"{row['dataset']}, batch {row['batch']}",
                f"{row['images']} of {row['gradients']}",
                f"{row['psnr_median']:.1f}",
                f"{low:.1f} to {high:.1f}",
                _middle(row["psnr_unique"]),
                f"{row['psnr_worst']:.1f}",
                f"{bounds[key]['bound_mean']:.1f}" if key in bounds else "",
                f"{control[key]['psnr_median']:.1f}",
                f"{row['labels_right']:.0%}",
                f"{row['cpu_seconds_a_gradient']:.1f}",
            ]
        )
    header = ["victims", "images, gradients", "median PSNR", "95 % of the mean", "unique labels", "worst"]
    return markdown([*header, "bound", "class mean", "label sets right", "CPU s a gradient"], body)


def _same_gradients(mine: list[Row]) -> list[float]:
    """GRNN's PSNR on the images of these rows."""
    found = {row["seed"]: row["psnr"] for row in rows("grnn_quality_lenet_dlg_b8") if row["attack"] == "grnn"}
    return [value for row in mine for value in found.get(row["seed"], [])[: row["images"]]]


def _flat(lists: list[list[Any]]) -> list[Any]:
    return [each for part in lists for each in part]


def _middle(values: list[float]) -> str:
    return f"{statistics.median(values):.1f}" if values else ""
