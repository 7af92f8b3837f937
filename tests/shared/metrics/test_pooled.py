"""AUROC of all patients from the groups that sites tell, against that of the patients themselves."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from fl_shared.metrics.pooled import Groups, pooled_auroc
from fl_shared.metrics.risk_groups import RiskGroups


def cohort(n, rng):
    """Risks and outcomes of a site with its own prevalence, spread and miscalibration."""
    logit = rng.normal(-1.2, 0.5) + rng.uniform(0.7, 1.8) * rng.normal(size=n)
    events = (rng.random(n) < 1 / (1 + np.exp(-logit))).astype(float)
    told = rng.normal(0, 0.3) + logit * rng.uniform(0.6, 1.3) + 0.3 * rng.normal(size=n)
    return 1 / (1 + np.exp(-told)), events


def grouped(risks, events):
    """As a site tells them: three decimals."""
    groups = RiskGroups.of(risks, events, np.arange(len(risks)), few=10)
    x, y = groups.risks()
    return Groups(risks=np.round(x, 3), shares=np.round(y, 3), counts=groups.patients.astype(float))


@pytest.mark.parametrize(("n", "off", "most"), [(150, 0.003, 0.01), (1500, 0.0004, 0.001)])
def test_near_the_auroc_of_the_patients(n, off, most):
    rng, errors = np.random.default_rng(0), []
    for _ in range(100):
        sites = [cohort(n, rng) for _ in range(4)]
        exact = roc_auc_score(np.concatenate([y for _, y in sites]), np.concatenate([p for p, _ in sites]))
        found = pooled_auroc([grouped(p, y) for p, y in sites])
        assert found.n == 4 * n
        errors.append(found.value - exact)
    assert np.abs(errors).max() < most
    assert np.mean(np.abs(errors)) < off


def test_groups_of_one_patient_are_exact():
    risks, events = cohort(80, np.random.default_rng(3))
    risks = np.round(risks, 2)  # with ties
    found = pooled_auroc([Groups(risks=risks, shares=events, counts=np.ones(80))])
    assert found.value == pytest.approx(roc_auc_score(events, risks), abs=1e-12)
    high, low = risks[events == 1], risks[events == 0]
    wins = (high[:, None] > low) + 0.5 * (high[:, None] == low)
    delong = np.sqrt(wins.mean(1).var(ddof=1) / len(high) + wins.mean(0).var(ddof=1) / len(low))
    width = np.diff(np.log([found.low, found.high]) - np.log1p([-found.low, -found.high]))[0] / (2 * 1.959963984540054)
    assert width * found.value * (1 - found.value) == pytest.approx(delong, rel=1e-12)


def test_covers_the_auroc_of_the_populations():
    rng = np.random.default_rng(1)
    truth, hits = 0.7602, 0  # of normals a distance of 1 apart
    for _ in range(300):
        events = (rng.random((3, 200)) < 0.3).astype(float)
        risks = 1 / (1 + np.exp(2 - events - rng.normal(size=events.shape)))
        found = pooled_auroc([grouped(p, y) for p, y in zip(risks, events, strict=True)])
        hits += found.low <= truth <= found.high
    assert 0.92 <= hits / 300 <= 0.98


def test_no_area_without_two_sides():
    alone = Groups(risks=np.array([0.1, 0.3]), shares=np.zeros(2), counts=np.full(2, 20.0))
    assert pooled_auroc([alone, alone]) is None
    assert pooled_auroc([]) is None
