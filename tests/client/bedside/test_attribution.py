"""Attributions of plain functions against closed forms."""

from __future__ import annotations

import pytest
import torch

from fl_client.bedside.attribution import MOST, grad_cam, integrated_gradients, left_out


def test_integrated_gradients_of_a_cubic_are_its_closed_form():
    """Of sum a x^3 from 0: each part is a x^3 itself; of a product x y both have half of it."""
    x = torch.tensor([[1.5, -2.0, 0.3]])
    a = torch.tensor([2.0, -1.0, 4.0])
    found = integrated_gradients(lambda z: (a * z**3).sum(1), x, baseline=torch.zeros_like(x))
    assert found.values[0] == pytest.approx((a * x[0] ** 3).double(), rel=2e-2)
    assert found.total == pytest.approx(float((a * x[0] ** 3).sum()))
    both = integrated_gradients(lambda z: z[:, 0] * z[:, 1], torch.tensor([[3.0, 2.0]]), baseline=torch.zeros(1, 2))
    assert both.values[0].tolist() == pytest.approx([3.0, 3.0], rel=1e-2)


def test_integrated_gradients_from_a_baseline_that_is_not_zero():
    x, baseline = torch.tensor([[2.0, 5.0]]), torch.tensor([[1.0, 5.0]])
    found = integrated_gradients(lambda z: z.prod(1), x, baseline=baseline)
    assert found.values[0].tolist() == pytest.approx([5.0, 0.0], rel=1e-2)  # what does not change adds nothing
    assert found.total == 5.0


@pytest.mark.parametrize("seed", range(3))
def test_integrated_gradients_of_a_network_with_norms_are_complete(seed):
    """A path through a GroupNorm bends at its start: the points crowd there, and are doubled until the sum is right."""
    torch.manual_seed(seed)
    network = torch.nn.Sequential(
        torch.nn.Conv1d(2, 8, 5), torch.nn.GroupNorm(4, 8), torch.nn.ReLU(), torch.nn.Conv1d(8, 8, 5),
        torch.nn.GroupNorm(4, 8), torch.nn.GELU(), torch.nn.AdaptiveMaxPool1d(1), torch.nn.Flatten(),
        torch.nn.Linear(8, 1),
    )  # fmt: skip
    x = torch.randn(1, 2, 60) * 3
    found = integrated_gradients(lambda z: network(z)[:, 0], x, baseline=torch.zeros_like(x))
    assert found.gap <= max(0.02 * abs(found.total), 0.02)
    assert found.values.shape == x.shape


def test_a_function_that_jumps_ends_and_tells_its_error():
    """A step has no gradient: the attributions are 0 and the gap is the whole step, said and not hidden."""
    asked = []

    def step(z):
        asked.append(len(z))
        return (z[:, 0] > 0.5).float() + 0 * z[:, 0]

    found = integrated_gradients(step, torch.ones(1, 1), baseline=torch.zeros(1, 1))
    assert found.gap == 1.0 and float(found.values) == 0.0
    assert sum(asked) == 2 + 32 + 64 + 128 + 256 + MOST


def test_grad_cam_of_mean_pooling_and_a_linear_map_is_class_activation():
    """Zhou et al. 2016: there the gradient is the weight over the number of places, at every place."""
    torch.manual_seed(0)
    maps, weight = torch.rand(1, 3, 4, 5).requires_grad_(), torch.tensor([1.0, -2.0, 0.5])
    score = (maps.mean((2, 3)) * weight).sum(1)
    expected = (weight[:, None, None] * maps[0]).sum(0).relu() / 20
    assert torch.allclose(grad_cam(score, maps), expected.detach(), atol=1e-7)


def test_grad_cam_is_zero_where_the_score_does_not_depend_on_the_maps():
    maps = torch.rand(1, 3, 4, 5).requires_grad_()
    assert not grad_cam(torch.ones(1, requires_grad=True) * 2, maps).any()


def test_left_out_is_the_difference_part_by_part():
    whole = torch.tensor([[1.0, 2.0, 3.0]])
    without = whole * (1 - torch.eye(3))
    found = left_out(lambda z: (z * torch.tensor([1.0, 10.0, 100.0])).sum(1), whole, without)
    assert found.tolist() == [1.0, 20.0, 300.0]
