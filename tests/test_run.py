"""Whole runs on the local backend: what they write, what they never write, and that they can be repeated."""

import dataclasses
import json
import subprocess
from pathlib import Path

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F

from fl_privacy.data import MissingData
from fl_privacy.simulations.config.build import federation_of
from fl_privacy.simulations.config.load import configure, load_experiment, reconfigure
from fl_privacy.simulations.federation import Federation
from fl_privacy.simulations.report import figures, gallery
from fl_privacy.simulations.run import again as reattack
from fl_privacy.simulations.run import pipeline as run
from fl_privacy.simulations.run import stages
from fl_privacy.simulations.run.again import attack_again, reopen
from fl_privacy.simulations.run.pipeline import plan, simulate

ROOT = Path(__file__).parent.parent
TINY = configure(
    name="tiny",
    dataset={"name": "digits", "size": 16},
    model={"name": "lenet_dlg", "init": "wide"},
    attack={"name": "grnn", "iterations": 3, "width": 4},
    training_defences=([], [{"name": "gaussian_noise", "scale": 0.1}]),
    clients=4,
    clients_per_round=3,
    rounds=2,
    batch_size=2,
    attacked_rounds=(1, 2),
    attacked_clients=2,
)
FIELDS = {
    *("round", "client", "index", "attack", "defence", "dataset", "model", "seed"),
    *("psnr", "ssim", "mse", "label_correct", "loss_at_guess", "loss_at_truth", "iterations", "seconds"),
}
NOISE = "gaussian_noise(scale=0.1)"


def quiet(text):
    """Progress that nobody reads."""


def local(experiment, out, **choices):
    return simulate(experiment, out=out, backend="local", note=quiet, **choices)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return local(TINY, tmp_path_factory.mktemp("runs") / "tiny")


def results(result):
    return json.loads((result.folder / "results.json").read_text())


def test_the_run_folder_has_every_artefact(tiny):
    names = {path.name for path in tiny.folder.iterdir()}
    assert names >= {"config.json", "results.json", "samples.jsonl", "observations", "figures"}
    assert len(list((tiny.folder / "observations").glob("*_c*.safetensors"))) == 2 * 2 * 3
    assert [path.name for path in tiny.figures] == ["reconstructions.png", "tradeoff.png"]
    assert tiny.figures[0].read_bytes().startswith(b"\x89PNG")
    assert not list(tiny.folder.rglob("*.tmp"))


def test_the_config_says_what_ran_where(tiny):
    config = json.loads((tiny.folder / "config.json").read_text())
    assert configure(**config["experiment"]) == TINY
    assert config["seed"] == 0
    assert config["backend"] == "local"
    assert config["versions"]["flwr"]
    assert config["hardware"]["cores"] >= 1
    assert {"version", "source", "commit"} <= config["provenance"].keys()


def test_samples_have_one_row_an_image(tiny):
    rows = tiny.samples
    assert all(set(row) == FIELDS for row in rows)
    attacked = [row for row in rows if row["attack"] == "grnn"]
    assert len(attacked) == 2 * 2 * 2 * 2, "conditions x rounds x clients x batch"
    assert {row["defence"] for row in attacked} == {"none", NOISE}
    assert {row["attack"] for row in rows} == {
        "grnn",
        "control: mean image",
        "control: class mean",
        "control: random guess",
    }
    identity = {(row["attack"], row["defence"], row["round"], row["client"], row["index"]) for row in rows}
    assert len(identity) == len(rows)
    assert all(row["iterations"] == 3 and row["seconds"] > 0 for row in attacked)


def test_rounds_are_in_flowers_schema_and_every_message_is_accounted_for(tiny):
    for condition in results(tiny)["conditions"]:
        assert [row["round"] for row in condition["rounds"]] == [0, 1, 2]
        for row in condition["rounds"]:
            assert {"train_metrics", "evaluate_metrics_clientapp", "evaluate_metrics_serverapp"} <= set(row)
            assert 0 <= row["evaluate_metrics_serverapp"]["accuracy"] <= 1
        for row in condition["rounds"][1:]:
            counts = row["counts"]
            assert counts["expected"] == counts["received"] == 3
            assert counts["failed"] == counts["rejected"] == counts["timed_out"] == 0
            assert row["train_metrics"]["train_loss"] > 0


def test_the_summary_is_the_mean_of_the_samples(tiny):
    summary = results(tiny)["summary"]
    assert [row["attack"] for row in summary][:2] == ["grnn", "grnn"]
    for row in summary:
        samples = [s for s in tiny.samples if (s["attack"], s["defence"]) == (row["attack"], row["defence"])]
        assert row["images"] == len(samples)
        for key in ("psnr", "ssim", "mse"):
            assert row[key] == pytest.approx(sum(s[key] for s in samples) / len(samples))
        assert row["psnr_low"] <= row["psnr"] <= row["psnr_high"]
        condition = [a for a in results(tiny)["conditions"] if a["defence"] == row["defence"]]
        reached = condition[0]["rounds"][-1]["evaluate_metrics_serverapp"]["accuracy"]
        assert row["model_accuracy"] == (None if row["attack"].startswith("control") else reached)


def test_the_payload_is_the_gradient_that_a_bare_loop_computes(tiny):
    federation = federation_of(TINY.to_json(), None)
    model = federation.model()
    seen = sorted((tiny.folder / "observations").glob("0_r1_c*.safetensors"))
    assert len(seen) == 3
    for path in seen:
        x, y = federation.batch(int(path.stem.rpartition("c")[2]), 1)
        model.zero_grad()
        F.cross_entropy(model(x), y).backward()
        released = safetensors.torch.load_file(path)
        assert set(released) == {name for name, _ in model.named_parameters()}
        for name, parameter in model.named_parameters():
            assert torch.allclose(released[name], parameter.grad, atol=1e-7)


def test_the_noise_arm_differs_from_the_first_by_noise_of_its_scale(tiny):
    folder = tiny.folder / "observations"
    gaps = []
    for path in folder.glob("0_r1_c*.safetensors"):
        clean = safetensors.torch.load_file(path)
        noisy = safetensors.torch.load_file(folder / f"1{path.name[1:]}")
        gaps += [(noisy[name] - clean[name]).flatten() for name in clean]
    gap = torch.cat(gaps)
    assert float(gap.std()) == pytest.approx(0.1, rel=0.05)
    assert float(gap.mean()) == pytest.approx(0.0, abs=0.005)


def test_the_same_seed_gives_the_same_digests_and_another_does_not(tiny, tmp_path):
    again = local(TINY, tmp_path / "again")
    assert again.digests == tiny.digests
    other = local(reconfigure(TINY, seed=1), tmp_path / "other")
    for key in ("payloads", "reconstructions"):
        assert set(other.digests[key]) & set(tiny.digests[key])
        assert not set(other.digests[key].values()) & set(tiny.digests[key].values())


def tensors_in(folder):
    for path in folder.rglob("*.safetensors"):
        yield from safetensors.torch.load_file(path).values()


def private_images(experiment):
    federation = federation_of(experiment.to_json(), None)
    return torch.cat([federation.batch(client, round)[0] for client in range(4) for round in (1, 2)])


def test_no_private_image_is_written_unless_asked(tiny, tmp_path):
    images = private_images(TINY)

    def leaked(folder):
        found = [value for value in tensors_in(folder) if value.shape[-2:] == images.shape[-2:] and value.dim() == 4]
        return any(torch.equal(a, b) for value in found for a in value for b in images)

    assert not leaked(tiny.folder)
    kept = local(TINY, tmp_path / "kept", keep_originals=True)
    assert leaked(kept.folder)


@pytest.mark.parametrize("show", [True, False])
def test_the_figure_shows_private_images_only_where_the_experiment_says_so_and_says_so_itself(tiny, monkeypatch, show):
    drawn = []
    monkeypatch.setattr(figures, "draw", lambda path, title, columns, note: drawn.append((columns, note)) or path)
    federation = dataclasses.replace(
        federation_of(TINY.to_json(), None), experiment=reconfigure(TINY, show_originals=show)
    )
    reattack.redraw(federation, tiny.folder, tiny.folder)
    ((columns, note),) = drawn
    assert [column.title.partition(",")[0] for column in columns] == [
        *("private image", "rebuilt", "rebuilt", "control: blind guess", "control: guess from the label")
    ]
    assert ("Private images are left out: --keep-originals" in note) == (not show)
    assert "Round 1 of the attacked rounds 1, 2." in note
    if show:
        assert torch.equal(columns[0].images[:2], federation.batch(0, 1)[0])
        assert columns[0].captions[0].startswith("client 0, label ")
    else:
        assert (columns[0].images, columns[0].instead) == (None, "left out")
        assert columns[0].captions == ["client 0", "client 0", "client 2", "client 2"]


def test_a_row_of_the_figure_is_one_image_even_where_a_message_was_lost(tiny, monkeypatch, tmp_path):
    drawn, scored, messages = [], [], {}
    monkeypatch.setattr(figures, "draw", lambda path, title, columns, note: drawn.append(columns) or path)

    def keep(federation, folder, seen, guesses, *rest):
        messages.update(seen)
        scored.extend(guesses)

    monkeypatch.setattr(stages, "draw", keep)
    federation = federation_of(TINY.to_json(), None)
    stages.redraw(federation, tiny.folder, tiny.folder)
    lost = [each for each in scored if (each.attack, each.defence, each.key.client) != ("grnn", NOISE, 0)]
    gallery.draw(federation, tmp_path, messages, lost, tiny.summary, originals=True)
    ((private, clean, noisy, *_),) = drawn
    assert [caption.partition(",")[0] for caption in private.captions] == ["client 0"] * 2 + ["client 2"] * 2
    assert noisy.captions[:2] == ["no message arrived"] * 2
    assert (noisy.images[:2] == 1).all()
    (second,) = [each for each in lost if (each.attack, each.defence, each.key.round) == ("grnn", NOISE, 1)]
    assert torch.equal(noisy.images[2:], second.images)
    assert torch.equal(private.images[2:], second.truth.inputs)
    assert "no message arrived" not in clean.captions


def test_the_figure_names_every_client_behind_a_mean(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(figures, "draw", lambda path, title, columns, note: drawn.append(columns) or path)
    means = reconfigure(TINY, protocol={"secure_aggregation": True}, attacked_clients=1, clients_per_round=4)
    local(means, tmp_path / "means", keep_originals=True)
    ((private, *_),) = drawn
    assert [caption.partition(",")[0] for caption in private.captions] == [f"client {n // 2}" for n in range(8)]
    labels = [int(caption.rpartition(" ")[2]) for caption in private.captions]
    federation = federation_of(TINY.to_json(), None)
    assert labels == [int(label) for client in range(4) for label in federation.batch(client, 1)[1]]


def test_drawing_again_leaves_no_page_of_an_earlier_report(tiny):
    stale = tiny.figures[0].with_name("reconstructions_7.png")
    stale.touch()
    mine = tiny.figures[0].with_name("mine.png")
    mine.touch()
    redrawn = [path.name for path in reopen(tiny.folder).figures]
    mine.unlink()
    assert redrawn == ["mine.png", "reconstructions.png", "tradeoff.png"]


def test_attacking_again_reads_the_disk_and_simulates_nothing(tiny, monkeypatch):
    monkeypatch.setattr(run, "apps", None)
    same = attack_again(tiny.folder, note=quiet)
    assert same.digests == tiny.digests
    assert same.folder.parent == tiny.folder / "attacks"
    other = attack_again(tiny.folder, attack="grnn_as_published", changes=["attack.iterations=2"], note=quiet)
    assert {row["attack"] for row in other.samples} >= {"grnn_as_published"}
    assert {row["iterations"] for row in other.samples if row["attack"] == "grnn_as_published"} == {2}
    assert other.digests["payloads"] == tiny.digests["payloads"]
    assert reopen(other.folder).summary == other.summary


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        ({"changes": ["rounds=5"]}, "can change its attack"),
        ({"attack": "nothing"}, "no attack is called 'nothing'"),
        ({"changes": ["attacked_clients=9"]}, "'attacked_clients'"),
    ],
)
def test_what_only_a_new_run_can_change_is_refused(tiny, choices, words):
    with pytest.raises((ValueError, LookupError), match=words):
        attack_again(tiny.folder, note=quiet, **choices)


def test_reopening_a_folder_that_is_no_run(tmp_path):
    with pytest.raises(ValueError, match="not a finished run"):
        reopen(tmp_path)


def test_a_client_that_fails_is_counted_and_the_others_go_on(tmp_path, monkeypatch):
    honest = Federation.batch

    def failing(self, client, round):
        if client == 0:
            raise RuntimeError("the disk of client 0 is gone")
        return honest(self, client, round)

    monkeypatch.setattr(Federation, "batch", failing)
    everyone = reconfigure(TINY, clients_per_round=4)
    result = local(everyone, tmp_path / "failing")
    for condition in result.conditions:
        for row in condition["rounds"][1:]:
            assert (row["counts"]["expected"], row["counts"]["received"], row["counts"]["failed"]) == (4, 3, 1)
            assert "the disk of client 0 is gone" in row["counts"]["reasons"][0]
    assert {row["client"] for row in result.samples} == {1, 2}


def test_a_run_in_which_every_client_fails_says_why(tmp_path, monkeypatch):
    def failing(self, client, round):
        raise RuntimeError("no disk anywhere")

    monkeypatch.setattr(Federation, "batch", failing)
    with pytest.raises(RuntimeError, match=r"no client's message .*no disk anywhere"):
        local(TINY, tmp_path / "all")


@pytest.mark.parametrize(
    ("change", "choices", "error", "words"),
    [
        ({}, {"backend": "cluster"}, ValueError, "ray or local"),
        ({}, {"workers": 0}, ValueError, "'workers'"),
        ({"batch_size": 1000}, {}, ValueError, "batch"),
        ({"clients": 5000}, {}, ValueError, "5000"),
        ({"dataset": {"name": "mnist"}}, {"data_root": "."}, MissingData, "Three ways"),
        ({"dataset": {"name": "digits", "size": 2}, "model": "lenet_grnn"}, {}, ValueError, "lenet_grnn"),
    ],
)
def test_a_plan_is_refused_before_anything_starts(tmp_path, change, choices, error, words):
    experiment = reconfigure(TINY, **change)
    with pytest.raises(error, match=words):
        plan(experiment, out=tmp_path / "out", **choices)
    assert not (tmp_path / "out").exists()


def test_a_full_folder_is_refused(tiny):
    with pytest.raises(ValueError, match="not empty"):
        plan(TINY, out=tiny.folder)


@pytest.mark.ray
def test_ray_with_one_and_two_workers_and_this_process_give_the_same_digests(tiny, tmp_path):
    for workers in (1, 2):
        result = simulate(TINY, out=tmp_path / str(workers), backend="ray", workers=workers, note=quiet)
        assert result.digests == tiny.digests


@pytest.mark.ray
def test_flwr_run_gives_the_digests_of_a_run_here_and_ends_in_its_table(flower_home, tmp_path):
    out = tmp_path / "out"
    toml = tmp_path / "tiny.toml"
    toml.write_text(
        'clients = 3\nclients_per_round = 3\nrounds = 1\ndataset = {name = "digits", size = 16}\n'
        'model = {name = "lenet_dlg", init = "wide"}\nattack = {name = "grnn", iterations = 2}\n'
    )
    command = ["flwr", "run", str(ROOT), "--stream"]
    command += ["--run-config", f'experiment="{toml}" out="{out}"']
    command += ["--federation-config", "num-supernodes=3 client-resources-num-cpus=1"]
    done = subprocess.run(command, env=flower_home, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert (out / "results.json").exists(), done.stdout + done.stderr  # flwr's exit code is 0 even if the run failed
    experiment = load_experiment(str(toml))
    here = local(experiment, tmp_path / "here")
    assert json.loads((out / "results.json").read_text())["digests"] == here.digests
    for words in ("tiny: grnn on digits", "control: mean image", "PSNR: higher means", f"folder: {out}"):
        assert words in done.stdout, done.stdout
