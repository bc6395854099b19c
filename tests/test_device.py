"""`--device cuda` is for clients, the split server and attacks alike: a stub stands for the device."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch
from split_apps import client_task, model
from test_resume import GRADIENT, UPDATE
from test_resume_channels import ACTIVATION, OUTPUT

from fl_privacy.simulations.config.load import reconfigure
from fl_privacy.simulations.run import pipeline
from fl_privacy.simulations.run.pipeline import simulate
from fl_privacy.strategies.split.server import SplitServer

EXPERIMENTS = {"gradient": GRADIENT, "update": UPDATE, "activation": ACTIVATION, "output": OUTPUT}


class Device:
    """Counts what is moved to the GPU that it stands for, and leaves it where it is."""

    def __init__(self, monkeypatch):
        self.modules, self.tensors = [], []
        for kind, found in ((torch.nn.Module, self.modules), (torch.Tensor, self.tensors)):
            monkeypatch.setattr(kind, "to", self.moving(kind.to, found))
        monkeypatch.setattr(pipeline, "resolved_device", lambda name: name)

    @staticmethod
    def moving(to, found):
        def moved(this, *places, **named):
            if places and isinstance(places[0], str | torch.device) and torch.device(places[0]).type == "cuda":
                found.append(this)
                places = ("cpu", *places[1:])
            return to(this, *places, **named)

        return moved


@contextmanager
def stubbed():
    with pytest.MonkeyPatch.context() as patch:
        yield Device(patch)


def counting(monkeypatch, stage, device, moved):
    """Let `moved[stage]` be how many modules, and how many tensors, a stage of a run moves there."""
    real = getattr(pipeline, stage)

    def counted(*words):
        modules, tensors = len(device.modules), len(device.tensors)
        result = real(*words)
        moved[stage] = len(device.modules) - modules, len(device.tensors) - tensors
        return result

    monkeypatch.setattr(pipeline, stage, counted)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_clients_and_attacks_compute_there_with_the_same_bits(name, tmp_path, monkeypatch):
    monkeypatch.setattr("fl_privacy.metrics.class_recognition.JUDGE_STEPS", 5)
    choices = {"backend": "local", "note": str, "figures": False}
    here = simulate(EXPERIMENTS[name], out=tmp_path / "here", **choices)
    moved = {}
    with stubbed() as device:
        for stage in ("prepare", "run_local", "attack"):
            counting(monkeypatch, stage, device, moved)
        there = simulate(reconfigure(EXPERIMENTS[name], device="cuda"), out=tmp_path / "there", **choices)
    assert bool(sum(moved["prepare"])) == (name == "output"), "joint training"
    assert moved["run_local"][0], "models of clients"
    assert moved["run_local"][1] or name == "output", "images of clients, which follow the classifier there"
    assert moved["attack"][1], "what attacks have seen"
    assert there.digests["payloads"] == here.digests["payloads"]
    assert there.digests["reconstructions"] == here.digests["reconstructions"]


def test_the_split_server_computes_there_and_keeps_what_it_taps_on_the_cpu():
    rules = client_task().rules
    module = torch.nn.Sequential(*list(model())[1:])
    activation, labels = torch.rand(8, 4, 6, 6), torch.zeros(8, dtype=torch.int64)
    with stubbed() as device:
        server = SplitServer(module, rules, 0, "cuda")
        server.begin([(0, 0)], 0)
        server.serve((0, 0), "step", [activation, labels])
        assert device.modules == [module]
        assert [tensor.shape for tensor in device.tensors] == [activation.shape, labels.shape]
    assert server.tapped[0].activation.device.type == "cpu"
