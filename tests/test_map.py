"""MAP: against closed forms where the gradient is linear in the image, under every law of noise, and through a clip."""

import copy
import dataclasses

import pytest
import torch
from torch import nn

from fl_privacy.attacks.gradient.bound import bound_psnr, posterior_error
from fl_privacy.attacks.gradient.known_noise import noise_deviation
from fl_privacy.attacks.gradient.label_regression import regress_labels
from fl_privacy.attacks.gradient.learned_spectrum import posterior_draw, relearned
from fl_privacy.attacks.gradient.likelihood import likelihood
from fl_privacy.attacks.gradient.local_steps import matcher_for
from fl_privacy.attacks.gradient.map import MaximumAPosteriori
from fl_privacy.attacks.inversion import priors
from fl_privacy.attacks.inversion.gauss_newton import gauss_newton, linearise, posterior_solve
from fl_privacy.data import load
from fl_privacy.defences import chain
from fl_privacy.evaluation import Truth, align
from fl_privacy.federated.client import gradient
from fl_privacy.federated.local_training import train_locally
from fl_privacy.metrics import psnr
from fl_privacy.models import build_model
from fl_privacy.observation import ChannelName, Images, LocalTraining, Observation, Spec
from fl_privacy.seeding import stream

SHAPE, SIZE = (1, 8, 8), 64


@pytest.fixture(scope="module")
def digits():
    return load("digits", None, {"size": 16})


def observe(model, images, labels, defence=(), seed=0, **more):
    """One observation a batch, of images (V, B, C, H, W) and labels (V, B), released through a chain that is known."""
    known = chain(list(defence))
    shape, local = tuple(images.shape[2:]), LocalTraining(learning_rate=0.1)
    spec = Spec(image_shape=shape, classes=10, batch_size=images.shape[1], local=local)
    seen = []
    for client, (x, y) in enumerate(zip(images, labels, strict=True)):
        payload, _ = gradient(model, x, y)
        released = known.on_release(payload, 1000 * seed + client)
        seen.append(
            Observation(
                channel=ChannelName.GRADIENT,
                payload=released,
                spec=spec,
                round=1,
                client=client,
                model=model,
                defence=known or None,
                **more,
            )
        )
    return seen


def observe_update(model, images, labels, how):
    """What a client sends who has trained `model` on images (B, C, H, W) and labels (B,) as `how` says."""
    trained = copy.deepcopy(model)
    train_locally(trained, images, labels, how, stream(0, "shuffle"))
    update = {name: trained.get_parameter(name).detach() - p.detach() for name, p in model.named_parameters()}
    spec = Spec(image_shape=tuple(images.shape[1:]), classes=10, batch_size=len(images), local=how)
    return Observation(channel=ChannelName.UPDATE, payload=update, spec=spec, round=1, client=0, model=model)


def linear_model(shape=SHAPE):
    """Logits that are zero for every image: p - y is constant, and the gradient (p - y) x^T linear in x."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], 10))
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    return model


def closed_form(scale, label, noisy, prior):
    """The posterior mean and covariance in u of the linear model's image, by dense algebra in double precision."""
    spread = prior.linear(torch.eye(SIZE)).flatten(1).T.double().contiguous()
    delta = torch.full((10,), 0.1, dtype=torch.float64)
    delta[label] -= 1
    jacobian = torch.kron(delta[:, None], spread)
    residual = noisy["1.weight"].double().flatten() - torch.kron(delta, prior.mean.flatten().double())
    covariance = torch.linalg.inv(torch.eye(SIZE, dtype=torch.float64) + jacobian.T @ jacobian / scale**2)
    return covariance @ jacobian.T @ residual / scale**2, covariance, spread


@pytest.mark.parametrize("scale", [0.03, 0.3, 3.0])
def test_on_a_linear_model_it_is_the_closed_form(scale):
    prior = priors.power_law(SHAPE)
    images = prior.images(0.5 * torch.randn(3, 1, SIZE, generator=stream(0)))
    labels = torch.tensor([[1], [4], [4]])
    seen = observe(linear_model(), images, labels, [{"name": "gaussian_noise", "scale": scale}])
    given = likelihood(seen)
    start = 0.1 * torch.randn(3, 1, SIZE, generator=stream(1))
    fit = gauss_newton(given.residual(prior, labels), start, given.floor, 30, 80, 1e-6)
    for client, each in enumerate(seen):
        wanted, _, _ = closed_form(scale, int(labels[client, 0]), each.payload, prior)
        assert torch.allclose(fit.u[client, 0].double(), wanted, atol=0.02, rtol=0.02)  # the noise's scale is measured


@pytest.mark.parametrize("whole", [True, False])
def test_the_bound_of_a_linear_model_is_exact(whole):
    """Against the closed form, and against what MAP does on images that the prior draws."""
    scale, prior, count = 0.2, priors.power_law(SHAPE), 200
    images = prior.images(torch.randn(count, 1, SIZE, generator=stream(0)))
    labels = torch.zeros(count, 1, dtype=torch.long)
    seen = observe(linear_model(), images, labels, [{"name": "gaussian_noise", "scale": scale}])
    given = likelihood(seen[:1])
    how = {"dense": SIZE} if whole else {"dense": 0, "probes": 400, "steps": 80}
    error = posterior_error(given, prior, images[:1], labels[:1], stream(1), **how)
    _, covariance, spread = closed_form(scale, 0, seen[0].payload, prior)
    wanted = float((spread @ covariance @ spread.T).trace()) / SIZE
    assert float(error) == pytest.approx(wanted, rel=0.01 if whole else 0.1)
    assert float(bound_psnr(error)) == pytest.approx(-10 * torch.tensor(wanted).log10().item(), abs=0.5)
    everyone = likelihood(seen)
    fit = gauss_newton(everyone.residual(prior, labels), torch.zeros(count, 1, SIZE), everyone.floor, 10, 80)
    reached = float((prior.images(fit.u) - images).square().mean())
    assert reached == pytest.approx(wanted, rel=0.05)


class Half(nn.Module):
    """The upper half of an image: of the lower one nothing is in the gradient."""

    def forward(self, x):
        return x.flatten(1)[:, : SIZE // 2]


def test_what_a_gradient_without_noise_does_not_touch_is_as_uncertain_as_the_prior_says():
    model, prior = nn.Sequential(Half(), nn.Linear(SIZE // 2, 10)), priors.power_law(SHAPE)
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    images, labels = prior.images(torch.randn(1, 1, SIZE, generator=stream(0))), torch.zeros(1, 1, dtype=torch.long)
    given = likelihood(observe(model, images, labels))
    error = posterior_error(given, prior, images, labels, stream(1), dense=SIZE)
    spread = prior.linear(torch.eye(SIZE)).flatten(1).T.double()
    covariance, half = spread @ spread.T, SIZE // 2
    seen, across, unseen = covariance[:half, :half], covariance[half:, :half], covariance[half:, half:]
    wanted = float((unseen - across @ torch.linalg.solve(seen, across.T)).trace()) / SIZE
    assert float(error) == pytest.approx(wanted, rel=0.05)  # J has the rounding of single precision, times 1e7


def test_a_draw_from_the_posterior_has_its_covariance():
    scale, prior, count = 0.3, priors.power_law(SHAPE), 500
    images, labels = torch.full((1, 1, *SHAPE), 0.5), torch.zeros(1, 1, dtype=torch.long)
    seen = observe(linear_model(), images, labels, [{"name": "gaussian_noise", "scale": scale}])
    given = likelihood(seen, count)
    repeated = labels.expand(count, 1)
    residual = given.residual(prior, repeated)
    mode = gauss_newton(residual, torch.zeros(count, 1, SIZE), 1.0, 10, 80).u
    difference = (posterior_draw(residual, mode, given, stream(5)) - mode)[:, 0].double()
    _, covariance, _ = closed_form(scale, 0, seen[0].payload, prior)
    found = difference.T @ difference / count
    assert float((found - covariance).norm() / covariance.norm()) < 0.4
    assert torch.allclose(found.diagonal(), covariance.diagonal(), rtol=0.35, atol=0.01)


def test_products_with_the_jacobian_are_those_of_finite_differences():
    model = build_model("lenet_grnn", (1, 16, 16), 10, 0, {"init": "wide"}).double()
    images = torch.rand(2, 1, 1, 16, 16, generator=stream(0), dtype=torch.float64)
    labels = torch.tensor([[3], [5]])
    match = matcher_for(observe(model, images, labels))
    targets = nn.functional.one_hot(labels, 10).double()

    def residual(u):
        return match(u.view(images.shape), targets)

    u = images.flatten(2)
    linear = linearise(residual, u)
    v = torch.randn(u.shape, generator=stream(1), dtype=torch.float64)
    numeric = (residual(u + 1e-6 * v) - residual(u - 1e-6 * v)).detach() / 2e-6
    assert torch.allclose(linear.forward(v), numeric, rtol=1e-4, atol=1e-7)
    y = torch.randn(numeric.shape, generator=stream(2), dtype=torch.float64)
    assert torch.allclose((linear.backward(y) * v).sum((1, 2)), (y * linear.forward(v)).sum(1), rtol=1e-6)


def test_each_victim_is_solved_as_if_alone():
    matrices = torch.randn(3, 20, 6, generator=stream(0)).double()
    target = torch.randn(3, 20, generator=stream(1)).double()

    def residual(u, chosen=slice(None)):
        return (matrices[chosen] @ u.flatten(1).unsqueeze(2)).squeeze(2) - target[chosen]

    variance = torch.tensor([0.01, 1.0, 100.0]).double()
    right = torch.randn(3, 2, 3, generator=stream(2)).double()
    solved = posterior_solve(linearise(residual, torch.zeros(3, 2, 3).double()), variance, right, 50, 1e-10)
    for victim in range(3):
        dense = torch.eye(6).double() + matrices[victim].T @ matrices[victim] / variance[victim]
        assert torch.allclose(dense @ solved[victim].flatten(), right[victim].flatten(), atol=1e-6)


def test_a_victim_whose_residuals_are_no_numbers_stays_and_harms_nobody():
    def residual(u):
        flat = u.flatten(1)
        return torch.cat([flat - 1.0, (flat * torch.tensor([[1.0], [float("nan")]]))], 1)

    fit = gauss_newton(residual, torch.zeros(2, 1, 3), 1e-6, 20, 10)
    assert torch.allclose(fit.u[0], torch.full((1, 3), 0.5), atol=0.05)
    assert torch.equal(fit.u[1], torch.zeros(1, 3))


@pytest.mark.parametrize(
    ("defence", "wanted"),
    [
        ([{"name": "gaussian_noise", "scale": 0.2}], 0.2),
        ([{"name": "laplace_noise", "scale": 0.2}], 0.2 * 2**0.5),
        ([{"name": "uniform_noise", "scale": 0.3}], 0.3 / 3**0.5),
        ([{"name": "clip", "norm": 0.1}, {"name": "gaussian_noise", "scale": 0.05}], 0.05),
        ([{"name": "clip", "norm": 0.1}], None),
        ([], None),
    ],
)
def test_the_deviation_of_a_known_law_is_measured(defence, wanted):
    model = build_model("convnet", (1, 16, 16), 10, 0)
    images, labels = torch.rand(1, 1, 1, 16, 16, generator=stream(0)), torch.tensor([[2]])
    found = noise_deviation(observe(model, images, labels, defence)[0])
    if wanted is None:
        assert found is None
        return
    assert torch.allclose(found, torch.full_like(found, wanted), rtol=0.03)
    update = dataclasses.replace(observe(model, images, labels, defence)[0], channel=ChannelName.UPDATE)
    assert torch.allclose(noise_deviation(update), found / 0.1, rtol=1e-4)


@pytest.mark.parametrize(("batch", "scale"), [(1, 0.0), (1, 0.5), (8, 0.0), (8, 0.02)])
def test_labels_are_read_under_noise(batch, scale, digits):
    model = build_model("convnet", (1, 16, 16), 10, 0)
    count = 12 * batch
    images = digits.test.images(slice(0, count)).view(12, batch, 1, 16, 16)
    labels = digits.test.labels[:count].view(12, batch)
    noise = [{"name": "gaussian_noise", "scale": scale}] if scale else []
    given = likelihood(seen := observe(model, images, labels, noise))
    drawn = priors.power_law((1, 16, 16)).images(torch.randn(16, 256, generator=stream(3))).clamp(0, 1)
    deviation = noise_deviation(seen[0])
    found = regress_labels(matcher_for([seen[0]], restarts=16), drawn, given.observed, deviation, 10, batch)
    right = (found == labels.sort(1).values).float().mean()
    assert float(right) >= 0.95


def test_what_victims_have_in_common_is_learned():
    """A mean far from grey and a spectrum that falls faster: from posteriors that know everything, and from none."""
    base = priors.power_law(SHAPE)
    truth = dataclasses.replace(
        base, mean=0.5 + 0.3 * base.pixels(torch.eye(8).unsqueeze(0)), deviation=base.deviation**2
    )
    images = truth.images(torch.randn(500, SIZE, generator=stream(0)))
    exact = base.coordinates(images)
    learned = relearned(base, base, exact, exact)
    assert float((learned.mean - truth.mean).square().mean()) < 0.02 * float((base.mean - truth.mean).square().mean())
    before, after = (each.deviation.log() - truth.deviation.log() for each in (base, learned))
    assert float(after.abs().mean()) < 0.3 * float(before.abs().mean())
    ignorant = torch.randn(500, SIZE, generator=stream(1))
    same = relearned(base, base, torch.zeros(500, SIZE), ignorant)
    assert torch.allclose(same.deviation, base.deviation, rtol=0.15)
    assert torch.allclose(same.mean, base.mean, atol=0.01)


def reached(attack, seen, images, labels):
    guesses = attack.prepare(seen, stream(0))(seen, stream(1))
    truths = [Truth(x, y) for x, y in zip(images, labels, strict=True)]
    return torch.cat([psnr(align(g, t).inputs, t.inputs) for g, t in zip(guesses, truths, strict=True)]), guesses


def victims(digits, count=8, batch=1):
    images = digits.test.images(slice(0, count * batch)).view(count, batch, 1, 16, 16)
    return images, digits.test.labels[: count * batch].view(count, batch)


def test_public_images_help_and_so_does_a_prior_per_class(digits):
    model = build_model("convnet", (1, 16, 16), 10, 0)
    images, labels = victims(digits)
    owned = Images(digits.train.images(), digits.train.labels)
    seen = observe(model, images, labels, [{"name": "gaussian_noise", "scale": 0.5}], public=owned)
    plain, unlearned, shared, own = (
        float(reached(attack, seen, images, labels)[0].mean())
        for attack in (
            MaximumAPosteriori(),
            MaximumAPosteriori(learn=0),
            MaximumAPosteriori(prior="public"),
            MaximumAPosteriori(prior="public_by_class"),
        )
    )
    assert unlearned + 1 < plain
    assert plain + 1 < shared < own


def test_a_known_clip_is_no_defence(digits):
    model = build_model("convnet", (1, 16, 16), 10, 0)
    images, labels = victims(digits, 4)
    clipped = observe(model, images, labels, [{"name": "clip", "norm": 0.05}])
    unaware = [dataclasses.replace(each, defence=None) for each in clipped]
    attack = MaximumAPosteriori(learn=0, outer=12)
    knowing, blind, free = (
        reached(attack, seen, images, labels)[0].median() for seen in (clipped, unaware, observe(model, images, labels))
    )
    assert float(knowing) > float(blind) + 3
    # from 59 dB on an image is known to 8 bits, and what is beyond differs between processors, clip or none
    assert float(knowing) > min(float(free), 60.0) - 1


def test_a_clip_before_the_noise_is_seen_through(digits):
    model = build_model("convnet", (1, 16, 16), 10, 0)
    images, labels = victims(digits, 4)
    both = [{"name": "clip", "norm": 1.0}, {"name": "gaussian_noise", "scale": 0.003}]
    found, guesses = reached(MaximumAPosteriori(learn=0), observe(model, images, labels, both), images, labels)
    assert float(found.median()) > 20
    assert torch.equal(torch.stack([guess.labels for guess in guesses]), labels)


def test_a_batch_is_told_apart_and_the_best_restart_kept(digits):
    model = build_model("convnet", (1, 16, 16), 10, 0)
    images, labels = victims(digits, 2, 2)
    seen = observe(model, images, labels, [{"name": "gaussian_noise", "scale": 0.003}])
    _, single = reached(MaximumAPosteriori(restarts=1, learn=0, outer=10), seen, images, labels)
    found, guesses = reached(MaximumAPosteriori(restarts=3, learn=0, outer=10), seen, images, labels)
    assert guesses[0].inputs.shape == (2, 1, 16, 16)
    assert float(found.mean()) > 18
    assert all(guess.loss <= one.loss + 1 for guess, one in zip(guesses, single, strict=True))


def test_the_public_prior_is_a_need_and_only_then(digits):
    assert MaximumAPosteriori().needs == frozenset({"model"})
    model = build_model("convnet", (1, 16, 16), 10, 0)
    seen = observe(model, *victims(digits, 1))
    with pytest.raises(ValueError, match="needs the observation's public"):
        MaximumAPosteriori(prior="public")(seen, stream(0))


@pytest.mark.parametrize(
    "wrong", [{"outer": 0}, {"inner": 0}, {"restarts": 0}, {"spread": -1.0}, {"learn": -1}, {"bound_probes": -1}]
)
def test_bad_settings_teach(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        MaximumAPosteriori(**wrong)


def test_updates_of_several_local_steps_are_simulated(digits):
    """Two steps on halves of a batch: more than the raw update as if it were one gradient tells."""
    model = build_model("convnet", (1, 16, 16), 10, 0)
    images, labels = victims(digits, 2, 2)
    local = LocalTraining(learning_rate=0.5, batch_size=1)
    spec = Spec(image_shape=(1, 16, 16), classes=10, batch_size=2, local=local)
    seen = []
    for client, (x, y) in enumerate(zip(images, labels, strict=True)):
        twin = copy.deepcopy(model)
        for image, label in zip(x, y, strict=True):
            slope, _ = gradient(twin, image[None], label[None])
            with torch.no_grad():
                for name, value in twin.named_parameters():
                    value -= 0.5 * slope[name]
        now, then = dict(twin.named_parameters()), dict(model.named_parameters())
        payload = {name: (now[name] - then[name]).detach() for name in now}
        seen.append(
            Observation(channel=ChannelName.UPDATE, payload=payload, spec=spec, round=1, client=client, model=model)
        )
    attack = MaximumAPosteriori(learn=0, outer=15, restarts=2)
    simulated, _ = reached(attack, seen, images, labels)
    one = dataclasses.replace(spec, local=LocalTraining(learning_rate=1.0))  # two steps of 0.5, taken for one of 1
    raw, _ = reached(attack, [dataclasses.replace(each, spec=one) for each in seen], images, labels)
    assert float(simulated.mean()) > float(raw.mean()) + 1


def test_a_guess_says_how_far_off_it_expects_itself_to_be():
    """On images that the prior draws, what MAP expects is what it reaches; louder noise, larger errors."""
    prior, expected = priors.power_law(SHAPE), []
    model = build_model("convnet", SHAPE, 10, 0)
    images = prior.images(torch.randn(60, 1, SIZE, generator=stream(0)))
    labels = torch.arange(60).view(60, 1) % 10
    for scale in (0.01, 0.1):
        seen = observe(model, images, labels, [{"name": "gaussian_noise", "scale": scale}])
        guesses = MaximumAPosteriori(learn=0, bound_probes=4)(seen, stream(1))
        expected.append(float(torch.stack([guess.bound for guess in guesses]).mean()))
        found = torch.stack([guess.inputs for guess in guesses])
        inside = (images >= 0) & (images <= 1)  # pixels that the cut to [0, 1] did not help
        error = float((found - images).square()[inside].mean())
        assert expected[-1] == pytest.approx(error, rel=0.25)
    assert expected[0] < expected[1]
