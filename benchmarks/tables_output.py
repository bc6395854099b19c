"""The tables of the output channel: vicious classifiers, their detection, the speed of their training."""

from benchmarks.table_parts import Row, cells, experiments, grid, markdown, means, rows, seeds

VICIOUS = {
    "PSNR": ("psnr", "{:.1f}"),
    "PSNR pooled": ("pooled_psnr", "{:.2f}"),
    "SSIM": ("ssim", "{:.3f}"),
    "R as published": ("risk_published", "{:.3f}"),
    "R well-posed": ("risk_well_posed", "{:.3f}"),
    "accuracy": ("model_accuracy", "{:.2%}"),
}


def vicious() -> str:
    return experiments(["vicious_mnist", "vicious_fashion"], VICIOUS)


def vicious_ratios() -> str:
    """Table 1 of the paper: leakage by beta_R/beta_C, logits and softmax."""
    columns = {heading: VICIOUS[heading] for heading in ("PSNR", "PSNR pooled", "SSIM", "R as published", "accuracy")}
    return experiments([f"vicious_table1_{data}" for data in ("mnist", "fashion", "cifar10", "cifar100")], columns)


def vicious_ratios_short() -> str:
    """Of `vicious_ratios` the PSNR alone, one line a data set and form of the answers."""
    found = []
    for data in ("mnist", "fashion", "cifar10", "cifar100"):
        for (condition, attack), decibels in means(f"vicious_table1_{data}", "{:.1f}", "psnr").items():
            for sent in ("none", "softmax"):
                line = f"{data}, {'logits' if sent == 'none' else sent} ({seeds(f'vicious_table1_{data}')})"
                if attack.startswith("control"):
                    found.append((line, attack.removeprefix("control: "), decibels))
                elif condition.endswith(f"; {sent}"):
                    found.append((line, condition.split(";")[0], decibels))
    columns = ["0/1", "1/1", "3/1", "5/1", "1/0", "class mean", "mean image", "random guess"]
    return grid("data, what is sent", sorted(found, key=lambda cell: columns.index(cell[1])))


def vicious_answers() -> str:
    """Table 8 of the paper with numbers: what an answer's form costs and leaks."""
    columns = {heading: VICIOUS[heading] for heading in ("accuracy", "PSNR", "SSIM", "R as published")}
    return experiments(["vicious_table8"], columns)


def vicious_answers_short() -> str:
    """Of `vicious_answers` the accuracy and the PSNR of each attack, one line a chain of defences."""
    accuracies = means("vicious_table8", "{:.2%}", "model_accuracy")
    decibels = means("vicious_table8", "{:.1f}", "psnr")
    found = [(condition, "accuracy", cell) for (condition, _), cell in accuracies.items()]
    found += [
        (condition, attack, cell) for (condition, attack), cell in decibels.items() if not attack.startswith("control")
    ]
    lines = {condition: f"{condition.split('; serving ')[1]} ({seeds('vicious_table8')})" for condition, _, _ in found}
    return grid("what is sent", [(lines[condition], column, cell) for condition, column, cell in found])


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
    for condition, row in found.items():
        name = condition.removesuffix(" alone")
        together = found["all together"].get(f"model_accuracy of {name}")
        accuracies = [f"{row['model_accuracy']:.2%}", "" if together is None else f"{together:.2%}"]
        body.append(
            [
                f"{name} ({seeds('vicious_table7')})",
                *accuracies,
                *cells([row], {key: VICIOUS[key] for key in ("PSNR", "SSIM")}),
            ]
        )
    return markdown(["attribute", "accuracy", "accuracy in 'all together'", "PSNR", "SSIM"], body)


def vicious_adaptive() -> str:
    """Table 8 with a pair trained through each chain."""
    return experiments(["vicious_table8_adaptive"], VICIOUS)


def viciousness() -> str:
    """Figure 6 of the paper: 1 - S by beta_R/beta_C."""
    columns = {"1 - S": ("model_viciousness", "{:.4f}"), **VICIOUS}
    return experiments(["vicious_figure6"], columns)


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


def joint_speed() -> str:
    body = []
    for row in rows("joint_training"):
        times = f"{row['times_faster']:.2f}" if "times_faster" in row else ""
        body.append([row["step"], f"{row['seconds']:.2f}", f"{row['processor_seconds']:.2f}", times])
    return markdown(["step", "seconds", "processor seconds", "times faster"], body)
