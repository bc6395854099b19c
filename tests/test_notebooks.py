"""The notebooks run from the first cell to the last, and what they claim in their texts holds."""

import re
import sys
from pathlib import Path

import jupytext
import pytest
from html_reader import Html
from nbclient import NotebookClient

from benchmarks.notebooks import built, sources

FOLDER = Path(__file__).parent.parent / "notebooks"


def executed(name, tmp_path):
    """The notebook after all of its cells ran, in an empty folder, with this interpreter."""
    notebook = jupytext.read(FOLDER / f"{name}.py")
    client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}})
    client.create_kernel_manager()
    client.km.kernel_cmd = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    client.execute()
    return notebook


def texts(notebook):
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return "\n".join(each.get("text") or each.get("data", {}).get("text/plain", "") for each in outputs)


def shown(notebook):
    """The one page that a result shows of itself, with its pictures inside."""
    outputs = [output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", [])]
    (html,) = (each["text/html"] for each in outputs if "flp" in each.get("text/html", ""))
    page = Html(html)
    assert page.attributes("src")
    return page


@pytest.fixture(scope="module")
def gradient(tmp_path_factory):
    return executed("gradient", tmp_path_factory.mktemp("gradient"))


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    return executed("split", tmp_path_factory.mktemp("split"))


def test_every_notebook_is_tested():
    assert {path.stem for path in FOLDER.glob("*.py")} == {
        *("compare_attacks", "gradient", "own_federation", "split", "vicious", "which_defence")
    }


def test_every_notebook_is_there_to_be_opened_and_in_step_with_its_source():
    shipped = {path.stem: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.ipynb")}
    assert shipped == {path.stem: built(path) for path in sources()}, "python -m benchmarks.notebooks"


def test_the_gradient_notebook_shows_its_pictures_and_table(gradient):
    pictures = [
        output for cell in gradient.cells for output in cell.get("outputs", []) if "image/png" in output.get("data", {})
    ]
    assert len(pictures) == 2
    assert "control: mean image" in texts(gradient)


def test_the_gradient_notebook_reads_the_label_as_it_says(gradient):
    line = next(line for line in texts(gradient).splitlines() if line.startswith("label read"))
    guess, truth = (part.split()[-1] for part in line.split(", "))
    assert guess.split(":")[-1] == truth.split(":")[-1]


def test_the_gradient_notebook_shows_what_its_texts_claim(gradient):
    plain = re.sub(r"\x1b\[[0-9;]*m", "", texts(gradient))
    rows = re.findall(r"^ *(\S.*?\S) +4 +([\d.]+) +[\d.]+-[\d.]+ ", plain, re.MULTILINE)
    psnr = {name: float(value) for name, value in rows}
    blind = psnr["control: mean image"]
    assert psnr["none"] > blind + 8
    assert psnr["gaussian_noise(scale=0.003)"] > blind + 8
    assert psnr["gaussian_noise(scale=0.3)"] < blind + 1


@pytest.fixture(scope="module")
def vicious(tmp_path_factory):
    return executed("vicious", tmp_path_factory.mktemp("vicious"))


def test_the_vicious_notebook_shows_its_pictures(vicious):
    pictures = [
        output for cell in vicious.cells for output in cell.get("outputs", []) if "image/png" in output.get("data", {})
    ]
    assert len(pictures) == 2
    assert (
        len(re.findall(r"[+-]\d+\.\d\d", next(line for line in texts(vicious).splitlines() if "sent:" in line))) == 10
    )


def test_the_vicious_notebook_shows_what_its_texts_claim(vicious):
    plain = re.sub(r"\x1b\[[0-9;]*m", "", texts(vicious))
    psnr = {name: float(value) for name, value in re.findall(r"^ *(\S.*?\S) +360 +([\d.]+) ", plain, re.MULTILINE)}
    attack, fitted = psnr["vicious server | vicious"], psnr["honest server | output_decoder"]
    assert attack > fitted + 1
    assert fitted > psnr["control: mean image"] + 2
    judged = re.findall(r"^(vicious|honest, seed \d) +entropy ([\d.]+) bits +1 - S ([\d.]+)", plain, re.MULTILINE)
    entropies, moved = ([float(row[column]) for row in judged] for column in (1, 2))
    assert len(judged) == 8, "twice each, the second time with the decoder of the user's own"
    assert entropies[0] > entropies[1], "less sure than its honest twin"
    assert moved[0] > moved[1], "moved further than its honest twin"
    leaks = {name: float(leak) for name, leak in re.findall(r"^(\S.*?) +entropy .* own decoder ([\d.]+)$", plain, re.M)}
    honest = [leak for name, leak in leaks.items() if name.startswith("honest")]
    assert min(leaks["vicious"], leaks["vicious, polished"]) > max(honest) + 0.1
    bits = dict(re.findall(r"^(\S.*?) +entropy ([\d.]+) bits .* own decoder", plain, re.M))
    honest = [float(bits[name]) for name in bits if name.startswith("honest")]
    assert float(bits["vicious, polished"]) <= max(honest) < float(bits["vicious"])


def test_the_split_notebook_shows_what_its_texts_claim(split):
    plain = re.sub(r"\x1b\[[0-9;]*m", "", texts(split))
    found = re.findall(r"tried against .*: +([\d.]+) dB", plain)
    clean, adaptive, averaged, estimating = (float(value) for value in found)
    assert min(averaged, estimating) > adaptive + 1
    assert adaptive > clean + 1
    found = re.findall(r": distance correlation ([\d.]+), floor ([\d.]+), bias-corrected ([\d.]+)", plain)
    undefended, peeked = ([float(value) for value in line] for line in found)
    assert all(before > after + 0.05 for before, after in zip(undefended, peeked, strict=True))
    pictures = [o for cell in split.cells for o in cell.get("outputs", []) if "image/png" in o.get("data", {})]
    assert len(pictures) == 2


def test_the_comparison_shows_what_its_texts_claim(tmp_path):
    notebook = executed("compare_attacks", tmp_path)
    read = re.findall(r"label_counts +labels right: (\d+)%", texts(notebook))
    assert read == ["100", "100"]
    page = shown(notebook)
    psnr = [float(row[2]) for row in page.rows[1:]]  # peeling, map, inverting_gradients, grnn; then the controls
    assert len(psnr) == 11
    open_, noisy = psnr[0:8:2], psnr[1:8:2]
    assert open_[0] == max(open_) > 90
    assert noisy[1] == max(noisy)
    assert [row[6] for row in page.rows[1:9:2]] == ["float32"] * 4
    bound = float(page.rows[2][6])
    assert bound - 3 < noisy[1] < bound + 1
    class_mean = psnr[-1]
    assert open_[3] < class_mean < min(noisy[:3])


def test_the_audit_of_an_own_app_shows_what_its_texts_claim(tmp_path):
    notebook = executed("own_federation", tmp_path)
    page = shown(notebook)
    said = " ".join(page.texts)
    assert "It leaks: of 2 of 2 messages images were rebuilt" in said
    assert "Labels were read in 2 of 2 messages." in said
    psnr = page.rows[0].index("PSNR dB")
    single, four = (float(row[psnr]) for row in page.rows[1:3])
    assert single > 90
    assert four > 40
    defended = texts(notebook)
    assert "of no message of 2 do they explain it" in " ".join(defended.split())
    assert "Labels were read in 0 of 2 messages. In 2 they were guessed" in defended
    got, blind = map(
        float, re.search(r"mean PSNR is ([\d.]+) dB, and that of the best guesses.*?([\d.]+) dB", defended).groups()
    )
    assert got > blind + 2


def test_the_sweep_ends_in_a_decision_as_its_texts_say(tmp_path):
    notebook = executed("which_defence", tmp_path)
    page = shown(notebook)
    names = [row[0] for row in page.rows[1:]]
    assert [name.partition(" | ")[0] for name in names[:3]] == [
        *("none", "gaussian_noise(scale=0.03)", "gaussian_noise(scale=0.3)")
    ]
    assert "control: class mean" in names
    assert re.search(r"^- .*: accuracy ", texts(notebook), re.MULTILINE), "a sentence a defence"
    assert "the same: True" in texts(notebook)
