"""Batched L-BFGS: the steps of torch where it takes the same, each victim as if alone, a line search that descends."""

import pytest
import torch

from fl_privacy.attacks.inversion.lbfgs import BatchedLbfgs
from fl_privacy.seeding import stream


def rosenbrock(x):
    """(V, D) to (V,): zero at ones."""
    return (100 * (x[:, 1:] - x[:, :-1] ** 2) ** 2 + (1 - x[:, :-1]) ** 2).sum(1)


def bowl(x):
    """An ill-conditioned quadratic (V, D) to (V,)."""
    return (x**2 * torch.logspace(0, 3, x.shape[1], dtype=x.dtype)).sum(1)


def starts(victims, size=6):
    return torch.randn(victims, size, generator=stream(0, "start"), dtype=torch.float64)


def minimised(function, start, steps, **settings):
    x = start.clone().requires_grad_()
    search, trace = BatchedLbfgs([x], 20, **settings), []
    for _ in range(steps):
        losses = function(x)
        trace.append(losses.detach())
        search.step(losses, lambda: function(x))
    return x.detach(), torch.stack([*trace, function(x).detach()])


def test_without_a_line_search_it_takes_the_steps_of_torch():
    start = starts(1)
    theirs = start.clone().requires_grad_()
    optimiser = torch.optim.LBFGS([theirs], max_iter=15, history_size=20, tolerance_grad=0, tolerance_change=0)

    def closure():
        optimiser.zero_grad()
        loss = bowl(theirs).sum()
        loss.backward()
        return loss

    optimiser.step(closure)
    ours, _ = minimised(bowl, start, 15, line_search=False)
    torch.testing.assert_close(ours, theirs.detach(), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("line_search", [True, False])
def test_victims_side_by_side_are_each_as_if_alone(line_search):
    start = starts(3)
    together, _ = minimised(bowl, start, 12, line_search=line_search)
    for victim in range(3):
        alone, _ = minimised(bowl, start[victim : victim + 1], 12, line_search=line_search)
        torch.testing.assert_close(together[victim : victim + 1], alone, rtol=1e-6, atol=1e-9)


def test_the_line_search_never_goes_up_and_arrives():
    found, trace = minimised(rosenbrock, starts(8), 150)
    assert bool((trace[1:] <= trace[:-1]).all())
    assert bool((trace[-1] < 1e-10).sum() >= 5), "the others end in the function's other valley"
    assert torch.allclose(found[trace[-1] < 1e-10], torch.ones(6, dtype=torch.float64), atol=1e-4)


def test_a_victim_that_is_no_number_takes_no_other_along():
    start = starts(3)
    start[1] = float("nan")
    together, _ = minimised(bowl, start, 12)
    alone, _ = minimised(bowl, start[:1], 12)
    torch.testing.assert_close(together[:1], alone, rtol=1e-6, atol=1e-9)


def test_at_a_minimum_it_stays():
    found, trace = minimised(bowl, torch.zeros(2, 4, dtype=torch.float64), 3)
    assert torch.equal(found, torch.zeros(2, 4, dtype=torch.float64))
    assert bool((trace == 0).all())


def test_parameters_of_several_shapes_move_together():
    flat = starts(2, 6)
    parts = [flat[:, :4].reshape(2, 2, 2).clone().requires_grad_(), flat[:, 4:].clone().requires_grad_()]
    search = BatchedLbfgs(parts, 20)

    def losses():
        return bowl(torch.cat([part.flatten(1) for part in parts], 1))

    for _ in range(10):
        search.step(losses(), losses)
    expected, _ = minimised(bowl, flat, 10)
    torch.testing.assert_close(torch.cat([part.detach().flatten(1) for part in parts], 1), expected)


def test_a_step_gives_the_losses_where_it_ended_or_says_that_nobody_asked():
    x = starts(3).clone().requires_grad_()
    search = BatchedLbfgs([x], 20)
    for _ in range(8):
        losses = search.step(bowl(x), lambda: bowl(x))
        assert losses is not None
        assert torch.equal(losses, bowl(x))
        losses.sum().backward()
    assert BatchedLbfgs([x], 20, line_search=False).step(bowl(x), lambda: bowl(x)) is None
