"""The page of a run and of an audit: what it says first, what it never does, and how a browser shows it."""

import csv
import json
import re
import shutil
import subprocess

import pytest
import torch
from html_reader import Html
from PIL import Image
from rich.table import Table
from typer.testing import CliRunner

from fl_privacy.observation import ChannelName, Images
from fl_privacy.simulations import Audit, Result, audit, configure, load_experiment
from fl_privacy.simulations.channels import CHANNELS
from fl_privacy.simulations.cli import app
from fl_privacy.simulations.report.columns import FIRST, LAST, MEANINGS, cells
from fl_privacy.simulations.report.figures import Column, draw
from fl_privacy.simulations.report.html import document
from fl_privacy.simulations.report.page import Level
from fl_privacy.simulations.report.reproduce import typed_command
from fl_privacy.simulations.report.table import console_for
from fl_privacy.simulations.report.threat import SEATS, who_sees_what

HOSTILE = '</style></code><script>document.title="owned"</script><img src=x onerror="document.title=\'owned\'">&amp;'
HALF = "\ud800"
"""Half of a character, which UTF-8 cannot write."""
TAGS = {
    *("html", "head", "meta", "title", "style", "body", "main", "div", "h1", "h2", "p", "strong", "section", "b", "br"),
    *("span", "ul", "li", "dl", "dt", "dd", "table", "thead", "tbody", "tr", "th", "td", "figure", "figcaption", "img"),
    *("pre", "code"),
}
ORDER = (
    "The verdict",
    "Who sees what",
    "What the adversary rebuilt",
    "The numbers",
    "What was tried",
    "What was assumed",
    "What was not tried",
    "How to reproduce it",
    "Files",
)
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WHITE, DARK = (255, 255, 255), (0x15, 0x18, 0x1C)


def row(attack, defence, psnr, spread=1.0, **more):
    low, high = (None, None) if psnr is None else (psnr - spread, psnr + spread)
    return {
        **{"attack": attack, "defence": defence, "images": 8, "recovered": 0 if psnr is None else 8, "psnr": psnr},
        **{"psnr_low": low, "psnr_high": high, "ssim": 0.5, "mse": 0.1, "label_accuracy": 1.0, "model_accuracy": 0.744},
        **more,
    }


CONTROLS = [row("control: random guess", "none", 9.0), row("control: class mean", "none", 16.6)]


def result(folder, summary, **more):
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    image = torch.zeros(1, 1, 8, 8)
    draw(folder / "figures" / "reconstructions.png", "rebuilt", [Column("one", image, ["0 dB"])], "")
    environment = {
        "versions": {"python": "3.11.7", "torch": HOSTILE},
        "hardware": {"system": "Linux", "processor": HOSTILE, "cores": 2, "gpus": []},
        "provenance": {"version": "0.1.0", "source": "abc", "commit": HOSTILE},
        "command": ["/usr/bin/fl-privacy", "run", HOSTILE, "--seed", "3"],
    }
    (folder / "config.json").write_text(json.dumps(environment))
    experiment = configure(name="mine", attacks=({"name": "grnn", "label": more.pop("label", "grnn")},))
    return Result(folder, experiment, [], summary, {"samples": "0123"}, **more)


@pytest.fixture
def wicked(tmp_path):
    summary = [row(HOSTILE, HOSTILE, 20.0), row(HOSTILE, "none", None), *CONTROLS]
    summary[0]["unmeasured"] = {HOSTILE: HOSTILE + HALF}
    return result(tmp_path / "run", summary, label=HOSTILE, not_valid=[HOSTILE], warnings=[HOSTILE])


def test_the_verdict_stands_first_and_every_part_after_it(tmp_path):
    page = Html(document(result(tmp_path, [row("grnn", "none", 30.0), *CONTROLS]).page()))
    where = [page.texts.index(each) for each in ORDER]
    assert where == sorted(where)
    said = " ".join(page.texts)
    assert "Images came back at 30.0 dB (95 %: 29.0 to 31.0) by grnn: an error of about 3.2 %" in said
    assert "A guess from the label gets 16.6 dB (class mean)." in said
    assert "blind guess gets" not in said, "the best guess is the floor"
    assert "74.4%" in said


@pytest.mark.parametrize(
    ("psnr", "spread", "level"),
    [
        (60.0, 1.0, Level.EXACT),
        (20.0, 1.0, Level.CLOSER),
        (18.0, 1.0, Level.UNCLEAR),
        (16.6, 1.0, Level.BLIND),
        (9.0, 1.0, Level.BLIND),
        (30.0, 20.0, Level.UNCLEAR),
        (None, 1.0, Level.NOTHING),
    ],
)
def test_a_verdict_is_held_against_all_that_a_guess_gets(psnr, spread, level, tmp_path):
    found = result(tmp_path, [row("grnn", "none", psnr, spread), *CONTROLS]).page()
    assert [each.level for each in found.verdict] == [level]


def test_a_blind_guess_above_the_class_mean_is_named_beside_it(tmp_path):
    summary = [row("grnn", "none", 20.0), *CONTROLS, row("control: mean image", "none", 20.5)]
    (found,) = result(tmp_path, summary).page().verdict
    assert found.level is Level.BLIND
    assert "A guess from the label gets 16.6 dB (class mean). A blind guess gets 20.5 dB (mean image)." in found.words


def test_without_controls_nothing_is_said_to_leak(tmp_path):
    assert result(tmp_path, [row("grnn", "none", 40.0)]).page().verdict[0].level is Level.UNCLEAR


def test_names_and_errors_of_any_kind_are_text(wicked, tmp_path):
    text = wicked.to_html().read_text(encoding="utf-8")
    page = Html(text)
    assert page.tags <= TAGS
    assert not [name for name, _ in page.pairs if name.startswith("on")]
    assert any("<script>" in each for each in page.texts), "it is there, as text"
    assert Html(wicked._repr_html_()).tags <= TAGS


def test_the_file_needs_nothing_else(wicked):
    text = document(wicked.page())
    page = Html(text)
    assert all(each.startswith("data:image/png;base64,") for each in page.attributes("src"))
    assert len(page.attributes("src")) == 1
    assert not page.attributes("href")
    assert "default-src 'none'" in page.attributes("content")[0] + page.attributes("content")[1]
    assert not re.search(r"url\(|@import|https?:", text)


def test_a_word_between_backticks_is_code_and_nothing_more(tmp_path):
    text = document(result(tmp_path, [row("grnn", "none", 30.0), *CONTROLS], warnings=[]).page())
    assert "<code>fl-privacy attack RUN --attack NAME</code>" in text


def test_a_bound_that_is_the_arithmetics_alone_is_a_word():
    (bound,) = (each for each in LAST if each.key == "bound_psnr")
    assert cells(row("map", "none", 59.8, bound_psnr=140.0), [bound]) == ("float32",)
    assert cells(row("map", "none", 59.8, bound_psnr=139.9), [bound]) == ("139.9",)
    assert cells(row("map", "none", 59.8), [bound]) == ("-",)


def test_every_column_says_what_it_is():
    own = {key for channel in CHANNELS.values() for key, _ in channel.evaluation.columns.values()}
    assert {each.key for each in (*FIRST, *LAST)} | own == set(MEANINGS)


def test_in_a_pipe_many_columns_do_not_squeeze_the_names(capsys):
    table = Table()
    table.add_column("defence")
    for number in range(20):
        table.add_column(f"heading {number}", no_wrap=True)
    table.add_row("honest server | output_decoder", *["0.123456"] * 20)
    console_for(table).print(table)
    assert "honest server | output_decoder" in capsys.readouterr().out


def test_every_channel_says_who_sees_what():
    assert set(SEATS) == set(ChannelName)
    masked = configure(name="x", channel="update", protocol={"secure_aggregation": True})
    assert "no single one (secure aggregation)" in who_sees_what(masked)["It sees"]
    plain = who_sees_what(configure(name="x", public={"name": "digits", "first": 1000}))
    assert "images of its own" in plain["It holds beside that"]
    assert "Queries" not in str(plain)
    split = load_experiment("split_quickstart", ["protocol.adversary=data owner"])
    assert who_sees_what(split)["The adversary"].startswith("Data owner.")


@pytest.mark.parametrize(
    ("argv", "typed"),
    [
        (["/usr/bin/fl-privacy", "run", "my file.toml"], "fl-privacy run 'my file.toml'"),
        (["/x/fl_privacy/simulations/cli/__main__.py", "run", "quickstart"], "fl-privacy run quickstart"),
        (["/x/ipykernel_launcher.py", "-f", "kernel.json"], ""),
        (["fl-privacy"], ""),
        ([], ""),
    ],
)
def test_what_was_typed_is_told_where_it_was_our_command(argv, typed):
    assert typed_command(argv) == typed


@pytest.fixture(scope="module")
def audited(tmp_path_factory):
    """An audit of one step on one image, by the two attacks that take no time."""
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 4))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    image, label = torch.rand(1, 1, 8, 8), torch.tensor([2])
    torch.nn.functional.cross_entropy(model(image), label).backward()
    update = {name: -0.1 * value.grad for name, value in model.named_parameters()}
    return audit(
        before,
        update,
        model=model,
        shape=(1, 8, 8),
        classes=4,
        local={"learning_rate": 0.1},
        images=1,
        truth=(image, label),
        public=Images(torch.rand(9, 1, 8, 8), torch.arange(9) % 4),
        attacks=("label_counts", "linear_layer", "peeling"),
        out=tmp_path_factory.mktemp("audit") / "out",
    )


def test_an_audit_is_read_back_from_its_folder_and_shows_the_same_page(audited):
    again = Audit.read(audited.folder)
    assert again._repr_html_() == audited._repr_html_()
    assert torch.equal(again.guesses["linear_layer"].inputs, audited.guesses["linear_layer"].inputs)
    said = " ".join(Html(audited._repr_html_()).texts)
    assert "It leaks: linear_layer rebuilt 1 image" in said
    assert re.search(r"the best guess \((class mean, a guess from the label|\w+ \w+, a blind guess)\) has", said)
    assert "9 images of its own" in said
    assert "control: class mean" in said


def test_the_command_writes_the_page_and_the_rows_of_an_audit(audited):
    done = CliRunner().invoke(app, ["report", str(audited.folder), "--html"])
    assert done.exit_code == 0, done.output
    assert (audited.folder / "report.html").read_text() == document(audited.page())
    with (audited.folder / "report.csv").open(newline="") as file:
        rows = {each["attack"]: each for each in csv.DictReader(file)}
    assert float(rows["linear_layer"]["psnr"]) > 60
    assert float(rows["control: mean image"]["psnr"]) < 30


def test_a_folder_with_neither_is_told(tmp_path):
    done = CliRunner().invoke(app, ["report", str(tmp_path), "--html"])
    assert done.exit_code == 2
    assert "is not a finished run" in done.output


def in_browser(path, *more):
    """What a headless browser prints for a page, in its own empty profile."""
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--force-device-scale-factor=1"]
    profile = f"--user-data-dir={path.parent / 'profile'}"
    words = [BROWSER, *options, profile, *more, path.as_uri()]
    return subprocess.run(words, capture_output=True, text=True, timeout=60, check=True).stdout


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here: apt-get install chromium (or Google Chrome)")
def test_a_browser_shows_it_runs_nothing_and_nothing_sticks_out(wicked, tmp_path):
    path = wicked.to_html(tmp_path / "page.html")
    seen = in_browser(path, "--dump-dom")
    assert "<title>owned" not in seen
    assert "The verdict" in seen
    for scheme, colour, width in ((0, DARK, 500), (1, WHITE, 1400)):
        shot = tmp_path / f"{width}.png"
        blink = f"--blink-settings=preferredColorScheme={scheme}"
        in_browser(path, blink, f"--window-size={width},2000", f"--screenshot={shot}")
        image = Image.open(shot).convert("RGB")
        assert image.size == (width, 2000)
        assert len(image.getcolors(1 << 20)) > 20, "there is something on it"
        edges = {image.getpixel((x, y)) for x in (0, 5, width - 6, width - 1) for y in range(0, 2000, 7)}
        assert edges == {colour}, "the margins are empty: nothing is wider than the screen"
