"""The tables of the output channel: vicious classifiers, their detection, the speed of their training."""

from benchmarks.table_parts import Row, cells, experiments, grid, markdown, means, rows, seeds
from fl_privacy.metrics.intervals import wilson

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


def vicious_heads() -> str:
    """The form of the head: leakage of softmax, sigmoids and yes-or-no questions, and a term for surer answers."""
    return _detail("vicious_heads")


def vicious_logarithms() -> str:
    """A softmax, and what is left of it when it is rounded, before decoders that read it as it is or its logarithms."""
    return _detail("vicious_logarithms")


def _detail(name: str) -> str:
    """One line a condition and attack, with which image of its class a guess is."""
    columns = {heading: VICIOUS[heading] for heading in ("accuracy", "PSNR", "SSIM", "R as published")}
    more = {
        "others nearer": ("risk_published_closer", "{:.1%}"),
        "which of its class": ("instance_right", "{:.0%}"),
        "by chance": ("instance_chance", "{:.1%}"),
        "entropy, bits": ("model_entropy", "{:.2f}"),
    }
    return experiments([name], {"accuracy": VICIOUS["accuracy"], **columns, **more})


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


DETECTORS = {"likelihood": "1 - S", "entropy": "entropy, bits", "own_decoder": "own decoder", "ratio": "ratio of all"}


def _by_kind(name: str) -> dict[tuple[str, int, str], dict[str, Row]]:
    """The rows of detectors by data, classes and kind of model."""
    lines: dict[tuple[str, int, str], dict[str, Row]] = {}
    for row in rows(name):
        if "detector" in row:
            lines.setdefault((row["dataset"], row["classes"], row["kind"]), {})[row["detector"]] = row
    return lines


def detection() -> str:
    """One line a kind of model: what it is worth, what it leaks, and what each detector sees, with its range."""
    body = []
    for (dataset, _, kind), by in _by_kind("detection").items():
        first = by["likelihood"]
        leak = "" if first["decoder_psnr"] is None else f"{first['decoder_psnr']:.1f}"
        line = [dataset, kind, str(first["models"]), f"{100 * first['accuracy']:.1f} %", leak]
        body.append(line + [_spread(by[each], 2 if each == "entropy" else 3) for each in list(DETECTORS)[:3]])
    return markdown(
        [
            "data",
            "model",
            "models",
            "accuracy",
            "decoder, dB",
            *(f"{name} (range)" for name in list(DETECTORS.values())[:3]),
        ],
        body,
    )


def detection_roc() -> str:
    """One line a kind of model: the AUROC of each detector, and whom it flags."""
    body = []
    for (dataset, _, kind), by in _by_kind("detection").items():
        line = [dataset, kind]
        for each in DETECTORS:
            line += [_auroc(by[each]), _flagged(by[each])] if each in by else ["", ""]
        body.append(line)
    columns = [heading for name in DETECTORS.values() for heading in (f"{name}: AUROC (95 %)", "flagged (95 %)")]
    return markdown(["data", "model", *columns], body)


def detection_first() -> str:
    """One line a kind of model that expects no test, with both detectors of the paper side by side."""
    body = []
    for (dataset, classes, kind), by in _by_kind("detection_first").items():
        first = by["likelihood"]
        line = [dataset, str(classes), kind, str(first["models"]), f"{100 * first['accuracy']:.1f} %"]
        for detector, digits in (("likelihood", 3), ("entropy", 2)):
            row = by[detector]
            line += [_spread(row, digits), f"{round(row['flagged'] * row['models'])} of {row['models']}", _auroc(row)]
        body.append(line)
    header = ["data", "classes", "model", "models", "accuracy", "1 - S (range)", "flagged", "AUROC (95 %)"]
    return markdown([*header, "entropy, bits (range)", "flagged", "AUROC (95 %)"], body)


def _spread(row: Row, digits: int) -> str:
    return f"{row['mean']:.{digits}f} ({row['lowest']:.{digits}f} to {row['highest']:.{digits}f})"


def _auroc(row: Row) -> str:
    low, high = row["auroc_95"]
    return f"{row['auroc']:.2f} ({low:.2f} to {high:.2f})"


def _flagged(row: Row) -> str:
    hits = round(row["flagged"] * row["models"])
    low, high = wilson(hits, row["models"])
    return f"{hits} of {row['models']} ({low:.0%} to {high:.0%})"


def joint_speed() -> str:
    body = []
    for row in rows("joint_training"):
        times = f"{row['times_faster']:.2f}" if "times_faster" in row else ""
        body.append([row["step"], f"{row['seconds']:.2f}", f"{row['processor_seconds']:.2f}", times])
    return markdown(["step", "seconds", "processor seconds", "times faster"], body)
