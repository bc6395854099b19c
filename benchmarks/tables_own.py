"""The tables of a user's own federation: the shipped sweep, and the example app by images and local steps."""

import statistics
from itertools import product

from benchmarks.table_parts import Row, markdown, record, rows, with_missing

IMAGES, STEPS = (1, 8, 32), (1, 2, 5)
CONTROLS = ("class mean", "mean image", "random guess")


def which_defence() -> str:
    """The shipped sweep: one line a defence under its strongest attack, then the controls; intervals over seeds."""
    body = [
        [
            row["defence"],
            _interval(row, "accuracy", 100, " %"),
            _interval(row, "psnr", 1, " dB"),
            f"{row['above_floor']:+.1f}",
            f"{row['labels_read']:.0%}",
            f"{row['epsilon']:.3g}" if isinstance(row.get("epsilon"), float) else "none",
            "" if row["beaten_by"] else "yes",
        ]
        for row in rows("sweep_digits")
        if row["strongest"]
    ]
    body += [
        [f"*{each['name']}, a {each['kind']}*", "", _interval(each, "psnr", 1, " dB"), "", "", "", ""]
        for each in record("sweep_digits").get("controls", [[]])[0]
    ]
    header = ["defence", "accuracy of the model", "PSNR of the strongest attack", "above the class mean", "labels read"]
    return markdown([*header, "epsilon of the run", "beaten by none"], body)


def _interval(row: Row, key: str, scale: float, unit: str) -> str:
    low, high = scale * row[f"{key}_low"], scale * row[f"{key}_high"]
    return f"{scale * row[key]:.1f}{unit} ({low:.1f} to {high:.1f})"


def own_app() -> str:
    """The example app: one line a number of images and local steps, of one message a seed, the mean over its images."""
    body = []
    for steps, images in product(STEPS, IMAGES):
        mine = [row for row in rows("own_app") if (row["images"], row["steps"]) == (images, steps)]
        if mine:
            body.append([str(images), str(steps), *_cells(mine)])
    header = ["images", "local steps", "labels read", "`map`: PSNR", "unexplained", "minutes"]
    return with_missing(markdown([*header, *CONTROLS], body), "own_app")


def _cells(mine: list[Row]) -> list[str]:
    (found,) = [row for row in mine if row.get("attack") == "map"]
    read = [row["label_accuracy"] for row in mine if "attack" in row and row["label_accuracy"] is not None]
    blind = {row["control"]: statistics.fmean(row["psnr"]) for row in mine if "control" in row}
    over = found["psnr"] is None
    return [
        f"{max(read):.0%}" if read else "none",
        "no guess in the time" if over else f"{statistics.fmean(found['psnr']):.1f} dB",
        "" if over else f"{found['unexplained']:.0%}",
        f"{found['seconds'] / 60:.1f}",
        *(f"{blind[name]:.1f} dB" for name in CONTROLS),
    ]
