"""Around an ordinary Flower app: everything is in the folder, no bit of the app is another, and no fault ends it."""

from __future__ import annotations

import copy
import json
import logging
from itertools import pairwise

import flwr.serverapp.strategy as flower
import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.mod import adaptiveclipping_mod, fixedclipping_mod
from ordinary_app import CONFIG, LR, METRICS, NODES, WEIGHTS, Net, client_app, first_weights, run
from safetensors.numpy import load_file

from fl_privacy.strategies import HonestButCurious

DP = {"noise_multiplier": 0.1, "num_sampled_clients": NODES}
STRATEGIES = {
    "FedAvg": lambda: flower.FedAvg(
        fraction_train=0.6, arrayrecord_key=WEIGHTS, configrecord_key=CONFIG, min_available_nodes=NODES
    ),
    "FedProx": lambda: flower.FedProx(proximal_mu=0.1),
    "FedAvgM": lambda: flower.FedAvgM(server_momentum=0.9),
    "FedAdagrad": lambda: flower.FedAdagrad(),
    "FedAdam": lambda: flower.FedAdam(),
    "FedYogi": lambda: flower.FedYogi(),
    "FedMedian": lambda: flower.FedMedian(),
    "FedTrimmedAvg": lambda: flower.FedTrimmedAvg(),
    "QFedAvg": lambda: flower.QFedAvg(client_learning_rate=LR, train_loss_key="train_loss"),
    "Krum": lambda: flower.Krum(num_malicious_nodes=1),
    "MultiKrum": lambda: flower.MultiKrum(num_malicious_nodes=1, num_nodes_to_select=2),
    "Bulyan": lambda: flower.Bulyan(num_malicious_nodes=0),
    "FedXgbBagging": lambda: flower.FedXgbBagging(),
    "FedXgbCyclic": lambda: flower.FedXgbCyclic(),
    "DifferentialPrivacyServerSideFixedClipping": lambda: flower.DifferentialPrivacyServerSideFixedClipping(
        flower.FedAvg(), clipping_norm=1.0, **DP
    ),
    "DifferentialPrivacyServerSideAdaptiveClipping": lambda: flower.DifferentialPrivacyServerSideAdaptiveClipping(
        flower.FedAvg(), **DP
    ),
    "DifferentialPrivacyClientSideFixedClipping": lambda: flower.DifferentialPrivacyClientSideFixedClipping(
        flower.FedAvg(), clipping_norm=1.0, **DP
    ),
    "DifferentialPrivacyClientSideAdaptiveClipping": lambda: flower.DifferentialPrivacyClientSideAdaptiveClipping(
        flower.FedAvg(arrayrecord_key=WEIGHTS), **DP
    ),
}


def without_whole_numbers(message, context, call_next):
    """QFedAvg cannot average the counter of batch normalisation."""
    reply = call_next(message, context)
    for record in reply.content.array_records.values():
        record["norm.num_batches_tracked"] = Array(np.asarray(record["norm.num_batches_tracked"].numpy(), np.float32))
    return reply


MODS = {
    "QFedAvg": without_whole_numbers,
    "DifferentialPrivacyClientSideFixedClipping": fixedclipping_mod,
    "DifferentialPrivacyClientSideAdaptiveClipping": adaptiveclipping_mod,
}


def trees() -> ClientApp:
    """Clients of the strategies for XGBoost, whose one array is a JSON text."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        number = int(context.node_config["partition-id"])
        model = {
            "learner": {
                "gradient_booster": {
                    "model": {
                        "gbtree_model_param": {"num_trees": "1", "num_parallel_tree": "1"},
                        "iteration_indptr": [0, 1],
                        "trees": [{"id": 0, "split": number}],
                        "tree_info": [0],
                    }
                }
            }
        }
        text = np.frombuffer(json.dumps(model).encode(), np.uint8)
        metrics = MetricRecord({"num-examples": 1})
        return Message(RecordDict({"arrays": ArrayRecord([text]), "metrics": metrics}), reply_to=message)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        return Message(RecordDict({"metrics": MetricRecord({"num-examples": 1})}), reply_to=message)

    return app


def start(name: str, strategy: flower.Strategy, rounds: int = 2):
    if name.startswith("FedXgb"):
        return run(strategy, trees(), rounds, ArrayRecord([np.array([], np.uint8)]))
    return run(strategy, client_app(*([MODS[name]] if name in MODS else [])), rounds)


def rounds_of(folder):
    return [json.loads(path.read_text()) for path in sorted(folder.glob("round_*/round.json"))]


def test_the_list_of_strategies_is_flowers():
    made = {name for name in flower.__all__ if name not in ("Result", "Strategy")}
    assert set(STRATEGIES) == made


@pytest.mark.parametrize("name", STRATEGIES)
def test_wrapped_or_bare_every_bit_is_the_same_and_everything_is_in_the_folder(name, tmp_path, monkeypatch):
    monkeypatch.setattr("gc.collect", lambda *generation: 0)  # Flower calls it after each array, for a second each
    bare = start(name, STRATEGIES[name]())
    wrapped = start(name, HonestButCurious(STRATEGIES[name](), model=Net, out=tmp_path / "seen"))
    assert len(bare.arrays)
    assert list(wrapped.arrays) == list(bare.arrays)
    assert [array.data for array in wrapped.arrays.values()] == [array.data for array in bare.arrays.values()]
    assert wrapped.train_metrics_clientapp == bare.train_metrics_clientapp
    assert wrapped.evaluate_metrics_clientapp == bare.evaluate_metrics_clientapp
    told = rounds_of(tmp_path / "seen")
    assert [each["round"] for each in told] == [1, 2]
    asked = 1 if name == "FedXgbCyclic" else 3 if name == "FedAvg" else NODES
    for each in told:
        assert len(each["replies"]) == asked
        assert each["left_out"] == []
        sent = load_file(tmp_path / f"seen/round_{each['round']}" / each["global"])
        for reply in each["replies"]:
            assert reply["error"] is None
            back = load_file(tmp_path / f"seen/round_{each['round']}" / reply["file"])
            if not name.startswith("FedXgb"):
                assert set(back) == set(sent) == set(Net().state_dict())
                assert any((back[key] != sent[key]).any() for key in sent)
                assert reply["metrics"][METRICS]["num-examples"] >= 2
    if not name.startswith("FedXgb"):
        first = load_file(tmp_path / "seen/round_1/global.safetensors")
        assert all(np.array_equal(first[key], array.numpy()) for key, array in first_weights().items())
        about = json.loads((tmp_path / "seen/about.json").read_text())
        assert (about["strategy"], about["model"]) == (name, "ordinary_app:Net")


def test_the_own_loop_of_a_strategy_is_recorded_and_its_attributes_are_seen(tmp_path):
    class Own(flower.FedAvg):
        patience = 7

        def start(self, grid, initial_arrays, num_rounds=3, **settings):
            arrays = initial_arrays
            for number in range(1, num_rounds + 1):
                config = settings["train_config"]
                replies = grid.send_and_receive(self.configure_train(number, arrays, config, grid))
                arrays, _ = self.aggregate_train(number, replies)
            return arrays

    bare = run(Own())
    inner = Own()
    before = dict(vars(inner))
    strategy = HonestButCurious(inner, out=tmp_path / "seen")
    assert strategy.patience == 7
    found = run(strategy)
    assert vars(inner) == before
    assert [array.data for array in found.values()] == [array.data for array in bare.values()]
    assert [len(each["replies"]) for each in rounds_of(tmp_path / "seen")] == [NODES, NODES]
    with pytest.raises(AttributeError, match="nothing_like_it"):
        strategy.nothing_like_it  # noqa: B018
    assert copy.copy(strategy).patience == 7


def test_inside_a_wrapper_of_flowers_own_it_records_too(tmp_path):
    inside = HonestButCurious(flower.FedAvg(), out=tmp_path / "seen")
    run(flower.DifferentialPrivacyServerSideFixedClipping(inside, clipping_norm=1.0, **DP))
    assert [len(each["replies"]) for each in rounds_of(tmp_path / "seen")] == [NODES, NODES]


def test_rounds_clients_and_bytes_are_bounded(tmp_path, caplog):
    run(HonestButCurious(flower.FedAvg(), out=tmp_path / "few", rounds={2, 4}, clients=range(2)), rounds=4)
    told = rounds_of(tmp_path / "few")
    assert [(each["round"], [reply["client"] for reply in each["replies"]]) for each in told] == [
        (2, [0, 1]),
        (4, [0, 1]),
    ]
    nodes = {(reply["client"], reply["node"]) for each in told for reply in each["replies"]}
    assert nodes == {(0, "1000"), (1, "1001")}
    assert json.loads((tmp_path / "few/about.json").read_text())["limits"] == {
        "rounds": [2, 4],
        "clients": "range(0, 2)",
        "max_bytes": 10**9,
    }
    size = (tmp_path / "few/round_2/global.safetensors").stat().st_size
    with caplog.at_level(logging.WARNING, "flwr"):
        run(HonestButCurious(flower.FedAvg(), out=tmp_path / "small", max_bytes=4 * size + 100), rounds=3)
    (told,) = rounds_of(tmp_path / "small")
    assert sum(reply["file"] is not None for reply in told["replies"]) == 3
    assert [each["client"] for each in told["left_out"]] == [3, 4]
    arrays = sum(path.stat().st_size for path in (tmp_path / "small").rglob("*.safetensors"))
    assert arrays <= 4 * size + 100
    assert "max_bytes" in caplog.text


def test_a_folder_in_use_gets_a_successor(tmp_path):
    strategy = HonestButCurious(flower.FedAvg(), out=tmp_path / "seen")
    run(strategy, rounds=1)
    run(strategy, rounds=1)
    run(HonestButCurious(flower.FedAvg(), out=tmp_path / "seen"), rounds=1)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["seen", "seen-2", "seen-3"]
    for each in tmp_path.iterdir():
        assert len(rounds_of(each)) == 1
        assert not list(each.rglob("*.tmp"))


def test_a_disk_that_refuses_and_arrays_that_no_file_takes_end_no_training(tmp_path, caplog, monkeypatch):
    bare = run(flower.FedAvg())
    (tmp_path / "file").write_text("no folder")
    with caplog.at_level(logging.WARNING, "flwr"):
        found = run(HonestButCurious(flower.FedAvg(), out=tmp_path / "file" / "seen"))
    assert [array.data for array in found.arrays.values()] == [array.data for array in bare.arrays.values()]
    assert caplog.text.count("was not recorded, training goes on") == 2

    def odd(message, context, call_next):
        reply = call_next(message, context)
        if int(context.node_config["partition-id"]) == 1:
            reply.content["arrays"]["fc.bias"] = Array(np.array([1j, 0, 0]))  # no safetensors type
        return reply

    run(HonestButCurious(flower.FedMedian(), out=tmp_path / "seen"), client_app(odd), rounds=1)
    (told,) = rounds_of(tmp_path / "seen")
    assert [each["client"] for each in told["left_out"]] == [1]
    assert [reply["client"] for reply in told["replies"]] == [0, 2, 3, 4]


def test_failures_personal_models_and_what_clients_say_are_told(tmp_path):
    def mod(message, context, call_next):
        number = int(context.node_config["partition-id"])
        if number == 2:
            raise OSError("gone")
        reply = call_next(message, context)
        if message.metadata.message_type == "train":
            reply.content[METRICS]["odd"] = float("nan")
            reply.content["more"] = ArrayRecord({"control": Array(np.zeros(3))})
        return reply

    class Personal(flower.FedAvg):
        def configure_train(self, server_round, arrays, config, grid):
            for message in super().configure_train(server_round, arrays, config, grid):
                own = {
                    name: Array(np.asarray(array.numpy() + int(message.metadata.dst_node_id == 1004)))
                    for name, array in arrays.items()
                }
                content = RecordDict({self.arrayrecord_key: ArrayRecord(own), **message.content.config_records})
                yield Message(content, message_type="train", dst_node_id=message.metadata.dst_node_id)

        def aggregate_train(self, server_round, replies):
            return None, None

    run(HonestButCurious(Personal(), out=tmp_path / "seen"), client_app(mod), rounds=1)
    (told,) = rounds_of(tmp_path / "seen")
    by = {reply["client"]: reply for reply in told["replies"]}
    assert "gone" in by[2]["error"]
    assert by[2]["file"] is None
    assert [by[client]["global"] for client in range(NODES)] == [*["global.safetensors"] * 4, "global_2.safetensors"]
    sent = [load_file(tmp_path / "seen/round_1" / by[client]["global"])["fc.bias"] for client in range(NODES)]
    assert [bool((one == other).all()) for one, other in pairwise(sent)] == [True, True, True, False]
    assert by[0]["metrics"][METRICS]["odd"] == "nan"
    assert by[0]["further"] == ["more"]
    assert by[0]["applied"] is None
    assert told["config"] == {"config": {"lr": LR, "server-round": 1}}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [({}, "Give out="), ({"out": "x", "sink": print}, "not both"), ({"sink": print}, "model=")],
)
def test_what_cannot_be_meant_is_said_before_anything_runs(arguments, said):
    with pytest.raises(ValueError, match=said):
        HonestButCurious(flower.FedAvg(), **arguments)
    with pytest.raises(ValueError, match="max_bytes"):
        HonestButCurious(flower.FedAvg(), out="x", max_bytes=0)
