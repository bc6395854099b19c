"""Split learning and private inference, killed in the middle: they too go on to the bits of a run that was not."""

from __future__ import annotations

import functools
import json

import pytest
import torch
from flwr.app import ConfigRecord, Context
from flwr.serverapp import Grid, ServerApp
from killed import Killed, killing, quiet, told, whole
from split_apps import CLIENTS, SPEC, client_task, clients, model

from fl_privacy.simulations.backends.local import run_local
from fl_privacy.simulations.backends.ray import run_ray
from fl_privacy.simulations.config.load import configure
from fl_privacy.simulations.report import write as report
from fl_privacy.simulations.run.again import execute_again, plan_again
from fl_privacy.strategies import resumable
from fl_privacy.strategies.records import ValidatingGrid, pack
from fl_privacy.strategies.resumable import Resumable
from fl_privacy.strategies.split.strategy import SplitLearning, SplitSettings, split_schemas
from fl_privacy.strategies.state import StateWithClients

DIGITS = {"name": "digits", "size": 8}
ACTIVATION = configure(
    name="tiny",
    channel="activation",
    dataset=DIGITS,
    model={"name": "convnet"},
    attacks=({"name": "decoder", "steps": 3, "width": 4, "blocks": 1, "copies": 1, "batch_size": 32},),
    training_defences=([{"name": "laplace_noise", "scale": 0.2}],),
    variants=({"label": "one by one"}, {"label": "at once", "parallel": True, "together": 2, "server_epochs": 2}),
    public={**DIGITS, "first": 200, "count": 100},
    protocol={"cut": ["conv2"], "targets": [300, 364], "evaluated": [0, 100], "dcor_rows": 50, "shuffle": True},
    train_images=(0, 200),
    clients=2,
    clients_per_round=2,
    rounds=2,
    attacked_clients=2,
    batch_size=32,
    learning_rate=0.01,
)
OUTPUT = configure(
    name="tiny",
    channel="output",
    dataset=DIGITS,
    model={"name": "vicious_small", "width": 4, "hidden": 16},
    attacks=({"name": "vicious"}, {"name": "output_decoder", "steps": 3, "batch_size": 8}),
    public={**DIGITS, "count": 50},
    inference_defences=([], [{"name": "softmax"}]),
    protocol={
        "decoder": {"name": "small", "width": 4, "hidden": 16},
        **{"epochs": 2, "pair_batch": 50, "images": 200, "validation": 100, "labelled": 50},
    },
    variants=({"label": "vicious"}, {"label": "honest", "beta_r": 0.0}),
    clients=4,
    clients_per_round=2,
    rounds=2,
    attacked_rounds=(1, 2),
    attacked_clients=2,
    batch_size=20,
)
EXPERIMENTS = {"activation": ACTIVATION, "output": OUTPUT}
MOMENTS = {
    "activation": (
        *("checkpoints/training_0.safetensors", "models/0.safetensors", "observations/0_r1_c0.json"),
        *("checkpoints/0.safetensors", "checkpoints/training_1.safetensors", "checkpoints/retrained_1.safetensors"),
        *("models/1_retrained.safetensors", "checkpoints/1.safetensors", "whole/rounds.json", "decoder/1_r1_c0.json"),
    ),
    "output": (
        *("models/", "whole/pairs.json", "observations/1_r2_c2.json", "checkpoints/0.safetensors"),
        *("observations/3_r1_c0.safetensors", "whole/rounds.json", "output_decoder/1_r1_c0.json"),
    ),
}
"""The writes in which a process dies, each time that they come."""


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """A checkpoint after every round, a short look at classes, and no figures."""
    monkeypatch.setattr(resumable, "EVERY_SECONDS", 0.0)
    monkeypatch.setattr(report, "draw", lambda *_: None)
    monkeypatch.setattr("fl_privacy.metrics.class_recognition.JUDGE_STEPS", 5)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_killed_in_any_write_a_run_goes_on_and_loses_nothing_that_was_over(name, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        written = killing(patch, 0)
        wanted = told(whole(EXPERIMENTS[name], tmp_path / "whole").folder)
    places = [at for at, path in enumerate(written, start=1) if path.startswith(MOMENTS[name])]
    assert {moment for moment in MOMENTS[name] if any(written[at - 1].startswith(moment) for at in places)} == set(
        MOMENTS[name]
    )
    for at in places:
        out = tmp_path / str(at)
        with monkeypatch.context() as patch:
            killing(patch, at)
            with pytest.raises(Killed):
                whole(EXPERIMENTS[name], out)
        over = {path: path.stat().st_ino for path in finished(out)}
        resumed = whole(EXPERIMENTS[name], out, resume=True)
        assert told(resumed.folder) == wanted, written[at - 1]
        assert {path: path.stat().st_ino for path in over} == over, f"{written[at - 1]}: nothing of it is made again"
        assert not [*out.rglob("*.tmp"), *out.glob("checkpoints")], written[at - 1]


def finished(out):
    """Messages of conditions that are over, and guesses that are whole."""
    conditions = [path.stem for path in (out / "checkpoints").glob("?.safetensors")]
    rounds = [path for each in conditions for path in (out / "observations").glob(f"{each}_r*")]
    if (out / "rounds.json").exists():
        rounds = list((out / "observations").iterdir())
    return [*rounds, *(path for path in out.glob("reconstructions/decoder/0_*"))]


@pytest.mark.parametrize(
    ("name", "moment"), [("activation", "checkpoints/training_1.safetensors"), ("output", "checkpoints/2.safetensors")]
)
def test_an_attack_reads_the_conditions_that_are_over(name, moment, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        written = killing(patch, 0)
        wanted = whole(EXPERIMENTS[name], tmp_path / "whole").summary
    with monkeypatch.context() as patch:
        killing(patch, written.index(moment) + 1)
        with pytest.raises(Killed):
            whole(EXPERIMENTS[name], tmp_path / "run")
    found = execute_again(plan_again(tmp_path / "run", out=tmp_path / "attack"), quiet).summary
    psnr = {(row["attack"], row["defence"]): row["psnr"] for row in wanted}
    ours = {(row["attack"], row["defence"]): row["psnr"] for row in found if "control" not in row["attack"]}
    assert ours
    assert ours == {key: psnr[key] for key in ours}


# -- split learning round by round -------------------------------------------------------------------------------------


def learned(runner, rules, settings, last=None, stop=None):
    """The weights and the messages of three rounds, or the checkpoint of round `stop`, in which they are killed."""
    kept, found = [], []
    server = ServerApp()

    def save(tensors, facts):
        kept.append((tensors, json.loads(json.dumps(facts))))
        if facts["round"] == stop:
            raise KeyboardInterrupt

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        validating = ValidatingGrid(grid, CLIENTS, schemas=split_schemas())
        chosen = SplitSettings(**{"clients_per_round": 2, "observed_rounds": (), **settings})
        strategy = SplitLearning(model, client_task(**rules).rules, chosen, SPEC)
        rounds = Resumable(strategy, StateWithClients(strategy, grid), save, last)
        try:
            result = rounds.start(
                validating, pack(model().state_dict()), 3, train_config=ConfigRecord({"condition": 0})
            )
        finally:
            strategy.close()
        found.extend([{name: each.numpy().tobytes() for name, each in result.arrays.items()}, rounds.counts])

    if stop is None:
        runner(server, clients(**rules), CLIENTS)
        return found
    with pytest.raises(KeyboardInterrupt):
        runner(server, clients(**rules), CLIENTS)
    return kept[-1]


CASES = {
    "one by one": ({}, {"link": "local"}),
    "at once": ({}, {"link": "local", "parallel": True, "together": 2}),
    "U-shape by messages": ({"cut": ("conv", "fc"), "labels": "client"}, {"link": "messages"}),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("stop", [0, 1, 2, 3])
def test_a_split_training_goes_on_from_any_round(case, stop, monkeypatch):
    rules, settings = CASES[case]
    wanted = learned(run_local, rules, settings)
    last = learned(run_local, rules, settings, stop=stop)
    found = learned(run_local, rules, settings, last=last)
    assert found == wanted
    if 0 < stop < 3:
        without = {name: value for name, value in last[0].items() if not name.startswith("state/")}
        facts = {**last[1], "state": {"server": {"served": 0, "steps": {}}, "clients": {}}}
        assert learned(run_local, rules, settings, last=(without, facts))[0] != wanted[0], "the state is needed"


@pytest.mark.ray
def test_a_split_training_goes_on_over_rays_link_too():
    wanted = learned(run_local, {}, {"link": "local"})
    runner = functools.partial(run_ray, workers=1)
    last = learned(runner, {}, {"link": "ray"}, stop=2)
    assert all(isinstance(value, torch.Tensor) for value in last[0].values())
    assert learned(runner, {}, {"link": "ray"}, last=last) == wanted
