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
# # Which defence is worth its cost?
#
# A defence has two prices: what still leaks under it, and what it takes from the model. One run shows both for one
# seed. A *sweep* repeats an experiment over a grid of defences, strengths and seeds, and ends in the table and the
# plot by which a person decides. It runs in about two minutes on a laptop, with images that scikit-learn ships.

# %%
import tempfile
from pathlib import Path

from IPython.display import Image, display

from fl_privacy.simulations import sweep

runs = Path(tempfile.mkdtemp())

# %% [markdown]
# ## 1. A sweep is a file
#
# An experiment, and what is varied in it. Two strengths of noise stand beside no defence, two seeds each: six cells.
# Three clients train a small network on handwritten digits, and in the first round the server attacks one of them. Its
# attacker is a strong one: it owns other digits with their labels, and knows the noise's law. `fl-privacy sweep
# which.toml` does the same on the command line; `fl-privacy sweep which_defence` is the large one that is shipped.

# %%
file = runs / "which.toml"
file.write_text("""
seeds = "0..1"

[experiment]
clients = 3
clients_per_round = 3
rounds = 15
learning_rate = 0.3
train_images = [0, 1000]
dataset = { name = "digits", size = 8 }
public = { name = "digits", size = 8, first = 1000 }
model = { name = "convnet" }
attacks = [{ name = "map", prior = "public_by_class" }]

[grid]
defence = ["none", { name = "gaussian_noise", scale = { each = [0.03, 0.3] } }]
""")

# %% [markdown]
# ## 2. Run it
#
# Every cell is a run, and a finished cell is never computed again: stop it, start it again, and it goes on.

# %%
result = sweep(file, out=runs / "sweep", note=lambda text: None)

# %% [markdown]
# ## 3. The decision
#
# A sentence for each defence that no other one beats in both prices: those are the ones to choose from. The intervals
# are over seeds, and two seeds make them very wide: where two overlap, these runs do not tell the two apart.

# %%
for sentence in result.sentences:
    print(f"- {sentence}\n")
for figure in result.figures:
    display(Image(filename=str(figure)))

# %% [markdown]
# ## 4. The page
#
# All of it with the controls and how to reproduce it. `result.to_html()` writes it as one file, `result.to_csv(path)`
# the numbers.

# %%
result

# %% [markdown]
# ## 5. Nothing twice
#
# The same call again reads what is finished, and is done at once.

# %%
again = sweep(file, out=runs / "sweep", note=lambda text: None)
print("the same:", again.points == result.points)
