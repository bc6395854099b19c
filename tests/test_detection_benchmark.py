"""The detection benchmark: who is drawn, what is counted, and that a rerun goes on."""

import dataclasses

import pytest
import torch

from benchmarks import detection as benchmark
from benchmarks.detection import KINDS, Case, cases, drawn, judged, trained
from benchmarks.detection_summary import summary
from fl_privacy.data import load


@pytest.fixture(scope="module")
def digits():
    return load("digits", None, {})


def row(kind, number, likelihood, entropy=0.0):
    shared = {"dataset": "digits", "classes": 10, "accuracy": 0.5}
    return {"kind": kind, "number": number, "likelihood": likelihood, "entropy": entropy, **shared}


def test_models_have_seeds_and_images_of_their_own(digits):
    every = [case for round_ in range(3) for case in cases(round_)]
    assert len({case.seed for case in every}) == len(every)
    mnist = [case.kind for case in every if (case.dataset, case.classes) == ("mnist", 4)]
    assert {kind: mnist.count(kind) for kind in KINDS} == {kind: 6 if kind == "honest" else 3 for kind in KINDS}
    some = drawn(digits.train, 4, 50, every[0].seed, "server")
    assert set(some.labels.tolist()) == {0, 1, 2, 3}
    assert torch.equal(some.pixels, drawn(digits.train, 4, 50, every[0].seed, "server").pixels)
    assert not torch.equal(some.labels, drawn(digits.train, 4, 50, every[1].seed, "server").labels)
    assert len(some.pixels.flatten(1).unique(dim=0)) == 50


def test_twins_differ_in_the_reconstruction_alone():
    for kind, settings in KINDS.items():
        same = dataclasses.replace(settings, loss=KINDS["honest"].loss)
        assert settings.loss.beta_r == (float(kind[-3]) if kind.startswith("vicious") else 0)
        if "," not in kind:
            assert same == KINDS["honest"]


def test_the_threshold_comes_from_the_first_half_and_the_rates_from_the_other():
    honest = [row("honest", n, score) for n, score in enumerate([0.1, 0.2, 0.15, 0.3])]
    others = [row("vicious 1/1", n, score) for n, score in enumerate([0.25, 0.05])]
    others += [row("vicious 3/1", n, 0.9) for n in range(2)] + [row("honest, undertrained", 0, 0.5)]
    found = {line["kind"]: line for line in summary(honest + others) if line["detector"] == "likelihood"}
    assert {line["threshold"] for line in found.values()} == {0.2}
    assert (found["honest"]["models"], found["honest"]["flagged"]) == (2, 0.5)
    assert found["honest, undertrained"]["flagged"] == 1
    assert found["vicious 1/1"]["flagged"] == 0.5
    assert found["vicious 1/1"]["auroc"] == pytest.approx(3 / 8)
    assert found["vicious 3/1"]["auroc"] == 1
    assert (found["vicious"]["models"], found["vicious"]["auroc"]) == (4, pytest.approx(11 / 16))
    assert found["honest, undertrained"]["auroc"] == 0.5, "two of four vicious models score above it"


def test_worlds_are_not_mixed():
    first = [row(kind, n, n + (kind != "honest")) for kind in ("honest", "vicious 1/1") for n in range(2)]
    second = [{**r, "classes": 4, "likelihood": -r["likelihood"]} for r in first]
    lines = summary(first + second)
    assert summary(first) + summary(second) == lines
    assert {line["classes"] for line in lines} == {10, 4}


def test_a_model_is_trained_once_and_judged_the_same_again(digits, tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "TRAINED", 200)
    monkeypatch.setattr(benchmark, "VALIDATION", 50)
    monkeypatch.setattr(benchmark, "LABELLED", 100)
    monkeypatch.setattr(benchmark, "TESTED", 100)
    monkeypatch.setattr(benchmark, "USER", dataclasses.replace(benchmark.USER, epochs=1))
    case = Case("digits", 4, "honest, undertrained", 0)
    first = judged(case, trained(case, digits, tmp_path), digits)
    (file,) = tmp_path.iterdir()
    written = file.stat().st_mtime_ns
    assert judged(case, trained(case, digits, tmp_path), digits) == first
    assert file.stat().st_mtime_ns == written
    assert first["likelihood"] == 1 - first["S"] > 0
    assert 0 < first["entropy"] <= 2
    trained(dataclasses.replace(case, number=1), digits, tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
