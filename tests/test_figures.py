"""Figures of whatever a run has: images of any number of channels, names of any kind; none costs the results."""

import json

import matplotlib.image
import numpy as np
import pytest
import torch
from matplotlib.axes import Axes

from fl_privacy.simulations.config.load import configure
from fl_privacy.simulations.report import write
from fl_privacy.simulations.report.figures import Column, draw
from fl_privacy.simulations.report.tradeoff import draw_tradeoff
from fl_privacy.simulations.run.again import reopen
from fl_privacy.simulations.run.pipeline import simulate


@pytest.mark.parametrize(("channels", "words"), [(1, False), (2, True), (3, False), (4, True), (5, True)])
def test_images_of_any_number_of_channels_are_drawn_and_a_mean_is_said(channels, words, tmp_path, monkeypatch):
    shown, said = [], []
    monkeypatch.setattr(Axes, "imshow", lambda self, image, **how: shown.append(image))
    monkeypatch.setattr("matplotlib.figure.Figure.supxlabel", lambda self, text, **how: said.append(text))
    images = torch.rand(1, channels, 4, 6)
    draw(tmp_path / "a.png", "title", [Column("guess", images, ["caption"])], "note")
    drawn = images[0].mean(0) if words else images[0].permute(1, 2, 0).squeeze(-1)
    assert np.allclose(shown[0], drawn)
    assert ("the mean over its channels" in said[0]) == words


@pytest.mark.parametrize("name", ["$\\frac{$", "5 $ and $ 6_x", "^{}_", "\\alpha", "数字 ü"])
@pytest.mark.filterwarnings("ignore:Glyph")
def test_a_name_of_any_kind_is_no_formula(name, tmp_path):
    draw(tmp_path / "a.png", name, [Column(name, None, [name], instead=name)], name)
    rows = [
        {"attack": name, "defence": each, "psnr": 20.0, "psnr_low": 19.0, "psnr_high": 21.0, "model_accuracy": 0.5}
        for each in (name, "none")
    ]
    assert draw_tradeoff(tmp_path / "b.png", name, rows) is not None
    assert matplotlib.image.imread(tmp_path / "b.png").size


def test_a_figure_that_fails_costs_no_number(tmp_path, monkeypatch):
    attack = {"name": "grnn", "iterations": 1, "width": 4}
    tiny = configure(
        name="tiny", dataset={"name": "digits", "size": 16}, attacks=[attack], clients=1, clients_per_round=1
    )

    def fails(*_):
        raise RuntimeError("no font")

    with monkeypatch.context() as patch:
        patch.setattr(write, "draw", fails)
        with pytest.raises(RuntimeError, match="no font"):
            simulate(tiny, out=tmp_path / "run", backend="local", note=lambda text: None)
    assert json.loads((tmp_path / "run" / "results.json").read_text())["summary"][0]["psnr"] > 0
    assert reopen(tmp_path / "run").figures
