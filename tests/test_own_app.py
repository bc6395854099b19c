"""The example app is an ordinary Flower app: it runs, its server writes down what it saw, and one command audits it."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from fl_privacy import LocalTraining
from fl_privacy.federated.local_training import train_locally
from fl_privacy.simulations.backends.clients import server_context
from fl_privacy.simulations.backends.local import LocalGrid
from fl_privacy.simulations.cli import app as command

FOLDER = Path(__file__).parent.parent / "notebooks" / "own_app"
CONFIG = tomllib.loads((FOLDER / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"]


class Configured(LocalGrid):
    """Clients with the app's run config."""

    def context(self, node):
        found = super().context(node)
        found.run_config.update(self.run_config)
        return found


@pytest.fixture
def own_app(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setenv("FL_PRIVACY_DATA", str(tmp_path / "nothing"))  # the digits then
    yield
    for name in [each for each in sys.modules if each.partition(".")[0] == "own_app"]:
        del sys.modules[name]


def run(out, nodes=2, **changes):
    from own_app.client_app import app as clients
    from own_app.server_app import app as server

    grid = Configured(clients, nodes)
    grid.run_config = {**CONFIG, "num-server-rounds": 1, "out": str(out), **changes}
    context = server_context()
    context.run_config.update(grid.run_config)
    server(grid, context)


def test_the_app_runs_and_one_command_audits_it(own_app, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(tmp_path / "observations", defence="clip(norm=100.0)")
    words = ["audit", "observations", "--model", "own_app.task:Net", "--local", "own_app.task:LOCAL"]
    words += ["--truth", "own_app.task:load_data", "--attack", "label_counts", "--attack", "peeling"]
    done = CliRunner().invoke(command, words)
    assert done.exit_code == 0, done.output
    assert "Labels were read in 2 of 2 messages" in done.output
    assert "clients say that they ran 'clip(norm=100.0)' (2)" in done.output


def test_local_says_what_train_does(own_app):
    from own_app.task import LOCAL, Net, load_data, train

    images, labels = load_data(2)
    torch.manual_seed(0)
    ours, theirs = Net(), Net()
    theirs.load_state_dict(ours.state_dict())
    torch.manual_seed(1)
    train(theirs, images, labels, epochs=2, lr=0.01, momentum=0.9, batch_size=32)
    local = LocalTraining(learning_rate=0.01, momentum=0.9, epochs=2, batch_size=4, normalise=LOCAL.normalise)
    train_locally(ours, images, labels, local, torch.Generator())
    for name, value in ours.state_dict().items():
        assert torch.allclose(value, theirs.state_dict()[name], atol=1e-6)
    assert (CONFIG["learning-rate"], CONFIG["momentum"]) == (LOCAL.learning_rate, LOCAL.momentum)
    assert (CONFIG["local-epochs"], CONFIG["batch-size"]) == (LOCAL.epochs, LOCAL.batch_size)
