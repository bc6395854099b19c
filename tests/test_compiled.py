"""The compiled path of attacks that optimise: the losses and guesses of the plain one, whoever the victims are."""

from dataclasses import replace

import pytest
import torch
from test_map import observe
from torch import nn

from fl_privacy.attacks.gradient.compiled import compiled
from fl_privacy.attacks.gradient.dlg import DLG
from fl_privacy.attacks.gradient.grnn import GRNN
from fl_privacy.attacks.gradient.inverting_gradients import InvertingGradients
from fl_privacy.seeding import stream

ATTACKS = {
    "dlg": DLG(iterations=4, restarts=2),
    "inverting_gradients": InvertingGradients(iterations=6, restarts=2),
    "grnn": GRNN(iterations=4, restarts=2, width=2, latent=4),
}


def victims(count, batch):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        body = nn.Sequential(nn.Conv2d(1, 3, 3, stride=2), nn.Sigmoid(), nn.Flatten(), nn.Linear(27, 10))
    images = torch.rand(count, batch, 1, 8, 8, generator=stream(0, "images"))
    return observe(body, images, torch.arange(count * batch).view(count, batch) % 10)


@pytest.fixture
def traced(monkeypatch):
    """All but torch's own compiler, which takes its time: what is traced is kept here, and runs as it is."""
    graphs = []
    monkeypatch.setattr(torch, "compile", lambda graph: graphs.append(graph) or graph)
    return graphs


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize(("count", "batch"), [(1, 1), (3, 2)])
def test_it_finds_what_the_plain_path_finds(name, count, batch, traced):
    seen, attack = victims(count, batch), ATTACKS[name]
    plain = attack(seen, stream(0, "attack"))
    assert not traced
    fast = replace(attack, compiled=True)(seen, stream(0, "attack"))
    assert len(traced) == 1
    for one, other in zip(plain, fast, strict=True):
        torch.testing.assert_close(other.trace, one.trace, rtol=1e-3, atol=1e-5)
        assert torch.equal(other.labels, one.labels)


@pytest.mark.parametrize("attack", [InvertingGradients(iterations=6, restarts=1), replace(ATTACKS["grnn"], restarts=1)])
def test_torchs_compiler_gives_the_same_losses(attack):
    seen = victims(2, 1)
    plain, fast = (each(seen, stream(0, "attack")) for each in (attack, replace(attack, compiled=True)))
    for one, other in zip(plain, fast, strict=True):
        torch.testing.assert_close(other.trace, one.trace, rtol=1e-3, atol=1e-5)


class Two(nn.Module):
    """A victim's guess as numbers: images (2, 1, 1, 1, 1)."""

    def __init__(self):
        super().__init__()
        self.at = nn.Parameter(torch.tensor([2.0, 0.0]))

    def forward(self):
        return self.at.view(2, 1, 1, 1, 1), torch.zeros(2, 1, 1)


@pytest.mark.usefixtures("traced")
def test_a_victim_whose_loss_is_no_number_leaves_the_others_alone():
    guesses = Two()
    losses, _, _ = compiled(guesses, lambda images, _: images.flatten().log())()
    assert losses.tolist() == pytest.approx([0.6931472, -torch.inf])
    losses[torch.isfinite(losses)].sum().backward()
    assert guesses.at.grad is not None
    assert float(guesses.at.grad[0]) == pytest.approx(0.5)


def test_a_way_that_depends_on_values_is_refused_with_what_to_do():
    def judged(images, _):
        return images.flatten() if images.sum() > 0 else -images.flatten()

    with pytest.raises(ValueError, match="Leave out `compiled`"):
        compiled(Two(), judged)
