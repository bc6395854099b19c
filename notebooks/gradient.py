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
# # What a shared gradient gives away
#
# In federated learning nobody sends data. Clients send *gradients*, and a server averages them. This notebook looks at
# one such round from the server's chair: it sees the gradients that four clients share, turns them back into the
# clients' private images, and then watches a defence spoil that.
#
# It runs in under a minute on a laptop, with images that scikit-learn ships. Open it in Jupyter with the jupytext
# extension, or convert it: `jupytext --to ipynb notebooks/gradient.py`.

# %%
import tempfile
from pathlib import Path

import rich
from IPython.display import Image, display

from fl_privacy.simulations import attack_again, configure, open_run, reconfigure, simulate

runs = Path(tempfile.mkdtemp())

# %% [markdown]
# ## 1. An experiment
#
# Four clients hold handwritten digits. In one round each computes the gradient of a small network's loss on **one**
# image of its own and sends it. The round is played twice: without a defence, and with Gaussian noise that each client
# adds to its gradient before it leaves. `backend="local"` plays it in this process; `"ray"` would spread the same
# clients over Ray workers and give the same bits.

# %%
experiment = configure(
    name="notebook",
    dataset={"name": "digits", "size": 32},
    model={"name": "lenet_dlg", "init": "wide"},
    attack={"name": "grnn", "iterations": 100},
    training_defences=([], [{"name": "gaussian_noise", "scale": 0.3}]),
    clients=4,
    clients_per_round=4,
    rounds=1,
    batch_size=1,
    attacked_clients=4,
    show_originals=True,
)
result = simulate(experiment, out=runs / "first", backend="local")

# %% [markdown]
# ## 2. See the gradient
#
# This is all that the server receives from client 0: numbers, one for each weight of the network. Nothing in them looks
# like a picture. The observation has no place for the client's image, so no attack can peek at it.

# %%
run = open_run(result.folder)
seen = run.observations
first = next(iter(seen.values()))
for name, values in first.payload.items():
    print(f"{name:16} {tuple(values.shape)!s:18} mean {values.mean():+.4f}  largest {values.abs().max():.4f}")

# %% [markdown]
# One thing can be read off without any attack. In the gradient of the last layer's bias only the true class is
# negative: the softmax pushes every other class down. A single image's label is no secret.

# %%
private = run.truth(first.client, first.round)
print(f"label read from the gradient: {int(first.payload['head.bias'].argmin())}, true: {int(private.labels)}")

# %% [markdown]
# ## 3. Invert it
#
# GRNN trains a small generator until *its* image, sent through the same network, gives *this* gradient. It judges its
# progress by that alone. Left: what the clients never sent. Then what came back, without and with the defence. Right: a
# guess that needs no gradient at all, the mean of other images: a reconstruction that is no better has leaked nothing.

# %%
display(Image(filename=str(result.figures[0])))

# %% [markdown]
# ## 4. Did the defence work?
#
# The table scores every guess against the truth, which only this evaluator may see. Read two things together. *PSNR*:
# with noise it falls to the level of the blind controls. *Loss at guess and at truth*: with noise, the attack's own
# objective is no higher at its guess than at the true image. The optimiser has not failed; the information is gone.
#
# Then read the labels. They still come back: one sign in one bias is far easier to guess than a thousand pixels.

# %%
rich.print(result.table())

# %% [markdown]
# ## 5. See it fail
#
# The same noise at a hundredth of that scale protects nobody. A new experiment needs only the changed setting; GRNN
# needs no new argument either, because it does not matter to it how the gradient was made.

# %%
weak = reconfigure(experiment, training_defences=([{"name": "gaussian_noise", "scale": 0.003}],))
weak_result = simulate(weak, out=runs / "weak", backend="local")
rich.print(weak_result.table())
display(Image(filename=str(weak_result.figures[0])))

# %% [markdown]
# ## 6. Attack again, for longer
#
# The observations are on disk. A stronger attacker reads them again, and nothing is simulated a second time.

# %%
longer = attack_again(result.folder, changes=["attack.iterations=200"])
rows = [row for row in (*result.summary, *longer.summary) if row["defence"] == "none" and row["attack"] == "grnn"]
print("undefended PSNR after 100 and 200 iterations:", ", ".join(f"{row['psnr']:.1f} dB" for row in rows))

# %% [markdown]
# What next: `fl-privacy list attacks` and `fl-privacy list defences` show what can stand in the experiment above;
# `fl-privacy run gradient_noise` draws the whole curve of leakage against accuracy.
