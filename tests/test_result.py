"""A result in Python: rows, data frame, CSV, what a terminal and a notebook show."""

import csv
import json
import sys

import pytest
from html_reader import Html

from fl_privacy.metrics import METRICS
from fl_privacy.simulations import Result, configure
from fl_privacy.simulations.report.content import in_words

HOSTILE = '<script>alert("&")</script>'


def row(attack, defence, psnr, **more):
    return {
        **{"attack": attack, "defence": defence, "images": 4, "recovered": 4, "psnr": psnr, "ssim": 0.5, "mse": 1e-9},
        **{"psnr_low": None if psnr is None else psnr - 1, "psnr_high": None if psnr is None else psnr + 1},
        **{"label_accuracy": 1.0, "loss_at_guess": -3.77, "loss_at_truth": -13.6, "model_accuracy": 0.744},
        **more,
    }


def result(folder, summary, **more):
    experiment = configure(name="mine", attacks=({"name": "grnn"},))
    return Result(folder, experiment, [], summary, {}, **more)


@pytest.fixture
def run(tmp_path):
    (tmp_path / "figures").mkdir()
    for name in ("tradeoff", "reconstructions_10", "reconstructions_2", "reconstructions"):
        (tmp_path / "figures" / f"{name}.png").touch()
    samples = [{"client": client, "psnr": 46.8 + client / 3, "label_correct": None} for client in range(3)]
    (tmp_path / "samples.jsonl").write_text("".join(json.dumps(each) + "\n" for each in samples))
    noisy = row("grnn", "gaussian_noise(scale=0.3)", 12.0, extra='a, quoted\n"text"')
    return result(tmp_path, [row("grnn", "none", 47.6), noisy, row("control: mean image", "none", 12.8)])


def test_figures_are_paths_and_pages_are_in_their_order(run):
    names = [path.stem for path in run.figures]
    assert names == ["reconstructions", "reconstructions_2", "reconstructions_10", "tradeoff"]
    assert all(path.is_file() for path in run.figures)


def test_a_frame_has_the_rows_and_every_key(run):
    pandas = pytest.importorskip("pandas")
    frame = run.to_frame()
    assert list(frame["psnr"]) == [47.6, 12.0, 12.8]
    assert frame["extra"].isna().tolist() == [True, False, True]
    assert frame.pivot(index="defence", columns="attack", values="psnr").loc["none", "grnn"] == 47.6
    assert isinstance(run.to_frame("samples"), pandas.DataFrame)
    assert list(run.to_frame("samples")["client"]) == [0, 1, 2]


def test_a_frame_without_pandas_says_what_to_do(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r"pip install pandas.*`result.samples`.*to_csv"):
        run.to_frame("samples")


def test_a_csv_file_gives_the_numbers_back(run, tmp_path):
    path = run.to_csv(str(tmp_path / "sub" / "rows.csv"))
    with path.open(newline="") as file:
        read = list(csv.DictReader(file))
    assert [each["attack"] for each in read] == ["grnn", "grnn", "control: mean image"]
    assert [float(each["mse"]) for each in read] == [1e-9] * 3
    assert [each["extra"] for each in read] == ["", 'a, quoted\n"text"', ""]
    with run.to_csv(tmp_path / "samples.csv", rows="samples").open(newline="") as file:
        read = list(csv.DictReader(file))
    assert [float(each["psnr"]) for each in read] == [each["psnr"] for each in run.samples]
    assert {each["label_correct"] for each in read} == {""}
    with pytest.raises(ValueError, match=r"'summary'.*'samples'.*not 'pixels'"):
        run.to_csv(tmp_path / "x.csv", rows="pixels")


def test_a_notebook_shows_the_table_the_reading_and_the_paths(run):
    page = Html(run._repr_html_())
    names = [each[0] for each in page.rows[1:]]
    assert names == ["no defence", "gaussian noise, scale=0.3", "control: mean image"]
    assert page.rows[1][:4] == ["no defence", "4", "47.6", "46.6-48.6"]
    text = " ".join(page.texts)
    assert "What leaked: mine" in text
    assert "PSNR: higher means that more of the image leaked" in text
    assert str(run.folder) in text
    assert "NOT VALID" not in text
    assert page.tags.isdisjoint({"script", "link"})
    assert page.attributes("src") == ["data:image/png;base64,"] * 4, "the pictures are inside"


def test_whatever_a_run_says_is_text_in_a_notebook(tmp_path):
    wicked = result(tmp_path / HOSTILE, [row("grnn", HOSTILE, 12.0)], not_valid=[HOSTILE])
    page = Html(wicked._repr_html_())
    assert "script" not in page.tags
    assert page.rows[1][0] == in_words(HOSTILE)
    assert f"NOT VALID: {HOSTILE}." in page.texts


def test_markup_in_a_name_is_text_on_a_terminal(tmp_path, capsys):
    result(tmp_path, [row("grnn", "[red]mine[/red]", 12.0)]).show()
    assert "[red]mine[/red]" in capsys.readouterr().out


def test_show_prints_the_table_and_the_paths(run, capsys):
    run.show()
    out = capsys.readouterr().out
    assert "control: mean image" in out
    assert f"figure: {run.figures[-1]}" in out
    assert out.rstrip().endswith(f"folder: {run.folder}")


def test_a_users_metric_has_a_column(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(METRICS._entries, "edge_error", lambda guess, truth: (guess - truth).abs().mean((1, 2, 3)))
    measured = result(tmp_path, [row("grnn", "none", 12.0, edge_error=0.123)])
    assert "edge<br>error" in measured._repr_html_()
    assert Html(measured._repr_html_()).rows[1][6] == "0.123"
    unmeasured = result(tmp_path, [row("grnn", "none", 12.0)])
    assert "edge" not in unmeasured._repr_html_(), "a run from before the metric was added"
