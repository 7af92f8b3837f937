from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

sys.path.insert(0, str(Path(__file__).parent))

import uci_flamby
import uci_ours
import uci_published
import uci_work

SOURCE = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "uci-heart-disease"
real = pytest.mark.skipif(not SOURCE.is_dir(), reason=f"real data missing: {SOURCE}")
SIZES = {"cleveland": (199, 104), "hungary": (172, 89), "switzerland": (30, 16), "va": (85, 45)}  # FLamby's paper


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> uci_ours.Work:
    return uci_ours.prepare(SOURCE, tmp_path_factory.mktemp("uci"))


@real
def test_the_split_is_flambys(work) -> None:
    for name, centre in work.centres.items():
        assert (len(centre.train), len(centre.test)) == SIZES[name]
        assert set(centre.train) | set(centre.test) == set(range(len(centre.y)))
    tables = uci_flamby.standardised(work.centres)
    for name, other in zip(tables, uci_work.load_hospitals(SOURCE).values(), strict=True):  # another reading of it
        for mine, theirs in ((tables[name][0], other.train_x), (tables[name][2], other.test_x)):
            assert np.allclose(*(x[np.lexsort(np.round(x, 3).T)] for x in (mine.numpy(), theirs)), atol=1e-5)


@real
def test_ours_is_judged_on_the_very_rows_of_the_source(work) -> None:
    for name, centre in work.centres.items():
        path = SOURCE / f"processed.{uci_flamby.CENTRES[name]}.data"
        lines = list(csv.reader(path.open(newline="")))
        cohort = work.cohorts[name]
        rows = cohort.rows(held_out=True)
        assert len(rows) == SIZES[name][1] and len(cohort) == len(lines)
        numbers = [int(cohort.patient_ids[row].rpartition("_")[2]) for row in rows]
        cells = [lines[number - 1] for number in numbers]
        assert [c[-1] != "0" for c in cells] == (uci_ours.truths(work.cohorts)[name] > 0.5).tolist()
        told = {tuple(float(cell) for cell in (c[0], c[3], c[4], c[7])) for c in cells}  # age, pressure, and so on
        assert told == {tuple(map(float, centre.x[row][[0, 2, 3, 5]])) for row in centre.test}


@real
def test_what_is_tuned_never_sees_a_judged_row(work) -> None:
    judged = {n: {c.patient_ids[r] for r in c.rows(held_out=True)} for n, c in work.cohorts.items()}
    seen: dict[str, list[str]] = {name: [] for name in judged}
    for fold in uci_ours.inner_folds(work.cohorts, number=5, seed=0):
        for name, cohort in fold.items():
            assert not judged[name] & {*cohort.patient_ids}
            seen[name] += [cohort.patient_ids[row] for row in cohort.rows(held_out=True)]
    for name, cohort in work.cohorts.items():
        assert sorted(seen[name]) == sorted({*cohort.patient_ids} - judged[name])
    for fold in uci_flamby.folds(work.centres, number=5, seed=0):
        for name, centre in fold.items():
            assert not {*centre.train, *centre.test} & {*work.centres[name].test}


@real
def test_one_seed_of_the_release(work) -> None:
    """Four decimals of the release's own result file; the last is a matter of rounding on other machines."""
    study = uci_published.plain_study(work, work.centres)
    said = uci_flamby.federated(work.centres, study, seed=42)[0]
    found = uci_published.judged(said, {n: c.y[c.test] for n, c in work.centres.items()})
    assert found["accuracy"] == pytest.approx(uci_published.RELEASE["FedAvg"][0], abs=uci_published.ONE_PATIENT)


def test_calibration_is_a_logistic_regression_on_the_logit() -> None:
    draw = np.random.default_rng(0)
    p = draw.uniform(0.02, 0.98, 400)
    logit = np.log(p / (1 - p))
    y = (draw.random(400) < 1 / (1 + np.exp(-(0.6 * logit + 0.4)))).astype(float)
    slope, large = uci_published.calibration(p, y)
    fitted = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(logit[:, None], y)
    assert slope == pytest.approx(float(fitted.coef_[0, 0]), abs=1e-4)
    assert np.mean(1 / (1 + np.exp(-(logit + large)))) == pytest.approx(y.mean(), abs=1e-9)
