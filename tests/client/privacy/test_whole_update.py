"""Site-level privacy: the whole update is clipped jointly and noised with fresh entropy; nothing passes beside it."""

from __future__ import annotations

import numpy as np
import pytest

from fl_client.privacy import whole_update
from fl_client.privacy.whole_update import noised_update
from fl_shared.errors import ConsiliumError, ExitCode

SHAPES = {"fusion.weight": (120, 100), "heads.death.bias": (1,), "heads.death.weight": (40, 50)}


def arrays(seed: int, scale: float = 1.0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.normal(0, scale, shape).astype(np.float32) for name, shape in SHAPES.items()}


def flat(update: dict[str, np.ndarray], base: dict[str, np.ndarray]) -> np.ndarray:
    return np.concatenate([(update[n].astype(np.float64) - base[n]).ravel() for n in sorted(base)])


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whole_update, "add_noise", lambda sums, **_: sums)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e3, np.inf, np.nan])
def test_the_norm_is_bounded_over_all_arrays_together(silent: None, scale: float) -> None:
    base = {name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()}
    rng = np.random.default_rng(2)
    update = {name: (rng.normal(size=shape) * scale).astype(np.float32) for name, shape in SHAPES.items()}
    found, raw = flat(noised_update(update, base, sigma=1.0, clip=0.5), base), flat(update, base)
    length = float(np.linalg.norm(raw))
    if not np.isfinite(scale):
        assert not found.any()  # stopping would tell of the data
    elif length <= 0.5:
        np.testing.assert_allclose(found, raw, rtol=1e-6)
    else:
        assert float(np.linalg.norm(found)) <= 0.5 * (1 + 1e-6)
        np.testing.assert_allclose(found, raw * 0.5 / length, rtol=1e-5, atol=1e-9)


def test_noise_has_the_stated_size_and_is_never_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    base, update = arrays(1), arrays(2)
    sigma, clip = 1.7, 0.3
    one, two = (flat(noised_update(update, base, sigma=sigma, clip=clip), base) for _ in range(2))
    monkeypatch.setattr(whole_update, "add_noise", lambda sums, **_: sums)
    clean = flat(noised_update(update, base, sigma=sigma, clip=clip), base)
    for found in (one, two, (one - two) / np.sqrt(2) + clean):
        assert np.std(found - clean) / (sigma * clip) == pytest.approx(1, abs=0.03)  # 14,001 numbers: 5 errors
    assert abs(np.corrcoef(one - clean, two - clean)[0, 1]) < 0.05


def test_counters_may_not_change() -> None:
    base = {**arrays(1), "heads.death.steps": np.array([3])}
    kept = noised_update({**arrays(2), "heads.death.steps": np.array([3])}, base, sigma=1.0, clip=1.0)
    assert kept["heads.death.steps"].tolist() == [3] and kept.keys() == base.keys()
    with pytest.raises(ConsiliumError) as caught:
        noised_update({**arrays(2), "heads.death.steps": np.array([4])}, base, sigma=1.0, clip=1.0)
    assert caught.value.code == ExitCode.PRIVACY


@pytest.mark.parametrize("sigma", [0.0, -1.0, float("nan"), float("inf")])
def test_no_release_without_noise(sigma: float) -> None:
    with pytest.raises(ConsiliumError):
        noised_update(arrays(2), arrays(1), sigma=sigma, clip=1.0)
