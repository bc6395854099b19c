"""Attacks beside the rounds: they begin when their messages are there to stay, and no bit depends on when."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
from killed import Killed, killing, quiet, told, whole
from test_pool import Gpu
from test_resume import GRADIENT, UPDATE
from test_resume_channels import ACTIVATION, OUTPUT

from fl_privacy.simulations.backends import pool
from fl_privacy.simulations.backends.local import run_local
from fl_privacy.simulations.config.load import reconfigure
from fl_privacy.simulations.report import write as report
from fl_privacy.simulations.run import pipeline
from fl_privacy.simulations.run.attack import run_in
from fl_privacy.simulations.run.streaming import Streaming
from fl_privacy.strategies import resumable

EXPERIMENTS = {"gradient": GRADIENT, "update": UPDATE, "activation": ACTIVATION, "output": OUTPUT}
SEVERAL = reconfigure(
    ACTIVATION,
    training_defences=([],),
    inference_defences=([], [{"name": "laplace_noise", "scale": 0.2}]),
    variants=(),
    attacks=({"name": "decoder_as_published", "epochs": 1, "batch_size": 32},),
)


class Workers:
    """A pool that ends one call whenever it is asked what has ended."""

    def __init__(self):
        self.calls, self.starved, self.reserved, self.submitted = {}, 0, 0, []

    def submit(self, job, order):
        self.submitted.append(job.name)
        self.calls[len(self.submitted)] = job
        return len(self.submitted)

    def take(self, tickets, seconds):
        ticket = min(tickets)
        return {ticket: SimpleNamespace(value=self.calls.pop(ticket)(), error=None)}

    def cancel(self, tickets):
        for ticket in tickets:
            self.calls.pop(ticket, None)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """A checkpoint after every round, a short look at classes, and no figures."""
    monkeypatch.setattr(resumable, "EVERY_SECONDS", 0.0)
    monkeypatch.setattr(report, "draw", lambda *_: None)
    monkeypatch.setattr("fl_privacy.metrics.class_recognition.JUDGE_STEPS", 5)


def streamed(experiment, out, **choices):
    """A run whose attacks begin beside its rounds; its result, the workers, and what was attacked in the rounds."""
    checked, workers = pipeline.plan(experiment, out=out, backend="local", **choices), Workers()
    pipeline._begin(checked, quiet)
    pipeline.prepare(checked.federation, checked.out, quiet)
    attacking = Streaming(checked.federation, checked.out, workers)
    assert workers.reserved == (2 if experiment is ACTIVATION else 1), "split clients that take turns at once"
    if not pipeline._collected(checked):
        run_local(*pipeline._apps(checked, quiet, attacking.over), experiment.clients)
    early = list(out.glob("reconstructions/*/*.json"))
    attacked = pipeline.attack(checked.federation, out, quiet, run_in(workers, attacking.ended()))
    result = pipeline.conclude(checked.federation, out, attacked)
    assert workers.reserved == 0
    return result, workers, early


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_guesses_are_written_while_the_rounds_go_on_and_have_the_same_bits(name, tmp_path):
    result, workers, early = streamed(EXPERIMENTS[name], tmp_path / "streamed")
    assert told(result.folder) == told(whole(EXPERIMENTS[name], tmp_path / "whole").folder)
    assert len(early) > 0 or name == "update", "its one attacked round is the last"
    assert len(set(workers.submitted)) == len(workers.submitted), "none is attacked twice"
    assert not workers.calls


def test_what_the_first_round_released_can_be_attacked_before_the_second_is_over(tmp_path, monkeypatch):
    monkeypatch.setattr(resumable, "EVERY_SECONDS", math.inf)
    checked, reached = pipeline.plan(GRADIENT, out=tmp_path / "run", backend="local"), []
    apps = pipeline._apps(checked, quiet, lambda condition, round: reached.append((condition, round)))
    run_local(*apps, GRADIENT.clients)
    conditions = range(len(GRADIENT.conditions))
    assert [each for each in reached if each[1] != math.inf] == [
        (c, r) for c in conditions for r in (1, GRADIENT.rounds)
    ]


def test_an_attack_that_takes_several_conditions_together_waits_for_all(tmp_path):
    result, workers, early = streamed(SEVERAL, tmp_path / "streamed")
    assert not early
    assert len(workers.submitted) == 1
    assert told(result.folder) == told(whole(SEVERAL, tmp_path / "whole").folder)


def test_killed_beside_the_rounds_nothing_that_was_attacked_is_attacked_again(tmp_path, monkeypatch):
    wanted = told(whole(GRADIENT, tmp_path / "whole").folder)
    with monkeypatch.context() as patch:
        written = killing(patch, 0)
        streamed(GRADIENT, tmp_path / "counted")
    at = written.index("observations/1_r3_model.safetensors") + 1
    assert any(path.startswith("grnn/") for path in written[:at])
    with monkeypatch.context() as patch:
        first = killing(patch, at)
        with pytest.raises(Killed):
            streamed(GRADIENT, tmp_path / "run")
    with monkeypatch.context() as patch:
        second = killing(patch, 0)
        result, _, _ = streamed(GRADIENT, tmp_path / "run", resume=True)
    assert told(result.folder) == wanted
    assert {path for path in first if path.startswith("grnn/")}.isdisjoint(second)


def test_calls_of_a_lower_order_go_first_and_others_in_turn(monkeypatch):
    monkeypatch.setattr(pool, "ray", Gpu(100, workers=1))
    workers = pool.Pool(lambda: None)
    first, second, *rest = [workers.submit(SimpleNamespace(seen=()), order=order) for order in (1, 0, 2, 0, 1)]
    assert [call.ticket for call in workers._queue] == [second, rest[1], first, rest[2], rest[0]]


def test_reserved_workers_are_left_to_urgent_calls(monkeypatch):
    monkeypatch.setattr(pool, "ray", Gpu(100, workers=3))
    workers = pool.Pool(lambda: None)
    workers.reserved = 1
    for at_once in (False, False, False, True):
        workers.submit(SimpleNamespace(seen=()), urgent=at_once)
    workers._start(list(workers._starting))
    workers._dispatch()
    assert sorted(call.urgent for _, call in workers._running.values()) == [False, False, True]
    workers.reserved = 3
    assert not workers._next()
