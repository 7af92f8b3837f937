"""Counts under the Gaussian mechanism."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import kstest

from fl_client.privacy.noised_counts import noised
from fl_shared.errors import ConsiliumError


def test_every_cell_gets_fresh_noise_of_the_promised_width() -> None:
    counts = {"a": np.full((200, 50), 40), "b": np.zeros(10_000, np.int64)}
    found = noised(counts, sigma=2.0, sensitivity=3.0)
    assert {name: (cells.dtype, cells.shape) for name, cells in found.items()} == {
        "a": (np.dtype("int64"), (200, 50)), "b": (np.dtype("int64"), (10_000,))
    }  # fmt: skip
    noise = np.concatenate([(found["a"] - 40).ravel(), found["b"]])
    assert noise.std() == pytest.approx((36 + 1 / 12) ** 0.5, rel=0.02)  # rounding adds 1/12
    assert abs(noise.mean()) < 0.15
    assert (
        kstest(noise + np.random.default_rng(0).uniform(-0.5, 0.5, noise.size), "norm", (0, 36.08**0.5)).pvalue > 1e-4
    )
    again = noised(counts, sigma=2.0, sensitivity=3.0)
    assert abs(np.corrcoef(found["b"], again["b"])[0, 1]) < 0.05
    assert abs(np.corrcoef(found["a"].ravel()[:10_000], found["b"])[0, 1]) < 0.05


@pytest.mark.parametrize(("sigma", "sensitivity"), [(0.0, 1.0), (1.0, 0.0), (float("inf"), 1.0)])
def test_no_noise_is_refused(sigma: float, sensitivity: float) -> None:
    with pytest.raises(ConsiliumError):
        noised({"a": np.zeros(3, np.int64)}, sigma=sigma, sensitivity=sensitivity)
