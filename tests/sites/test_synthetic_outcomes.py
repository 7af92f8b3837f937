"""Outcomes of a large draw: calibrated to their true risk, and consistent with one another."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from fl_sites.synthetic.follow_up import draw_outcomes
from fl_sites.synthetic.hospitals import HOSPITALS
from fl_sites.synthetic.outcomes import BINARY, CLOSED, COLUMNS, EVENTS, MACCE, hazards, incidence
from fl_sites.synthetic.patients import draw_patients, draw_records


@pytest.fixture(scope="module")
def drawn() -> pd.DataFrame:
    rng = np.random.default_rng(1)
    patients = draw_patients(rng, HOSPITALS[1], count=8000)
    return draw_outcomes(rng, patients, draw_records(rng, HOSPITALS[1], patients))


@pytest.mark.parametrize("outcome", BINARY)
def test_outcomes_follow_the_true_risk(drawn, outcome):
    first = drawn.groupby("patient_id").head(1)  # records of one patient are not independent
    for table in (drawn[drawn["gap"] == 0], first[first["gap"] > 0]):
        risk = table[f"risk_{outcome}"]
        bins = pd.cut(risk, [-0.01, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0])
        for _, part in table.groupby(bins, observed=True):
            own = part[f"risk_{outcome}"]
            spread = np.sqrt((own * (1 - own)).sum())  # of a sum of independent Bernoulli draws
            assert abs(part[outcome].sum() - own.sum()) < 4 * spread + 1e-9


def test_risks_of_the_study_are_logistic_and_strong(drawn):
    last = drawn[drawn["gap"] == 0]
    for outcome in ("death", *EVENTS):
        assert 0.80 < roc_auc_score(drawn[outcome], drawn[f"risk_{outcome}"]) < 0.90
        assert 0.15 < drawn[outcome].mean() < 0.45
    people = draw_patients(np.random.default_rng(0), HOSPITALS[0], count=500).assign(stay=4.0)
    hazard = hazards(people)
    span = hazard.exposure(np.full(500, 365.0))
    logit = -0.9 + 1.7 * people["severity"]
    np.testing.assert_allclose(
        incidence(hazard.rate["decompensation"], hazard.death, span), 1 / (1 + np.exp(-logit)), rtol=1e-6
    )
    np.testing.assert_allclose(hazard.days(hazard.exposure(last["stay"].to_numpy()[:500])), last["stay"][:500])


def test_course_is_possible(drawn):
    died, early = drawn["death_event"] == 1, drawn["in_hospital_death"] == 1
    assert (drawn["hf_hospitalisation"] <= drawn["decompensation"]).all()
    assert ((drawn["death"] == 1) == (died & (drawn["death_days"] <= 365))).all()
    assert (drawn.loc[early, "los_days"] == drawn.loc[early, "death_days"]).all()
    assert (drawn.loc[early, ["death", "death_event"]] == 1).all(axis=None)
    assert (drawn.loc[~early & died, "los_days"] < drawn.loc[~early & died, "death_days"]).all()
    cardiac = drawn["death_cause"] == "cardiac"
    assert ((drawn["death_cause"] != "") == died).all() and 0.5 < cardiac.sum() / died.sum() < 0.8
    any_macce = drawn[list(MACCE)].max(axis=1)
    explained = any_macce | cardiac
    assert not ((drawn["cvd_90d"] == 1) & (explained == 0)).any()
    assert (drawn["readmission_days"] <= drawn["death_days"]).all() and (drawn["death_days"] > 0).all()
    assert not (early & (drawn["readmission_event"] == 1)).any()
    again = drawn[drawn["readmission_event"] == 1]
    assert (again["readmission_days"] > again["los_days"]).all()
    assert drawn[list(COLUMNS)].notna().all(axis=None)


def test_survival_is_censored_where_follow_up_ends(drawn):
    alive = drawn["death_event"] == 0
    until = (CLOSED - drawn["index_time"]) / pd.Timedelta(days=1)
    np.testing.assert_allclose(drawn.loc[alive, "death_days"], until[alive])
    assert (drawn["death_days"] <= until).all() and until.min() > 365  # every label within a year is known
    assert 0.3 < alive.mean() < 0.7


def test_later_records_are_readmissions_of_the_living(drawn):
    several = drawn[drawn["patient_id"].duplicated(keep=False)]
    for _, own in several.head(300).groupby("patient_id"):
        gaps = own["index_time"].diff().dropna() / pd.Timedelta(days=1)
        np.testing.assert_allclose(own["readmission_days"].iloc[:-1], gaps)
        assert (own["readmission_event"].iloc[:-1] == 1).all()
        assert np.ptp(own["death_days"] + (own["index_time"] - CLOSED) / pd.Timedelta(days=1)) < 1e-6  # one death


def test_heart_follows_the_severity(drawn):
    linked = drawn[["severity", "ejection_fraction", "qrs", "volume", "scar", "lvef", "nt_probnp"]].corr("spearman")
    assert linked.loc["severity", "ejection_fraction"] < -0.6 and linked.loc["severity", "qrs"] > 0.6
    assert linked.loc["scar", "ejection_fraction"] < -0.3 and linked.loc["scar", "qrs"] > 0.2
    assert linked.loc["ejection_fraction", "lvef"] > 0.85 and linked.loc["ejection_fraction", "volume"] < -0.4
    assert linked.loc["severity", "nt_probnp"] > 0.5
    assert drawn["ejection_fraction"].between(10, 78).all() and drawn["scar"].between(0, 0.35).all()
    device = drawn[drawn["follow_up"] == "device"]["ejection_fraction"].mean()
    assert device < drawn[drawn["follow_up"] == "routine"]["ejection_fraction"].mean() - 5
    assert set(drawn["follow_up"]) == {"routine", "clinic", "device"}
