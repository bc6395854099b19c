"""Whose face it is: ranks by known answers and by a plain loop, the recogniser on real faces."""

import os
from pathlib import Path

import pytest
import torch

from fl_privacy.data import load
from fl_privacy.metrics.face_identity import faces_recognised, ranks
from fl_privacy.metrics.sets import MatchedSet
from fl_privacy.observation import Images


def test_ranks_of_known_answers():
    gallery = torch.eye(4)
    persons = torch.tensor([7, 7, 3, 5])
    probes = torch.tensor([[0.0, 1.0, 0.0, 0.0], [0.6, 0.0, 0.8, 0.0], [0.0, 0.0, 0.6, 0.8]])
    assert ranks(probes, torch.tensor([7, 7, 7]), gallery, persons).tolist() == [1, 2, 3]


def test_ranks_equal_a_plain_loop():
    rng = torch.Generator().manual_seed(0)
    probes, gallery = torch.randn(20, 8, generator=rng), torch.randn(30, 8, generator=rng)
    persons, wanted = torch.randint(6, (30,), generator=rng), torch.randint(6, (20,), generator=rng)
    for probe, person, found in zip(probes, wanted.tolist(), ranks(probes, wanted, gallery, persons), strict=True):
        likest = {each: float((gallery[persons == each] @ probe).max()) for each in set(persons.tolist())}
        assert sorted(likest, key=lambda each: -likest[each]).index(person) + 1 == found


def test_who_is_like_everybody_is_nobody():
    """A constant guess, such as the mean face, must not be credited with a person by the order of ties."""
    gallery, persons = torch.ones(5, 3), torch.arange(5)
    assert ranks(torch.ones(2, 3), torch.tensor([0, 4]), gallery, persons).tolist() == [5, 5]


def test_a_person_without_a_picture_is_last():
    assert ranks(torch.ones(1, 2), torch.tensor([9]), torch.ones(3, 2), torch.arange(3)).tolist() == [4]


def test_the_recogniser_tells_real_people_apart():
    pytest.importorskip("cv2")
    root = Path(os.environ.get("FL_PRIVACY_DATA", ""))
    if not (root / "lfw_faces").is_dir():
        pytest.skip("no LFW faces under FL_PRIVACY_DATA")
    faces = load("lfw_faces", root, {"size": 32})
    held, asked = (each.chosen(torch.nonzero(each.labels < 4)[:, 0]) for each in (faces.test, faces.train))
    gallery = Images(held.images(), held.labels)
    probes, labels = asked.images()[::20], asked.labels[::20]
    grey = torch.full_like(probes, 0.5)
    found = faces_recognised(MatchedSet(guesses=probes, truth=probes, labels=labels, gallery=lambda: gallery))
    blind = faces_recognised(MatchedSet(guesses=grey, truth=probes, labels=labels, gallery=lambda: gallery))
    assert found["face_rank_1"] == found["face_rank_1_originals"] >= 0.9
    assert found["face_rank_1_low"] < found["face_rank_1"] <= found["face_rank_1_high"] <= 1
    assert blind["face_rank_1"] < 0.5
    assert found["face_persons"] == 4


def test_without_the_extra_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr("fl_privacy.metrics.face_identity.find_spec", lambda name: None)
    images, labels = torch.rand(2, 3, 8, 8), torch.zeros(2)
    chosen = MatchedSet(guesses=images, truth=images, labels=labels, gallery=lambda: Images(images, labels))
    with pytest.raises(ModuleNotFoundError, match=r"pip install \"fl-privacy\[faces\]\""):
        faces_recognised(chosen)
