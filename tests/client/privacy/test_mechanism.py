"""The noise: its size, its shape, its independence, and that no seed fixes it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from fl_client.privacy.mechanism import add_noise
from fl_shared.errors import ConsiliumError


def noise(sigma: float, clip: float, world: int = 1) -> torch.Tensor:
    return add_noise({"w": torch.zeros(300, 200)}, sigma=sigma, clip=clip, world=world)["w"]


@pytest.mark.parametrize(("sigma", "clip"), [(1.0, 1.0), (2.5, 0.3), (0.7, 8.0)])
def test_noise_is_gaussian_with_sigma_times_clip(sigma: float, clip: float):
    drawn = noise(sigma, clip).numpy().ravel()
    assert drawn.std() / (sigma * clip) == pytest.approx(1, abs=0.02)
    assert stats.kstest(drawn / (sigma * clip), "norm").pvalue > 1e-6
    assert drawn.dtype == np.float32


def test_ranks_of_one_hospital_add_up_to_the_full_noise():
    total = sum(noise(1.5, 2.0, world=4) for _ in range(4))
    assert isinstance(total, torch.Tensor)
    assert float(total.std()) / 3.0 == pytest.approx(1, abs=0.02)


def test_noise_is_added_to_the_sum_and_differs_at_every_draw():
    sums = {"a": torch.full((1000,), 5.0), "b": torch.full((3, 4), -5.0)}
    torch.manual_seed(0)
    np.random.seed(0)
    first = add_noise(sums, sigma=0.01, clip=1.0)
    torch.manual_seed(0)
    np.random.seed(0)
    second = add_noise(sums, sigma=0.01, clip=1.0)
    assert {n: v.shape for n, v in first.items()} == {n: v.shape for n, v in sums.items()}
    assert float(first["a"].mean()) == pytest.approx(5, abs=0.01)
    assert (first["a"] != second["a"]).any()
    correlation = np.corrcoef(noise(1, 1).numpy().ravel(), noise(1, 1).numpy().ravel())[0, 1]
    assert abs(correlation) < 5 / math.sqrt(60_000)


@pytest.mark.parametrize(("sigma", "clip"), [(0.0, 1.0), (-1.0, 1.0), (1.0, 0.0), (math.nan, 1.0), (math.inf, 1.0)])
def test_no_noise_is_refused(sigma: float, clip: float):
    with pytest.raises(ConsiliumError):
        noise(sigma, clip)
