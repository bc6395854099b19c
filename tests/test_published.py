"""Published values stand beside measured ones by columns, whatever settings a defence gets later."""

import csv
from pathlib import Path

import pytest
from addresses import ALL

from fl_privacy.simulations.config.files import shipped
from fl_privacy.simulations.config.load import configure, load_experiment
from fl_privacy.simulations.config.published import beside, read_published

PAPERS = sorted({path.parent for path in shipped().values() if (path.parent / "published.csv").exists()})
CHAINS = [[], [{"name": "clip", "norm": 1.0}, {"name": "gaussian_noise", "scale": 0.1}]]


def small(*rows, **settings):
    return configure(**{"name": "x", "training_defences": CHAINS, "published": rows, **settings})


def test_every_published_row_of_a_paper_stands_beside_something():
    assert [path.name for path in PAPERS] == ["grnn", "nopeek", "titcombe", "vicious"]
    for paper in PAPERS:
        with (paper / "published.csv").open() as file:
            rows = list(csv.DictReader(file))
        for address in {row["experiment"] for row in rows}:
            known = [profile for name, profile in ALL if name == address]
            asked = [row for profile in known for row in read_published(paper, address, profile or "")]
            shown = [row for profile in known for row in load_experiment(address, profile=profile).published]
            assert known, address
            assert shown, address
            assert all(row in shown for row in asked), address


def test_a_known_value_stands_where_the_paper_has_it():
    (row,) = [
        row
        for row in beside(load_experiment("titcombe_noise/figure4"))
        if row["defence"] == "nopeek(weight=0.5, estimator=squared); serving laplace_noise(scale=2.0)"
    ]
    assert row["attack"] == "decoder_as_published"
    assert row["model_accuracy"] == 0.3382  # Titcombe et al. 2021, results file of Figure 4


@pytest.mark.parametrize(
    ("row", "labels"),
    [
        ({}, ["none", "clip(norm=1.0) + gaussian_noise(scale=0.1)"]),
        ({"training_defence": "none"}, ["none"]),
        ({"training_defence": "clip + gaussian_noise"}, ["clip(norm=1.0) + gaussian_noise(scale=0.1)"]),
        ({"training_defence": "clip(norm=1) + gaussian_noise"}, ["clip(norm=1.0) + gaussian_noise(scale=0.1)"]),
        ({"inference_defence": "none", "attack": "grnn"}, ["none"]),
    ],
)
def test_a_row_stands_beside_all_that_its_columns_fit(row, labels):
    assert [found["defence"] for found in beside(small({**row, "psnr": 1.0}))] == labels
    assert [found["psnr"] for found in beside(small({**row, "psnr": 1.0}))] == [1.0] * len(labels)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"training_defence": "nnoe", "psnr": 1.0}, "stands beside no measured row.*'none', 'clip"),
        ({"training_defence": "clip(norm=2.0) + gaussian_noise", "psnr": 1.0}, "stands beside no measured row"),
        ({"training_defence": "gaussian_noise + clip", "psnr": 1.0}, "stands beside no measured row"),
        ({"training_defence": "clip(bound=1) + gaussian_noise", "psnr": 1.0}, "'clip' does not have: bound"),
        ({"training_defence": "clip(1.0", "psnr": 1.0}, "the defence 'clip\\(1.0'; write none, or"),
        ({"training_defence": "clip(1.0)", "psnr": 1.0}, "the defence 'clip\\(1.0\\)'; write none, or"),
        ({"attack": "grn", "psnr": 1.0}, "stands beside no measured row.*the attacks 'grnn'"),
        ({"variant": "3/1", "psnr": 1.0}, "stands beside no measured row"),
        ({"defence": "none", "psnr": 1.0}, "defence = 'none': it takes the texts variant, training_defence"),
        ({"attack": 3, "psnr": 1.0}, "attack = 3: it takes the texts"),
        ({"psnr": True}, "psnr = True: .* and numbers"),
    ],
)
def test_a_row_that_says_something_else_is_refused(row, words):
    with pytest.raises(ValueError, match=words):
        small(row)


def test_changes_take_away_the_rows_of_what_they_take_away(tmp_path):
    file = tmp_path / "x.toml"
    file.write_text(
        'training_defences = [[], [{ name = "clip", norm = 1.0 }]]\n'
        "published = [\n"
        '  { training_defence = "none", psnr = 1.0 },\n'
        '  { training_defence = "clip", attack = "grnn", psnr = 2.0 },\n'
        "]\n"
    )
    assert len(load_experiment(str(file)).published) == 2
    assert [row["psnr"] for row in load_experiment(str(file), ["training_defences=[[]]"]).published] == [1.0]
    assert [row["psnr"] for row in load_experiment(str(file), ["attack=grnn_as_published"]).published] == [1.0]
    file.write_text('published = [{ training_defence = "nnoe", psnr = 1.0 }]')
    with pytest.raises(ValueError, match="stands beside no measured row"):
        load_experiment(str(file))


def test_a_file_that_lacks_columns_or_has_words_for_numbers_is_named(tmp_path):
    table = Path(tmp_path / "published.csv")
    table.write_text("experiment,psnr\nx,1\n")
    with pytest.raises(ValueError, match=r"published.csv lacks the columns attack, inference_defence, profile"):
        read_published(tmp_path, "x")
    table.write_text("experiment,profile,variant,training_defence,inference_defence,attack,psnr\nx,,,,,,high\n")
    with pytest.raises(ValueError, match=r"published.csv, the rows of 'x': .*high"):
        read_published(tmp_path, "x")
