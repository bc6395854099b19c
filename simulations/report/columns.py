"""The columns of a run's table: their headings, their formats, and what each means, a line for a stranger."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fl_privacy.settings import ReadTable
from fl_privacy.simulations.bounds import LEAST
from fl_privacy.simulations.config.resolve import channel_of
from fl_privacy.simulations.experiment.spec import Experiment
from fl_privacy.simulations.report.page import cell
from fl_privacy.simulations.scoring import NOT_RECOVERED

CAP = -10 * math.log10(LEAST) - 0.05
"""A bound from here on, in dB, is that of the arithmetic, whatever was sent."""
ARITHMETIC = "float32"
"""What stands in the bound's column there."""


@dataclass(frozen=True)
class Heading:
    """One column: its heading, broken by newlines, the key of its values in a row, their format."""

    words: str
    key: str
    form: str


FIRST = (
    Heading("n", "images", "{:d}"),
    Heading("images\nback", "recovered", "{:d}"),
    Heading("PSNR\n(dB)", "psnr", "{:.1f}"),
    Heading("95 %", "psnr_interval", "{}"),
    Heading("SSIM", "ssim", "{:.3f}"),
    Heading("MSE", "mse", "{:.4f}"),
)
LAST = (
    Heading("bound\n(dB)", "bound_psnr", "{:.1f}"),
    Heading("labels\nright", "label_accuracy", "{:.0%}"),
    Heading("loss at\nguess", "loss_at_guess", "{:.3g}"),
    Heading("loss at\ntruth", "loss_at_truth", "{:.3g}"),
    Heading("model\naccuracy", "model_accuracy", "{:.1%}"),
)
"""The columns of every channel; metrics that somebody added stand between the two, a channel's own behind them."""

MEANINGS: Mapping[str, str] = {
    "images": "How many private images were attacked; the other columns are means over them.",
    "recovered": "For how many of them the attack gave any image; PSNR, SSIM and MSE are means over these.",
    "psnr": "Peak signal-to-noise ratio: how close a rebuilt image is to the private one, in decibels. Higher is "
    "closer, so that more leaked.",
    "psnr_interval": "Where the mean PSNR lies with 95 % confidence, from the spread over the images (bootstrap).",
    "ssim": "Structural similarity: how alike two images look to the eye, from about 0 to 1 (the same image).",
    "mse": "Mean squared error of a pixel, on a scale from 0 (black) to 1 (white); 0 is the same image.",
    "bound_psnr": "The PSNR that the best possible attacker could expect: it knows the noise and the mean and "
    f"covariance of images of the class (linearised at the truth). '{ARITHMETIC}': nothing but the precision of the "
    "numbers hides the image.",
    "label_accuracy": "The share of the private labels (classes) that the attack named rightly.",
    "loss_at_guess": "What the attack minimised, at its own guess: the lower, the better it explains the message.",
    "loss_at_truth": "The same at the private images, which only this report knows. Higher at the guess: the attack "
    "stopped too early, and a stronger one may get more. Not higher: it cannot tell its guess from the truth.",
    "model_accuracy": "The share of held-out images that the trained model classifies rightly: the defence's price.",
    "model_dcor": "Distance correlation of inputs and activations, 0 (independent) to 1: how much of the image is "
    "still in what is sent.",
    "model_dcor_floor": "What distance correlation shows for independent data of this size: nothing is below it.",
    "dcor_guess": "Distance correlation of the private images and the guesses.",
    "class_recognised": "The share of rebuilt images whose true class a separate classifier recognises.",
    "success_rate": "The share of private images that came back: SSIM of .6, or PSNR of 20 dB, or more. In a published "
    "row all or none, as its authors marked it by eye.",
    "epsilon": "Differential privacy over the whole run at this delta: the lower, the less anybody can learn. 'none': "
    "no such promise can be made; results.json says why.",
    "delta": "The probability with which that promise may fail.",
    "identification_bound": "The largest share of images that any attacker whatsoever can bring back, by that promise, "
    "from a client's messages of all rounds up to the last attacked one.",
    "clipped_share": "The share of gradients that were longer than the norm to which the defence cuts them.",
    "pooled_psnr": "PSNR of the mean error over all images, as the paper has it, in dB.",
    "risk_published": "Reconstruction risk of the paper: 1 is no nearer than the mean image, in the data's geometry.",
    "risk_well_posed": "The same with the geometry's poorly known directions left out.",
    "risk_published_closer": "The share of the other private images that lie nearer to a rebuilt one than its own, "
    "by the distance of R: 0 is best for the attacker, 50 % is chance.",
    "instance_right": "How often a rebuilt image is likest to its own private image, among up to 100 private ones of "
    "the same class: what leaked beyond the class.",
    "instance_chance": "How often that is so by chance, for somebody who knows the class and nothing else.",
    "model_entropy": "How unsure the classifier's answers are, in bits.",
    "model_bits": "The most that one answer can carry, in bits.",
    "model_viciousness": "How far fine-tuning moves the answers of the classifier that the server handed out.",
}


def columns(experiment: Experiment, rows: Sequence[ReadTable]) -> list[Heading]:
    """The columns in which some row has a value: an attack without an objective, say, has no losses to show.

    How many images were recovered is told where some were not; epsilon and delta where some condition has them.
    """
    evaluation = channel_of(experiment).evaluation
    others = [name for name in experiment.resolved.metrics if name not in ("psnr", "ssim", "mse")]
    others += dict.fromkeys(name for row in rows for name in row.get("asked_for", ()))
    added = [Heading(name.replace(":", ":\n").replace("_", "\n"), name, "{:.3f}") for name in others]
    common = [each for each in (*FIRST, *added, *LAST) if each.key not in evaluation.unshown]
    own = [Heading(words, key, form) for words, (key, form) in evaluation.columns.items()]
    untold = set[str]()
    if all(row.get("recovered", row["images"]) == row["images"] for row in rows):
        untold.add("recovered")
    if all(row.get("epsilon") in (None, "none") for row in rows):
        untold |= {"epsilon", "delta"}
    return [
        each
        for each in (*common, *own)
        if each.key == "psnr_interval"
        or (any(row.get(each.key) is not None for row in rows) and each.key not in untold)
    ]


def cells(row: ReadTable, shown: Sequence[Heading]) -> tuple[str, ...]:
    """A row's values as text, '-' for what it does not have."""
    low, high = row.get("psnr_low"), row.get("psnr_high")
    known = {**row, "psnr_interval": None if low is None or high is None else f"{low:.1f}-{high:.1f}"}
    if row.get("recovered") == 0:
        known["psnr"] = NOT_RECOVERED
    bound = row.get("bound_psnr")
    if isinstance(bound, float) and bound >= CAP:
        known["bound_psnr"] = ARITHMETIC
    return tuple(cell(known.get(each.key), each.form) for each in shown)


def meanings(experiment: Experiment, shown: Sequence[Heading]) -> dict[str, str]:
    """A sentence a column, by its heading on one line; of a metric that somebody added, its docstring's first."""
    found = {}
    for each in shown:
        metric = experiment.resolved.metrics.get(each.key)
        said = MEANINGS.get(each.key) or first_paragraph(metric)
        if said:
            found[" ".join(each.words.replace("-\n", "").split())] = said
    return found


def first_paragraph(documented: object) -> str:
    """The first paragraph of a docstring on one line; empty where there is none."""
    text = (getattr(documented, "__doc__", None) or "").strip()
    return " ".join(text.partition("\n\n")[0].split())
