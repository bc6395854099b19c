"""DP-SGD: gradients of single examples, their clip and noise, at clients and in the attackers' copy of them."""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fl_privacy.accounting import Use, guarantee, identification_bound
from fl_privacy.attacks.base import Attack
from fl_privacy.attacks.gradient.known_noise import noise_deviation
from fl_privacy.attacks.gradient.local_steps import matcher_for
from fl_privacy.attacks.gradient.matching import observed_step
from fl_privacy.attacks.gradient.simulated import relative_mismatch
from fl_privacy.defences import chain
from fl_privacy.defences.dp_sgd import DPSGD
from fl_privacy.federated.client import gradient
from fl_privacy.federated.example_gradients import example_gradients, gradient_under
from fl_privacy.federated.local_training import LOSSES, train_locally
from fl_privacy.models import build_model
from fl_privacy.observation import ChannelName, LocalTraining, Observation, Reconstruction, Spec
from fl_privacy.seeding import seeded, stream
from fl_privacy.simulations.channels.gradient_evaluation import Batches
from fl_privacy.simulations.config.build import federation_of
from fl_privacy.simulations.config.load import configure, load_experiment
from fl_privacy.simulations.report.content import content
from fl_privacy.simulations.run.pipeline import simulate

SHAPE = (1, 12, 12)


class Recurrent(nn.Module):
    """Reads an image row by row: a kernel that vmap cannot take."""

    def __init__(self):
        super().__init__()
        self.rows, self.head = nn.GRU(12, 8, batch_first=True), nn.Linear(8, 10)

    def forward(self, x):
        return self.head(self.rows(x.flatten(1, 2))[1][0])


def convolution(norm):
    return nn.Sequential(nn.Conv2d(1, 4, 3), norm, nn.Tanh(), nn.Flatten(), nn.Linear(400, 10))


def made(make):
    with seeded(0, "model"):
        return make()


MODELS = {
    "convnet": lambda: build_model("convnet", SHAPE, 10, 0),
    "group norm": lambda: made(lambda: convolution(nn.GroupNorm(2, 4))),
    "batch norm, frozen": lambda: made(lambda: convolution(nn.BatchNorm2d(4))).eval(),
    "recurrent": lambda: made(Recurrent),
}


def batch(count=4, seed=0):
    rng = stream(seed, "batch")
    return torch.rand(count, *SHAPE, generator=rng), torch.randint(10, (count,), generator=rng)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", MODELS)
def test_gradients_of_examples_are_those_of_a_loop(name, loss):
    model, (x, y) = MODELS[name](), batch()
    found, losses = example_gradients(model, x, y, LOSSES[loss])
    for index in range(len(x)):
        alone, value = gradient(model, x[index : index + 1], y[index : index + 1], LOSSES[loss])
        assert list(found) == list(alone)
        for key in alone:
            assert torch.allclose(found[key][index], alone[key], rtol=1e-4, atol=1e-6)
        assert float(losses[index]) == pytest.approx(value, rel=1e-5)


def test_a_frozen_weight_has_no_gradient():
    found, _ = example_gradients(convolution(nn.GroupNorm(2, 4)), *batch())
    frozen = convolution(nn.GroupNorm(2, 4))
    frozen[0].weight.requires_grad_(False)
    assert list(example_gradients(frozen, *batch())[0]) == [name for name in found if name != "0.weight"]


@pytest.mark.parametrize("layer", [nn.BatchNorm2d(4), nn.BatchNorm2d(4, track_running_stats=False)])
def test_batch_normalisation_is_refused(layer):
    with pytest.raises(ValueError, match="GroupNorm, or freeze"):
        example_gradients(convolution(layer), *batch())


def test_without_a_norm_nothing_changes_at_all():
    assert gradient_under(chain([{"name": "dp_sgd"}]), stream(0)) is gradient
    model, (x, y) = MODELS["convnet"](), batch()
    wide, _ = gradient_under(chain([{"name": "dp_sgd", "norm": 1e6}]), stream(0))(model, x, y)
    plain, _ = gradient(model, x, y)
    assert all(torch.allclose(wide[name], plain[name], rtol=1e-4, atol=1e-6) for name in plain)


def test_clip_and_noise_have_their_sizes():
    gradients = {"a": torch.tensor([[3.0, 0.0], [0.3, 0.0], [0.0, 0.0]]), "b": torch.tensor([4.0, 0.4, 0.0])}
    release = DPSGD(norm=1.0).on_example_gradients(gradients, stream(0))
    assert torch.allclose(release["a"], torch.tensor([0.6 + 0.3, 0.0]) / 3)
    assert torch.allclose(release["b"], torch.tensor(0.8 + 0.4) / 3)
    assert DPSGD(norm=1.0).clipped_share(gradients) == pytest.approx(1 / 3)
    many = {"w": torch.zeros(5, 20_000)}
    drawn = DPSGD(norm=0.5, noise_multiplier=2.0).on_example_gradients(many, stream(1))["w"]
    assert float(drawn.std()) == pytest.approx(2.0 * 0.5 / 5, rel=0.02)


def test_an_example_without_gradient_keeps_slopes_finite():
    gradients = {"w": torch.zeros(2, 3, requires_grad=True)}
    mean = DPSGD(norm=1.0).mean_of_examples(gradients)["w"].sum()
    assert torch.isfinite(torch.autograd.grad(mean, gradients["w"])[0]).all()


def test_noise_without_a_norm_and_two_of_a_kind_are_refused():
    with pytest.raises(ValueError, match="units of norm"):
        chain([{"name": "dp_sgd", "noise_multiplier": 1.0}])
    with pytest.raises(ValueError, match="one of them"):
        chain([{"name": "dp_sgd", "norm": 1.0}, {"name": "dp_sgd", "norm": 2.0}])


LOCAL = LocalTraining(epochs=2, batch_size=2, learning_rate=0.1, momentum=0.5, weight_decay=0.01)


def trained(known, local, x, y, seed=0):
    """A client's update, and the observation of it."""
    model, sent = MODELS["convnet"](), MODELS["convnet"]()
    train_locally(model, x, y, local, stream(seed, "order"), gradient_under(known, stream(seed, "noise")))
    before = dict(sent.named_parameters())
    payload = {name: (value - before[name]).detach() for name, value in model.named_parameters()}
    spec = Spec(image_shape=SHAPE, classes=10, batch_size=len(x), local=local)
    return Observation(
        channel=ChannelName.UPDATE, payload=payload, spec=spec, round=1, client=0, model=sent, defence=known
    )


def test_every_local_step_clips_each_example():
    """Against torch.optim.SGD and a loop over examples, in the order in which the client takes them."""
    (x, y), local, norm = batch(), dataclasses.replace(LOCAL, epochs=1), 0.5
    seen = trained(chain([{"name": "dp_sgd", "norm": norm}]), local, x, y)
    model = MODELS["convnet"]()
    optimiser = torch.optim.SGD(model.parameters(), 0.1, momentum=0.5, weight_decay=0.01)
    for part in (slice(0, 2), slice(2, 4)):
        total = [torch.zeros_like(p) for p in model.parameters()]
        for image, label in zip(x[part], y[part], strict=True):
            loss = F.cross_entropy(model(image[None]), label[None])
            own = torch.autograd.grad(loss, list(model.parameters()))
            size = math.sqrt(sum(float(g.square().sum()) for g in own))
            for kept, g in zip(total, own, strict=True):
                kept += g * min(1.0, norm / size)
        for parameter, value in zip(model.parameters(), total, strict=True):
            parameter.grad = value / 2
        optimiser.step()
    for name, value in model.named_parameters():
        change = value - dict(MODELS["convnet"]().named_parameters())[name]
        assert torch.allclose(seen.payload[name], change, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("local", [LocalTraining(learning_rate=0.1), dataclasses.replace(LOCAL, epochs=1)])
def test_the_attacker_simulates_the_clip_of_each_example(local):
    x, y = batch()
    seen = trained(chain([{"name": "dp_sgd", "norm": 0.5}]), local, x, y)
    targets = F.one_hot(y, 10).float()
    at_truth = matcher_for([seen])(x[None], targets[None])[0].detach()
    both = matcher_for([seen, seen])(torch.stack([x, x]), torch.stack([targets, targets]))
    plain = matcher_for([dataclasses.replace(seen, defence=None)])(x[None], targets[None])[0].detach()
    observed = observed_step(seen)
    assert float((at_truth - observed).norm() / observed.norm()) < 1e-3
    assert float((both - observed).norm() / observed.norm()) < 2e-3
    assert float((plain - observed).norm() / observed.norm()) > 0.1, "without the clip it is another update"


@pytest.mark.parametrize(("steps", "passes"), [(1, 1), (3, 3)])
def test_the_noise_of_all_steps_is_known(steps, passes):
    known = chain([{"name": "dp_sgd", "norm": 0.5, "noise_multiplier": 2.0}])
    x, y = batch()
    found = noise_deviation(trained(known, LocalTraining(steps=steps, learning_rate=0.1), x, y))
    assert float(found.mean()) == pytest.approx(2.0 * 0.5 / 4 / math.sqrt(passes), rel=0.05)


TINY = [
    "attack=inverting_gradients",
    "attack.iterations=2",
    "rounds=2",
    "attacked_clients=2",
    "batch_size=2",
    "public={}",
]
PRIVATE = "training_defences=[[], [{name='dp_sgd', norm=1.0, noise_multiplier=0.5}]]"


@pytest.mark.parametrize("channel", ["gradient", "update"])
def test_a_run_has_it_in_every_message(channel, tmp_path):
    changes = [*TINY, "train_images=[]", PRIVATE, f"channel={channel}"]
    if channel == "update":
        changes.append("protocol={local={epochs=2, batch_size=1}}")
    result = simulate(load_experiment("quickstart", changes), out=tmp_path / "run", backend="local", note=str)
    assert [row["applied"] for row in result.summary if row["attack"] == "inverting_gradients"] == [
        "none",
        "dp_sgd(norm=1.0, noise_multiplier=0.5)",
    ]
    assert not result.not_valid
    rows = {row["defence"]: row for row in result.summary if row["attack"] == "inverting_gradients"}
    bare, private = rows["none"], rows["dp_sgd(norm=1.0, noise_multiplier=0.5)"]
    assert (bare["epsilon"], bare["guarantee"]) == ("none", "none: no defence")
    passes, held = (2, 143) if channel == "update" else (1, 143)
    expected = guarantee(chain([{"name": "dp_sgd", "norm": 1.0, "noise_multiplier": 0.5}]), Use(2, 2, held, passes))
    assert (private["epsilon"], private["delta"]) == (pytest.approx(expected.epsilon), 1e-5)
    blind = min(1.0, 2 * private["blind_share"])  # two guesses a message
    assert private["identification_bound"] == identification_bound(blind, passes**0.5 / 0.5)
    assert 0 < private["clipped_share"] <= 1
    samples = [row for row in result.samples if row["defence"] == "none" and row["attack"] == "inverting_gradients"]
    assert bare["success_rate"] == sum(row["psnr"] >= 20 or row["ssim"] >= 0.6 for row in samples) / len(samples)
    assert bare["success_psnr"] == sum(row["psnr"] >= 20 for row in samples) / len(samples)
    assert bare["success_ssim"] == sum(row["ssim"] >= 0.6 for row in samples) / len(samples)
    assert "epsilon" in " ".join(content(result.experiment, result.summary, ()).headings)


def test_rounds_with_other_batches_guarantee_what_the_weakest_of_both_would():
    """One image enters all six steps, one of eight at most two; but eight are a larger share of what a client holds."""
    changes = ["channel=update", "protocol={local={steps=6, batch_size=2}}", "rounds=30", "batch_size=8", "public={}"]
    changes += ["attacked_batch_size=1", "train_images=[]", "attack=inverting_gradients"]
    changes += ["training_defences=[[{name='dp_sgd', norm=1.0, noise_multiplier=8.0}]]"]
    federation = federation_of(load_experiment("quickstart", changes).to_json(), None)
    (known,), held = (each.trained for each in federation.experiment.conditions), min(map(len, federation.parts))
    found = Batches().guarantee(federation, 0)
    few, many = (guarantee(known, Use(30, *use)) for use in ((1, held, 6), (8, held, 2)))
    assert few.mu > many.mu
    assert few.epsilon < many.epsilon
    assert found.mu == pytest.approx(few.mu)
    assert found.epsilon >= max(few.epsilon, many.epsilon)


@dataclasses.dataclass(frozen=True)
class BlindClassMeans(Attack):
    """The means of as many classes as a message has images, whatever was received."""

    channels = frozenset({ChannelName.GRADIENT})
    needs = frozenset({"public"})

    def reconstruct(self, seen, rng):
        known, count = seen[0].public, seen[0].spec.batch_size
        guess = torch.stack([known.inputs[known.labels == label].mean(0) for label in range(count)])
        return [Reconstruction(inputs=guess) for _ in seen]


def test_the_bound_is_of_all_guesses_of_a_message_and_of_the_messages_that_made_the_model(tmp_path):
    """Blind guesses, each for any image of its message, recover more images than one could: that is no attack."""
    changes = ["rounds=2", "attacked_rounds=[2]", "attacked_clients=10", "batch_size=8"]
    changes.append(f"attacks=[{{name='{__name__}:BlindClassMeans', label='blind_class_means'}}]")
    changes.append("training_defences=[[{name='dp_sgd', norm=1.0, noise_multiplier=100.0}]]")
    result = simulate(load_experiment("quickstart", changes), out=tmp_path / "run", backend="local", note=str)
    (row,) = (each for each in result.summary if each["attack"] == "blind_class_means")
    one_guess = identification_bound(row["blind_share"], 2**0.5 / 100)
    assert one_guess + 0.1 < row["success_rate"] <= row["identification_bound"] < 1
    assert row["identification_bound"] == pytest.approx(identification_bound(8 * row["blind_share"], 2**0.5 / 100))


def test_what_cannot_be_is_refused_before_anything_runs():
    with pytest.raises(ValueError, match=r"gradients.*activation"):
        load_experiment("split_quickstart", [PRIVATE])


def test_a_static_attacker_does_not_know_the_defence():
    attacks = ({"name": "map"}, {"name": "map", "label": "static", "static": True})
    experiment = configure(name="told", attacks=attacks)
    seen = trained(chain([{"name": "dp_sgd", "norm": 0.5}]), LOCAL, *batch())
    assert experiment.held_by("static", seen).defence is None
    assert experiment.held_by("map", seen) is seen
    with pytest.raises(ValueError, match="true or false"):
        configure(name="told", attacks=({"name": "map", "static": "yes"},))


@pytest.mark.parametrize("local", [LocalTraining(learning_rate=0.1), dataclasses.replace(LOCAL, epochs=1)])
def test_an_attacker_who_learns_makes_messages_with_the_clip(local):
    x, y = batch()
    seen = trained(chain([{"name": "dp_sgd", "norm": 0.5}]), local, x, y)
    assert relative_mismatch(seen, x, y) < 1e-3
    assert relative_mismatch(dataclasses.replace(seen, defence=None), x, y) > 0.1
