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
# # What the activations of a split model give away
#
# In split learning a client holds the first layers of a network and a server holds the rest. The client sends the
# *activations* of its last layer; the server sends their gradient back. After training the same wire carries private
# images to be classified. This notebook trains such a model, intercepts what clients send, turns it back into images,
# and then tries three defences.
#
# It runs in about a minute and a half on a laptop, with images that scikit-learn ships. Open it in Jupyter with the
# jupytext extension, or convert it: `jupytext --to ipynb notebooks/split.py`.

# %%
import tempfile
from pathlib import Path

import rich
from IPython.display import Image, display

from fl_privacy.simulations import configure, open_run, reconfigure, simulate

runs = Path(tempfile.mkdtemp())

# %% [markdown]
# ## 1. Train
#
# Two clients hold 500 handwritten digits each and take turns: one epoch, then the segment travels on. The server never
# sees an image. The adversary here is the server together with one data owner: the server receives the activations, and
# the data owner can put images of its own (`public`) through the client segment. `backend="local"` plays it in this
# process; `"ray"` would put every client on a Ray worker, the server segment into a Ray actor, and give the same bits.

# %%
digits = {"name": "digits", "size": 16}
decoder = {"name": "decoder", "steps": 150, "batch_size": 64, "width": 16}
experiment = configure(
    name="split_notebook",
    channel="activation",
    dataset=digits,
    model={"name": "convnet"},
    train_images=(0, 1000),
    public={**digits, "first": 1000, "count": 373},
    protocol={"cut": ["conv2"], "shuffle": True, "targets": [1373, 1437], "evaluated": [0, 360]},
    attack=decoder,
    clients=2,
    clients_per_round=2,
    attacked_clients=2,
    rounds=6,
    batch_size=32,
    learning_rate=0.002,
    show_originals=True,
)
result = simulate(experiment, out=runs / "undefended", backend="local")

# %% [markdown]
# ## 2. Intercept
#
# This is what the server receives for the first client's 32 images: 256 numbers for each, that is, as many as the image
# has pixels. They do not look like a picture, and the observation has no place for the picture itself.

# %%
run = open_run(result.folder)
seen = next(iter(run.observations.values()))
activation = seen.payload["activation"]
print("activations", tuple(activation.shape), "first values", [round(float(v), 2) for v in activation[0].flatten()[:6]])

# %% [markdown]
# ## 3. Invert
#
# The adversary sends its own images through the client segment and trains a decoder from the activations back to the
# images. It needs the segment as a black box only. Left: what the clients never sent. Middle: what came back. Right:
# the mean of other images, a guess that needs no activation.

# %%
display(Image(filename=str(result.figures[0])))

# %% [markdown]
# ## 4. Defend with noise, and ask who was tried
#
# The usual defence adds Laplace noise to what is sent. Papers have tried it against a decoder that was trained on
# activations *without* the noise. `decoder_as_published` is that one. `decoder` knows the law of the noise (the client
# software says what it is) and trains on noisy activations. `averaging` gets the same input 16 times: fresh noise
# averages out. `activation_map` is a server alone: it stole the segment's weights, nobody tells it of the noise, and it
# *estimates* the noise's law and scale from what it received and from images of its own (`static`), then looks for the
# most probable image.

# %%
noise = [{"name": "laplace_noise", "scale": 1.0}]
noisy = reconfigure(
    experiment,
    name="split_notebook_noise",
    training_defences=([],),
    inference_defences=(noise,),
    protocol={**experiment.protocol, "queries": 16, "white_box": True},
    attacks=(
        {"name": "decoder_as_published", "epochs": 30, "learning_rate": 1e-3, "batch_size": 32},
        decoder,
        {**decoder, "name": "averaging", "repeats": 16},
        {"name": "activation_map", "static": True},
    ),
)
noisy_result = simulate(noisy, out=runs / "noise", backend="local")
display(Image(filename=str(noisy_result.figures[0])))
rich.print(noisy_result.table())

# %%
psnr = {row["attack"]: row["psnr"] for row in noisy_result.summary}
print(f"tried against the decoder that never saw noise: {psnr['decoder_as_published']:.1f} dB")
print(f"tried against one that knows of it:             {psnr['decoder']:.1f} dB")
print(f"tried against one that asks 16 times:           {psnr['averaging']:.1f} dB")
print(f"tried against one that estimates the noise:     {psnr['activation_map']:.1f} dB")

# %% [markdown]
# ## 5. Defend in training: NoPeek
#
# NoPeek adds the distance correlation of images and activations to the clients' loss, so that the segment learns to
# send less of the image. Distance correlation is treacherous: NoPeek's own estimator is far above zero even for
# *independent* data when there are few rows. So every value comes with its floor, the same estimate after shuffling the
# pairs. NoPeek lowers the value, and the floor with it; the bias-corrected estimate, whose floor is zero, tells what is
# left. Then look at the PSNR: much less correlation need not mean a much worse picture.

# %%
peek = reconfigure(
    experiment, name="split_notebook_nopeek", training_defences=([], [{"name": "nopeek", "weight": 3.0}])
)
peek_result = simulate(peek, out=runs / "nopeek", backend="local")
rich.print(peek_result.table())
for row in peek_result.summary[:2]:
    euclidean, floor, corrected = (row[f"model_dcor_{key}"] for key in ("euclidean", "euclidean_floor", "u"))
    print(f"{row['defence']}: distance correlation {euclidean:.2f}, floor {floor:.2f}, bias-corrected {corrected:.2f}")

# %% [markdown]
# ## 6. Is the class hidden? Ask the receiver
#
# A decoder's picture may be too poor to be recognised, and the class is read all the same: by the server's own segment,
# which was trained for just that and reads the very same release. So a verdict takes the larger of the two. Here the
# class is sent on purpose and no secret; what counts is whether *this* image can be told from others of its class.

# %%
for title, rows in {"noise 1.0": noisy_result.summary, "NoPeek 3.0": peek_result.summary[1:2]}.items():
    attacks = [row for row in rows if not row["attack"].startswith("control")]
    seen_in_picture = max(row["class_recognised"] for row in attacks)
    served = max(row["model_accuracy"] for row in attacks)
    told_apart = max(row["instance_right"] for row in attacks)
    print(f"{title:10}  class seen in a guess {seen_in_picture:4.0%}   read by the server itself {served:4.0%}")
    print(f"{'':10}  this image found among those of its class {told_apart:4.0%}")

# %% [markdown]
# What next: `fl-privacy run split_quickstart` shows all three side by side; `titcombe_table1/b00` and its kin measure
# the published settings on MNIST with the published numbers beside.
