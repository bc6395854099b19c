"""Rewrite the tables of README.md and results/README.md from the files in results/; with --check, fail if they differ.

    python -m benchmarks.tables [--check]

A table stands between `<!-- table: NAME -->` and `<!-- end -->`.
"""

import argparse
import re
import statistics
import sys
from collections.abc import Callable

from benchmarks.table_parts import ROOT, Row, cells, experiments, grid, markdown, means, record, rows


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


VICIOUS = {
    "PSNR": ("psnr", "{:.1f}"),
    "PSNR pooled": ("pooled_psnr", "{:.2f}"),
    "SSIM": ("ssim", "{:.3f}"),
    "R as published": ("risk_published", "{:.3f}"),
    "R well-posed": ("risk_well_posed", "{:.3f}"),
    "accuracy": ("model_accuracy", "{:.2%}"),
}
SPLIT = {
    "accuracy": ("model_accuracy", "{:.2%}"),
    "PSNR": ("psnr", "{:.1f}"),
    "SSIM": ("ssim", "{:.3f}"),
    "dCor x, z (squared, n = 32)": ("model_dcor", "{:.3f}"),
    "its floor": ("model_dcor_floor", "{:.3f}"),
    "dCor guess": ("dcor_guess", "{:.3f}"),
    "class read": ("class_read", "{:.1%}"),
}


def vicious() -> str:
    return experiments(["vicious_mnist", "vicious_fashion"], VICIOUS)


def vicious_ratios() -> str:
    """Table 1 of the paper: leakage by beta_R/beta_C, logits and softmax."""
    columns = {heading: VICIOUS[heading] for heading in ("PSNR", "PSNR pooled", "SSIM", "R as published", "accuracy")}
    return experiments([f"vicious_table1_{data}" for data in ("mnist", "fashion", "cifar10", "cifar100")], columns)


def vicious_answers() -> str:
    """Table 8 of the paper with numbers: what an answer's form costs and leaks."""
    columns = {heading: VICIOUS[heading] for heading in ("accuracy", "PSNR", "SSIM", "R as published")}
    return experiments(["vicious_table8"], columns)


def vicious_losses() -> str:
    """Tables 3 and 4 of the paper: the reconstruction losses, and Huber's delta."""
    return experiments(["vicious_table3", "vicious_table4"], VICIOUS)


def vicious_attributes() -> str:
    """Table 6's question: leakage by the number of binary attributes."""
    return experiments(["vicious_table6"], VICIOUS)


def vicious_tasks() -> str:
    """Table 7's question: one classifier of many attributes, or one for each."""
    found = {row["defence"]: row for row in rows("vicious_table7") if not row["attack"].startswith("control")}
    body = []
    for arm, row in found.items():
        name = arm.removesuffix(" alone")
        together = found["all together"].get(f"model_accuracy of {name}")
        accuracies = [f"{row['model_accuracy']:.2%}", "" if together is None else f"{together:.2%}"]
        body.append([name, *accuracies, *cells([row], {key: VICIOUS[key] for key in ("PSNR", "SSIM")})])
    return markdown(["attribute", "accuracy", "accuracy in 'all together'", "PSNR", "SSIM"], body)


def vicious_adaptive() -> str:
    """Table 8 with a pair trained through each chain."""
    return experiments(["vicious_table8_adaptive"], VICIOUS)


def viciousness() -> str:
    """Figure 6 of the paper: 1 - S by beta_R/beta_C."""
    columns = {"1 - S": ("model_viciousness", "{:.4f}"), **VICIOUS}
    return experiments(["vicious_figure6"], columns)


def titcombe() -> str:
    return experiments(["titcombe_undefended", "titcombe_table1"], SPLIT)


ATTACKED = {heading: SPLIT[heading] for heading in ("accuracy", "PSNR", "SSIM", "dCor guess", "class read")}


NOPEEK = {
    **{heading: SPLIT[heading] for heading in ("accuracy", "PSNR", "SSIM", "class read")},
    "dCor x, z (Euclidean)": ("model_dcor_euclidean", "{:.3f}"),
    "its floor": ("model_dcor_euclidean_floor", "{:.3f}"),
    "n": ("model_dcor_n", "{:.0f}"),
}


def averaging() -> str:
    return experiments(["titcombe_averaging"], ATTACKED)


def titcombe_noise() -> str:
    """Table 1 of Titcombe et al., its rows with noise in training, and those where NoPeek's weight is too high."""
    return experiments([f"titcombe_table1_{row}" for row in ("b01", "b02", "b05", "b10", "collapse")], SPLIT)


def titcombe_attacks() -> str:
    """The attack table that Titcombe et al. did not print."""
    return experiments(["titcombe_attacks"], ATTACKED)


def titcombe_foreign() -> str:
    """Figures 1 and 3 of Titcombe et al.: attackers with images of another kind, or with few."""
    return experiments(["titcombe_figure1", "titcombe_figure1_fashion", "titcombe_figure3"], ATTACKED)


def titcombe_parties() -> str:
    """The three adversaries of Titcombe et al., appendix A."""
    return experiments(["titcombe_parties"], ATTACKED)


def titcombe_retrained() -> str:
    """Titcombe et al., section 5: the server segment trained on with the noise."""
    return experiments(["titcombe_retrained"], ATTACKED)


def nopeek() -> str:
    """What NoPeek's own paper compares, with its own estimator."""
    return experiments(["nopeek_utkface", "nopeek_retina"], NOPEEK)


def nopeek_testbed() -> str:
    """NoPeek's own reconstruction testbed on its faces."""
    return experiments(["nopeek_testbed"], {"MSE": ("mse", "{:.4f}"), **NOPEEK})


def vicious_ratios_short() -> str:
    """Of `vicious_ratios` the PSNR alone, one line a data set and form of the answers."""
    found = []
    for data in ("mnist", "fashion", "cifar10", "cifar100"):
        for (arm, attack), decibels in means(f"vicious_table1_{data}", "{:.1f}", "psnr").items():
            for sent in ("none", "softmax"):
                line = f"{data}, {'logits' if sent == 'none' else sent}"
                if attack.startswith("control"):
                    found.append((line, attack.removeprefix("control: "), decibels))
                elif arm.endswith(f"; {sent}"):
                    found.append((line, arm.split(";")[0], decibels))
    columns = ["0/1", "1/1", "3/1", "5/1", "1/0", "mean image", "random guess"]
    return grid("data, what is sent", sorted(found, key=lambda cell: columns.index(cell[1])))


def vicious_answers_short() -> str:
    """Of `vicious_answers` the accuracy and the PSNR of each attack, one line a chain of defences."""
    accuracies = means("vicious_table8", "{:.2%}", "model_accuracy")
    decibels = means("vicious_table8", "{:.1f}", "psnr")
    found = [(arm, "accuracy", cell) for (arm, _), cell in accuracies.items()]
    found += [(arm, attack, cell) for (arm, attack), cell in decibels.items() if not attack.startswith("control")]
    return grid("what is sent", [(arm.split("; serving ")[1], column, cell) for arm, column, cell in found])


def averaging_short() -> str:
    """Of `averaging` the PSNR and the classes read, one line an attack, one column a scale of the noise."""
    found = means("titcombe_averaging", "{:.1f} dB, {:.0%} read", "psnr", "class_read")
    scales = list(dict.fromkeys(arm for arm, attack in found if not attack.startswith("control")))
    body = [
        (attack, scale.removeprefix("serving "), cell)
        for (arm, attack), cell in found.items()
        for scale in ([arm] if arm in scales else scales)
    ]
    return grid("attack", body)


def titcombe_grid() -> str:
    """Figure 2 of Titcombe et al. with numbers: one column a scale of the noise, one line an attack and a weight."""
    found = []
    for (arm, attack), cell in means("titcombe_figure2", "{:.1f} dB, {:.0%} read", "psnr", "class_read").items():
        if not attack.startswith("control"):
            weight, scale = arm.split("; serving ")
            found.append((f"{attack}, trained with {weight}", scale, cell))
    return grid("attack", found)


def noise_scales() -> str:
    """Figure 4 of Titcombe et al.: accuracy by the scale of the noise, one column a weight of NoPeek."""
    expected = record("titcombe_figure4")["expected"]
    theirs = {row["defence"]: f"{row['model_accuracy']:.2%}" for row in expected if "model_accuracy" in row}
    body = []
    for (arm, _), accuracy in means("titcombe_figure4", "{:.2%}", "model_accuracy").items():
        weight, scale = arm.split("; serving ")
        body.append((scale, f"trained with: {weight} (published)", f"{accuracy} ({theirs[arm]})"))
    return grid("served with", body)


def split_speed() -> str:
    body = []
    for row in rows("split_speed"):
        unit = f"{row['steps_per_s']:.0f} mini-batches a second" if "steps_per_s" in row else f"{row['ms']:.1f} ms"
        ratios = {
            "times_faster": "{:.0f} times the pairwise loop's speed",
            "ratio": "{:.2f} times the plain step's time",
            "share_of_bare": "{:.2f} of the bare loop",
            "ray_times_faster": "the Ray link is {:.0f} times faster",
        }
        told = [form.format(row[key]) for key, form in ratios.items() if key in row]
        body.append([row["what"], unit, *(told or [""]), row.get("target", "")])
    return markdown(["what", "measured", "ratio", "wanted"], body)


def joint_speed() -> str:
    body = []
    for row in rows("joint_training"):
        times = f"{row['times_faster']:.2f}" if "times_faster" in row else ""
        body.append([row["step"], f"{row['seconds']:.2f}", f"{row['processor_seconds']:.2f}", times])
    return markdown(["step", "seconds", "processor seconds", "times faster"], body)


TABLES: dict[str, Callable[[], str]] = {
    "grnn_quality": grnn_quality,
    "attack_speed": attack_speed,
    "gradient_noise": gradient_noise,
    "detection": detection,
    "vicious": vicious,
    "vicious_ratios": vicious_ratios,
    "vicious_ratios_short": vicious_ratios_short,
    "vicious_answers": vicious_answers,
    "vicious_answers_short": vicious_answers_short,
    "vicious_losses": vicious_losses,
    "vicious_attributes": vicious_attributes,
    "vicious_tasks": vicious_tasks,
    "vicious_adaptive": vicious_adaptive,
    "viciousness": viciousness,
    "titcombe": titcombe,
    "averaging": averaging,
    "averaging_short": averaging_short,
    "titcombe_grid": titcombe_grid,
    "titcombe_noise": titcombe_noise,
    "titcombe_attacks": titcombe_attacks,
    "titcombe_foreign": titcombe_foreign,
    "titcombe_parties": titcombe_parties,
    "titcombe_retrained": titcombe_retrained,
    "nopeek": nopeek,
    "nopeek_testbed": nopeek_testbed,
    "noise_scales": noise_scales,
    "split_speed": split_speed,
    "joint_speed": joint_speed,
}


def filled(text: str) -> str:
    """The page with every table made anew."""

    def table(match: re.Match[str]) -> str:
        return f"<!-- table: {match[1]} -->\n{TABLES[match[1]]()}\n<!-- end -->"

    return re.sub(r"<!-- table: (\w+) -->\n.*?<!-- end -->", table, text, flags=re.DOTALL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    for page in (ROOT / "README.md", ROOT / "results" / "README.md"):
        text = page.read_text()
        if not check:
            page.write_text(filled(text))
        elif filled(text) != text:
            sys.exit(f"{page}: its tables differ from results/: run python -m benchmarks.tables")


if __name__ == "__main__":
    main()
