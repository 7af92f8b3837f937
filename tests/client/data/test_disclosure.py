"""What outsiders are told never gives a small cell away: an attacker who subtracts finds none."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_client.data.checking.disclosure import (
    FEW,
    WITHHELD,
    Teller,
    coarse_share,
    in_tens,
    missing,
    share,
    told_reasons,
)


def people(patient: np.ndarray, rows: np.ndarray) -> int:
    return len(set(patient[rows].tolist()))


def is_small(patient: np.ndarray, rows: np.ndarray) -> bool:
    return 0 < people(patient, rows) < FEW


@st.composite
def cohorts(draw):
    """Patients of samples, and a split of a subset of them into parts of very different sizes."""
    n, seed = draw(st.sampled_from([5, 30, 80, 120, 200])) + draw(st.integers(0, 9)), draw(st.integers(0, 2**31))
    rng = np.random.default_rng(seed)
    patient = np.sort(rng.integers(0, max(1, n // draw(st.integers(1, 4))), n))
    weights = rng.dirichlet(np.full(draw(st.integers(2, 5)), draw(st.sampled_from([0.2, 1.0, 5.0]))))
    part = rng.choice(len(weights), n, p=weights)
    inside = rng.random(n) < draw(st.sampled_from([0.5, 0.95, 1.0]))
    return patient, inside, part, len(weights), rng


@settings(max_examples=300, deadline=None)
@given(cohorts(), st.sampled_from([0, 3, 20]), st.booleans())
def test_no_small_cell_is_the_difference_of_told_counts(cohort, unread, strict):
    patient, inside, part, k, _ = cohort
    teller = Teller(patient=patient, local=False)
    every = np.ones(len(patient), dtype=bool)
    samples = teller.group(every, teller.rows(len(patient) + unread))
    whole = teller.group(inside, samples)
    parts = teller.parts(whole, {str(c): inside & (part == c) for c in range(k)}, strict=strict)
    told = {name: group for name, group in parts.items() if group.exact is not None}
    for group in (samples, whole, *parts.values()):
        if group.exact is not None:
            assert group.exact == group.n
            assert people(patient, group.rows) >= FEW
    for outer in (samples, whole):
        if outer.exact is None:
            continue
        for size in range(len(told) + 1):
            for chosen in combinations(told.values(), size):
                rest = outer.rows & ~np.logical_or.reduce([np.zeros_like(inside), *(g.rows for g in chosen)])
                if rest.any() and (chosen or outer is not samples):
                    # what is left may be told, or hides 10 patients in at least two parts
                    assert not is_small(patient, rest)
    if whole.exact is not None and len(told) == len(parts) - 1:
        (hidden,) = set(parts) - set(told)
        assert parts[hidden].n == 0 and not strict  # nothing to hide


def test_a_part_hidden_for_another_reason_hides_a_second_one():
    """27 of 30 held-out samples have an ECG: hidden, and not to be had from all with an ECG less those in training."""
    teller = Teller(patient=np.arange(130), local=False)
    samples = teller.group(np.ones(130, dtype=bool))
    sides = {"training": np.arange(130) < 100, "held_out": np.arange(130) >= 100}
    whole = teller.parts(samples, sides)
    assert {side: group.told for side, group in whole.items()} == {"training": 100, "held_out": 30}
    ecg = teller.group((np.arange(130) >= 15) & (np.arange(130) < 127), samples)
    assert ecg.told == 112
    parts = teller.parts(
        ecg, {side: ecg.rows & rows for side, rows in sides.items()}, within={s: (g,) for s, g in whole.items()}
    )
    assert {side: group.told for side, group in parts.items()} == {"training": WITHHELD, "held_out": ">20"}


def test_the_parts_of_a_hidden_part_do_not_add_up_to_it():
    teller = Teller(patient=np.arange(104), local=False)
    place = np.arange(104)
    whole = teller.group(place >= 0)
    parts = teller.parts(whole, {"few": place < 4, "some": (place >= 4) & (place < 44), "most": place >= 44})
    assert {name: group.told for name, group in parts.items()} == {"few": "<10", "some": WITHHELD, "most": 60}
    within = teller.parts(parts["some"], {"a": (place >= 4) & (place < 19), "b": (place >= 19) & (place < 44)})
    assert {name: group.told for name, group in within.items()} == {"a": WITHHELD, "b": 25}


@settings(deadline=None)
@given(cohorts())
def test_a_group_within_groups_is_compared_with_all_of_them(cohort):
    patient, inside, _, _, rng = cohort
    teller = Teller(patient=patient, local=False)
    nested = [np.ones(len(patient), dtype=bool), inside]
    for _ in range(3):
        nested.append(nested[-1] & (rng.random(len(patient)) < rng.choice([0.5, 0.9, 0.97, 1.0])))
    groups = [teller.rows(len(patient) + int(rng.integers(0, 15)))]
    for rows in nested:
        groups.append(teller.group(rows, groups[-1]))
    for outer, inner in combinations(groups[1:], 2):
        if outer.exact is not None and inner.exact is not None:
            assert not is_small(patient, outer.rows & ~inner.rows)
    for inner in groups[1:]:
        if groups[0].exact is not None and inner.exact is not None:
            assert not 0 < groups[0].n - inner.n < FEW


@given(st.dictionaries(st.text(min_size=1, max_size=3), st.integers(1, 60), min_size=1, max_size=5), st.integers(0, 40))
def test_reasons_do_not_give_a_small_one_away(counts, unlisted):
    told = told_reasons(counts, unlisted=unlisted, local=False)
    total = sum(counts.values()) + unlisted
    exact = {reason: n for reason, n in told.items() if isinstance(n, int)}
    assert all(n >= FEW and n == counts[reason] for reason, n in exact.items())
    rest = total - sum(exact.values())
    hidden = len(counts) - len(exact)
    assert not 0 < rest < FEW or not exact
    assert hidden != 1 or unlisted or not exact  # a single hidden reason would be the rest
    assert told_reasons(counts, unlisted=unlisted, local=True) == counts


def test_reasons_of_unknown_stages_are_told_together_or_not_at_all():
    assert told_reasons({"a": 12, "b": 30}, unlisted=None, local=False) == {"a": 12, "b": 30}
    assert told_reasons({"a": 3, "b": 30}, unlisted=None, local=False) == {"a": "<10", "b": WITHHELD}


@given(cohorts())
def test_the_hospital_itself_is_told_everything(cohort):
    patient, inside, part, k, _ = cohort
    teller = Teller(patient=patient, local=True)
    whole = teller.group(inside, teller.rows(len(patient)))
    parts = teller.parts(whole, {str(c): inside & (part == c) for c in range(k)}, strict=True)
    assert whole.told == int(inside.sum())
    assert [group.told for group in parts.values()] == [int((inside & (part == c)).sum()) for c in range(k)]


def test_ten_samples_of_one_patient_are_one_patient():
    teller = Teller(patient=np.repeat([0, *range(1, 31)], [10, *[1] * 30]), local=False)
    first = teller.patient == 0
    assert teller.group(first).told == WITHHELD  # '<10' would be wrong: there are ten samples
    assert teller.group(~first, teller.group(np.ones(40, dtype=bool))).told == WITHHELD
    assert not teller.enough(first) and teller.enough(~first)


def test_an_outcome_of_everybody_is_not_told():
    teller = Teller(patient=np.arange(40), local=False)
    labelled = teller.group(np.ones(40, dtype=bool))
    assert teller.group(labelled.rows, labelled).told == 40  # all have an ECG: said
    assert teller.group(labelled.rows, labelled, strict=True).told == ">30"  # all died: not said


@pytest.mark.parametrize(("n", "told"), [(0, "<10"), (9, "<10"), (10, "10+"), (19, "10+"), (205, "200+")])
def test_counts_that_overlap_are_told_in_tens(n, told):
    assert in_tens(n, local=False) == told
    assert in_tens(n, local=True) == n


def test_missing_is_only_what_can_be_computed():
    teller = Teller(patient=np.arange(100), local=False)
    whole = teller.group(np.ones(100, dtype=bool))
    of = {n: missing(teller.group(np.arange(100) < n, whole), whole) for n in (100, 95, 60, 4)}
    assert of == {100: 0, 95: "<10", 60: 40, 4: WITHHELD}
    assert share(teller.group(np.arange(100) < 37, whole), whole) == 37.0
    assert share(teller.group(np.arange(100) < 95, whole), whole) is None


@pytest.mark.parametrize("of", [20, 39, 40, 57, 199, 200, 431, 2000])
def test_a_coarse_share_fits_every_size_that_the_whole_may_have(of):
    """Where ``of`` is known to within ten, no share of a part rules a size out."""
    shares = sorted({coarse_share(n, of) for n in range(of + 1)})
    step = min(b - a for a, b in pairwise(shares))
    for told in shares:
        for other in range(of - 9, of + 10):
            share_of = 100 * np.arange(other + 1) / other
            assert (np.abs(share_of - told) <= step / 2).any()
    assert coarse_share(5, 19) is None
