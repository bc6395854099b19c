"""Sweeps: the grid, cells that are computed once, what a kill and a failure cost, and what the table decides by."""

import csv
import dataclasses
import itertools
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fl_privacy.settings import UnknownName
from fl_privacy.simulations import Result
from fl_privacy.simulations.cli import app
from fl_privacy.simulations.report.page import Level
from fl_privacy.simulations.report.tradeoff import Estimate, Point
from fl_privacy.simulations.sweeping import decide as deciding
from fl_privacy.simulations.sweeping.cells import Job
from fl_privacy.simulations.sweeping.figure import draw_settings
from fl_privacy.simulations.sweeping.grid import Cell, make_sweep, parse_seeds, read_sweep, spread
from fl_privacy.simulations.sweeping.page import reading
from fl_privacy.simulations.sweeping.result import SweepResult
from fl_privacy.simulations.sweeping.run import plan_sweep, sweep

BASE = """
clients = 2
clients_per_round = 2
dataset = {name = "digits", size = 16}
model = {name = "lenet_dlg", init = "wide"}
attacks = [{name = "grnn", iterations = 2, width = 4}, {name = "label_counts"}]
"""
TINY = f"""
seeds = "0..1"
[experiment]
{BASE}
[grid]
defence = ["none", {{name = "gaussian_noise", scale = {{each = [0.1]}}}}]
"""
SETTINGS = {"dataset": {"name": "digits", "size": 16}, "clients": 2, "clients_per_round": 2}


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("sweep") / "tiny.toml"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="module")
def whole(file):
    """The sweep, never interrupted, in this process."""
    return sweep(file, out=file.parent / "whole", note=lambda text: None)


def test_the_cells_are_all_combinations_in_order():
    made = make_sweep(
        "mine",
        SETTINGS,
        {
            "defence": [
                "none",
                {"name": "clip", "norm": {"each": [0.1, 1.0]}},
                [{"name": "clip"}, {"name": "gaussian_noise"}],
            ],
            "model": ["convnet", "lenet_dlg"],
        },
        [0, 3],
    )
    assert len(made.cells) == 4 * 2 * 2
    assert [cell.seed for cell in made.cells[:4]] == [0, 3, 0, 3]
    assert made.cells[0].words == "defence=none, model=convnet, seed=0"
    assert made.grid["defence"] == ["none", "clip(norm=0.1)", "clip(norm=1.0)", "clip + gaussian_noise"]
    assert [cell.settings["training_defences"] for cell in made.cells[4:12:4]] == [
        [[{"name": "clip", "norm": 0.1}]],
        [[{"name": "clip", "norm": 1.0}]],
    ]
    assert {cell.setting for cell in made.cells} == {"model=convnet", "model=lenet_dlg"}


def test_each_spreads_wherever_it_stands():
    value = [{"name": "a", "x": {"each": [1, 2]}}, {"name": "b", "y": {"each": [3, [4]]}}]
    assert list(spread(value)) == [
        [{"name": "a", "x": x}, {"name": "b", "y": y}] for x, y in itertools.product([1, 2], [3, [4]])
    ]


@pytest.mark.parametrize(
    ("text", "seeds"),
    [("0..4", [0, 1, 2, 3, 4]), ("0,1,2", [0, 1, 2]), ("7", [7]), ("0..1, 5", [0, 1, 5]), ([2, 0], [2, 0])],
)
def test_seeds_are_written_in_several_ways(text, seeds):
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "4..0", "a", "1,1", [], [-1], [True], "0..99999999", 3])
def test_what_are_no_seeds_is_said(text):
    with pytest.raises(ValueError, match=r"0\.\.4"):
        parse_seeds(text)


@pytest.mark.parametrize(
    ("grid", "error", "words"),
    [
        ({"defence": [{"name": "clipp"}]}, UnknownName, "defence=clipp.*clip"),
        ({"clients": [2, 0]}, ValueError, "clients=0.*at least 1"),
        ({"clients": []}, ValueError, "at least one value"),
        ({"clients": 2}, ValueError, "list"),
        ({"clientz": [2]}, UnknownName, "clients"),
        ({"defence": ["none", []]}, ValueError, "twice"),
        ({"model": ["convnet", {"name": "convnet"}]}, ValueError, "twice"),
        ({"clip": {"each": []}}, ValueError, "at least one"),
    ],
)
def test_a_wrong_cell_is_named_before_anything_runs(grid, error, words):
    with pytest.raises(error, match=words):
        make_sweep("mine", SETTINGS, grid)


def test_what_only_the_data_tell_is_checked_for_every_cell_before_anything_runs(tmp_path):
    made = make_sweep("mine", SETTINGS, {"batch_size": [1, 100_000]})
    with pytest.raises(ValueError, match=r"batch_size=100000.*has only"):
        plan_sweep(made, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_is_left_alone(tmp_path, file):
    (tmp_path / "mine.txt").touch()
    with pytest.raises(ValueError, match="not empty"):
        plan_sweep(file, tmp_path)


def test_a_sweep_ends_in_a_table_a_plot_and_sentences(whole):
    assert [each["defence"] for each in whole.points] == ["none", "gaussian_noise(scale=0.1)"]
    assert all(each["seeds"] == [0, 1] for each in whole.points)
    assert whole.points[0]["labels_read"] == 1, "what label_counts reads counts, though it rebuilds no image"
    (figure,) = whole.figures
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert whole.sentences
    assert "Student's t over 2 seeds" in reading(whole.found)
    rows = list(csv.DictReader((whole.folder / "table.csv").open()))
    assert [float(row["psnr"]) for row in rows] == [each["psnr"] for each in whole.points]
    assert "control: class mean" in whole._repr_html_()
    opened = CliRunner().invoke(app, ["report", str(whole.folder), "--html"])
    assert opened.exit_code == 0, opened.output
    page = (whole.folder / "report.html").read_text()
    assert "<img" in page
    assert whole.sentences[0].split(":")[0] in page
    runs = {path.name for path in (whole.folder / "cells").iterdir()}
    assert len(runs) == 4
    for path in runs:
        assert (whole.folder / "cells" / path / "results.json").is_file(), "each cell is an ordinary run folder"


def test_the_values_are_the_means_over_the_runs(whole):
    found = [
        json.loads(path.read_text()) for path in sorted((whole.folder / "cells").glob("defence_none*/results.json"))
    ]
    psnr = [next(row["psnr"] for row in each["summary"] if row["attack"] == "grnn") for each in found]
    assert len(psnr) == 2
    assert whole.points[0]["psnr"] == pytest.approx(sum(psnr) / 2)


def test_finished_cells_are_not_computed_again_and_a_larger_grid_adds_to_them(whole, file, monkeypatch):
    computed = []
    monkeypatch.setattr(Job, "compute", lambda job: computed.append(job.words))
    before = (whole.folder / "sweep.json").read_bytes()
    sweep(file, out=whole.folder, note=lambda text: None)
    assert not computed
    assert (whole.folder / "sweep.json").read_bytes() == before
    larger = read_sweep(file)
    todo = [job for job in plan_sweep(make_larger(larger), whole.folder).jobs if job.finished is None]
    assert [job.words for job in todo] == ["defence=none, seed=2", "defence=gaussian_noise(scale=0.1), seed=2"]


def make_larger(known):
    settings = {
        key: value for key, value in known.cells[0].settings.items() if key not in ("seed", "training_defences")
    }
    return make_sweep("tiny", settings, {"defence": ["none", {"name": "gaussian_noise", "scale": 0.1}]}, [0, 1, 2])


def test_the_picture_of_a_smaller_grid_does_not_stay(whole, tmp_path):
    one = {**whole.found["settings"][0], "setting": "model=lenet_dlg"}
    (alone,) = draw_settings(tmp_path, {**whole.found, "settings": [one]})
    (tmp_path / "mine.png").touch()
    both = draw_settings(tmp_path, {**whole.found, "settings": [one, {**one, "setting": "model=convnet"}]})
    assert not alone.exists()
    assert set(tmp_path.glob("*.png")) == {*both, tmp_path / "mine.png"}
    assert len(both) == 2


def test_several_seeds_of_one_experiment_end_in_one_table(whole, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "one.toml").write_text(BASE)
    given = ["run", "one.toml", "--backend", "local", "--out", "here"]
    done = CliRunner().invoke(app, [*given, "--seeds", "0..1"])
    assert done.exit_code == 0, done.output
    (point,) = SweepResult.read("here").points
    assert point["psnr"] == pytest.approx(whole.points[0]["psnr"], abs=1e-12), "the same runs as the sweep's own"
    assert (point["psnr_low"], point["seeds"]) == (whole.points[0]["psnr_low"], [0, 1])
    assert "Student's t over 2 seeds" in " ".join(done.output.split())
    refused = CliRunner().invoke(app, [*given, "--seeds", "0..1", "--seed", "3"])
    assert refused.exit_code == 2
    assert "--seed" in refused.output


def test_killed_and_started_again_it_gives_the_same_bits(whole, file):
    out = file.parent / "killed"
    command = [sys.executable, "-m", "fl_privacy.simulations.cli", "sweep", str(file), "--out", str(out)]
    with (file.parent / "log.txt").open("w") as log:
        running = subprocess.Popen([*command, "--workers", "2"], stdout=log, stderr=log)
        wait_for(lambda: list((out / "cells").glob("defence*")) or running.poll() is not None)
        running.send_signal(signal.SIGKILL)
        running.wait()
    finished = {path: path.stat().st_mtime_ns for path in (out / "cells").glob("defence*/results.json")}
    assert 0 < len(finished) < 4, (file.parent / "log.txt").read_text()
    wait_for(lambda: not drafting(out))
    begun = time.monotonic()
    again = sweep(file, out=out, note=lambda text: None)
    print(f"\nrecovery: driver of a sweep, to its end: {time.monotonic() - begun:.1f} s")
    assert (again.folder / "sweep.json").read_bytes() == (whole.folder / "sweep.json").read_bytes()
    assert not list((out / "cells").glob(".draft*"))
    assert {path: path.stat().st_mtime_ns for path in finished} == finished, "what was finished was left as it was"


def wait_for(happened, seconds=400):
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "in vain"
        time.sleep(0.05)


def drafting(out):
    """The worker processes of a sweep that are still alive, by the numbers in their drafts' names."""
    numbers = {int(path.name.split("-")[1]) for path in (out / "cells").glob(".draft-*")}
    return [number for number in numbers if os.path.exists(f"/proc/{number}")]


DEADLY = """
import dataclasses, os
import fl_privacy as flp

@dataclasses.dataclass(frozen=True)
class Deadly(flp.Defence):
    how: str = "not"

    def on_release(self, payload, rng):
        if self.how == "dies":
            os._exit(9)
        return payload
"""


def test_a_cell_that_fails_or_takes_its_process_along_costs_no_other(tmp_path, monkeypatch):
    (tmp_path / "deadly.py").write_text(DEADLY)
    (tmp_path / "deadly.toml").write_text(
        f'[experiment]\n{BASE}\n[grid]\ndefence = [{{name = "deadly:Deadly", how = {{each = ["dies", "not"]}}}}]\n'
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    done = CliRunner().invoke(app, ["sweep", "deadly.toml", "--out", "here", "--workers", "2"])
    assert done.exit_code == 1, done.output
    found = SweepResult.read("here")
    (failed,) = found.failed
    assert failed["cell"] == "defence=deadly:Deadly(how=dies), seed=0"
    assert "ended with code 9" in (found.folder / failed["log"]).read_text()
    assert [each["defence"] for each in found.points] == ["deadly:Deadly(how=not)"]
    assert "FAILED" in done.output


@pytest.mark.ray
def test_on_ray_one_session_has_all_cells_and_one_that_takes_its_worker_along_costs_no_other(tmp_path, monkeypatch):
    from fl_privacy.simulations.backends import ray as backend

    (tmp_path / "deadly.py").write_text(DEADLY)
    (tmp_path / "deadly.toml").write_text(
        f'seeds = "0..1"\n[experiment]\n{BASE}\n'
        '[grid]\ndefence = ["none", {name = "deadly:Deadly", how = {each = ["dies"]}}]\n'
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    begun, start = [], backend._start
    monkeypatch.setattr(backend, "_start", lambda *given: begun.append(given) or start(*given))
    done = CliRunner().invoke(app, ["sweep", "deadly.toml", "--out", "here", "--workers", "2", "--backend", "ray"])
    assert done.exit_code == 1, done.output
    assert begun == [(2, None)], "one session for the whole sweep"
    found = SweepResult.read("here")
    assert [each["cell"] for each in found.failed] == [f"defence=deadly:Deadly(how=dies), seed={n}" for n in (0, 1)]
    assert "its worker died" in (found.folder / found.failed[0]["log"]).read_text()
    here = sweep(make_sweep("same", tomllib.loads(BASE), seeds=(0, 1)), out=tmp_path / "local", note=lambda text: None)
    cells = [each["samples"] for each in found.found["cells"]]
    assert cells == [each["samples"] for each in here.found["cells"]], "the bits of one process"


def test_where_every_cell_fails_the_traceback_is_named(file, tmp_path, monkeypatch):
    monkeypatch.setattr(Job, "compute", lambda job: 1 / 0)
    done = CliRunner().invoke(app, ["sweep", str(file), "--out", str(tmp_path / "out")])
    assert done.exit_code == 1
    assert "every cell failed" in done.output
    assert "ZeroDivisionError" in next((tmp_path / "out" / "failures").iterdir()).read_text()


def test_a_defence_is_beaten_by_one_with_no_less_accuracy_and_no_more_leakage():
    rng = random.Random(0)
    for _ in range(50):
        found = [
            Point(str(n), "a", Estimate(leak, leak, leak), Estimate(use, use, use))
            for n, (use, leak) in enumerate((rng.randint(0, 4), rng.randint(0, 4)) for _ in range(6))
        ]
        for one in found:
            use, leak = one.utility.value, one.leakage.value
            worse = any(
                (b.utility.value > use and b.leakage.value <= leak)
                or (b.utility.value >= use and b.leakage.value < leak)
                for b in found
            )
            assert (deciding._beaten_by(one, found) is not None) == worse


def point(defence, accuracy, psnr, half=1.0, **more):
    estimates = {
        "accuracy": accuracy,
        "accuracy_low": accuracy - 0.01,
        "accuracy_high": accuracy + 0.01,
        "psnr": psnr,
        "psnr_low": psnr - half,
        "psnr_high": psnr + half,
    }
    return {
        **{
            "defence": defence,
            "attack": "map",
            "images": 8,
            "recovered": 8,
            "strongest": True,
            "beaten_by": None,
            "labels_read": 1.0,
            "seeds": [0, 1],
        },
        **estimates,
        **more,
    }


FLOOR = {deciding.Control.CLASS_MEAN: Estimate(16.0, 15.5, 16.5)}


def test_the_sentences_say_what_a_defence_costs_and_stops():
    found = [
        point("none", 0.9, 60.0),
        point("clip(norm=1.0)", 0.88, 30.0),
        point("b", 0.7, 16.2),
        point("c", 0.6, 15.0),
    ]
    made = list(deciding._findings(found, FLOOR))
    assert [each["level"] for each in made] == [Level.EXACT, Level.CLOSER, Level.UNCLEAR, Level.BLIND]
    said = [each["words"] for each in made]
    assert said[0].startswith("accuracy 90.0% (89.0% to 91.0%); map gets the images whole")
    assert "2.0 points less than without a defence; map gets 30.0 dB (29.0 to 31.0), 14.0 dB more than" in said[1]
    assert "not told apart from the class mean" in said[2]
    assert "no more than the class mean (16.0 dB)" in said[3]
    assert len(list(deciding._findings([{**found[1], "beaten_by": "none"}, found[0]], FLOOR))) == 1


def test_a_finding_is_held_against_the_highest_of_all_guesses_as_on_the_page_of_a_run():
    mean_image = {deciding.Control.MEAN_IMAGE: Estimate(21.0, 20.0, 22.0)}
    found = [point("a", 0.9, 24.0), point("b", 0.8, 22.5), point("c", 0.7, 20.0), point("d", 0.6, 40.0, half=0.0)]
    made = list(deciding._findings(found, {**FLOOR, **mean_image}))
    assert [each["level"] for each in made] == [Level.CLOSER, Level.UNCLEAR, Level.BLIND, Level.UNCLEAR]
    assert "no more than the mean image (21.0 dB), a blind guess" in made[2]["words"]
    assert all(each["level"] is Level.CLOSER for each in deciding._findings(found[:3], FLOOR)), "the class mean alone"


def test_a_defence_under_which_more_leaks_is_doubted():
    setting = {"points": [point("none", 0.9, 20.0), point("clip", 0.9, 30.0), point("same", 0.9, 20.5)]}
    (doubt,) = deciding._doubts(setting)
    assert doubt.startswith("'clip' seems to leak more than 'none'")


def test_what_diverged_is_one_warning_for_all_seeds_and_defences(whole):
    lost = {"round": 80, "evaluate_metrics_serverapp": {"loss": None}}
    first = {"round": 0, "evaluate_metrics_serverapp": {"loss": 2.3}}
    cells = [Cell({}, seed, {"defence": "x", "model": "net"}) for seed in (0, 1)]
    run = Result.read(next((whole.folder / "cells").glob("defence_none*")))
    broken = dataclasses.replace(run, conditions=[{"defence": "quantise(bits=2)", "rounds": [first, lost]}])
    (said,) = deciding._broken([deciding.Finished(cell, broken) for cell in cells])
    assert "under 'model=net: quantise(bits=2)' (seeds 0, 1)" in said


def test_the_shipped_sweep_compares_five_kinds_of_defence_in_three_strengths_over_three_seeds():
    shipped = read_sweep("which_defence")
    assert len(shipped.cells) == (1 + 5 * 3) * 3


def test_the_sweep_of_the_documentation_is_one(tmp_path):
    page = (Path(__file__).parent.parent / "docs" / "which-defence.md").read_text()
    (tmp_path / "mine.toml").write_text(re.search(r"```toml\n(.*?)```", page, re.DOTALL)[1])
    assert len(read_sweep(tmp_path / "mine.toml").cells) == 2 * 5 * 3
    lines = re.findall(r"`((?:\"|clients = )[^`]+)`", page)
    sizes = {}
    for line in lines:
        grid = tomllib.loads(f"[grid]\n{line}")["grid"]
        (address,) = grid
        sizes[address] = len(make_sweep("mine", {**SETTINGS, "channel": "update"}, grid).cells)
    assert sizes == {"attack.iterations": 2, "clients": 2, "protocol.local": 2}, "all that the page shows, and no more"
