"""Outcomes of a large draw: calibrated to their true risk, and consistent with one another."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from fl_sites.importers.ccs import PHENOTYPES as CCS
from fl_sites.synthetic.follow_up import draw_outcomes
from fl_sites.synthetic.hospitals import HOSPITALS
from fl_sites.synthetic.outcomes import BINARY, CLOSED, COLUMNS, COURSE, EVENTS, MACCE, hazards, incidence, risks
from fl_sites.synthetic.patients import draw_patients, draw_records
from fl_sites.synthetic.phenotypes import PHENOTYPES


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
            one = 1.0 if own.sum() > 0 else 1e-9  # counts are whole: of four patients at 5 % two may well have it
            assert abs(part[outcome].sum() - own.sum()) < 4 * spread + one


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


@pytest.mark.parametrize("what", COURSE)
def test_course_of_the_ejection_fraction_ends_at_death_and_with_follow_up(drawn, what):
    days, event = drawn[f"{what}_days"], drawn[f"{what}_event"]
    assert (days <= drawn["death_days"]).all() and (days[event == 0] == drawn["death_days"][event == 0]).all()
    assert (drawn[what] == ((event == 1) & (days <= 365))).all()
    assert (days[event == 1] > drawn.loc[event == 1, "los_days"]).all()  # found after discharge
    assert not ((event == 1) & (drawn["in_hospital_death"] == 1)).any()
    assert 0.15 < drawn[what].mean() < 0.4


def test_risk_of_recovery_is_the_integral_over_time(drawn):
    """The incidence before death, by the trapezoid rule over days instead of the closed form."""
    rng = np.random.default_rng(3)
    people = draw_patients(rng, HOSPITALS[0], count=20).assign(stay=5.0)
    hazard = hazards(people)
    days = np.linspace(5, 365, 20_001)
    for name in COURSE:
        rate, death = hazard.rate[name][:, None], hazard.death[:, None]
        alive_and_free = np.exp(-death * (10 * 5 + days - 5)) * np.exp(-rate * (days - 5))
        want = np.trapezoid(rate * alive_and_free, days, axis=1)
        np.testing.assert_allclose(risks(people, hazard, gap=np.zeros(20))[f"risk_{name}"], want, rtol=1e-6)


def test_long_stay_is_the_column_of_days_cut_at_seven(drawn):
    assert (drawn["los_over_7d"] == (drawn["los_days"] > 7)).all()
    rng = np.random.default_rng(4)
    people = draw_patients(rng, HOSPITALS[0], count=3).assign(stay=4.0)
    severity = people["severity"].to_numpy()[:, None]
    stay = np.exp(1.4 + 0.3 * severity + 0.5 * rng.normal(size=(3, 400_000)))
    yearly = 1 / (1 + np.exp(-(1.6 - 1.5 * severity - 0.05 * (people["age"].to_numpy()[:, None] - 65))))
    alive = yearly ** (10 * np.minimum(7, stay) / (365 + 9 * stay))
    want = np.where(stay > 7, alive, 0).mean(axis=1)
    got = risks(people, hazards(people), gap=np.zeros(3))["risk_los_over_7d"]
    np.testing.assert_allclose(got, want, atol=3e-3)  # four standard errors of the drawn mean


def test_phenotypes_are_those_of_the_benchmark(drawn):
    names = [column.removeprefix("phenotype_") for column in drawn if column.startswith("phenotype_")]
    assert names == list(CCS) == list(PHENOTYPES)
    assert all(0.02 < drawn[f"phenotype_{name}"].mean() < 0.7 for name in names)


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
