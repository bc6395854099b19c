"""A cached training is used again only where nothing that made it has changed, and only whole."""

import threading

import pytest
import torch

from fl_privacy import checkpoints
from fl_privacy.simulations.channels import training_cache
from fl_privacy.simulations.results import environment, provenance


@pytest.fixture
def entry(tmp_path):
    path = tmp_path / "model.safetensors"
    checkpoints.save(path, {"w": torch.arange(6.0)}, {"rows": [None, 1.5]})
    return path


def test_what_was_saved_is_loaded(entry):
    tensors, facts = training_cache.sound(entry, checkpoints.load, print)
    assert torch.equal(tensors["w"], torch.arange(6.0))
    assert facts == {"rows": [None, 1.5]}


@pytest.mark.parametrize("damage", [lambda b: b[:-9], lambda b: b[:-20] + bytes([b[-20] ^ 1]) + b[-19:], lambda b: b""])
def test_a_damaged_entry_is_noted_and_removed(entry, damage):
    notes = []
    entry.write_bytes(damage(entry.read_bytes()))
    assert training_cache.sound(entry, checkpoints.load, notes.append) is None
    assert len(notes) == 1
    assert not entry.exists()


def test_the_package_and_the_users_module_are_part_of_the_identity(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_cached_models.py").write_text("a = 1\n")
    settings = {"model": {"name": "my_cached_models:Net"}}
    found = [training_cache.key(training_cache.identity(settings))]
    (tmp_path / "my_cached_models.py").write_text("a = 2\n")
    found.append(training_cache.key(training_cache.identity(settings)))
    monkeypatch.setattr(provenance, "installed", lambda: {"source": "another"})
    found.append(training_cache.key(training_cache.identity(settings)))
    assert len(set(found)) == 3


@pytest.mark.parametrize("package", environment.DECIDING)
def test_the_libraries_are_part_of_the_identity(package, monkeypatch):
    before = training_cache.key(training_cache.identity({}))
    other = {**environment.versions(), package: "0.1"}
    monkeypatch.setattr(environment, "versions", lambda: other)
    assert training_cache.key(training_cache.identity({})) != before


def test_only_one_holds_an_entry(tmp_path):
    order, waiting = [], threading.Event()

    def second() -> None:
        with training_cache.alone(tmp_path / "m.safetensors", lambda _: waiting.set()):
            order.append("second")

    with training_cache.alone(tmp_path / "m.safetensors", print):
        other = threading.Thread(target=second)
        other.start()
        assert waiting.wait(5)
        order.append("first")
    other.join(5)
    assert order == ["first", "second"]
