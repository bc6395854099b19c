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
# # What does my own Flower app leak?
#
# You have a Flower app that works. This notebook wraps its server in one line, trains a round, and audits what the
# server saw: no attack is chosen by you, and nothing in the training changes. It runs in about a minute on a laptop.
#
# The app here is small and stands in the cells below. A whole one, to be started by `flwr run`, lies in
# `notebooks/own_app`.

# %%
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg
from sklearn.datasets import load_digits
from torch import nn

from fl_privacy import Images
from fl_privacy.simulations import LocalGrid, audit
from fl_privacy.strategies import HonestButCurious, defence_mod

runs = Path(tempfile.mkdtemp())

# %% [markdown]
# ## 1. The app
#
# A network, the data of each client, and a client that trains one epoch and returns its weights: as Flower's template
# has it. Client 0 holds a single image, client 1 four of them.


# %%
class Net(nn.Module):
    """One convolution and one linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 12, 5, padding=2, stride=2)
        self.head = nn.Linear(12 * 8 * 8, 10)

    def forward(self, x):
        return self.head(torch.sigmoid(self.conv(x)).flatten(1))


digits = load_digits()
images = F.interpolate(torch.from_numpy(digits.images).float()[:, None] / 16, 16, mode="bilinear")
labels = torch.from_numpy(digits.target).long()
counts, rate = (1, 4), 0.1


def load_data(partition_id):
    first = sum(counts[:partition_id])
    mine = slice(first, first + counts[partition_id])
    return images[mine], labels[mine]


def train(message: Message, context: Context) -> Message:
    net = Net()
    net.load_state_dict(message.content["arrays"].to_torch_state_dict())
    partition = int(context.node_config["partition-id"])
    x, y = load_data(partition)
    optimiser = torch.optim.SGD(net.parameters(), lr=rate)
    F.cross_entropy(net(x), y).backward()
    optimiser.step()
    # the partition is for the evaluator alone, who has to know whose images to compare with
    metrics = MetricRecord({"num-examples": len(y), "partition-id": partition})
    return Message(RecordDict({"arrays": ArrayRecord(net.state_dict()), "metrics": metrics}), reply_to=message)


def client_app(*mods) -> ClientApp:
    made = ClientApp(mods=list(mods))
    made.train()(train)
    return made


# %% [markdown]
# ## 2. One line in the server
#
# `HonestButCurious` around the strategy that you have. It changes no bit of the training, and writes the weights sent
# and the replies received into a folder. Here a grid in this process plays the clients; in a real app the grid is the
# one that Flower hands to your server, and the line is the same.


# %%
def observe(app: ClientApp, folder: Path) -> Path:
    torch.manual_seed(0)
    net = Net()
    for value in net.parameters():
        nn.init.uniform_(value, -0.5, 0.5)
    strategy = HonestButCurious(FedAvg(fraction_evaluate=0.0), model=Net, out=folder)  # the one line
    sent = ConfigRecord({"lr": rate, "local-epochs": 1, "batch-size": 8})
    strategy.start(LocalGrid(app, len(counts)), ArrayRecord(net.state_dict()), num_rounds=1, train_config=sent)
    return folder


seen = observe(client_app(), runs / "observations")
print(sorted(path.name for path in seen.iterdir()))

# %% [markdown]
# ## 3. The audit
#
# It needs the folder and the model. How clients train it reads in what the server sent with the weights, and says where
# it guessed. Two more things are granted here: other images of the kind, which an adversary may own, and the truth,
# which no attack sees, so that every guess gets a score. Without the truth the audit claims no score.
#
# On the command line: `fl-privacy audit observations --model my_app.task:Net`.

# %%
others = Images(images[1000:], labels[1000:])
choices = {"model": Net, "truth": load_data, "public": others, "minutes": 2}
choices["attacks"] = ["label_counts", "peeling", "map"]
found = audit(seen, out=runs / "audit", **choices)

# %% [markdown]
# ## 4. The page
#
# The verdict on every message first. `found.to_html()` writes the same page as one file.

# %%
found

# %% [markdown]
# The single image came back exactly, by solving equations. The four of the other client came back by searching: their
# update is one sum, and these equations take a single image. The labels of both messages were read: the bias of the
# last layer tells them.
#
# ## 5. A defence, in one line of the client
#
# `defence_mod` goes into the client app's list of mods. With noise on what leaves the client the equations have no
# exact answer any more: the images and labels that come back do not explain the messages, and the report calls them
# guesses. The truth shows that these images are nearer than any blind guess all the same. What the noise costs in
# accuracy a sweep tells: see `which_defence`.

# %%
noisy = observe(client_app(defence_mod("gaussian_noise(scale=0.01)", seed=0)), runs / "defended")
again = audit(noisy, out=runs / "audit of the defended", **choices)
for sentence in again.report["verdict"]:
    print(sentence)
