"""Activations stored in early rounds: every stored round is attacked, and all of them at once."""

import torch

from benchmarks import split_rounds
from fl_privacy.attacks.activation.decoder import Decoder


def test_each_stored_round_is_attacked_and_all_of_them_together(monkeypatch):
    monkeypatch.setattr(split_rounds, "STORED", (0, 1))
    small = Decoder(steps=20, batch_size=32, width=4, blocks=1, copies=1)
    monkeypatch.setattr(split_rounds, "ATTACKS", {"decoder": small})
    rows = split_rounds.rows_of("none", 0)
    assert [(row["round"], row["attack"]) for row in rows] == [
        ("0", "decoder"),
        ("1", "decoder"),
        ("all", "decoder"),
        ("", "control: mean image"),
        ("", "control: random guess"),
    ]
    assert rows[1]["accuracy"] > rows[0]["accuracy"], "the model of round 1 has learnt"
    assert all(row["psnr_low"] <= row["psnr"] <= row["psnr_high"] for row in rows)


def test_segments_side_by_side_release_what_each_does():
    images = torch.rand(2, 1, 8, 8)
    both = split_rounds.SideBySide([torch.nn.Identity(), torch.nn.MaxPool2d(1)])
    assert torch.equal(both(images), torch.cat([images, images], 1))
