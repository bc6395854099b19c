"""The run folder: what is written comes back to the bit, whole, or not at all."""

import json
import math
import os
from collections import OrderedDict

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fl_privacy.checkpoints import digest
from fl_privacy.defences import Chain
from fl_privacy.observation import ChannelName, LocalTraining, Observation, Reconstruction, Spec
from fl_privacy.simulations.results import files
from fl_privacy.simulations.results.storage import (
    Key,
    guess_digest,
    load_guesses,
    load_observations,
    save_guess,
    save_observation,
)

SPEC = Spec(image_shape=(1, 4, 4), classes=3, batch_size=2, local=LocalTraining(learning_rate=0.1, epochs=2))


def model(spec=SPEC):
    return nn.Sequential(OrderedDict(b=nn.Conv2d(1, 2, 3), a=nn.BatchNorm2d(2)))


def observation(client, payload, adversary, round=1):
    return Observation(
        channel=ChannelName.GRADIENT, payload=payload, spec=SPEC, round=round, client=client, model=adversary
    )


def payload(seed=0):
    rng = torch.Generator().manual_seed(seed)
    return {
        "z": torch.randn(3, 2, generator=rng),
        "a.weight": torch.randn(4, generator=rng).half(),
        "scalar": torch.tensor(-0.0),
        "empty": torch.zeros(0, 5),
        "count": torch.tensor([2**40, -1]),
        "view": torch.arange(12.0).view(3, 4).T,
    }


def test_observations_come_back_to_the_bit_and_in_order(tmp_path):
    adversary, chains = model(), (Chain(), Chain())
    sent = {Key(condition, 1, client): payload(10 * condition + client) for condition in (0, 1) for client in (10, 2)}
    for key, each in sent.items():
        save_observation(tmp_path, key.condition, observation(key.client, each, adversary))
    loaded = load_observations(tmp_path, model, chains)
    assert list(loaded) == [Key(0, 1, 2), Key(0, 1, 10), Key(1, 1, 2), Key(1, 1, 10)]
    for key, seen in loaded.items():
        assert list(seen.payload) == list(sent[key])
        for name, value in seen.payload.items():
            assert value.dtype == sent[key][name].dtype
            assert value.shape == sent[key][name].shape
            assert torch.equal(value, sent[key][name])
        assert math.copysign(1, float(seen.payload["scalar"])) == -1
        assert seen.spec == SPEC
        assert (seen.round, seen.client, seen.channel) == (key.round, key.client, ChannelName.GRADIENT)
        assert seen.defence is chains[key.condition]
        assert seen.labels is None
        assert seen.public is None


def test_the_model_is_saved_once_a_round_and_shared(tmp_path):
    first, second = model(), model()
    for round, adversary in ((1, first), (2, second)):
        for client in (0, 1):
            save_observation(tmp_path, 0, observation(client, payload(), adversary, round))
    assert len(list(tmp_path.glob("*_model.safetensors"))) == 2
    seen = load_observations(tmp_path, model, (Chain(),))
    assert seen[Key(0, 1, 0)].model is seen[Key(0, 1, 1)].model
    assert seen[Key(0, 1, 0)].model is not seen[Key(0, 2, 0)].model
    for key, adversary in ((Key(0, 1, 0), first), (Key(0, 2, 0), second)):
        for name, value in adversary.state_dict().items():
            assert torch.equal(seen[key].model.state_dict()[name], value)


def test_a_changed_payload_is_noticed(tmp_path):
    save_observation(tmp_path, 0, observation(0, {"w": torch.ones(3)}, model()))
    files.write_tensors(tmp_path / "0_r1_c0.safetensors", {"w": torch.zeros(3)})
    with pytest.raises(ValueError, match="damaged"):
        load_observations(tmp_path, model, (Chain(),))


@pytest.mark.parametrize(("labels", "winner"), [(None, ""), (torch.tensor([2, 0]), "map")])
@pytest.mark.parametrize("loss", [0.25, float("nan")])
def test_reconstructions_come_back(tmp_path, labels, winner, loss):
    guess = Reconstruction(
        inputs=torch.rand(2, 1, 4, 4),
        labels=labels,
        loss=loss,
        trace=torch.rand(5),
        iterations=5,
        seconds=1.5,
        winner=winner,
    )
    save_guess(tmp_path, Key(1, 2, 3), guess)
    ((key, loaded),) = load_guesses(tmp_path).items()
    assert key == Key(1, 2, 3)
    assert torch.equal(loaded.inputs, guess.inputs)
    assert (loaded.labels is None) == (labels is None)
    assert guess_digest(loaded) == guess_digest(guess)
    assert torch.equal(loaded.trace, guess.trace)
    assert (loaded.iterations, loaded.seconds, loaded.winner) == (5, 1.5, winner)
    assert loaded.loss == loss or (math.isnan(loaded.loss) and math.isnan(loss))


def test_the_time_it_took_is_no_part_of_a_reconstruction():
    fast = Reconstruction(inputs=torch.ones(1, 1, 2, 2), seconds=1.0)
    slow = Reconstruction(inputs=torch.ones(1, 1, 2, 2), seconds=9.0)
    assert guess_digest(fast) == guess_digest(slow)


def test_every_part_of_a_tensor_counts_in_the_digest():
    base = {"a": torch.zeros(2, 3), "b": torch.ones(1)}
    others = [
        {"b": torch.ones(1), "a": torch.zeros(2, 3)},
        {"c": torch.zeros(2, 3), "b": torch.ones(1)},
        {"a": torch.zeros(3, 2), "b": torch.ones(1)},
        {"a": torch.zeros(2, 3, dtype=torch.int32), "b": torch.ones(1)},
        {"a": -torch.zeros(2, 3), "b": torch.ones(1)},
        {"a": torch.zeros(2, 3)},
        {},
    ]
    digests = {digest(each) for each in [base, *others]}
    assert len(digests) == 1 + len(others)
    assert digest(base) == digest({name: value.clone() for name, value in base.items()})


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = files.write_atomic(tmp_path / "x.json", b"old")

    def broken(*args):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", broken)
    with pytest.raises(OSError, match="disk full"):
        files.write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert [each.name for each in tmp_path.iterdir()] == ["x.json"]


numbers = st.floats(allow_nan=True, allow_infinity=True)
values = st.recursive(
    st.one_of(numbers, st.integers(), st.text(), st.booleans(), st.none()),
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(), inner)),
)


@given(values)
def test_json_is_json(tmp_path_factory, value):
    path = files.write_json(tmp_path_factory.getbasetemp() / "any.json", value)

    def refused(name):
        raise AssertionError(f"{name} is not JSON")

    json.loads(path.read_text(), parse_constant=refused)


def test_a_run_folder_is_never_overwritten(tmp_path):
    assert files.new_folder(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    (tmp_path / "a" / "b" / "results.json").write_text("{}")
    with pytest.raises(ValueError, match="not empty"):
        files.new_folder(tmp_path / "a" / "b")
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot be written"):
        files.new_folder(tmp_path / "file" / "below")


def test_unfinished_and_damaged_runs_say_so(tmp_path):
    with pytest.raises(ValueError, match=r"not a finished run: it has no results\.json"):
        files.read_json(tmp_path / "results.json")
    (tmp_path / "results.json").write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        files.read_json(tmp_path / "results.json")
