"""What undefended gradients of larger and larger batches determine at best: the bound beside `benchmarks.batches`.

    python -m benchmarks.batch_bound --data-root DATA

The victims are the first gradient of each batch of that benchmark's curve; every batch holds the ones before. The bound
is linearised at the truth under the power law of images, labels known, as exactly as float32 keeps a gradient. A batch
with more unknowns than the gradient has entries is solved by the covariance of the entries, which is a sum over
images; its bound is that of its first `--images`.
"""

import argparse
import json
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from scipy.linalg import cholesky, solve_triangular
from scipy.linalg.blas import dsyrk
from torch import Tensor, nn

from benchmarks.batches import CURVE
from benchmarks.grnn_quality import observed
from benchmarks.record import options, write
from benchmarks.table_parts import Row
from fl_privacy.attacks.gradient.bound import SINGLE, bound_psnr, posterior_error
from fl_privacy.attacks.gradient.likelihood import likelihood
from fl_privacy.attacks.inversion.gauss_newton import linearise
from fl_privacy.attacks.inversion.priors import Spectrum, power_law
from fl_privacy.data import DataSet, data_root, load
from fl_privacy.evaluation import Truth
from fl_privacy.models import build_model
from fl_privacy.observation import Observation
from fl_privacy.seeding import stream, subseed

AT_ONCE = 64


def slopes(seen: Observation, truth: Truth, prior: Spectrum) -> Tensor:
    """The Jacobian (P, k) of one image's gradient in the coordinates of `prior`, double."""
    given = likelihood([seen], repeats=AT_ONCE)
    plain = replace(given, weight=torch.ones_like(given.weight))
    u = prior.coordinates(truth.inputs).expand(AT_ONCE, 1, -1)
    linear = linearise(plain.residual(prior, truth.labels.expand(AT_ONCE, 1)), u)
    columns = []
    for first in range(0, u.shape[-1], AT_ONCE):
        index = torch.arange(min(AT_ONCE, u.shape[-1] - first))
        unit = torch.zeros(u.shape)
        unit[index, 0, first + index] = 1.0
        columns.append(linear.forward(unit)[: len(index)].double())
    return torch.cat(columns).T


def few(model: nn.Module, data: DataSet, batch: int, seed: int, prior: Spectrum) -> list[float]:
    """The bound of every image of a batch that has fewer unknowns than the gradient has entries."""
    (seen,), (truth,) = observed(model, data.test.images(), data.test.labels, batch, 1, seed)
    x, y = truth.inputs[None], truth.labels[None]
    error = posterior_error(likelihood([seen]), prior, x, y, stream(seed, "bound"), dense=x.numel())
    return bound_psnr(error)[0].tolist()


def many(weight: Tensor, covariance: Tensor, slopes: Sequence[Tensor], prior: Spectrum, batch: int) -> list[float]:
    """The bound of the images whose `slopes` (P, k) are given, of a batch with `covariance` (P, P), lower triangle.

    Both are of sums over images; `weight` (P,) is one over the unit of each entry of the mean's gradient.
    """
    scale = weight.double() / batch
    whole = covariance * scale * scale[:, None]
    whole.diagonal().add_(SINGLE)
    factor = cholesky(whole.numpy(), lower=True, overwrite_a=True, check_finite=False)
    size = slopes[0].shape[1]
    spread = prior.linear(torch.eye(size)).flatten(1).double()  # (k, pixels): a column of T a row
    found = []
    for slope in slopes:
        seen = (scale[:, None] * slope) @ spread
        told = solve_triangular(factor, seen.numpy(), lower=True, overwrite_b=True, check_finite=False)
        error = (spread.square().sum() - torch.from_numpy(told).square().sum()) / spread.shape[1]
        found.append(bound_psnr(error.clamp_min(SINGLE)).item())
    return found


def curve(data: DataSet, seed: int, sizes: Sequence[int], images: int) -> Iterator[tuple[int, list[float]]]:
    """Batch sizes, and the bounds of images of such a batch in decibels."""
    model = build_model("lenet_dlg", data.image_shape, data.classes, subseed(seed, "weights"), {"init": "wide"})
    prior = power_law(data.image_shape)
    entries, unknowns = sum(p.numel() for p in model.parameters()), data.test.images(slice(0, 1)).numel()
    for batch in (size for size in sizes if size * unknowns <= entries):
        yield batch, few(model, data, batch, seed, prior)
    wanted = [size for size in sizes if size * unknowns > entries]
    covariance = torch.zeros(entries, entries, dtype=torch.float64).numpy().T  # by columns, which BLAS adds to in place
    kept: list[Tensor] = []
    singles = zip(*observed(model, data.test.images(), data.test.labels, 1, max(wanted, default=0), seed), strict=True)
    for done, (seen, truth) in enumerate(singles, start=1):
        slope = slopes(seen, truth, prior)
        covariance = dsyrk(1.0, slope.T.numpy().T, beta=1.0, c=covariance, lower=1, overwrite_c=1)
        kept += [slope] if done <= images else []
        if done in wanted:
            (whole,), _ = observed(model, data.test.images(), data.test.labels, done, 1, seed)
            weight = likelihood([whole]).weight[0]
            yield done, many(weight, torch.from_numpy(covariance), kept, prior, done)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--parts", nargs="+", default=["mnist", "cifar10"])
    parser.add_argument("--batches", type=int, nargs="+", default=list(CURVE))
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("results/batch_bound.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[Row] = json.loads(arguments.out.read_text())["rows"] if arguments.out.exists() else []
    for name in arguments.parts:
        data = load(name, data_root(arguments.data_root), {"size": 32} if name == "mnist" else {})
        for batch, values in curve(data, arguments.seed, arguments.batches, arguments.images):
            print(name, batch, [round(value, 2) for value in values], flush=True)
            new = {"dataset": name, "batch": batch, "seed": arguments.seed, "images": len(values)}
            rows = [row for row in rows if (row["dataset"], row["batch"]) != (name, batch)]
            rows.append({**new, "bound_mean": statistics.fmean(values), "bound": values})
            write(arguments.out, rows, settings=options(arguments), seeds=[arguments.seed], threads=1)


if __name__ == "__main__":
    main()
