"""Models as users bring them: each is audited as it is, or refused with what to write instead."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from odd_models import Attention, Pair, dropout, frozen
from torch import nn
from torchvision.models import resnet18

from fl_privacy.simulations import audit
from fl_privacy.simulations.auditing.tries import ORDER

RATE = 0.05


class Functional(nn.Module):
    """Everything but the layers with weights is in forward."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 4, 3, padding=1), nn.Linear(64, 4)

    def forward(self, x):
        return self.head(F.max_pool2d(torch.tanh(self.conv(x)), 2).flatten(1))


class Named(Pair):
    """Returns a dictionary."""

    def forward(self, x):
        return {"logits": super().forward(x)[0]}


class OfPair(Pair):
    def forward(self, x):
        return super().forward(x)[0]


class OfNamed(Named):
    def forward(self, x):
        return super().forward(x)["logits"]


class TinyViT(nn.Module):
    """Patches as a convolution, a class token, positions, two blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.token = nn.Conv2d(3, 16, 8, stride=8), nn.Parameter(torch.zeros(1, 1, 16))
        self.places = nn.Parameter(torch.randn(1, 17, 16) * 0.02)
        self.blocks = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, 0.0, batch_first=True), 2)
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        rows = self.patches(x).flatten(2).transpose(1, 2)
        rows = torch.cat([self.token.expand(len(x), -1, -1), rows], 1) + self.places
        return self.head(self.blocks(rows)[:, 0])


def resnet() -> nn.Module:
    return resnet18(num_classes=10)


SMALL, COLOUR = (1, 8, 8), (3, 32, 32)
AUDITED = {
    "functional": (Functional, SMALL, 4, "train"),
    "resnet, batch statistics": (resnet, COLOUR, 10, "train"),
    "resnet, running statistics": (resnet, COLOUR, 10, "eval"),
    "vit": (TinyViT, COLOUR, 10, "train"),
    "attention": (Attention, SMALL, 4, "train"),
    "dropout": (dropout, SMALL, 4, "train"),
    "frozen layers": (frozen, SMALL, 4, "train"),
    "a tuple, by an adapter": (OfPair, SMALL, 4, "train"),
    "a dictionary, by an adapter": (OfNamed, SMALL, 4, "train"),
}


def sent(model, shape, classes, mode, pick=lambda out: out):
    """What plain torch makes of the model: the weights before and after one step on two images of two classes."""
    model.train(mode == "train")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    images, labels = torch.rand(2, *shape), torch.tensor([1, classes - 1])
    F.cross_entropy(pick(model(images)), labels).backward()
    with torch.no_grad():
        for value in model.parameters():
            if value.grad is not None:
                value -= RATE * value.grad
    return before, dict(model.state_dict())


def audited(model, given, shape, mode, out, attacks=("label_counts",), **more):
    before, after = given
    local = {"learning_rate": RATE, "mode": mode}
    return audit(before, new_weights=after, model=model, shape=shape, classes=10 if shape == COLOUR else 4,
                 local=local, images=2, attacks=attacks, out=out, **more)  # fmt: skip


@pytest.mark.parametrize("name", AUDITED)
def test_a_model_of_any_kind_is_audited_and_its_labels_are_read(name, tmp_path):
    factory, shape, classes, mode = AUDITED[name]
    torch.manual_seed(0)
    found = audited(factory, sent(factory(), shape, classes, mode), shape, mode, tmp_path / "out")
    (row,) = found.report["attacks"]
    assert row["labels"] is not None, row["reason"]
    assert sorted(row["labels"]) == [1, classes - 1]


@pytest.mark.parametrize("name", AUDITED)
def test_every_attack_of_an_audit_gives_a_guess_or_says_why_not(name, tmp_path):
    factory, shape, classes, mode = AUDITED[name]
    torch.manual_seed(0)
    given = sent(factory(), shape, classes, mode)
    found = audited(factory, given, shape, mode, tmp_path / "out", attacks=ORDER, minutes=0.1)
    rows = found.report["attacks"]
    assert [row["attack"] for row in rows] == list(ORDER)
    assert not [row["reason"] for row in rows if row["reason"].startswith("it failed")]
    assert all(row["reason"] or row["images"] or row["labels"] for row in rows)
    assert found.report["verdict"]


@pytest.mark.parametrize(
    ("model", "pick", "kind"), [(Pair, lambda out: out[0], "tuple"), (Named, lambda out: out["logits"], "dict")]
)
def test_other_outputs_than_logits_are_refused_with_the_adapter(model, pick, kind, tmp_path):
    given = sent(model(), SMALL, 4, "train", pick)
    with pytest.raises(ValueError, match=rf"returns a {kind}.*class Audited\(Net\)"):
        audited(model, given, SMALL, "train", tmp_path / "out")


def test_a_wrapper_that_renames_the_weights_is_told(tmp_path):
    class Wrapper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Functional()

        def forward(self, x):
            return self.inner(x)

    with pytest.raises(ValueError, match=r"(?s)lacks the model's inner\.conv.*rename"):
        audited(Wrapper, sent(Functional(), SMALL, 4, "train"), SMALL, "train", tmp_path / "out")
