"""A vicious server that expects to be tested: it polishes its classifier, hides its entropy and refits its decoder."""

import dataclasses

import pytest
import torch

from fl_privacy.attacks.output.decoders import OutputDecoder
from fl_privacy.data import load
from fl_privacy.joint_training import JointLoss, JointSettings, PairSpec, honest, outputs, train
from fl_privacy.joint_training.detection import (
    HONEST,
    FineTuning,
    auroc,
    flagged,
    output_entropy,
    threshold,
    viciousness,
)
from fl_privacy.joint_training.pair import OUTPUTS
from fl_privacy.joint_training.scores import evaluate
from fl_privacy.metrics import psnr
from fl_privacy.observation import ChannelName, Images, Observation, Spec

TINY = {"width": 8, "hidden": 64}
PAIR = PairSpec((1, 16, 16), 10, classifier_settings=TINY, decoder_settings=TINY)
VICIOUS = JointSettings(
    loss=JointLoss(beta_r=5), epochs=15, batch_size=64, learning_rate=3e-3, augment=False, schedule="cosine"
)
ADAPTIVE = dataclasses.replace(VICIOUS, loss=JointLoss(beta_r=3), epochs=25, polish=10, refit=10)
SEEDS = range(3)


@pytest.fixture(scope="module")
def digits():
    return load("digits", None, {"size": 16}).train


@pytest.fixture(scope="module")
def models(digits):
    """Vicious and adaptive models, and honest ones that were trained as long as each of them: three seeds of each."""
    sets = digits.chosen(slice(0, 600)), digits.chosen(slice(600, 800))
    kinds = {"twins": honest(VICIOUS), "vicious": VICIOUS, "honest": honest(ADAPTIVE), "adaptive": ADAPTIVE}
    return {kind: [train(PAIR, chosen, *sets, seed=seed) for seed in SEEDS] for kind, chosen in kinds.items()}


def decoded_afterwards(classifier, digits, test):
    """The PSNR of a decoder that is fitted to an honest classifier's answers, with all of the server's images."""
    seen = Observation(
        channel=ChannelName.OUTPUT,
        round=1,
        client=0,
        spec=Spec(image_shape=(1, 16, 16), classes=10, batch_size=len(test)),
        payload={OUTPUTS: outputs(classifier, test.images())},
        public=Images(digits.images(slice(0, 600)), digits.labels[:600]),
        query=lambda images: outputs(classifier, images),
    )
    guess = OutputDecoder(steps=300)([seen], torch.Generator().manual_seed(0))[0]
    return float(psnr(guess.inputs, test.images()).mean())


def test_it_passes_both_detectors_that_caught_it_and_still_decodes(digits, models):
    own, test = digits.chosen(slice(800, 1000)), digits.chosen(slice(1000, 1300))
    pixels = test.images()
    moved = {
        kind: [viciousness(model.pair.classifier, own, pixels, FineTuning(), seed=0) for model in found]
        for kind, found in models.items()
    }
    entropy = {
        kind: [output_entropy(outputs(model.pair.classifier, pixels)) for model in found]
        for kind, found in models.items()
    }
    for scores in (moved, entropy):
        assert auroc(scores["twins"], scores["vicious"]) == 1
        assert auroc(scores["honest"], scores["adaptive"]) < 0.8, scores
        assert flagged(scores["adaptive"], threshold(scores["honest"])) < 0.5
    adaptive, twin = models["adaptive"][0].pair, models["honest"][0].pair
    assert evaluate(adaptive, ADAPTIVE.loss, test).accuracy >= evaluate(twin, HONEST, test).accuracy - 0.03
    leaks = [decoded_afterwards(each.classifier, digits, test) for each in (adaptive, twin)]
    assert leaks[0] > leaks[1] + 0.3, "decibels, by the same attacker"


def test_each_phase_trains_what_it_says(digits):
    sets = digits.chosen(slice(0, 300)), digits.chosen(slice(600, 700))
    short = dataclasses.replace(VICIOUS, epochs=2, schedule="constant")
    joint = train(PAIR, short, *sets, seed=0).history
    whole = train(PAIR, dataclasses.replace(short, polish=1, refit=2), *sets, seed=0)
    assert [each.scores for each in whole.history[:2]] == [each.scores for each in joint]
    polished, *refitted = whole.history[2:]
    assert polished.scores.psnr != polished.scores.psnr, "polishing knows no decoder"
    assert {each.scores.accuracy for each in refitted} == {polished.scores.accuracy}, "the classifier stays as it is"
    assert {each.scores.classification for each in refitted} == {polished.scores.classification}
    assert refitted[0].scores.psnr != joint[1].scores.psnr
    assert whole.best == max((each for each in whole.history if each.best), key=lambda each: each.epoch)
    assert whole.best in refitted
    assert all(parameter.requires_grad for parameter in whole.pair.parameters())


def test_stopping_between_the_phases_changes_no_bit(digits, tmp_path):
    sets = digits.chosen(slice(0, 300)), digits.chosen(slice(600, 700))
    settings = dataclasses.replace(VICIOUS, epochs=1, polish=1, refit=2)
    through = train(PAIR, settings, *sets, seed=0)
    for stop in (1, 2, 3):

        def stopping(report, stop=stop):
            if report.epoch + 1 == stop:
                raise KeyboardInterrupt

        path = tmp_path / f"{stop}.safetensors"
        with pytest.raises(KeyboardInterrupt):
            train(PAIR, settings, *sets, seed=0, checkpoint=path, progress=stopping)
        resumed = train(PAIR, settings, *sets, seed=0, checkpoint=path)
        states = through.pair.state_dict(), resumed.pair.state_dict()
        assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_the_entropy_term_reaches_its_aim_or_an_end(digits):
    sets, test = (digits.chosen(slice(0, 600)), digits.chosen(slice(600, 800))), digits.images(slice(800, 1000))

    def bits(**loss):
        settings = dataclasses.replace(VICIOUS, epochs=8, loss=JointLoss(beta_r=3, **loss))
        return output_entropy(outputs(train(PAIR, settings, *sets, seed=0).pair.classifier, test))

    plain = bits()
    assert abs(bits(beta_e=1.0, entropy=2.0) - 2.0) < abs(plain - 2.0) / 2
    assert bits(beta_e=-0.3) > plain + 0.2, "maximised"
    assert bits(beta_e=0.3) < plain, "minimised"


def test_the_entropy_term_has_known_values():
    flat, sure = torch.zeros(4, 8), torch.eye(8)[:4] * 1000
    assert float(JointLoss(beta_e=2.0).uncertainty(flat)) == pytest.approx(6)
    assert float(JointLoss(beta_e=-1.0).uncertainty(flat)) == pytest.approx(-3)
    assert float(JointLoss(beta_e=2.0, entropy=3.0).uncertainty(flat)) == pytest.approx(0, abs=1e-6)
    assert float(JointLoss(beta_e=2.0, entropy=1.5).uncertainty(sure)) == pytest.approx(3)


def test_a_class_by_yes_or_no_questions_is_learnt_and_has_the_known_loss(digits):
    loss = JointLoss(task="binaries", beta_r=0)
    logits, labels = torch.tensor([[2.0, -1.0], [0.5, 0.0]]), torch.tensor([0, 1])
    expected = -torch.tensor([[2.0, 1.0], [-0.5, 0.0]]).sigmoid().log().mean()
    assert float(loss.classification(logits, labels)) == pytest.approx(float(expected))
    settings = dataclasses.replace(VICIOUS, loss=loss)
    trained = train(PAIR, settings, digits.chosen(slice(0, 600)), digits.chosen(slice(600, 800)), seed=0)
    assert trained.best.scores.accuracy > 0.85


def test_settings_that_cannot_be_are_named():
    with pytest.raises(ValueError, match="polish and refit"):
        dataclasses.replace(VICIOUS, polish=-1)
    with pytest.raises(ValueError, match="polishing needs"):
        JointSettings(loss=JointLoss(beta_c=0), polish=1)
    with pytest.raises(ValueError, match="refitting a decoder needs"):
        JointSettings(loss=JointLoss(beta_r=0), refit=1)
    with pytest.raises(ValueError, match="needs a beta_e"):
        JointLoss(entropy=1.0)
    with pytest.raises(ValueError, match="have none"):
        JointLoss(task="attributes", beta_e=1.0)
    assert honest(ADAPTIVE).refit == 0
