"""The server of a gradient federation owns public images: they reach its attacks, and none is a client's."""

import pytest

from fl_privacy.simulations.config.load import configure, reconfigure
from fl_privacy.simulations.run.pipeline import plan, simulate

BASE = configure(
    name="public_gradient",
    dataset={"name": "digits", "size": 16},
    public={"name": "digits", "size": 16, "first": 100, "count": 200},
    train_images=[0, 100],
    model={"name": "convnet"},
    attacks=[
        {"name": "map", "prior": "public", "outer": 4},
        {"name": "map", "prior": "public_by_class", "outer": 4, "label": "by class"},
    ],
    training_defences=([{"name": "gaussian_noise", "scale": 0.1}],),
    clients=2,
    clients_per_round=2,
    attacked_clients=2,
)


def test_map_runs_on_the_public_images_of_an_experiment(tmp_path):
    result = simulate(BASE, out=tmp_path / "run", backend="local", note=lambda _: None)
    reached = {row["attack"]: row["psnr"] for row in result.summary if row.get("psnr") is not None}
    blind = max(value for name, value in reached.items() if name.startswith("control"))
    assert reached["map"] > blind + 2
    assert reached["by class"] > blind + 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"train_images": [0, 150]}, "clients hold 50"),
        ({"public": {}}, "needs the observation's public"),
    ],
)
def test_public_images_that_are_missing_or_the_clients_own_are_refused(tmp_path, change, words):
    with pytest.raises(ValueError, match=words):
        plan(reconfigure(BASE, **change), out=tmp_path / "out", backend="local")


def test_images_of_the_other_split_are_nobodys(tmp_path):
    test_split = {"name": "digits", "size": 16, "split": "test", "count": 50}
    assert plan(reconfigure(BASE, public=test_split), out=tmp_path / "out", backend="local")
