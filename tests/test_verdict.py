"""The verdict on a condition: its strongest attacker, beside the class mean and no defence."""

import json

import pytest

from fl_privacy.simulations import Result, configure, simulate
from fl_privacy.simulations.report.verdict import leaks_more, verdicts

NOISE = "gaussian_noise(scale=0.3)"
NOISE_SETTINGS = {"name": "gaussian_noise", "scale": 0.3}
CONTROLS = {"random guess": 9.0, "mean image": 12.8, "class mean": 16.6}


def row(attack, defence, psnr, spread=1.0, images=16, recovered=None):
    low, high = (None, None) if psnr is None else (psnr - spread, psnr + spread)
    recovered = (0 if psnr is None else images) if recovered is None else recovered
    return {
        **{"attack": attack, "defence": defence, "images": images, "recovered": recovered},
        **{"psnr": psnr, "psnr_low": low, "psnr_high": high},
    }


def experiment(**settings):
    return configure(name="judged", **{"training_defences": ([], [NOISE_SETTINGS]), **settings})


def controls(*names):
    return [row(f"control: {name}", "none", CONTROLS[name]) for name in names or CONTROLS]


def test_the_verdict_is_the_maximum_over_the_attackers_beside_the_class_mean_and_no_defence():
    summary = [
        *(row(attack, "none", psnr) for attack, psnr in (("grnn", 47.6), ("map", 59.8))),
        *(row(attack, NOISE, psnr) for attack, psnr in (("grnn", 11.8), ("map", 20.4), ("peeling", None))),
    ]
    found = verdicts(experiment(), [*summary, *controls()])
    assert [str(each) for each in found] == [
        "none: 59.8 dB by map (class mean 16.6)",
        f"{NOISE}: 20.4 dB by map (class mean 16.6, none 59.8)",
    ]
    (plain, *_) = verdicts(experiment(), [*summary, *controls("random guess", "mean image")])
    assert str(plain) == "none: 59.8 dB by map (mean image 12.8)", "the best control where no class is read"


def test_the_class_is_read_by_whoever_reads_it_best_and_the_receiver_needs_no_attack():
    read = [{"attack": name, "class_recognised": share} for name, share in (("decoder", 0.48), ("averaging", 0.31))]
    for own, said in ((0.75, "75% by the receiver itself"), (0.4, "48% by decoder"), (None, "48% by decoder")):
        rows = [row(each["attack"], NOISE, 11.0) | each | {"model_accuracy": own} for each in read]
        (found,) = verdicts(experiment(), rows)
        assert str(found).endswith(f"; the class is read in {said}")
    (silent,) = verdicts(experiment(), [row("map", NOISE, 11.0) | {"model_accuracy": 0.9}])
    assert silent.class_read is None, "no class was looked for, so accuracy is no reading"


def test_a_verdict_says_what_did_not_come_back():
    summary = [row("peeling", "none", 118.0, recovered=3), row("peeling", NOISE, None)]
    assert [str(each) for each in verdicts(experiment(), summary)] == [
        "none: 118.0 dB by peeling in 3 of 16 images",
        f"{NOISE}: nothing came back (none 118.0)",
    ]


def test_conditions_are_compared_with_the_undefended_one_of_their_own_variant():
    variants = ({"label": "one step"}, {"label": "masked", "secure_aggregation": True})
    several = experiment(variants=variants, channel="gradient")
    labels = several.condition_labels
    summary = [row("map", label, psnr) for label, psnr in zip(labels, (50.0, 20.0, 30.0, 15.0), strict=True)]
    found = {each.defence: each for each in verdicts(several, summary)}
    assert found[f"one step; {NOISE}"].undefended == "one step; none"
    assert found[f"masked; {NOISE}"].undefended_psnr == 30.0
    assert found["masked; none"].undefended is None


def test_a_defence_that_seems_to_leak_more_than_none_is_doubted():
    def doubts(bare, defended, **more):
        return leaks_more(
            verdicts(experiment(), [row("map", "none", bare, **more), row("map", NOISE, defended, **more)])
        )

    (sentence,) = doubts(20.0, 30.0)
    assert f"'{NOISE}' seems to leak more than 'none' (30.0 dB by map, 95 % 29.0-31.0 against 20.0 dB" in sentence
    assert "not equally strong" in sentence
    assert not doubts(20.0, 21.5), "the intervals overlap"
    assert not doubts(30.0, 20.0)
    assert not doubts(20.0, 30.0, images=3), "no interval is known of three images"
    assert not doubts(90.0, 110.0), "both are exact"
    assert not doubts(None, 30.0)
    assert not doubts(30.0, None)


@pytest.fixture
def folder(tmp_path):
    chosen = configure(
        name="judged",
        dataset={"name": "digits", "size": 8},
        model="convnet",
        attacks=({"name": "grnn", "iterations": 2, "restarts": 1, "latent": 4, "width": 2},),
        training_defences=([], [NOISE_SETTINGS]),
        clients=2,
        clients_per_round=2,
    )
    return simulate(chosen, out=tmp_path / "run", backend="local", note=str).folder


def test_a_result_keeps_its_verdicts_and_shows_them_below_its_table(folder, capsys):
    kept = json.loads((folder / "results.json").read_text())
    result = Result.read(folder)
    assert [each["defence"] for each in kept["verdicts"]] == ["none", NOISE]
    assert kept["verdicts"][1]["floor"] == "class mean"
    assert kept["verdicts"][1]["undefended_psnr"] == kept["verdicts"][0]["psnr"]
    result.show()
    out = " ".join(capsys.readouterr().out.split())
    for each in result.verdicts:
        assert str(each) in out
        assert f"{each.psnr:.1f} dB" in result._repr_html_()


def test_the_table_warns_where_a_defended_condition_seems_to_leak_more(folder, capsys):
    path = folder / "results.json"
    kept = json.loads(path.read_text())
    for each in kept["summary"]:
        if each["defence"] == NOISE:
            each |= {"images": 16, "recovered": 16, "psnr": 30.0, "psnr_low": 29.0, "psnr_high": 31.0}
        elif not each["attack"].startswith("control"):
            each |= {"images": 16, "recovered": 16, "psnr": 20.0, "psnr_low": 19.0, "psnr_high": 21.0}
    path.write_text(json.dumps(kept))
    Result.read(folder).show()
    assert f"WARNING: '{NOISE}' seems to leak more than 'none'" in " ".join(capsys.readouterr().out.split())
