"""A run that is killed goes on where it was, and ends with the bits of one that was not."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord
from flwr.serverapp.strategy import FedAdam, FedAvgM
from hypothesis import given, settings
from hypothesis import strategies as st
from killed import Killed, killing, quiet, told, whole
from PIL import Image

from fl_privacy import checkpoints
from fl_privacy.simulations.config.build import federation_of
from fl_privacy.simulations.config.load import configure, reconfigure
from fl_privacy.simulations.report import write as report
from fl_privacy.simulations.run.again import execute_again, plan_again
from fl_privacy.simulations.run.pipeline import execute, plan, simulate
from fl_privacy.simulations.run.resume import alone
from fl_privacy.strategies import resumable
from fl_privacy.strategies.state import load_strategy_state, strategy_state

GRADIENT = configure(
    name="tiny",
    dataset={"name": "digits", "size": 16},
    model={"name": "lenet_dlg", "init": "wide"},
    attack={"name": "grnn", "iterations": 2, "width": 4},
    training_defences=([], [{"name": "gaussian_noise", "scale": 0.1}]),
    clients=3,
    clients_per_round=2,
    rounds=3,
    attacked_rounds=(1, 3),
    attacked_clients=1,
)
UPDATE = reconfigure(
    GRADIENT,
    channel="update",
    clients=2,
    batch_size=2,
    training_defences=([],),
    attacked_rounds=(3,),
    protocol={"strategy": "FedAvgM", "local": {"steps": 2, "momentum": 0.9}},
)
EXPERIMENTS = {"gradient": GRADIENT, "update": UPDATE}


OWN = {
    "model": "from fl_privacy.models.lenet import lenet_dlg as mine",
    "partition": "from fl_privacy.data.partition import iid as mine",
    "attack": "from fl_privacy.attacks.gradient.grnn import GRNN as mine",
}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """A checkpoint after every round, and no figures."""
    monkeypatch.setattr(resumable, "EVERY_SECONDS", 0.0)
    monkeypatch.setattr(report, "draw", lambda *_: None)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_killed_in_any_write_a_run_goes_on_to_the_bits_of_one_that_was_not(name, tmp_path, monkeypatch):
    experiment = EXPERIMENTS[name]
    with monkeypatch.context() as patch:
        written = killing(patch, 0)
        wanted = told(whole(experiment, tmp_path / "whole").folder)
    last = written.index("whole/results.json") + 1
    stages = [written.index(each) + 1 for each in ("checkpoints/0.safetensors", "whole/rounds.json")]
    everywhere = {1, *stages, stages[0] + 3, stages[1] + 1, (stages[1] + last) // 2, last}
    for at in sorted(everywhere if experiment is GRADIENT else {stages[0] + 1, stages[0] + 2}):
        out = tmp_path / str(at)
        with monkeypatch.context() as patch:
            killing(patch, at)
            with pytest.raises(Killed):
                whole(experiment, out)
        result = whole(experiment, out, resume=True)
        assert told(result.folder) == wanted, written[at - 1]
        assert not [path for path in out.rglob("*.tmp") if path.stat().st_size], written[at - 1]
        assert not (out / "checkpoints").exists()


def test_what_is_done_is_not_done_again(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        written = killing(patch, 0)
        whole(GRADIENT, tmp_path / "whole")
    guesses = [place for place, name in enumerate(written, start=1) if name.startswith("grnn/")]
    with monkeypatch.context() as patch:
        first = killing(patch, guesses[-1])
        with pytest.raises(Killed):
            whole(GRADIENT, tmp_path / "out")
    with monkeypatch.context() as patch:
        second, lines = killing(patch, 0), []
        simulate(GRADIENT, out=tmp_path / "out", backend="local", note=lines.append, resume=True)
    finished = {name for name in first if name.startswith(("grnn/0_", "observations/"))}
    assert len(finished) > 10
    assert not finished & set(second)
    assert any("3 of 4 groups were done before" in line for line in lines), lines
    lines.clear()
    again = simulate(GRADIENT, out=tmp_path / "out", backend="local", note=lines.append, resume=True)
    assert lines == [f"the run in {tmp_path / 'out'} is finished"]
    assert again.summary


def in_a_second_conditions_rounds(out, monkeypatch):
    """A run that was killed in the last round of its second condition, with messages of a client that answered then and
    may not answer when that round is played again; the files of the rounds that were over."""
    with monkeypatch.context() as patch:
        written = killing(patch, 0)
        whole(GRADIENT, out.with_name("counted"))
    at = next(place for place, name in enumerate(written, start=1) if name.startswith("observations/1_r3_c"))
    with monkeypatch.context() as patch:
        killing(patch, at)
        with pytest.raises(Killed):
            whole(GRADIENT, out)
    over = {path: path.stat().st_ino for path in (out / "observations").glob("[01]_r*") if "1_r3" not in path.name}
    assert {path.name[:4] for path in over} == {"0_r1", "0_r3", "1_r1"}
    for ending in (".json", ".safetensors"):
        late = out / "observations" / f"1_r3_c9{ending}"
        late.write_bytes((out / "observations" / f"1_r1_model{ending}").read_bytes() if ending != ".json" else b"{}")
    return over


def test_messages_of_a_round_that_is_played_again_do_not_stand_beside_its_new_ones(tmp_path, monkeypatch):
    over = in_a_second_conditions_rounds(tmp_path / "run", monkeypatch)
    resumed = whole(GRADIENT, tmp_path / "run", resume=True)
    assert told(resumed.folder) == told(tmp_path / "counted")
    assert not list((tmp_path / "run").rglob("*_c9*"))
    assert {path: path.stat().st_ino for path in over} == over, "what is over is neither removed nor written again"


def test_killed_while_it_forgets_a_round_a_run_goes_on_all_the_same(tmp_path, monkeypatch):
    in_a_second_conditions_rounds(tmp_path / "run", monkeypatch)
    wanted, unlink = told(tmp_path / "counted"), Path.unlink
    for at in range(1, 10):
        out, left = shutil.copytree(tmp_path / "run", tmp_path / str(at)), [at]

        def remove(path, missing_ok=False, left=left):
            if path.parent.name == "observations" and not path.name.startswith("."):
                left[0] -= 1
                if not left[0]:
                    raise Killed
            unlink(path, missing_ok)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "unlink", remove)
            try:
                whole(GRADIENT, out, resume=True)
            except Killed:
                facts = [path for path in (out / "observations").glob("*_c*.json")]
                assert all(path.with_suffix(".safetensors").exists() for path in facts), "no facts of what is gone"
        assert told(whole(GRADIENT, out, resume=True).folder) == wanted, at
        if left[0] > 0:
            break
    assert at > 3, "it was killed at every one of these files"


def test_an_attack_on_a_saved_run_goes_on_too(tmp_path, monkeypatch):
    run = whole(GRADIENT, tmp_path / "run").folder
    wanted = execute_again(plan_again(run, "grnn", ["attack.iterations=3"], out=tmp_path / "whole"), quiet).digests
    with monkeypatch.context() as patch:
        killing(patch, 6)
        with pytest.raises(Killed):
            execute_again(plan_again(run, "grnn", ["attack.iterations=3"], out=tmp_path / "out"), quiet)
    lines = []
    checked = plan_again(run, "grnn", ["attack.iterations=3"], out=tmp_path / "out", resume=True)
    assert execute_again(checked, lines.append).digests == wanted
    assert any("1 of 4 groups were done before" in line or "2 of 4 groups" in line for line in lines), lines


def test_an_attack_reads_of_an_unfinished_run_what_is_there(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        written = killing(patch, 0)
        wanted = told(whole(GRADIENT, tmp_path / "whole").folder)
    for at, conditions in (("observations/0_r3_c0.safetensors", 1), ("observations/1_r3_c0.safetensors", 2)):
        run = tmp_path / str(conditions)
        with monkeypatch.context() as patch:
            killing(patch, written.index(at) + 1)
            with pytest.raises(Killed):
                whole(GRADIENT, run)
        lines = []
        found = execute_again(plan_again(run, out=tmp_path / f"attack {conditions}"), lines.append)
        assert any("rounds of that run are not over" in line for line in lines)
        attacked = [row["defence"] for row in found.summary if row["attack"] == "grnn"]
        assert attacked == ["none", "gaussian_noise(scale=0.1)"][:conditions]
        assert found.digests["payloads"].items() <= wanted[0]["payloads"].items()
        assert [len(each["rounds"]) for each in found.conditions] == ([3, 1] if conditions == 1 else [4, 3])
    with monkeypatch.context() as patch:
        killing(patch, 2)
        with pytest.raises(Killed):
            whole(GRADIENT, tmp_path / "early")
    with pytest.raises(ValueError, match="observed nothing yet"):
        plan_again(tmp_path / "early")


def test_an_unfinished_folder_says_how_to_go_on_and_another_run_is_refused(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        killing(patch, 4)
        with pytest.raises(Killed):
            whole(GRADIENT, tmp_path / "run")
    with pytest.raises(ValueError, match=r"not finished: go on with it \(--resume"):
        plan(GRADIENT, out=tmp_path / "run", backend="local")
    with pytest.raises(ValueError, match=r"another experiment \(seed: 0 there, 1 now"):
        plan(reconfigure(GRADIENT, seed=1), out=tmp_path / "run", backend="local", resume=True)
    with pytest.raises(ValueError, match="--out"):
        plan(GRADIENT, backend="local", resume=True)
    config = tmp_path / "run" / "config.json"
    facts = json.loads(config.read_text())
    config.write_text(json.dumps({**facts, "versions": {**facts["versions"], "torch": "0.1"}}))
    with pytest.raises(ValueError, match=r"other versions \(torch\)"):
        plan(GRADIENT, out=tmp_path / "run", backend="local", resume=True)


def stopped(monkeypatch, experiment, out, at=4, **choices):
    """A run that was killed in its `at`-th write."""
    with monkeypatch.context() as patch:
        killing(patch, at)
        with pytest.raises(Killed):
            whole(experiment, out, **choices)


@pytest.mark.parametrize("setting", ["model", "partition", "attack"])
def test_a_run_does_not_go_on_with_other_code_of_the_users(setting, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    name = f"half_{setting}"
    module = tmp_path / f"{name}.py"
    module.write_text(OWN[setting])
    table = {"name": f"{name}:mine"}
    mine = reconfigure(GRADIENT, **({"attacks": (table,)} if setting == "attack" else {setting: table}))
    stopped(monkeypatch, mine, tmp_path / "run")
    assert plan(mine, out=tmp_path / "run", backend="local", resume=True).begun
    module.write_text(OWN[setting] + "\n# another\n")
    with pytest.raises(ValueError, match=rf"begun with other versions \(the source of '{name}'\)"):
        plan(mine, out=tmp_path / "run", backend="local", resume=True)


@pytest.mark.parametrize("at", [4, 20])
def test_a_run_does_not_go_on_with_other_data(at, tmp_path, monkeypatch):
    for number in range(16):
        place = tmp_path / "images" / str(number % 2) / f"{number:02}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        pixels = torch.randint(0, 256, (16, 16), generator=torch.Generator().manual_seed(number), dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(place)
    mine = reconfigure(GRADIENT, dataset={"name": "folder", "path": "images", "grey": True})
    stopped(monkeypatch, mine, tmp_path / "run", at, data_root=tmp_path)
    again = {"out": tmp_path / "run", "backend": "local", "data_root": tmp_path, "resume": True}
    federation_of.cache_clear()
    assert plan(mine, **again).begun
    Image.new("L", (16, 16)).save(tmp_path / "images" / "0" / "00.png")
    federation_of.cache_clear()
    with pytest.raises(ValueError, match="the data are not those of the run"):
        plan(mine, **again)


def test_an_attack_does_not_go_on_with_another_runs_observations(tmp_path, monkeypatch):
    one, two = (whole(GRADIENT, tmp_path / name).folder for name in ("one", "two"))
    with monkeypatch.context() as patch:
        killing(patch, 6)
        with pytest.raises(Killed):
            execute_again(plan_again(one, out=tmp_path / "attack"), quiet)
    assert plan_again(one, out=tmp_path / "attack", resume=True).begun
    with pytest.raises(ValueError, match=r"attacks .*one, not .*two"):
        plan_again(two, out=tmp_path / "attack", resume=True)
    with pytest.raises(ValueError, match=r"attacks .*one, not its own observations"):
        plan(GRADIENT, out=tmp_path / "attack", backend="local", resume=True)


def test_two_processes_are_never_at_one_run(tmp_path):
    checked = plan(GRADIENT, out=tmp_path / "run", backend="local")
    with alone(checked.out), pytest.raises(RuntimeError, match="another process is at the run"):
        execute(checked, quiet)
    with alone(checked.out):
        pass


def test_what_a_living_process_writes_is_left_to_it(tmp_path, monkeypatch):
    run = tmp_path / "run"
    stopped(monkeypatch, GRADIENT, run)
    (mine,) = run.rglob(".*.tmp")
    theirs = run / "attacks" / "now" / "reconstructions" / ".a.json.0.tmp"
    theirs.parent.mkdir(parents=True)
    theirs.touch()
    (run / "attacks" / "now" / "config.json").write_text("{}")
    begins = run / "attacks" / "begins" / ".config.json.0.tmp"
    begins.parent.mkdir()
    begins.touch()
    with alone(run):
        checked = plan(GRADIENT, out=run, backend="local", resume=True)
        with pytest.raises(RuntimeError, match="another process"):
            execute(checked, quiet)
        assert mine.exists(), "only who holds the folder tidies it"
    execute(checked, quiet)
    assert not mine.exists()
    assert theirs.exists()
    assert begins.exists()


def test_a_folder_that_is_no_runs_is_left_as_it_is(tmp_path):
    for name in (".letter.tmp", "deeper/.draft.tmp", "deeper/.config.json.0.tmp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match="not empty"):
        plan(GRADIENT, out=tmp_path, backend="local", resume=True)
    (tmp_path / "config.json").write_text('{"mine": 1}')
    with pytest.raises(ValueError, match="damaged"):
        plan(GRADIENT, out=tmp_path, backend="local", resume=True)
    assert sorted(tmp_path.rglob("*")) == sorted([*before, tmp_path / "config.json"])


def test_to_resume_where_nothing_is_begins(tmp_path):
    assert not plan(GRADIENT, out=tmp_path / "new", backend="local", resume=True).begun


# -- what is kept ------------------------------------------------------------------------------------------------------


def test_the_state_of_a_strategy_comes_back_bit_for_bit():
    for make in (FedAdam, FedAvgM):
        first = make()
        first.current_arrays = ArrayRecord({"w": torch.randn(3, 2)})
        first.m_t = {"w": np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32)}
        first.momentum_vector = [np.arange(3.0), np.float32(0.1)]
        tensors, facts = strategy_state(first)
        second = make()
        load_strategy_state(second, tensors, json.loads(json.dumps(facts)))
        assert second.current_arrays["w"].numpy().tobytes() == first.current_arrays["w"].numpy().tobytes()
        assert second.m_t["w"].tobytes() == first.m_t["w"].tobytes()
        assert [each.tobytes() for each in second.momentum_vector] == [each.tobytes() for each in first.momentum_vector]
        assert second.fraction_train == first.fraction_train
        assert second.train_metrics_aggr_fn is not None


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_checkpoint_with_any_byte_changed_is_refused_by_its_name_or_the_same(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("kept") / "0.safetensors"
    tensors, facts = (
        {"b": torch.randn(4), "a": torch.arange(3), "none": torch.empty(0)},
        {"round": 2, "loss": float("nan")},
    )
    checkpoints.save(path, tensors, facts)
    content = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    try:
        found, told = checkpoints.load(path)
    except ValueError as error:
        assert str(path) in str(error)  # noqa: PT017
    else:  # a byte of padding
        assert all(torch.equal(found[name], tensors[name]) for name in tensors)
        assert told["round"] == 2


def test_killed_while_it_saves_a_process_leaves_a_whole_checkpoint(tmp_path):
    path = tmp_path / "0.safetensors"
    saved = 0
    for moment in range(20):
        child = os.fork()
        if not child:
            while True:
                saved += 1
                checkpoints.save(path, {"a": torch.full((1000,), float(saved))}, {"round": saved})
        time.sleep(0.02 + 0.003 * moment)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        if path.exists():
            tensors, facts = checkpoints.load(path)
            assert tensors["a"].unique().tolist() == [facts["round"]]
            saved = facts["round"]
    assert saved >= 5


@pytest.mark.parametrize("length", [0, 7, 100, -1])
def test_a_checkpoint_that_was_cut_is_refused(tmp_path, length):
    path = tmp_path / "0.safetensors"
    checkpoints.save(path, {"a": torch.zeros(100)}, {"round": 1})
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ValueError, match=r"0\.safetensors.*Delete it"):
        checkpoints.load(path)


def test_a_safetensors_file_of_somebody_else_is_no_checkpoint(tmp_path):
    import safetensors.torch

    safetensors.torch.save_file({"a": torch.zeros(1)}, tmp_path / "0.safetensors")
    with pytest.raises(ValueError, match="no checkpoint that this version can read"):
        checkpoints.load(tmp_path / "0.safetensors")


# -- real processes ----------------------------------------------------------------------------------------------------

TOML = """
clients = 3
clients_per_round = 2
rounds = 40
attacked_rounds = [1, 2, 3, 4]
dataset = {name = "digits", size = 16}
model = {name = "lenet_dlg", init = "wide"}
attack = {name = "grnn", iterations = 20}
"""


def command(toml, out, *words):
    return [sys.executable, "-m", "fl_privacy.simulations.cli", "run", str(toml), "--out", str(out), *words]


def kill_when(started, there, seconds=240):
    """SIGKILL a process as soon as `there()` holds."""
    end = time.monotonic() + seconds
    while not there() and time.monotonic() < end and started.poll() is None:
        time.sleep(0.02)
    assert started.poll() is None, started.communicate()
    started.send_signal(signal.SIGKILL)
    started.communicate()


def starting(toml, out, *words):
    return subprocess.Popen(command(toml, out, *words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


ROUNDS, ATTACK = "observations/0_r2_*.json", "reconstructions/grnn/*.json"


@pytest.mark.parametrize(
    ("backend", "moments"),
    [
        (["--backend", "local"], [ATTACK]),
        pytest.param(["--workers", "2"], [ROUNDS, ATTACK], marks=pytest.mark.ray),
    ],
    ids=["local", "ray"],
)
def test_a_process_that_is_killed_in_the_rounds_or_in_the_attack_loses_nothing(backend, moments, tmp_path):
    toml, out = tmp_path / "tiny.toml", tmp_path / "out"
    toml.write_text(TOML)
    for before, moment in pairwise([None, *moments]):
        begun = time.monotonic()
        kill_when(starting(toml, out, *backend, "--resume"), lambda moment=moment: list(out.glob(moment)))
        if before is ROUNDS:
            took = time.monotonic() - begun
            print(f"\nrecovery: driver in the rounds, {' '.join(backend)}, until a guess was there: {took:.1f} s")
        assert not (out / "results.json").exists()
    begun = time.monotonic()
    ended = subprocess.run(command(toml, out, *backend, "--resume"), capture_output=True, text=True, timeout=500)
    print(f"\nrecovery: driver in the attack, {' '.join(backend)}, to the end: {time.monotonic() - begun:.1f} s")
    assert ended.returncode == 0, ended.stderr
    assert "groups were done before" in ended.stdout
    from fl_privacy.simulations.config.load import load_experiment

    assert told(out) == told(whole(load_experiment(str(toml)), tmp_path / "whole").folder)
