"""The bound beside the rows of gradients: what could be known at best."""

import time

import pytest
import torch

from fl_privacy.attacks.inversion.priors import power_law
from fl_privacy.evaluation import Truth
from fl_privacy.models import build_model
from fl_privacy.observation import ChannelName, LocalTraining, Observation, Spec
from fl_privacy.simulations import configure, reconfigure, simulate
from fl_privacy.simulations.bounds import bound_of

NOISE = "gaussian_noise(scale={})"
CHOSEN = configure(
    name="bounded",
    dataset={"name": "digits", "size": 8},
    model="convnet",
    attacks=({"name": "map", "outer": 4, "inner": 4, "learn": 0},),
    training_defences=tuple([{"name": "gaussian_noise", "scale": scale}] for scale in (0.01, 0.1, 10.0)),
    clients=2,
    clients_per_round=2,
    bound=True,
)


def local(experiment, out):
    return simulate(experiment, out=out, backend="local", note=str)


def test_the_bound_stands_beside_every_row_of_gradients_and_falls_with_the_noise(tmp_path, capsys):
    result = local(CHOSEN, tmp_path / "run")
    rows = {row["defence"]: row for row in result.summary if row["attack"] == "map"}
    some, more, most = (rows[NOISE.format(scale)]["bound_psnr"] for scale in (0.01, 0.1, 10.0))
    assert some > more + 1 > most + 2
    mean = next(row["psnr"] for row in result.summary if row["attack"] == "control: class mean")
    assert most == pytest.approx(mean, abs=3), "under much noise the class mean is the best: of one image"
    assert not any("bound_psnr" in row for row in result.summary if row["attack"].startswith("control"))
    result.show()
    assert "bound" in capsys.readouterr().out
    without = local(reconfigure(CHOSEN, bound=False), tmp_path / "without")
    assert "bound_psnr" not in without.summary[0]
    assert result.digests["reconstructions"] == without.digests["reconstructions"]


def message(model, shape, local=None, channel=ChannelName.GRADIENT):
    images, labels = torch.rand(1, *shape, generator=torch.Generator().manual_seed(0)), torch.tensor([3])
    loss = torch.nn.functional.cross_entropy(model(images), labels)
    names, values = zip(*model.named_parameters(), strict=True)
    payload = dict(zip(names, torch.autograd.grad(loss, values), strict=True))
    spec = Spec(image_shape=shape, classes=10, batch_size=1, **({"local": local} if local else {}))
    seen = Observation(channel=channel, payload=payload, spec=spec, round=1, client=0, model=model)
    return seen, Truth(images, labels)


def test_what_has_no_bound_says_why():
    shape = (3, 32, 32)
    wide = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 100), torch.nn.Linear(100, 10))
    several = LocalTraining(epochs=5, learning_rate=0.1)
    for made, words in (
        (message(wide, shape), "parameters times 3,072 pixels"),
        (message(build_model("convnet", shape, 10, 0, {}), shape, several, ChannelName.UPDATE), "several local steps"),
    ):
        row = bound_of([made], power_law(shape), 0)
        assert words in row["unmeasured"]["bound"]
        assert "bound_psnr" not in row


def test_a_bound_costs_about_a_second_an_image():
    shape = (3, 32, 32)
    made = message(build_model("convnet", shape, 10, 0, {}), shape)
    start = time.process_time()
    assert bound_of([made], power_law(shape), 0)["bound_psnr"] > 10
    spent = time.process_time() - start
    print(f"{spent:.2f} CPU s")
    assert spent < 4
