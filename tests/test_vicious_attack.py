"""Decoding outputs: the vicious server's own decoder, and the one fitted afterwards that it must beat."""

import dataclasses
import functools

import pytest
import torch

from fl_privacy.attacks import ATTACKS
from fl_privacy.attacks.output.class_mean import ClassMean
from fl_privacy.attacks.output.decoders import Logarithms, OutputDecoder, Vicious
from fl_privacy.data import load
from fl_privacy.defences import Chain, chain
from fl_privacy.joint_training import JointSettings, PairSpec, honest, outputs, train
from fl_privacy.metrics import mse
from fl_privacy.observation import ChannelName, Images, Observation, Spec
from fl_privacy.seeding import stream, subseed

TINY = {"width": 8, "hidden": 64}
PAIR = PairSpec((1, 16, 16), 10, classifier_settings=TINY, decoder_settings=TINY)
SETTINGS = JointSettings(epochs=25, batch_size=64, learning_rate=3e-3, augment=False, schedule="cosine")
SPEC = Spec(image_shape=(1, 16, 16), classes=10, batch_size=20)


@pytest.fixture(scope="module")
def digits():
    return load("digits", None, {"size": 16}).train


@pytest.fixture(scope="module")
def trained(digits, tmp_path_factory):
    """A vicious pair and its honest twin, with the files they were saved to."""
    folder = tmp_path_factory.mktemp("pairs")
    made = {}
    for name, settings in {"vicious": SETTINGS, "honest": honest(SETTINGS)}.items():
        path = folder / f"{name}.safetensors"
        sets = digits.chosen(slice(0, 600)), digits.chosen(slice(600, 800))
        made[name] = train(PAIR, settings, *sets, seed=0, checkpoint=path).pair, str(path)
    return made


def observe(classifier, digits, law=None, clients=3):
    """The released outputs of private images 800 and up; the adversary's own images are those before 800."""
    law = law or Chain()
    seen, truths = [], []
    public = Images(digits.images(slice(0, 800)))
    for client in range(clients):
        x = digits.images(slice(800 + 20 * client, 820 + 20 * client))
        payload = law.on_release({"outputs": outputs(classifier, x)}, subseed(0, "release", client))
        query = functools.partial(outputs, classifier)
        facts = {"channel": ChannelName.OUTPUT, "spec": SPEC, "round": 1, "client": client, "defence": law}
        seen.append(Observation(payload=payload, query=query, public=public, **facts))
        truths.append(x)
    return seen, truths


def attack(attacker, seen):
    return attacker.prepare(seen, stream(0, "prepare"))(seen, stream(0, "attack"))


def error(guesses, truths):
    return float(torch.cat([mse(g.inputs, x) for g, x in zip(guesses, truths, strict=True)]).mean())


def mean_image(seen, truths):
    mean = seen[0].public.inputs.mean(0, keepdim=True)
    return float(torch.cat([mse(mean.expand_as(x), x) for x in truths]).mean())


QUICK = OutputDecoder(steps=200, batch_size=64)


@pytest.fixture(scope="module")
def undefended(trained, digits):
    """Errors of the three attackers on undefended outputs."""
    seen, truths = observe(trained["vicious"][0].classifier, digits)
    plain, _ = observe(trained["honest"][0].classifier, digits)
    return {
        "vicious": error(attack(Vicious(trained["vicious"][1]), seen), truths),
        "fitted": error(attack(QUICK, plain), truths),
        "mean": mean_image(seen, truths),
    }


def test_the_vicious_decoder_beats_one_fitted_to_an_honest_classifier_and_that_beats_the_mean(undefended):
    assert undefended["vicious"] < 0.95 * undefended["fitted"]
    assert undefended["fitted"] < undefended["mean"]


def test_the_logarithm_of_a_softmax_tells_what_the_logits_do():
    logits = torch.randn(50, 4, generator=torch.Generator().manual_seed(0)) * 6
    read = Logarithms(logits.softmax(1))
    standard = read(logits.softmax(1))
    assert torch.allclose(standard.mean(0), torch.zeros(4), atol=1e-5)
    assert torch.allclose(standard.std(0), torch.ones(4), atol=1e-4)
    differences = standard * read.spread + read.mean
    assert torch.allclose(differences - differences[:, :1], logits - logits[:, :1], atol=1e-3)
    rounded = torch.tensor([[0.99, 0.01], [1.0, 0.0]])
    assert torch.isfinite(Logarithms(rounded)(rounded)).all()
    assert torch.isfinite(Logarithms(torch.zeros(3, 2))(torch.zeros(1, 2))).all()


def test_a_decoder_that_reads_logarithms_gets_more_out_of_a_softmax(trained, digits):
    seen, truths = observe(trained["honest"][0].classifier, digits, chain([{"name": "softmax"}]))
    plain, reading = (
        error(attack(dataclasses.replace(QUICK, logarithms=flag), seen), truths) for flag in (False, True)
    )
    assert reading < 0.9 * plain


def test_arg_max_leaves_at_most_one_image_a_class(trained, digits, undefended):
    seen, truths = observe(trained["vicious"][0].classifier, digits, chain([{"name": "arg_max"}]))
    guesses = attack(QUICK, seen)
    assert len(torch.unique(torch.cat([g.inputs for g in guesses]).flatten(1), dim=0)) <= 10
    assert error(guesses, truths) > 1.3 * undefended["vicious"]


def test_arg_max_gives_a_decoder_no_more_than_the_mean_of_the_class(trained, digits, undefended):
    classifier = trained["vicious"][0].classifier
    closed, truths = observe(classifier, digits, chain([{"name": "arg_max"}]))
    open_, _ = observe(classifier, digits)
    class_mean = error(attack(ClassMean(), closed), truths)
    assert class_mean == error(attack(ClassMean(), open_), truths), "it reads nothing but the class"
    assert error(attack(QUICK, closed), truths) > 0.98 * class_mean
    assert undefended["vicious"] < class_mean < undefended["mean"]


def test_class_mean_is_the_mean_of_the_images_that_get_the_class(digits):
    def bright(images):  # class 1 where the image is bright, class 0 where it is not, and nobody gets class 2
        above = images.flatten(1).sum(1, keepdim=True) - middle
        return torch.cat([-above, above, torch.full_like(above, -1e9)], 1)

    public = digits.images(slice(0, 300))
    middle = public.flatten(1).sum(1).median()
    classes = bright(public).argmax(1)
    payload = {"outputs": torch.eye(3)}
    facts = {"channel": ChannelName.OUTPUT, "round": 1, "client": 0, "query": bright, "public": Images(public)}
    seen = Observation(payload=payload, spec=dataclasses.replace(SPEC, classes=3, batch_size=3), **facts)
    guess = attack(ClassMean(), [seen])[0].inputs
    expected = [public[classes == 0].mean(0), public[classes == 1].mean(0), public.mean(0)]
    assert torch.allclose(guess, torch.stack(expected))


def test_a_decoder_that_knows_the_noise_beats_one_that_does_not(trained, digits):
    law = chain([{"name": "gaussian_noise", "scale": 3.0}])
    seen, truths = observe(trained["honest"][0].classifier, digits, law)
    blind = [dataclasses.replace(observation, defence=None) for observation in seen]
    assert error(attack(QUICK, seen), truths) < error(attack(QUICK, blind), truths)


@pytest.mark.parametrize("attacker", ["vicious", "output_decoder", "class_mean"])
def test_same_seed_same_bits_in_range_labels_and_untouched_observations(attacker, trained, digits):
    made = {"vicious": Vicious(trained["vicious"][1]), "class_mean": ClassMean()}.get(attacker, OutputDecoder(steps=20))
    seen, truths = observe(trained["vicious"][0].classifier, digits)
    before = [observation.payload["outputs"].clone() for observation in seen]
    torch.manual_seed(0)
    first = attack(made, seen)
    torch.manual_seed(9)
    second = attack(made, seen)
    for guess, again, observation, x, kept in zip(first, second, seen, truths, before, strict=True):
        assert torch.equal(guess.inputs, again.inputs)
        assert guess.inputs.shape == x.shape
        assert torch.equal(guess.labels, observation.payload["outputs"].argmax(1))
        assert torch.equal(observation.payload["outputs"], kept)
    assert made.network is None, "preparing makes a copy: settings stay settings"


def test_what_is_missing_is_named(trained, digits):
    seen, _ = observe(trained["honest"][0].classifier, digits, clients=1)
    with pytest.raises(ValueError, match="'checkpoint'"):
        attack(Vicious(), seen)
    with pytest.raises(ValueError, match="public"):
        attack(QUICK, [dataclasses.replace(seen[0], public=None)])
    with pytest.raises(ValueError, match="reads output"):
        attack(QUICK, [dataclasses.replace(seen[0], channel=ChannelName.GRADIENT)])
    assert {"vicious", "output_decoder"} <= set(ATTACKS)
