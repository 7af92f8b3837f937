"""The risk timeline: interpolation on known curves, bands at their limits, dominance of events."""

from __future__ import annotations

import numpy as np
import pytest

from fl_shared.models.heads.timeline import HIGH, LOW, MIDDLE, NONE, bands, dominant, risk_at, timeline, within
from fl_shared.study import TaskPlan


def test_risk_between_edges() -> None:
    risk = np.array([[0.1, 0.2, 0.6], [0.0, 0.0, 0.3]])
    found = risk_at(risk, edges=(10, 20, 40), days=(0, 5, 10, 15, 30, 40))
    np.testing.assert_allclose(found, [[0, 0.05, 0.1, 0.15, 0.4, 0.6], [0, 0, 0, 0, 0.15, 0.3]], atol=1e-12)


def test_risk_equals_numpys_interpolation() -> None:
    rng = np.random.default_rng(0)
    edges = np.cumsum(rng.uniform(1, 30, 12))
    risk = rng.dirichlet(np.ones(25), size=40)[:, :24].reshape(40, 12, 2).cumsum(1)
    days = np.sort(rng.uniform(0, edges[-1], 7))
    found = risk_at(risk, edges=tuple(edges), days=tuple(days))
    for n in range(40):
        for cause in range(2):
            curve = np.interp(days, [0, *edges], [0, *risk[n, :, cause]])
            np.testing.assert_allclose(found[n, :, cause], curve, atol=1e-12)


def test_bands_at_their_limits() -> None:
    for dtype in (np.float32, np.float64):
        risk = np.array([[0.0, 0.0999, 0.1, 0.2, 0.3, 0.3001, 1.0]], dtype=dtype)
        expected = [[LOW, LOW, MIDDLE, MIDDLE, MIDDLE, HIGH, HIGH]]
        assert bands(risk, limits=(0.1, 0.3)).tolist() == expected == [[0, 0, 1, 1, 1, 2, 2]]


def test_what_is_no_number_is_not_low() -> None:
    risk = np.array([[[0.1, np.nan]]])
    with pytest.raises(ValueError, match="finite"):
        bands(risk, limits=(0.1, 0.3))
    with pytest.raises(ValueError, match="finite"):
        dominant(risk)


def test_dominance_is_of_the_windows_own_part() -> None:
    worsening, recovery = [0.30, 0.35, 0.40, 0.40], [0.10, 0.25, 0.30, 0.30]
    risk = np.stack([worsening, recovery], axis=1)[None]
    np.testing.assert_allclose(within(risk)[0, :, 0], [0.30, 0.05, 0.05, 0.0], atol=1e-12)
    # recovery never overtakes in total, yet it is what the second window holds
    assert dominant(risk).tolist() == [[0, 1, 0, NONE]]


def test_timeline_of_survival_and_competing_tasks() -> None:
    plan = {"horizon": 100.0, "bins": 4, "windows": (25.0, 90.0), "bands": (0.2, 0.5)}
    survival = timeline(TaskPlan(type="survival", **plan), np.array([[0.1, 0.2, 0.3, 0.8]], dtype=np.float32))
    np.testing.assert_allclose(survival.risk, [[0.1, 0.6]], atol=1e-6)
    assert survival.risk.dtype == np.float32
    assert survival.band.tolist() == [[0, 2]]
    curves = np.array([[[0.1, 0.3], [0.2, 0.3], [0.3, 0.3], [0.4, 0.3]]])
    competing = timeline(TaskPlan(type="competing", labels=("death", "recovery"), **plan), curves)
    np.testing.assert_allclose(competing.risk, [[[0.1, 0.3], [0.36, 0.3]]], atol=1e-12)
    assert competing.band.tolist() == [[[0, 1], [1, 1]]]
    none = timeline(TaskPlan(type="survival", horizon=100.0, bins=4), np.ones((3, 4)))
    assert none.risk.shape == none.band.shape == (3, 0)


def test_what_has_no_timeline_is_refused() -> None:
    with pytest.raises(ValueError, match="no risk over time"):
        timeline(TaskPlan(type="survival", survival_model="cox", bins=1), np.ones((3, 1)))
    with pytest.raises(ValueError, match="no risk over time"):
        timeline(TaskPlan(type="binary"), np.ones((3, 1)))
    with pytest.raises(ValueError, match="does not fit"):
        timeline(TaskPlan(type="competing", labels=("a", "b"), bins=4), np.ones((3, 4)))
    with pytest.raises(ValueError, match=r"expected \(N, 3, …\)"):
        risk_at(np.ones((2, 4)), edges=(1, 2, 3), days=(1,))
    for day in (-1, 3.1, np.nan):
        with pytest.raises(ValueError, match="between 0 and 3"):
            risk_at(np.ones((2, 3)), edges=(1, 2, 3), days=(day,))
