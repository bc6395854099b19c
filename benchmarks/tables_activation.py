"""The tables of the activation channel: split learning, Titcombe et al., NoPeek."""

from benchmarks.table_parts import Row, cells, experiments, grid, markdown, means, record, rows, seeds
from fl_privacy.accounting import NO_BOUND, release_guarantee
from fl_privacy.defences import chain_of

TANH = {1: 500.0, 2: 500**0.5}
"""The largest norms of the 500 tanh units at the cut of Titcombe et al., by order."""
GUARANTEES = {
    "laplace_noise(scale=0.5)": ("500 tanh units", TANH),
    "laplace_noise(scale=1.0)": ("500 tanh units", TANH),
    "gaussian_noise(scale=0.7071)": ("500 tanh units", TANH),
    "uniform_noise(scale=1.2247)": ("500 tanh units", TANH),
    "clip_each(norm=1.0, order=1) + laplace_noise(scale=0.5)": ("any", NO_BOUND),
    "clip_each(norm=1.0) + gaussian_noise(scale=0.7071)": ("any", NO_BOUND),
    "nopeek(weight=1.0) + laplace_noise(scale=1.0)": ("ReLU maps, unbounded", NO_BOUND),
}
"""Chains on what is released, the activations that they defend, and the norms of these."""

SPLIT = {
    "accuracy": ("model_accuracy", "{:.2%}"),
    "PSNR": ("psnr", "{:.1f}"),
    "SSIM": ("ssim", "{:.3f}"),
    "dCor x, z (squared)": ("model_dcor", "{:.3f}"),
    "floor": ("model_dcor_floor", "{:.3f}"),
    "n": ("model_dcor_n", "{:.0f}"),
    "dCor guess (squared)": ("dcor_guess", "{:.3f}"),
    "guess floor": ("dcor_guess_floor", "{:.3f}"),
    "guess n": ("dcor_guess_n", "{:.0f}"),
    "class read": ("class_recognised", "{:.1%}"),
}


ATTACKED = {heading: column for heading, column in SPLIT.items() if not column[0].startswith("model_dcor")}


UNTOLD = {heading: SPLIT[heading] for heading in ("accuracy", "PSNR", "SSIM", "class read")}


NOPEEK = {
    **{heading: SPLIT[heading] for heading in ("accuracy", "PSNR", "SSIM", "class read")},
    "dCor x, z (Euclidean)": ("model_dcor_euclidean", "{:.3f}"),
    "floor": ("model_dcor_euclidean_floor", "{:.3f}"),
    "n": ("model_dcor_n", "{:.0f}"),
}
WHICH = {"which of its class": ("instance_right", "{:.0%}"), "by chance": ("instance_chance", "{:.1%}")}


def titcombe() -> str:
    return experiments(["titcombe_undefended", "titcombe_table1"], SPLIT)


def titcombe_noise() -> str:
    """Table 1 of Titcombe et al., its rows with noise in training, and those where NoPeek's weight is too high."""
    rows = ("b01", "b02", "b05", "b05_weak", "b05_128", "b10", "collapse", "paper")
    return experiments([f"titcombe_table1_{row}" for row in rows], SPLIT)


def titcombe_n128() -> str:
    """The rows of Table 1 without NoPeek, their distance correlation in batches of 128."""
    columns = {heading: SPLIT[heading] for heading in ("accuracy", "dCor x, z (squared)", "floor", "n")}
    return experiments(["titcombe_table1_n128"], columns)


def titcombe_attacks() -> str:
    """The attack table that Titcombe et al. did not print."""
    return experiments(["titcombe_attacks", "titcombe_attacks_short"], ATTACKED)


def titcombe_foreign() -> str:
    """Figures 1 and 3 of Titcombe et al.: attackers with images of another kind, or with few."""
    figures = ["titcombe_figure1", "titcombe_figure1_fashion", "titcombe_figure3"]
    return experiments([*figures, *(f"{figure}_short" for figure in figures)], ATTACKED)


def titcombe_parties() -> str:
    """The three adversaries of Titcombe et al., appendix A."""
    return experiments(["titcombe_parties", "titcombe_parties_short"], ATTACKED)


def local_dp() -> str:
    """The epsilon of one image's released activations, once and 64 times."""
    body = []
    for text, (units, bound) in GUARANTEES.items():
        once, often = (release_guarantee(chain_of(text), count, bound=bound) for count in (1, 64))
        if once.epsilon is None or often.epsilon is None:
            body.append([text, units, "none", "none", "", once.words.removeprefix("none: ")])
        else:
            body.append([text, units, f"{once.epsilon:,.1f}", f"{often.epsilon:,.1f}", f"{once.delta:g}", ""])
    return markdown(["released through", "activations", "epsilon, 1 release", "64 releases", "delta", "why none"], body)


def split_untold() -> str:
    """A server alone that nobody tells of the noise, behind three laws of one variance."""
    return experiments(["split_untold", "titcombe_untold"], UNTOLD)


def split_budget() -> str:
    """What twice the budget is worth to the attackers of activations."""
    columns = {heading: SPLIT[heading] for heading in ("PSNR", "SSIM", "class read")}
    return experiments(["split_budget", "split_budget_more", "split_budget_wide", "split_ensemble"], columns)


def titcombe_retrained() -> str:
    """Titcombe et al., section 5: the server segment trained on with the noise."""
    return experiments(["titcombe_retrained"], ATTACKED)


def titcombe_grid() -> str:
    """Figure 2 of Titcombe et al. with numbers: one column a scale of the noise, one line an attack and a weight."""
    return _attacked_by_scale("titcombe_figure2")


def titcombe_grid_short() -> str:
    """The same in a shorter training, over three seeds."""
    return _attacked_by_scale("titcombe_figure2_short")


def _attacked_by_scale(name: str) -> str:
    found, blind, number = [], [], seeds(name)
    for (condition, attack), cell in means(name, "{:.1f} dB, {:.0%} read", "psnr", "class_recognised").items():
        if attack.startswith("control"):
            blind.append((f"{attack} ({number})", cell))
        else:
            weight, scale = condition.split("; serving ")
            found.append((f"{attack}, trained with {weight} ({number})", scale, cell))
    scales = dict.fromkeys(scale for _, scale, _ in found)
    return grid("attack", [*found, *((attack, scale, cell) for attack, cell in blind for scale in scales)])


def noise_scales() -> str:
    """Figure 4 of Titcombe et al.: accuracy by the scale of the noise, one column a weight of NoPeek."""
    expected = record("titcombe_figure4")["published"]
    theirs = {row["defence"]: f"{row['model_accuracy']:.2%}" for row in expected if "model_accuracy" in row}
    body = []
    for condition, weight, line, accuracy in _by_scale("titcombe_figure4"):
        body.append((line, f"trained with: {weight} (published)", f"{accuracy} ({theirs[condition]})"))
    return grid("served with", body)


def noise_scales_short() -> str:
    """The same in a shorter training, over three seeds."""
    found = _by_scale("titcombe_figure4_short")
    return grid("served with", [(line, f"trained with: {weight}", accuracy) for _, weight, line, accuracy in found])


def _by_scale(name: str) -> list[tuple[str, str, str, str]]:
    """Of every condition: what it is called, the defence in training, the noise with the seeds, the accuracy."""
    found = []
    for (condition, _), accuracy in means(name, "{:.2%}", "model_accuracy").items():
        weight, scale = condition.split("; serving ")
        found.append((condition, weight, f"{scale} ({seeds(name)})", accuracy))
    return found


def averaging() -> str:
    return experiments(["titcombe_averaging", "titcombe_averaging_undefended", "titcombe_averaging_short"], ATTACKED)


def averaging_short() -> str:
    """Of `averaging` the PSNR and the classes read, one line an attack, one column a scale of the noise."""
    found = means("titcombe_averaging", "{:.1f} dB, {:.0%} read", "psnr", "class_recognised")
    scales = list(dict.fromkeys(condition for condition, attack in found if not attack.startswith("control")))
    body = [
        (f"{attack} ({seeds('titcombe_averaging')})", scale.removeprefix("serving "), cell)
        for (condition, attack), cell in found.items()
        for scale in ([condition] if condition in scales else scales)
    ]
    return grid("attack", body)


def nopeek() -> str:
    """What NoPeek's own paper compares, with its own estimator."""
    return experiments(["nopeek_utkface", "nopeek_retina"], NOPEEK)


def nopeek_weights() -> str:
    """The same up to the weights of NoPeek's notebooks."""
    return experiments(["nopeek_weights", "nopeek_weights64", "nopeek_cifar10"], NOPEEK | WHICH)


def nopeek_stolen() -> str:
    """Some of these weights against a server that stole the client segment."""
    return experiments(["nopeek_stolen", "nopeek_stolen_budget"], NOPEEK | WHICH)


def nopeek_noise() -> str:
    """NoPeek with Laplace noise on the same faces."""
    return experiments(["nopeek_noise"], UNTOLD | WHICH)


def attributes() -> str:
    """What releases tell of each attribute: balanced accuracy, one line a condition, beside chance."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows("attributes"):
        found.setdefault((row["defence"], row["attribute"]), []).append(row)
    read = [
        (defence, name.replace("_", " "), cells(mine, {"": ("balanced", "{:.0%}")})[0])
        for (defence, name), mine in found.items()
    ]
    chance = [("*chance*", n.replace("_", " "), f"{mine[0]['chance']:.0%}") for (_, n), mine in found.items()]
    return grid(f"released by ({seeds('attributes')})", [*read, *chance])


def nopeek_testbed() -> str:
    """NoPeek's own reconstruction testbed on its faces."""
    return experiments(["nopeek_testbed"], {"MSE": ("mse", "{:.4f}"), **NOPEEK})


def split_speed() -> str:
    body = []
    for row in rows("split_speed"):
        unit = f"{row['steps_per_s']:.0f} mini-batches a second" if "steps_per_s" in row else f"{row['ms']:.1f} ms"
        ratios = {
            "times_faster": "{times_faster:.0f} times the pairwise loop's speed",
            "ratio": "{ratio:.2f} times the plain step's time",
            "overhead_ms": "{overhead_ms:.2f} ms a mini-batch more than the bare loop, "
            "from {overhead_least_ms:.2f} to {overhead_greatest_ms:.2f}",
            "share_of_bare": "{share_of_bare:.2f} of the bare loop, "
            "from {share_least:.2f} to {share_greatest:.2f} in {rounds} rounds",
            "ray_times_faster": "the Ray link is {ray_times_faster:.0f} times faster",
        }
        ratio = [form.format(**row) for key, form in ratios.items() if key in row]
        body.append([row["what"], unit, "; ".join(ratio), row.get("target", "")])
    return markdown(["what", "measured", "ratio", "wanted"], body)
