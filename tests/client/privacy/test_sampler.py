"""The draws: rate, independence, one record a patient, secrecy, shards."""

from __future__ import annotations

import numpy as np
import pytest

from fl_client.privacy.sampler import PatientRecords, poisson_batches, shuffled_batches

PATIENT = np.random.default_rng(0).permutation(np.repeat(np.arange(50), np.arange(50) % 4 + 1))


@pytest.fixture
def records() -> PatientRecords:
    rows = np.flatnonzero(PATIENT < 40)  # ten patients are held out
    return PatientRecords(rows=rows, patient=PATIENT)


def test_rows_are_of_distinct_training_patients(records: PatientRecords):
    assert len(records) == 40
    for rows in poisson_batches(records, q=0.5, steps=50):
        drawn = PATIENT[rows]
        assert len(set(drawn)) == len(drawn)
        assert drawn.max() < 40


def test_every_patient_is_drawn_at_rate_q_and_independently(records: PatientRecords):
    q, steps = 0.3, 6000
    drawn = np.zeros((steps, 40), dtype=bool)
    for step, rows in enumerate(poisson_batches(records, q=q, steps=steps)):
        drawn[step, PATIENT[rows]] = True
    error = 5 * np.sqrt(q * (1 - q) / steps)
    assert np.abs(drawn.mean(0) - q).max() < error
    # Poisson sampling: the batch size is binomial, and no two patients are correlated
    assert drawn.sum(1).var() == pytest.approx(40 * q * (1 - q), rel=0.15)
    correlation = np.corrcoef(drawn.T) - np.eye(40)
    assert np.abs(correlation).max() < 6 / np.sqrt(steps)


def test_records_of_a_patient_are_equally_likely(records: PatientRecords):
    patient = 3  # four records
    counts: dict[int, int] = {}
    for rows in poisson_batches(records, q=1.0, steps=4000):
        row = int(rows[PATIENT[rows] == patient][0])
        counts[row] = counts.get(row, 0) + 1
    assert sorted(counts) == np.flatnonzero(patient == PATIENT).tolist()
    assert all(abs(n / 4000 - 0.25) < 0.04 for n in counts.values())


def test_empty_draws_are_kept(records: PatientRecords):
    sizes = [len(rows) for rows in poisson_batches(records, q=0.001, steps=200)]
    assert len(sizes) == 200
    assert sizes.count(0) > 150


def test_private_draws_follow_no_seed(records: PatientRecords):
    draws = []
    for _ in range(2):
        np.random.seed(0)
        draws.append([rows.tolist() for rows in poisson_batches(records, q=0.5, steps=5)])
    assert draws[0] != draws[1]


def test_shards_are_disjoint_and_together_one_draw(records: PatientRecords):
    seen = []
    for rank in range(3):
        rows = np.concatenate(list(poisson_batches(records, q=1.0, steps=1, rank=rank, world=3)))
        seen.append(set(PATIENT[rows]))
    assert set.union(*seen) == set(range(40))
    assert sum(len(s) for s in seen) == 40


def test_plain_batches_are_fixed_in_size_and_by_their_seed(records: PatientRecords):
    def draw(seed: int) -> list[list[int]]:
        rng = np.random.default_rng(seed)
        return [rows.tolist() for rows in shuffled_batches(records, size=12, steps=7, rng=rng)]

    assert draw(1) == draw(1) != draw(2)
    batches = draw(1)
    assert [len(rows) for rows in batches] == [12] * 7
    epoch = np.concatenate([PATIENT[rows] for rows in batches[:3]])
    assert len(set(epoch)) == 36  # without replacement within an epoch
    assert [len(rows) for rows in shuffled_batches(records, size=99, steps=2, rng=np.random.default_rng(0))] == [40, 40]
