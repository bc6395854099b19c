# ---
# jupyter:
#   jupytext:
#     formats: py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Attacks side by side on the same messages
#
# How much a message leaks is a question about the *best* attack, and a weak attack makes any defence look good. This
# notebook collects one set of gradients and lets several attacks loose on it, the exact ones first: what can be solved
# needs no search.
#
# It runs in about a minute on a laptop, with images that scikit-learn ships.

# %%
import tempfile
from pathlib import Path

import rich

from fl_privacy.simulations import attack_again, configure, simulate

runs = Path(tempfile.mkdtemp())

# %% [markdown]
# ## 1. The messages
#
# Two clients each send the gradient of one handwritten digit, once as it is and once with a little Gaussian noise. The
# server owns 437 other digits. With `bound = true` the evaluator also computes what the best possible attacker could
# expect under a Gaussian prior of such images: a target to hold every attack against.
#
# `label_counts` reads the labels and nothing else. It takes no time, so that it may go first.

# %%
experiment = configure(
    name="compare_attacks",
    dataset={"name": "digits", "size": 16},
    public={"name": "digits", "size": 16, "first": 1000},
    train_images=(0, 1000),
    model={"name": "lenet_dlg", "init": "wide"},
    attack="label_counts",
    training_defences=([], [{"name": "gaussian_noise", "scale": 0.01}]),
    clients=2,
    clients_per_round=2,
    attacked_clients=2,
    bound=True,
)
read = simulate(experiment, out=runs / "messages", backend="local")
for row in read.summary:
    print(f"{row['defence']:30} {row['attack']:22} labels right: {row['label_accuracy']:.0%}")

# %% [markdown]
# Every label came back, also through the noise. No image yet.
#
# ## 2. What can be solved
#
# `peeling` undoes the network layer by layer, by linear algebra alone. Nothing is simulated again: the observations are
# on disk, and every attack reads the same ones.

# %%
solved = attack_again(read.folder, attack="peeling")
rich.print(solved.table())

# %% [markdown]
# Without a defence the image is exact. The noise is small, and yet the equations pass it on and make it larger.
#
# ## 3. What has to be searched for
#
# `map` looks for the most probable image, given the gradient, the law of the noise and other digits.
# `inverting_gradients` and `grnn` look for *some* image whose gradient comes near; they own no digits, and here they
# get little time. All of them stand in one table with `peeling`.

# %%
together = attack_again(
    read.folder,
    changes=[
        "attacks=[{name='peeling'}, {name='map', prior='public_by_class'}, "
        "{name='inverting_gradients', iterations=100}, {name='grnn', iterations=40, width=16}]"
    ],
)

# %% [markdown]
# ## 4. The page
#
# A result that ends a cell shows itself as a page: the verdict first, then pictures, the table with the controls, and
# what was assumed. The verdict on a defence is that of its strongest attack. Look at the bound: where an attack
# reaches it nothing more is to be had, and `float32` says that only the precision of the numbers stands in the way.

# %%
together

# %% [markdown]
# Three things to read there. Which attack is the strongest depends on the defence: the equations win without noise,
# `map` wins with it, and comes near the bound. `grnn`, stopped this early, stays below the class mean even where
# nothing protects the image: whoever had tried that one alone would have called an open message safe. So this noise
# is no defence, and it took the strongest attack to see it. (Two images show the order; `gradient_noise_map` has
# more.)
#
# `together.to_html()` writes the page as one file, and so does `fl-privacy report FOLDER --html`.

# %%
print(together.to_html().name)
