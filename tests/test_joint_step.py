"""The networks that the joint training step is timed with: the library's compute what the textbook's do."""

import pytest
import torch

from benchmarks.joint_training import WIDTH_1, as_textbook
from fl_privacy.joint_training import build_pair
from fl_privacy.seeding import stream


@pytest.mark.parametrize(("part", "shape"), [("classifier", (3, 1, 32, 32)), ("decoder", (3, 10))])
def test_the_library_s_networks_are_the_textbook_s(part, shape):
    """In float64: float32 rounds differently in another layout, and twelve blocks multiply that."""
    ours = build_pair(WIDTH_1, 0).train()
    plain = as_textbook(ours).double()
    networks = [getattr(pair, part) for pair in (ours.double().to(memory_format=torch.channels_last), plain)]
    inputs = torch.randn(shape, generator=stream(0, "inputs"), dtype=torch.float64)
    first, second = (network(inputs) for network in networks)
    assert torch.allclose(first, second)
    weights = torch.randn(first.shape, generator=stream(0, "weights"), dtype=torch.float64)
    gradients = [
        torch.autograd.grad((out * weights).sum(), network.parameters())
        for network, out in zip(networks, (first, second), strict=True)
    ]
    for mine, theirs in zip(*gradients, strict=True):
        assert torch.allclose(mine, theirs, atol=1e-9 * float(theirs.abs().max()))
