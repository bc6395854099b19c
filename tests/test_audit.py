"""An update that somebody saved: what is odd about it is told with its mend, and what leaks is found."""

import json
import pickle

import numpy as np
import pytest
import safetensors.torch
import torch
from flwr.app import ArrayRecord, RecordDict
from flwr.common.serde import array_record_to_proto, recorddict_to_proto
from torch import nn
from typer.testing import CliRunner

from fl_privacy.models import build_model
from fl_privacy.observation import Images
from fl_privacy.seeding import stream
from fl_privacy.simulations import audit
from fl_privacy.simulations.cli import app
from fl_privacy.simulations.report.page import Level

SHAPE, CLASSES, RATE = (1, 16, 16), 10, 0.1
FACTS = {"shape": SHAPE, "classes": CLASSES, "local": {"learning_rate": RATE}, "images": 1}
IMAGE = torch.nn.functional.interpolate(torch.rand(1, 1, 4, 4, generator=stream(0, "audit")), 16, mode="bilinear")
LABEL = torch.tensor([3])


def lenet(shape=SHAPE, classes=CLASSES):
    return build_model("lenet_dlg", shape, classes, 0, {"init": "wide"})


class Plain(nn.Module):
    """A model as users write it: a constructor without arguments, a functional forward."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Linear(4 * 14 * 14, CLASSES)

    def forward(self, x):
        return self.head(torch.relu(self.norm(self.conv(x))).flatten(1))


def trained(model, images, labels, steps=1):
    """What plain torch makes of the model's weights: before, and what changed."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimiser = torch.optim.SGD(model.parameters(), lr=RATE)
    for _ in range(steps):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimiser.step()
    return before, {name: value - before[name] for name, value in model.state_dict().items()}


BEFORE, UPDATE = trained(lenet(), IMAGE, LABEL)
AFTER = {name: BEFORE[name] + UPDATE[name] for name in BEFORE}


def attacked(tmp_path, update=UPDATE, attacks=("label_counts", "peeling"), **more):
    return audit(BEFORE, update, **{"model": lenet, **FACTS, "out": tmp_path / "out", "attacks": attacks, **more})


def rows(found):
    return {row["attack"]: row for row in found.report["attacks"]}


def test_one_image_of_a_sigmoid_lenet_comes_back(tmp_path):
    others = Images(torch.rand(20, *SHAPE, generator=stream(1, "audit")), torch.arange(20) % CLASSES)
    found = attacked(tmp_path, truth=(IMAGE, LABEL), public=others)
    row = rows(found)["peeling"]
    assert row["scores"]["psnr"][0] > 60
    assert all(scores["psnr"][0] < 30 for scores in found.report["controls"].values())
    assert set(found.report["controls"]) == {"random guess", "mean image", "class mean"}
    assert row["labels"] == [3] == rows(found)["label_counts"]["labels"]
    assert row["unexplained"] < 1e-3
    assert "peeling rebuilt 1 image" in found.report["verdict"][0]
    assert found.report["doubts"] == ()
    written = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert written["attacks"][1]["scores"]["psnr"] == row["scores"]["psnr"]
    saved = safetensors.torch.load_file(tmp_path / "out" / "peeling.safetensors")["images"]
    assert torch.equal(saved, found.guesses["peeling"].inputs)
    assert (tmp_path / "out" / "peeling.png").stat().st_size > 1000


def test_without_the_truth_no_score_is_claimed(tmp_path, capsys):
    found = attacked(tmp_path)
    assert all(row["scores"] is None for row in found.report["attacks"])
    assert found.report["controls"] == {}
    found.show()
    said = capsys.readouterr().out
    assert "PSNR dB" not in said
    assert "no PSNR is claimed" in said


def test_weights_in_place_of_an_update_are_refused_with_the_mend(tmp_path):
    with pytest.raises(ValueError, match=r"nearly the global weights themselves.*--weights in place of --update"):
        attacked(tmp_path, AFTER)
    assert rows(attacked(tmp_path, None, new_weights=AFTER))["peeling"]["labels"] == [3]


def test_an_update_in_place_of_weights_is_refused_with_the_mend(tmp_path):
    small = {name: 1e-3 * value for name, value in UPDATE.items()}
    with pytest.raises(ValueError, match=r"an update was given, so name it --update"):
        attacked(tmp_path, None, new_weights=small)


def test_an_update_of_zeros_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"zero everywhere.*did the client train at all"):
        attacked(tmp_path, {name: torch.zeros_like(value) for name, value in UPDATE.items()})


@pytest.mark.parametrize("rate", [RATE / 100, RATE * 100])
def test_a_rate_that_is_wrong_by_100_is_warned_of(rate, tmp_path):
    found = attacked(tmp_path, local={"learning_rate": rate}, attacks=["label_counts"])
    assert any("give the rate, the steps and the optimiser" in doubt for doubt in found.report["doubts"])


def test_labels_that_do_not_explain_the_message_are_a_guess_and_what_is_odd_stands_in_the_verdict(tmp_path):
    """Many steps of Adam, audited as one plain step: its label counts are wrong, as an untold app's were."""
    model = lenet()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    images, labels = torch.rand(40, *SHAPE, generator=stream(2, "audit")), torch.arange(40) % CLASSES
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    for part in range(0, 40, 4):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(images[part : part + 4]), labels[part : part + 4]).backward()
        optimiser.step()
    facts = {**FACTS, "images": 40, "local": {"learning_rate": 1e-4}}
    found = audit(
        before, new_weights=model.state_dict(), model=lenet, **facts, out=tmp_path / "o", attacks=["label_counts"]
    )
    assert sorted(rows(found)["label_counts"]["labels"]) != labels.sort().values.tolist()
    said = {each.of: each for each in found.page().verdict}
    assert said["The labels"].level is Level.UNCLEAR
    assert "do not explain what they were read from" in said["The labels"].words
    assert "Something is odd" in said["The facts"].words
    assert "the optimiser" in found.report["verdict"][-1]


def test_all_missing_facts_are_asked_for_in_one_message(tmp_path):
    with pytest.raises(ValueError) as told:
        audit()
    assert all(f"--{each}" in str(told.value) for each in ("global", "update", "model", *FACTS))
    with pytest.raises(ValueError) as told:
        audit(BEFORE, UPDATE, model=lenet, shape=SHAPE, local={"epochs": 2})
    assert [
        each for each in ("--global", "--shape", "--classes", "--local", "--images") if each in str(told.value)
    ] == [
        "--classes",
        "--local",
        "--images",
    ]


def test_all_that_does_not_fit_is_told_in_one_message(tmp_path):
    odd = {**UPDATE, "head.weight": torch.zeros(3, 3), "another": torch.zeros(2)}
    del odd["conv1.0.weight"]
    with pytest.raises(ValueError) as told:
        attacked(tmp_path, odd)
    assert all(name in str(told.value) for name in ("head.weight is (3, 3)", "no another", "lacks the model's conv1.0"))


def saved(kind, tensors, path):
    arrays = {name: value.numpy() for name, value in tensors.items()}
    if kind == "safetensors":
        safetensors.torch.save_file({name: value.contiguous() for name, value in tensors.items()}, path)
    elif kind == "npz":
        np.savez(path, **arrays)
    elif kind == "numbered.npz":
        np.savez(path, *arrays.values())
    elif kind == "pb":
        path.write_bytes(array_record_to_proto(ArrayRecord(tensors)).SerializeToString())
    elif kind == "flower.pt":  # the last line of the server app of Flower's template
        torch.save(ArrayRecord(tensors).to_torch_state_dict(), path)
    elif kind == "flower.npz":  # as Flower's guide to checkpoints has it
        np.savez(path, *ArrayRecord(tensors).to_numpy_ndarrays())
    else:
        torch.save({f"module.{name}": value for name, value in tensors.items()}, path)
    return path


@pytest.mark.parametrize("kind", ["npz", "numbered.npz", "pt", "pb", "flower.pt", "flower.npz"])
def test_every_kind_of_file_gives_the_same(kind, tmp_path):
    found = []
    for each in ("safetensors", kind):
        files = [saved(each, tensors, tmp_path / f"{name}.{each}") for name, tensors in (("g", BEFORE), ("u", UPDATE))]
        found.append(audit(*files, model=lenet, **FACTS, out=tmp_path / f"out_{each}", attacks=["peeling"]))
    assert found[0].report["sha256"] == found[1].report["sha256"]
    assert torch.equal(*(each.guesses["peeling"].inputs for each in found))


def test_what_a_flower_message_holds_is_taken_as_it_is(tmp_path):
    found = audit(
        ArrayRecord(BEFORE),
        new_weights=ArrayRecord(AFTER),
        model=lenet,
        **FACTS,
        out=tmp_path / "o",
        attacks=["peeling"],
    )
    assert rows(found)["peeling"]["unexplained"] < 1e-3
    torch.save(dict(ArrayRecord(AFTER).to_torch_state_dict()), tmp_path / "kept.pt")  # as the documentation says
    kept = attacked(tmp_path, None, new_weights=tmp_path / "kept.pt", attacks=["peeling"])
    assert torch.equal(kept.guesses["peeling"].inputs, found.guesses["peeling"].inputs)


def test_local_training_is_a_table_or_an_object_of_the_app(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "my_audited_task.py").write_text(
        "from fl_privacy import LocalTraining\nLOCAL = LocalTraining(learning_rate=0.1)\nOTHER = 3\n"
    )
    found = attacked(tmp_path, attacks=["label_counts"], local="my_audited_task:LOCAL")
    assert found.report["local"]["learning_rate"] == RATE
    with pytest.raises(ValueError, match=r"module:name of a fl_privacy\.LocalTraining, not 3"):
        attacked(tmp_path, local="my_audited_task:OTHER")
    with pytest.raises(LookupError, match="Did you mean 'learning_rate'"):
        attacked(tmp_path, local={"learning_rat": 0.1})


def test_a_pickle_is_not_executed(tmp_path):
    torch.save(lenet(), tmp_path / "whole.pt")
    with pytest.raises(ValueError, match=r"--update: .*could run a stranger's code.*state_dict"):
        attacked(tmp_path, tmp_path / "whole.pt")


@pytest.mark.parametrize(
    ("name", "write", "word"),
    [
        ("record.pt", lambda path: torch.save(ArrayRecord(UPDATE), path), r"record\.to_torch_state_dict\(\)"),
        ("record.pkl", lambda path: path.write_bytes(pickle.dumps(dict(UPDATE))), "pickle could run a stranger's"),
        ("list.npz", lambda path: np.savez(path, np.array([*UPDATE.values(), None], object)), "with the star"),
        ("empty.pb", lambda path: path.write_bytes(b""), "holds no array"),
        ("half.pb", lambda path: path.write_bytes(saved("pb", UPDATE, path).read_bytes()[:-99]), "no whole protobuf"),
        (
            "message.pb",
            lambda path: path.write_bytes(
                recorddict_to_proto(RecordDict({"arrays": ArrayRecord(UPDATE)})).SerializeToString()
            ),
            r"message\.content\['arrays'\]",
        ),
        ("model.keras", lambda path: path.write_bytes(b"PK"), r"Save the tensors as \.safetensors.*as \.pb"),
    ],
)
def test_what_is_not_read_says_what_to_save(name, write, word, tmp_path):
    write(tmp_path / name)
    with pytest.raises(ValueError, match=f"--update: .*{name}.*{word}"):
        attacked(tmp_path, tmp_path / name)


def test_a_plain_class_with_batch_normalisation(tmp_path):
    torch.manual_seed(0)
    images, labels = torch.rand(4, *SHAPE), torch.tensor([1, 1, 5, 7])
    before, update = trained(Plain(), images, labels)
    found = audit(before, update, model=Plain, **{**FACTS, "images": 4}, out=tmp_path / "o", attacks=["label_counts"])
    assert rows(found)["label_counts"]["labels"] == [1, 1, 5, 7]
    assert any("running statistics" in each for each in found.report["assumed"])


def test_a_model_that_cannot_be_built_is_told_in_both_ways(tmp_path):
    with pytest.raises(ValueError, match=r"called as \(image_shape, classes\) it fails.*called as \(\) it fails"):
        attacked(tmp_path, model=lambda shape: lenet(shape, 1 / 0))


def test_an_attack_that_does_not_apply_says_why_and_costs_no_other(tmp_path):
    found = attacked(tmp_path, attacks=["linear_layer", "peeling"])
    assert "does not apply" in rows(found)["linear_layer"]["reason"]
    assert rows(found)["peeling"]["images"] == 1


def test_a_model_that_fails_on_a_guess_costs_neither_the_guess_nor_another_attack(tmp_path, monkeypatch):
    def refuses(seen):
        raise RuntimeError("not this many images")

    monkeypatch.setattr("fl_privacy.simulations.auditing.tries.matcher_for", refuses)
    found = rows(attacked(tmp_path, attacks=["peeling", "label_counts"]))
    assert (found["peeling"]["images"], found["peeling"]["unexplained"]) == (1, None)
    assert found["label_counts"]["labels"] == LABEL.tolist()


def test_the_time_is_kept(tmp_path):
    row = rows(attacked(tmp_path, attacks=["map"], minutes=0.01))["map"]
    assert "raise --minutes" in row["reason"]
    assert row["seconds"] < 10


def test_no_adversary_has_the_clients_own_images(tmp_path):
    with pytest.raises(ValueError, match=r"--public holds one of the client's own images"):
        attacked(tmp_path, truth=(IMAGE, LABEL), public=Images(IMAGE.repeat(3, 1, 1, 1)))


def test_the_truth_must_be_the_clients(tmp_path):
    with pytest.raises(ValueError, match=r"--truth has images \(2, 1, 16, 16\)"):
        attacked(tmp_path, truth=(IMAGE.repeat(2, 1, 1, 1), LABEL.repeat(2)))


def test_the_command_audits_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "mine_audited.py").write_text(
        "import safetensors.torch\nfrom fl_privacy import build_model\n"
        "def net(shape, classes):\n    return build_model('lenet_dlg', shape, classes, 1)\n"
        "def truth():\n    held = safetensors.torch.load_file('t.safetensors')\n    return held['x'], held['y']\n"
    )
    saved("safetensors", {"x": IMAGE, "y": LABEL}, "t.safetensors")
    files = [saved("safetensors", BEFORE, "g.safetensors"), saved("npz", UPDATE, "u.npz")]
    words = ["audit", "--global", files[0], "--update", files[1], "--model", "mine_audited:net", "--shape", "1,16,16"]
    words += ["--classes", "10", "--local", "{learning_rate=0.1, epochs=1, batch_size=1}", "--attack", "peeling"]
    done = CliRunner().invoke(app, [*words, "--truth", "mine_audited:truth", "--out", "here"])
    assert done.exit_code == 0, done.output
    assert "peeling rebuilt 1 image" in done.output
    assert "PSNR dB" in done.output
    assert json.loads((tmp_path / "here" / "audit.json").read_text())["attacks"][0]["scores"]["psnr"][0] > 60
    done = CliRunner().invoke(app, ["audit", "--global", "g.safetensors"])
    assert done.exit_code == 2
    assert "--classes" in done.output


def test_normalised_inputs_and_momentum_of_one_step_are_a_gradient_too(tmp_path):
    before, update = trained(lenet(), (IMAGE - 0.5) / 0.25, LABEL)
    local = {"learning_rate": RATE, "momentum": 0.9, "normalise": ((0.5,), (0.25,))}
    found = audit(
        before,
        update,
        model=lenet,
        **{**FACTS, "local": local},
        out=tmp_path / "o",
        attacks=["peeling"],
        truth=(IMAGE, LABEL),
    )
    assert rows(found)["peeling"]["scores"]["psnr"][0] > 60
    assert rows(found)["peeling"]["unexplained"] < 1e-3


def test_of_several_steps_what_stays_unexplained_is_said_and_no_more_is_claimed(tmp_path):
    before, update = trained(lenet(), IMAGE, LABEL, steps=3)
    facts = {**FACTS, "local": {"learning_rate": RATE, "steps": 3}}
    found = audit(before, update, model=lenet, **facts, out=tmp_path / "o", attacks=["peeling", "map"])
    assert "does not apply" in rows(found)["peeling"]["reason"]
    assert 0 < rows(found)["map"]["unexplained"] < 0.01
    wrong = audit(
        before,
        update,
        model=lenet,
        **{**FACTS, "local": {"learning_rate": 3 * RATE}},
        out=tmp_path / "w",
        attacks=["map"],
    )
    assert rows(wrong)["map"]["unexplained"] > 0.01
    assert "none of them explains" in wrong.report["verdict"][0]
