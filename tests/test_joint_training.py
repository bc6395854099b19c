"""Joint training: it learns, its twin is honest, and stopping anywhere changes no bit."""

import dataclasses
import functools
import math

import pytest
import torch

from fl_privacy.data import ImageSet, load
from fl_privacy.defences import chain
from fl_privacy.joint_training import (
    JointLoss,
    JointSettings,
    PairSpec,
    build_pair,
    compile_pair,
    decode,
    evaluate,
    honest,
    joint_loss,
    load_pair,
    outputs,
    train,
)
from fl_privacy.metrics import mse
from fl_privacy.seeding import stream

TINY = {"width": 8, "hidden": 64}
SPEC = PairSpec((1, 16, 16), 10, classifier_settings=TINY, decoder_settings=TINY)
QUICK = JointSettings(epochs=3, batch_size=64, learning_rate=3e-3, augment=False, schedule="cosine")


@pytest.fixture(scope="module")
def sets():
    """Digits as 16x16 bytes: 600 to train with, 200 to validate, 400 to test."""
    digits = load("digits", None, {"size": 16})
    whole = digits.train
    return whole.chosen(slice(0, 600)), whole.chosen(slice(600, 800)), whole.chosen(slice(800, 1200))


def same(first, second):
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_a_vicious_pair_classifies_and_reconstructs_and_its_twin_only_classifies(sets):
    data, validation, test = sets
    settings = dataclasses.replace(QUICK, epochs=25)
    vicious = train(SPEC, settings, data, validation, seed=0)
    twin = train(SPEC, honest(settings), data, validation, seed=0)
    leak = evaluate(vicious.pair, settings.loss, test)
    plain = evaluate(twin.pair, honest(settings).loss, test)
    mean = mse(data.images().mean(0, keepdim=True).expand_as(test.images()), test.images()).mean()
    assert leak.accuracy > 0.85
    assert plain.accuracy > 0.85
    assert leak.mse < 0.6 * float(mean), "a decoder must beat the mean image clearly"
    assert leak.pooled_psnr <= leak.psnr
    assert math.isnan(plain.mse), "an honest server has no reconstruction: no placeholder"
    untouched = build_pair(SPEC, 0).decoder
    assert same(twin.pair.decoder, untouched)
    assert vicious.history[-1].train_loss < vicious.history[0].train_loss


@pytest.mark.parametrize("stop", [1, 2])
@pytest.mark.parametrize("augment", [False, True])
def test_interrupted_training_resumes_to_the_same_bits(sets, tmp_path, stop, augment):
    data, validation, _ = sets
    settings = dataclasses.replace(QUICK, augment=augment, batch_size=128)
    law = chain([{"name": "gaussian_noise", "scale": 0.1}])
    through = train(SPEC, settings, data, validation, seed=1, law=law)

    def stopping(report):
        if report.epoch + 1 == stop:
            raise KeyboardInterrupt

    path = tmp_path / "pair.safetensors"
    with pytest.raises(KeyboardInterrupt):
        train(SPEC, settings, data, validation, seed=1, law=law, checkpoint=path, progress=stopping)
    seen = []
    resumed = train(SPEC, settings, data, validation, seed=1, law=law, checkpoint=path, progress=seen.append)
    assert [report.epoch for report in seen] == list(range(stop, 3))
    assert same(through.pair, resumed.pair)
    plain = [dataclasses.replace(r, seconds=0.0) for r in through.history]
    assert plain == [dataclasses.replace(r, seconds=0.0) for r in resumed.history]
    assert same(load_pair(path), resumed.pair)
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_a_checkpoint_of_another_training_or_of_none_is_refused(sets, tmp_path):
    data, validation, _ = sets
    path = tmp_path / "pair.safetensors"
    once = dataclasses.replace(QUICK, epochs=1)
    train(SPEC, once, data, validation, seed=0, checkpoint=path)
    with pytest.raises(ValueError, match="different: seed"):
        train(SPEC, once, data, validation, seed=1, checkpoint=path)
    with pytest.raises(ValueError, match="different: settings"):
        train(SPEC, honest(once), data, validation, seed=0, checkpoint=path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="is damaged"):
        load_pair(path)


def test_the_seed_decides_and_the_global_generator_does_not(sets):
    data, validation, _ = sets
    once = dataclasses.replace(QUICK, epochs=1)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = train(SPEC, once, data, validation, seed=0).pair
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(5)
    assert same(first, train(SPEC, once, data, validation, seed=0).pair)
    assert not same(first, train(SPEC, once, data, validation, seed=1).pair)


def test_the_step_equals_two_optimisers_and_one_backward_spelt_out(sets):
    """Equation 4 as the code runs it: F and G with an Adam of their own."""
    data, validation, _ = sets
    settings = JointSettings(epochs=1, batch_size=600, augment=False)
    ours = train(SPEC, settings, data, validation, seed=3).pair
    pair = build_pair(SPEC, 3).to(memory_format=torch.channels_last).train()
    adams = [torch.optim.Adam(part.parameters(), 1e-3) for part in (pair.classifier, pair.decoder)]
    order = torch.randperm(600, generator=stream(3, "order", 0))
    x, y = data.images(order), data.labels[order]
    logits = pair.classifier(x)
    loss = settings.loss
    (loss.classification(logits, y) + 3 * loss.reconstruction(pair.decoder(logits), x)).backward()
    for adam in adams:
        adam.step()
    for a, b in zip(ours.parameters(), pair.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_compiled_networks_give_the_same_loss_and_gradients(sets, monkeypatch):
    """With the backend that generates no code: what is tested is that weights and modes are shared."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    data, _, _ = sets
    x, y = data.images()[:32], data.labels[:32]
    gradients = []
    for wrap in (lambda pair: pair, compile_pair):
        pair = build_pair(SPEC, 0).train()
        joint_loss(wrap(pair), JointLoss(), x, y).backward()
        gradients.append([parameter.grad for parameter in pair.parameters()])
    for plain, compiled in zip(*gradients, strict=True):
        assert torch.allclose(plain, compiled, atol=1e-5)


def test_an_adaptive_server_sends_gradients_through_rounding_to_the_classifier(sets):
    data, _, _ = sets
    pair = build_pair(SPEC, 0)
    law = chain([{"name": "softmax"}, {"name": "rounding", "decimals": 1}])
    only_reconstruction = JointLoss(beta_c=0)
    joint_loss(pair, only_reconstruction, data.images()[:32], data.labels[:32], law=law).backward()
    assert float(pair.classifier[0][0].weight.grad.abs().max()) > 0


def test_pure_reconstruction_and_attributes_train(sets):
    data, validation, _ = sets
    few = dataclasses.replace(QUICK, epochs=1)
    pure = dataclasses.replace(few, loss=JointLoss(beta_c=0), selection="code")
    scores = train(SPEC, pure, data, validation, seed=0).history[0].scores
    assert scores.criterion(pure.loss, "code") == pytest.approx(1 - scores.ssim + 5 * scores.mse)
    attributes = torch.stack([data.labels % 2 == 0, data.labels > 4], 1)
    marked = ImageSet(data.pixels, data.labels, attributes)
    several = dataclasses.replace(few, loss=JointLoss(task="attributes"))
    spec = dataclasses.replace(SPEC, classes=2)
    assert train(spec, several, marked, marked, seed=0).history[0].scores.accuracy > 0.5
    with pytest.raises(ValueError, match="attributes"):
        train(spec, several, data, marked, seed=0)


def test_outputs_and_decoding_leave_the_mode_alone_and_keep_order(sets):
    data, _, _ = sets
    pair = build_pair(SPEC, 0).train()
    x = data.images()
    released = outputs(pair.classifier, x)
    assert pair.classifier.training
    assert torch.allclose(released[550:560], outputs(pair.classifier, x[550:560]), atol=1e-5)
    assert decode(pair.decoder, released).shape == x.shape
    hot = outputs(pair.classifier, x[:5], chain([{"name": "arg_max"}]))
    assert torch.equal(hot.sum(1), torch.ones(5))


def test_too_few_images_and_wrong_settings_are_named(sets):
    data, validation, _ = sets
    with pytest.raises(ValueError, match="lower batch_size"):
        train(SPEC, JointSettings(batch_size=2000), data, validation, seed=0)
    with pytest.raises(ValueError, match="epochs"):
        JointSettings(epochs=0)
