"""One line in any client app: the chain acts on what is new, and on nothing else, whatever else is in the app."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.mod import LocalDpMod, arrays_size_mod, fixedclipping_mod, message_size_mod
from flwr.serverapp.strategy import DifferentialPrivacyClientSideFixedClipping, FedAvg
from hypothesis import given, settings
from hypothesis import strategies as draw
from ordinary_app import NODES, client_app, first_weights, run
from safetensors.torch import load_file

from fl_privacy.defences import Chain, chain_of
from fl_privacy.defences.clip import Clip
from fl_privacy.defences.noise import GaussianNoise
from fl_privacy.settings import UnknownName
from fl_privacy.simulations.backends.local import LocalGrid
from fl_privacy.strategies import HonestButCurious, defence_mod

NORM = 0.01
CLIP = f"clip(norm={NORM})"


@given(norm=draw.floats(1e-6, 1e6), scale=draw.floats(0, 1e6))
@settings(max_examples=25, deadline=None)
def test_a_label_is_read_back(norm, scale):
    known = Chain((Clip(norm=norm), GaussianNoise(scale=scale)))
    assert chain_of(known.label) == known
    assert chain_of(known) is known
    assert chain_of([{"name": "clip", "norm": norm}, {"name": "gaussian_noise", "scale": scale}]) == known


def test_texts_of_a_chain_and_what_is_none():
    assert chain_of("none") == chain_of("") == chain_of([]) == Chain()
    assert chain_of("clip(norm=1e+3)+clip( norm = 2 )") == Chain((Clip(norm=1000.0), Clip(norm=2)))
    for text, said in (("clip(1.0)", "name=value"), ("clip(norm=1", "no member"), ("+ clip", "no member")):
        with pytest.raises(ValueError, match=said):
            defence_mod(text, seed=0)
    with pytest.raises(UnknownName, match="Did you mean 'clip'"):
        defence_mod("clipp(norm=1.0)", seed=0)


def seen_by_server(folder, *mods, rounds=1, strategy=FedAvg):
    """Per round and client (what changed, what was said), and the final weights."""
    found = run(HonestButCurious(strategy(fraction_evaluate=0.0), out=folder), client_app(*mods), rounds)
    changes = {}
    for path in sorted(folder.glob("round_*/round.json")):
        told = json.loads(path.read_text())
        for reply in told["replies"]:
            assert reply["error"] is None
            sent, back = (load_file(path.parent / reply[key]) for key in ("global", "file"))
            change = {name: back[name] - sent[name] for name in sent if sent[name].is_floating_point()}
            changes[told["round"], reply["client"]] = change, reply["applied"]
    return changes, found


def norm(change):
    return float(torch.cat([value.flatten() for value in change.values()]).norm())


def test_weights_of_any_app_are_clipped_by_their_change_and_the_reply_says_so(tmp_path):
    bare, _ = seen_by_server(tmp_path / "bare")
    clipped, _ = seen_by_server(tmp_path / "clipped", defence_mod(CLIP, seed=0))
    for key, (change, said) in clipped.items():
        assert norm(bare[key][0]) > 10 * NORM
        assert norm(change) == pytest.approx(NORM, rel=1e-3)  # weights are float32, near 1
        assert (said, bare[key][1]) == (CLIP, None)


def test_the_empty_chain_keeps_every_bit(tmp_path):
    _, end = seen_by_server(tmp_path / "bare", rounds=2)
    with_mod, same = seen_by_server(tmp_path / "with", defence_mod("none", seed=0), rounds=2)
    assert [array.data for array in same.arrays.values()] == [array.data for array in end.arrays.values()]
    assert {said for _, said in with_mod.values()} == {"none"}


def test_draws_differ_by_client_round_and_seed_and_repeat_with_it(tmp_path):
    noise = "gaussian_noise(scale=1.0)"
    runs = {name: seen_by_server(tmp_path / name, defence_mod(noise, seed), rounds=2)[0]
            for name, seed in (("a", 1), ("b", 1), ("c", 2), ("d", None), ("e", None))}  # fmt: skip
    heads = {name: {key: change["fc.bias"] for key, (change, _) in found.items()} for name, found in runs.items()}
    assert all(torch.equal(heads["a"][key], heads["b"][key]) for key in heads["a"])
    drawn = [tuple(value.tolist()) for name in "acde" for value in heads[name].values()]
    assert len(set(drawn)) == len(drawn) == 4 * 2 * NODES


class _Own(FedAvg):
    """A strategy that names no round in its messages."""

    def configure_train(self, server_round, arrays, config, grid):
        for message in super().configure_train(server_round, arrays, ConfigRecord(), grid):
            content = RecordDict({"arrays": arrays})
            yield Message(content, message_type="train", dst_node_id=message.metadata.dst_node_id)


def test_without_the_number_of_a_round_no_noise_comes_twice(tmp_path):
    found, _ = seen_by_server(tmp_path / "seen", defence_mod("gaussian_noise(scale=1.0)", 1), rounds=3, strategy=_Own)
    heads = {tuple(change["fc.bias"].tolist()) for change, _ in found.values()}
    assert len(heads) == 3 * NODES


@pytest.mark.parametrize("first", [True, False])
def test_beside_flowers_own_mods(first, tmp_path):
    own = [message_size_mod, arrays_size_mod, LocalDpMod(0.5, 0.01, 10.0, 0.1)]
    ours = defence_mod(CLIP, seed=0)
    found, _ = seen_by_server(tmp_path / "seen", *([ours, *own] if first else [*own, ours]))
    assert all((norm(change) == pytest.approx(NORM, rel=1e-3)) is first for change, _ in found.values())
    assert {said for _, said in found.values()} == {CLIP}

    def private(**settings):
        return DifferentialPrivacyClientSideFixedClipping(FedAvg(**settings), 0.0, 0.005, NODES)

    found, _ = seen_by_server(tmp_path / "dp", ours, fixedclipping_mod, strategy=private)
    assert all(norm(change) <= 0.005 * 1.01 for change, _ in found.values())


def answers(content, chain, category="train"):
    """What one node answers to the first weights, behind the mod."""
    app = ClientApp(mods=[defence_mod(chain, seed=0)])
    register = app.train() if category == "train" else app.query()

    @register
    def act(message: Message, context: Context) -> Message:
        return Message(content(), reply_to=message)

    grid = LocalGrid(app, 1)
    sent = RecordDict({"arrays": first_weights(), "config": ConfigRecord({"server-round": 1})})
    (reply,) = grid.send_and_receive([Message(sent, dst_node_id=1000, message_type=category)])
    assert not reply.has_error()
    return reply.content


def test_a_reply_that_holds_the_change_itself_is_clipped_as_it_is():
    change = {name: torch.full_like(v, 1e-2) for name, v in first_weights().to_torch_state_dict().items()}
    back = answers(lambda: RecordDict({"arrays": ArrayRecord(change)}), CLIP)["arrays"].to_torch_state_dict()
    floating = {name: value for name, value in back.items() if value.is_floating_point()}
    assert norm(floating) == pytest.approx(NORM, rel=1e-5)
    assert back["norm.num_batches_tracked"] == 0
    assert list(back) == list(change)


def test_several_records_are_one_payload_and_no_arrays_are_none():
    def both():
        return RecordDict({name: ArrayRecord({"x": Array(np.full(4, 3.0))}) for name in ("one", "two")})

    back = answers(both, "clip(norm=1.0)", "query")
    parts = [torch.from_numpy(back[name]["x"].numpy()) for name in ("one", "two")]
    assert float(torch.cat(parts).norm()) == pytest.approx(1.0, rel=1e-5)
    bare = answers(lambda: RecordDict({"metrics": MetricRecord({"n": 1})}), "clip(norm=1.0)", "query")
    assert list(bare) == ["metrics"]


def test_a_chain_that_acts_on_gradients_is_refused_unless_the_app_knows_it():
    with pytest.raises(ValueError, match="gradient_under"):
        defence_mod("dp_sgd(norm=1.0)", seed=0)
    assert defence_mod("dp_sgd(norm=1.0)", seed=0, in_training=True)


@pytest.mark.parametrize("text", ["clip(norm={[]:1})", f"clip(norm={'-' * 3000}1)"])
def test_a_label_that_a_stranger_wrote_is_refused_and_ends_nothing(text):
    with pytest.raises(ValueError, match="no value of a setting"):
        chain_of(text)
