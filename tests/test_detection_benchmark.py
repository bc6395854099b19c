"""The detection benchmark: who is drawn, what is counted, and that a rerun goes on."""

import dataclasses
import json

import pytest
import torch

from benchmarks import detection as benchmark
from benchmarks import detection_user
from benchmarks.detection import KINDS, REFERENCES, Case, cases, drawn, judged, longer
from benchmarks.detection_summary import summary
from fl_privacy.data import load


@pytest.fixture(scope="module")
def digits():
    return load("digits", None, {})


def row(kind, number, likelihood, entropy=1.0, own_decoder=0.0):
    shared = {"dataset": "digits", "classes": 10, "accuracy": 0.5, "decoder_psnr": None, "vicious": "vicious" in kind}
    return {
        "kind": kind,
        "number": number,
        "likelihood": likelihood,
        "entropy": entropy,
        "own_decoder": own_decoder,
        **shared,
    }


def test_models_have_seeds_and_images_of_their_own(digits):
    every = list(cases(3, 2))
    assert len({case.seed for case in every}) == len(every)
    kinds = [case.kind for case in every]
    assert {kind: kinds.count(kind) for kind in KINDS} == {kind: 6 if kind == "honest" else 3 for kind in KINDS}
    assert {kind: kinds.count(kind) for kind in REFERENCES} == dict.fromkeys(REFERENCES, 2)
    some = drawn(digits.train, 4, 50, every[0].seed, "server")
    assert set(some.labels.tolist()) == {0, 1, 2, 3}
    assert torch.equal(some.pixels, drawn(digits.train, 4, 50, every[0].seed, "server").pixels)
    assert not torch.equal(some.labels, drawn(digits.train, 4, 50, every[1].seed, "server").labels)
    assert len(some.pixels.flatten(1).unique(dim=0)) == 50


def test_twins_differ_in_the_reconstruction_and_in_the_hiding_alone():
    for kind, settings in KINDS.items():
        same = dataclasses.replace(settings, loss=KINDS["honest"].loss, polish=0, refit=0)
        hides = "adaptive" in kind or "polished" in kind
        assert settings.loss.beta_r == (float(kind.split()[1][0]) if kind.startswith("vicious") else 0)
        assert (settings.polish > 0) == (settings.refit > 0) == hides
        assert (settings.loss.beta_e > 0) == ("adaptive" in kind)
        if not kind.startswith("honest,"):
            assert same == KINDS["honest"]


def test_a_user_s_own_models_take_as_many_steps_on_fewer_images():
    steps = KINDS["honest"].epochs * (benchmark.TRAINED // 64)
    assert longer(KINDS["honest"], 300).epochs * (300 // 64) == pytest.approx(steps, rel=0.05)
    adaptive = REFERENCES["reference: vicious 3/1, adaptive"]
    assert adaptive.polish == adaptive.epochs == 2 * adaptive.refit


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


def test_the_ratio_comes_from_the_references_and_needs_no_honest_server():
    """1 - S alone tells the two apart; the references say so, and the servers' models are judged by it at 0."""
    scores = {"honest": (0.01, 0.012, 0.011), "vicious 1/1": (0.1, 0.12, 0.11)}
    references = [row(f"reference: {kind}", n, s) for kind, all_ in scores.items() for n, s in enumerate(all_)]
    models = [row(kind, n, 1.01 * s) for kind, all_ in scores.items() for n, s in enumerate(all_)]
    found = {line["kind"]: line for line in summary(references + models) if line["detector"] == "ratio"}
    assert (found["honest"]["flagged"], found["vicious 1/1"]["flagged"]) == (0, 1)
    assert found["honest"]["threshold"] == 0
    assert not any(line["kind"].startswith("reference") for line in found.values())
    assert summary(references) == [], "no honest model is judged yet"
    assert {line["detector"] for line in summary(models)} == {"likelihood", "entropy", "own_decoder"}


def test_worlds_are_not_mixed():
    first = [row(kind, n, n + (kind != "honest")) for kind in ("honest", "vicious 1/1") for n in range(2)]
    second = [{**r, "classes": 4, "likelihood": -r["likelihood"]} for r in first]
    lines = summary(first + second)
    assert summary(first) + summary(second) == lines
    assert {line["classes"] for line in lines} == {10, 4}


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(benchmark, "TRAINED", 200)
    monkeypatch.setattr(benchmark, "VALIDATION", 50)
    for module in (benchmark, detection_user):
        monkeypatch.setattr(module, "LABELLED", 100)
        monkeypatch.setattr(module, "REFERENCE", 70)
    monkeypatch.setattr(benchmark, "TESTED", 100)
    monkeypatch.setattr(benchmark, "USER", dataclasses.replace(benchmark.USER, epochs=1, batch_size=20))


@pytest.mark.parametrize("kind", ["honest, undertrained", "reference: honest, undertrained"])
def test_a_model_is_judged_the_same_again(digits, small, kind):
    case = Case("digits", 4, kind, 0)
    first = judged(case, digits)
    assert judged(case, digits) == first
    assert first["likelihood"] == 1 - first["S"] > 0
    assert 0 < first["entropy"] <= 2
    assert first["own_decoder"] <= 1
    assert judged(dataclasses.replace(case, number=1), digits)["S"] != first["S"]


def test_a_rerun_keeps_what_is_judged_and_refuses_other_settings(digits, small, tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "WORLDS", (("digits", 10),))
    monkeypatch.setattr(benchmark, "KINDS", {kind: KINDS[kind] for kind in ("honest",)})
    monkeypatch.setattr(benchmark, "REFERENCES", {})
    path, judged_now = tmp_path / "detection.json", []
    monkeypatch.setattr(
        benchmark, "judged", lambda case, data: judged_now.append(case) or row(case.kind, case.number, 0.1)
    )
    for models in (1, 2):
        monkeypatch.setattr("sys.argv", ["detection", "--models", str(models), "--out", str(path)])
        benchmark.main()
    assert [case.number for case in judged_now] == [0, 1, 2, 3]
    assert len([each for each in json.loads(path.read_text())["rows"] if "number" in each]) == 4
    monkeypatch.setattr(benchmark, "FEW", 1)
    with pytest.raises(SystemExit, match="other settings"):
        benchmark.main()
