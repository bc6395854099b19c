"""What the reports say where R contradicts the pictures, and where the class is no secret."""

from fl_privacy.simulations.channels.instances import instances
from fl_privacy.simulations.channels.output.words import contradiction


def row(attack, risk, psnr, **others):
    return {"attack": attack, "defence": "3/1", "risk_published": risk, "psnr": psnr, **others}


BLIND = [row("control: mean image", 0.996, 13.9), row("control: random guess", 0.694, 10.8)]


def test_faces_that_r_ranks_below_the_mean_face_get_a_word():
    """The case that the published measure has on UTKFace: 17.4 dB with R .965."""
    said = contradiction([row("vicious", 0.965, 17.4), *BLIND])
    assert "a blind guess (R 0.996, at most 13.9 dB) is nearer than vicious on '3/1' (R 0.965, 17.4 dB)" in said


def test_where_both_agree_there_is_none():
    assert contradiction([row("vicious", 1.2, 17.4), *BLIND]) == ""
    assert contradiction([row("vicious", 0.9, 13.0), *BLIND]) == "", "worse by both"
    assert contradiction([row("vicious", 0.9, 17.4)]) == "", "no blind guess to compare with"
    assert contradiction([{"attack": "x", "defence": "y", "psnr": None}, *BLIND]) == ""


def test_only_the_attacks_that_it_concerns_are_named():
    said = contradiction([row("one", 0.9, 15.0), row("two", 1.1, 15.0), *BLIND])
    assert "one on" in said
    assert "two on" not in said


def test_a_class_that_is_sent_is_no_secret():
    rows = [{"instance_candidates": 40}, {"instance_candidates": 87}, {}]
    assert "no secret" in instances(rows, sent=True)
    assert "up to 87" in instances(rows, sent=False)
    assert "no secret" not in instances(rows, sent=False)
    assert instances([{}], sent=True) == ""
