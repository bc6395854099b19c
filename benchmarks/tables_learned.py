"""The tables of learned inversion, and of what leaks by network."""

import statistics

from benchmarks.table_parts import Row, markdown, rows, with_missing


def learned_quality() -> str:
    """Learned inversion beside MAP where no likelihood exists: mean PSNR by seed, the mismatch, CPU seconds."""
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in [*rows("learned_quality"), *rows("learned_quality_cifar10")]:
        groups.setdefault((row["dataset"], row["defence"], row["attack"]), []).append(row)
    body = []
    for name, mine in groups.items():
        apart = [row["mismatch_median"] for row in mine if "mismatch_median" in row]
        labels = [row["label_accuracy"] for row in mine if "label_accuracy" in row]
        cost = [(row["cpu_seconds_once"], row["cpu_seconds"]) for row in mine if "cpu_seconds" in row]
        body.append(
            [
                *name,
                f"{sum(row['images'] for row in mine)}, {len(mine)}",
                " / ".join(f"{row['psnr_mean']:.1f}" for row in mine),
                f"{min(row['psnr_worst'] for row in mine):.1f}",
                f"{statistics.fmean(labels):.0%}" if labels else "",
                f"{statistics.fmean(apart):.2f}" if apart else "",
                " + ".join(f"{statistics.fmean(part):.1f}" for part in zip(*cost, strict=True)) if cost else "",
            ]
        )
    header = ["images of", "defence", "attack", "images, seeds", "mean PSNR, by seed", "worst", "labels", "mismatch"]
    table = markdown([*header, "CPU s once + a message"], body)
    return with_missing(table, "learned_quality", "learned_quality_cifar10")


def what_leaks() -> str:
    """What is recovered of undefended gradients: one line a network, with the bound at the truth and the class mean."""
    return _leaks("what_leaks")


def what_leaks_trained() -> str:
    """The same after rounds of a federation, and how often the model is right by then."""
    return _leaks("what_leaks_trained")


def _leaks(name: str) -> str:
    measured = rows(name)
    groups: dict[str, list[Row]] = {}
    for row in measured:
        groups.setdefault(row["case"], []).append(row)
    body = []
    for case, mine in groups.items():
        found = [row for row in mine if row["attack"] == "best"]
        means = [row for row in mine if row["attack"] == "control: class mean"]
        body.append(
            [
                case,
                f"{sum(row['images'] for row in found)}, {len(found)}",
                " / ".join(f"{row['psnr_mean']:.1f}" for row in found),
                f"{min(row['psnr_worst'] for row in found):.1f}",
                ", ".join(sorted({winner for row in found for winner in row["winners"]})),
                f"{statistics.fmean(row['bound_mean'] for row in found):.1f}",
                f"{statistics.fmean(row['psnr_mean'] for row in means):.1f}",
                f"{statistics.fmean(row['cpu_seconds'] for row in found):.1f}",
                f"{statistics.fmean(row['model_accuracy'] for row in found):.0%}",
            ]
        )
    header = ["network", "images, seeds", "mean PSNR, by seed", "worst", "by", "bound at the truth", "class mean"]
    return with_missing(markdown([*header, "CPU s an image", "accuracy"], body), name)


def batch_statistics() -> str:
    """Batch normalisation in training mode with and without what the client may send: one line a case and attack."""
    groups: dict[tuple[str, int, str, bool], list[Row]] = {}
    for row in rows("batch_statistics"):
        groups.setdefault((row["network"], row["batch"], row["attack"], row.get("statistics", False)), []).append(row)
    body = []
    for (network, batch, attack, sent), mine in groups.items():
        measured = [row for row in mine if "labels_right" in row]
        body.append(
            [
                network,
                f"{batch}",
                attack,
                ("sent" if sent else "not sent") if measured else "",
                f"{sum(row['images'] for row in mine)}, {len(mine)}",
                " / ".join(f"{row['psnr_median']:.1f}" for row in mine),
                f"{min(row['psnr_worst'] for row in mine):.1f}",
                f"{statistics.fmean(row['labels_right'] for row in measured):.0%}" if measured else "",
                f"{statistics.fmean(row['cpu_seconds_a_message'] for row in measured):.1f}" if measured else "",
            ]
        )
    header = ["network", "batch", "attack", "statistics", "images, seeds", "median PSNR, by seed", "worst"]
    return with_missing(markdown([*header, "label sets right", "CPU s a message"], body), "batch_statistics")
