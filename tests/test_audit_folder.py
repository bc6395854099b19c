"""From an ordinary app to the audit of what its server saw: every message, with what is known and what was guessed."""

from __future__ import annotations

import json
import re

import pytest
import torch
import torch.nn.functional as F
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg
from torch import nn
from typer.testing import CliRunner

from fl_privacy import LocalTraining
from fl_privacy.observation import Images
from fl_privacy.simulations import Audit, audit
from fl_privacy.simulations.auditing.guess import guessed_local, guessed_sizes
from fl_privacy.simulations.backends.local import LocalGrid
from fl_privacy.simulations.cli import app
from fl_privacy.simulations.report.audit_folder import _counted
from fl_privacy.strategies import HonestButCurious, defence_mod

RATE, NODES = 0.1, 2
QUICK = ["label_counts", "peeling"]


class Net(nn.Module):
    """The sigmoid network of the deep leakage papers, small: one image is solved for, layer by layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 12, 5, padding=2, stride=2)
        self.head = nn.Linear(12 * 8 * 8, 10)

    def forward(self, x):
        return self.head(torch.sigmoid(self.conv(x)).flatten(1))


def images(partition: int, count: int = 1):
    rng = torch.Generator().manual_seed(partition)
    coarse = torch.rand(count, 1, 4, 4, generator=rng)
    return F.interpolate(coarse, 16, mode="bilinear").clamp(0, 1), torch.arange(count) + partition


def truth(partition_id: int):
    return images(partition_id)


def client_app(*mods, says=True, breaks=()):
    made = ClientApp(mods=list(mods))

    @made.train()
    def train(message: Message, context: Context) -> Message:
        number = int(context.node_config["partition-id"])
        if number in breaks:
            raise OSError("out of memory")
        net = Net()
        net.load_state_dict(message.content["arrays"].to_torch_state_dict())
        x, y = images(number)
        F.cross_entropy(net(x), y).backward()
        with torch.no_grad():
            for value in net.parameters():
                value -= RATE * value.grad
        own = {"partition-id": number} if says else {}
        content = RecordDict(
            {"arrays": ArrayRecord(net.state_dict()), "metrics": MetricRecord({"num-examples": len(y), **own})}
        )
        return Message(content, reply_to=message)

    return made


def observed(folder, *mods, rounds=2, config=None, nodes=NODES, **client):
    torch.manual_seed(0)
    net = Net()
    for value in net.parameters():
        nn.init.uniform_(value, -0.5, 0.5)
    strategy = HonestButCurious(FedAvg(fraction_evaluate=0.0), model=Net, out=folder)
    strategy.start(
        LocalGrid(client_app(*mods, **client), nodes),
        ArrayRecord(net.state_dict()),
        rounds,
        train_config=ConfigRecord({"lr": RATE, "local-epochs": 1, "batch-size": 8} if config is None else config),
    )
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return observed(tmp_path_factory.mktemp("seen") / "observations")


def test_a_folder_needs_nothing_but_the_model_and_every_message_is_told(folder, tmp_path):
    others = Images(torch.rand(20, 1, 16, 16, generator=torch.Generator().manual_seed(9)), torch.arange(20) % 10)
    found = audit(folder, model=Net, truth=truth, public=others, attacks=QUICK, out=tmp_path / "out")
    told = found.report["messages"]
    assert [(each["round"], each["client"]) for each in told] == [(1, 0), (1, 1), (2, 0), (2, 1)]
    for each in told:
        rows = {row["attack"]: row for row in each["attacks"]}
        assert rows["label_counts"]["labels"] == [each["partition"]] == [each["client"]]
        assert rows["peeling"]["scores"]["psnr"][0] > 50
        assert rows["peeling"]["unexplained"] < 1e-3
        assert set(each["controls"]) == {"random guess", "mean image", "class mean"}
        assert each["local"]["learning_rate"] == RATE
        assert each["local"]["batch_size"] == 1
    assert found.report["verdict"][0].startswith("It leaks: of 4 of 4 messages")
    assert "best guesses, made blindly or from the labels alone" in found.report["verdict"][0]
    assert "say nothing of a defence" in found.report["verdict"][-1]
    assumed = " ".join(found.report["assumed"])
    for said in (
        "10 classes",
        "images (1, 16, 16)",
        "learning_rate = 0.1",
        "under 'lr'",
        "momentum = 0.0",
        "no defence",
    ):
        assert said in assumed
    written = json.loads((tmp_path / "out/audit.json").read_text())
    assert written["messages"][3]["attacks"][1]["scores"] == json.loads(json.dumps(told[3]["attacks"][1]["scores"]))
    assert (tmp_path / "out/round_2/client_1/peeling.png").is_file()
    assert set(found.guesses) >= {"round_1/client_0/peeling", "round_2/client_1/label_counts"}


def test_rounds_and_clients_are_chosen_and_failures_are_told(tmp_path):
    seen = observed(tmp_path / "seen", breaks={2}, nodes=3)
    found = audit(seen, model=Net, rounds={2}, clients={1, 2}, attacks=["label_counts"], out=tmp_path / "out")
    assert [(each["round"], each["client"]) for each in found.report["messages"]] == [(2, 1)]
    (left,) = found.report["left_out"]
    assert (left["round"], left["client"]) == (2, 2)
    assert "out of memory" in left["reason"]
    with pytest.raises(ValueError, match="no reply of the rounds and clients"):
        audit(seen, model=Net, rounds={7})


def test_all_that_is_missing_is_asked_for_at_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    seen = observed(tmp_path / "seen", rounds=1, config={})
    with pytest.raises(ValueError) as told:
        audit(seen)
    for said in ("--model", "--shape", "--classes", "--local", "test_audit_folder:Net"):
        assert said in str(told.value)
    assert "--global" not in str(told.value)
    with pytest.raises(ValueError, match=r"--local(?s:.)*normalise") as told:
        audit(seen, model=Net)
    assert "--shape" not in str(told.value)
    (tmp_path / "pyproject.toml").write_text("[tool.flwr.app.config]\ntraining.learning-rate = 0.1\nbatch-size = 4\n")
    found = audit(seen, model=Net, attacks=["label_counts"], out=tmp_path / "out")
    assert "learning_rate = 0.1, as pyproject.toml here says" in " ".join(found.report["assumed"])


def test_a_truth_by_partition_needs_replies_that_name_it(tmp_path):
    seen = observed(tmp_path / "seen", rounds=1, says=False)
    with pytest.raises(ValueError, match="metric 'partition-id'"):
        audit(seen, model=Net, truth=truth)
    found = audit(seen, model=Net, truth=lambda client: images(client), attacks=QUICK, out=tmp_path / "out")
    assert all(each["attacks"][1]["scores"]["psnr"][0] > 50 for each in found.report["messages"])


def test_the_attacker_knows_the_chain_that_clients_say_they_ran(tmp_path):
    seen = observed(tmp_path / "seen", defence_mod("clip(norm=0.5) + gaussian_noise(scale=0.001)", seed=1), rounds=1)
    found = audit(seen, model=Net, attacks=["label_counts"], out=tmp_path / "out")
    for each in found.report["messages"]:
        assert each["applied"] == each["defence"] == "clip(norm=0.5) + gaussian_noise(scale=0.001)"
    assert "clients say that they ran 'clip(norm=0.5)" in found.report["verdict"][-1]
    found = audit(seen, model=Net, defence="none", attacks=["label_counts"], out=tmp_path / "other")
    assert found.report["messages"][0]["defence"] is None
    assert "which was believed" in found.report["messages"][0]["doubts"][0]


def test_no_client_chooses_whose_code_is_imported(tmp_path):
    seen = observed(tmp_path / "seen", rounds=1)
    path = seen / "round_1/round.json"
    path.write_text(re.sub('"applied": null', '"applied": "no_such_module_here:Evil()"', path.read_text()))
    found = audit(seen, model=Net, attacks=["label_counts"], out=tmp_path / "out")
    assert all("name it with --defence" in " ".join(each["doubts"]) for each in found.report["messages"])


def test_a_damaged_reply_costs_no_other(tmp_path):
    seen = observed(tmp_path / "seen", rounds=1)
    (seen / "round_1/client_0.safetensors").write_bytes(b"no tensors")
    found = audit(seen, model=Net, attacks=["label_counts"], out=tmp_path / "out")
    assert [each["client"] for each in found.report["messages"]] == [1]
    assert "damaged" in found.report["left_out"][0]["reason"]


def test_the_command_audits_a_folder(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["audit", str(folder), "--model", "test_audit_folder:Net", "--rounds", "1..2", "--clients", "1"]
    words += ["--attack", "peeling", "--truth", "test_audit_folder:truth", "--out", "here"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "It leaks: of 2 of 2 messages" in done.output
    assert "PSNR dB" in done.output
    for wrong, said in (
        (["audit", "nowhere"], "is no folder"),
        (["audit", str(tmp_path)], "no folder of observations"),
        (["audit", str(folder), "--rounds", "one"], "list such as"),
    ):
        done = CliRunner().invoke(app, wrong)
        assert (done.exit_code, said in done.output) == (2, True), done.output


def test_a_gradient_is_taken_as_one(tmp_path):
    torch.manual_seed(0)
    net = Net()
    x, y = images(3)
    F.cross_entropy(net(x), y).backward()
    slopes = {name: value.grad for name, value in net.named_parameters()}
    found = audit(
        dict(net.state_dict()),
        gradient=slopes,
        model=Net,
        shape=(1, 16, 16),
        classes=10,
        images=1,
        truth=(x, y),
        attacks=QUICK,
        out=tmp_path / "out",
    )
    rows = {row["attack"]: row for row in found.report["attacks"]}
    assert rows["label_counts"]["labels"] == [3]
    assert rows["peeling"]["scores"]["psnr"][0] > 50
    text = found.to_html().read_text()
    for said in (
        "What one gradient gives away",
        "of this gradient: PSNR",
        "where the best guess (grey image, a blind guess) has",
        "this client&#x27;s gradient",
        "The gradient is that of all images at once: loss = cross_entropy, mode = train.",
        "Other attacks on gradients: ",
        "SHA-256 of the gradient",
    ):
        assert said in text
    assert "update" not in text.partition("Other attacks on")[0].partition("<h1>")[2]
    with pytest.raises(ValueError, match="give one of"):
        audit(dict(net.state_dict()), slopes, gradient=slopes, model=Net, shape=(1, 16, 16), classes=10, images=1)


@pytest.mark.parametrize(
    ("given", "told", "wanted"),
    [
        (None, {"learning_rate": 0.2, "num-local-epochs": 3}, LocalTraining(learning_rate=0.2, epochs=3)),
        (None, {"lr": 0.1, "optimizer": "Adam", "momentum": 0.9}, LocalTraining(learning_rate=0.1, optimiser="adam")),
        ({"momentum": 0.9}, {"lr": 0.1, "momentum": 0.5}, LocalTraining(learning_rate=0.1, momentum=0.9)),
        (LocalTraining(learning_rate=0.3), {"lr": 0.1, "epochs": 2}, LocalTraining(learning_rate=0.3)),
        (LocalTraining(momentum=0.5), {"lr": 0.1, "epochs": 2}, LocalTraining(learning_rate=0.1, momentum=0.5)),
        (None, {"lr": True, "epochs": "two"}, None),
        (None, {"train.lr": 1, "batch_size": 2.5}, LocalTraining(learning_rate=1.0)),
    ],
)
def test_local_training_is_guessed_from_the_apps_words(given, told, wanted):
    found, said = guessed_local(given, [("the app", told)])
    assert found == wanted
    assert bool(said) is (wanted is not None and not (given is not None and given == wanted))


def test_what_is_said_of_many_messages_with_other_numbers_is_said_once():
    said = ["the update is 1.4e+04 times too large", "the update is 3 times too large", "other", "other"]
    first, second = _counted(said)
    assert first == "the update is 1.4e+04 times too large (2 messages, each with its own numbers)"
    assert second == "other (2 messages)"


def test_that_no_batch_size_is_known_is_said():
    given, said = guessed_local(None, [("the config", {"lr": 0.1})])
    assert (given.batch_size, any("on all images at once" in each for each in said)) == (0, True)
    given, said = guessed_local(None, [("the config", {"lr": 0.1, "batch-size": 8})])
    assert (given.batch_size, any("at once" in each for each in said)) == (8, False)


def test_sizes_are_guessed_where_one_alone_fits():
    free = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 7))
    assert guessed_sizes(free, None, None)[:2] == (None, 7)  # of any size
    rows = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    assert guessed_sizes(rows, None, None)[:2] == ((1, 28, 28), 10)
    assert guessed_sizes(rows, "1,28,28", None)[:2] == ("1,28,28", 10)
    assert guessed_sizes(lambda shape, classes: rows, None, None)[:2] == (None, None)


def test_a_finished_audit_is_read_again_and_shows_itself_as_a_page(folder, tmp_path):
    found = audit(folder, model=Net, attacks=["label_counts", "peeling"], rounds={1}, out=tmp_path / "out")
    again = Audit.read(tmp_path / "out")
    assert again.report["verdict"] == list(found.report["verdict"])
    assert set(again.guesses) == set(found.guesses)
    assert torch.equal(*(each.guesses["round_1/client_1/peeling"].inputs for each in (found, again)))
    text = again.to_html().read_text()
    for said in ("It leaks", "round, client", "say nothing of a defence", "Several rounds or clients together"):
        assert said in text
    assert "audit(...)" in text
    assert "my_app" not in text, "no model that nobody audited"
    assert len(again.to_csv(tmp_path / "rows.csv").read_text().splitlines()) == 1 + 2 * 2
