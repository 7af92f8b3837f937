from __future__ import annotations

import hashlib

import numpy as np
import pytest

from fl_shared import concepts
from fl_shared.concepts.load import FILE
from fl_shared.errors import ConsiliumError


@pytest.mark.parametrize("name", concepts.names())
def test_every_concept_scales_its_working_range_to_one(name):
    concept = concepts.concept(name)
    np.testing.assert_allclose(concepts.scale(np.array([concept.low, concept.high]), concept), [-1, 1], atol=1e-6)
    extremes = concepts.scale(np.array([concept.min, concept.max]), concept)
    assert np.isfinite(extremes).all()
    assert np.abs(extremes).max() < 11  # no input can swamp a network
    assert all(concept.min <= code <= concept.max for code in concept.codes.values())


@pytest.mark.parametrize(
    ("name", "unit", "value", "expected"),
    [
        ("creatinine", "mg/dL", 1.0, 88.4),
        ("glucose", "mg/dL", 100.0, 5.55),
        ("ldl", "mg/dL", 100.0, 2.59),
        ("triglycerides", "mg/dL", 150.0, 1.69),
        ("bilirubin", "mg/dL", 1.0, 17.1),
        ("haemoglobin", "g/dL", 14.0, 140.0),
        ("haemoglobin", "mmol/L", 8.7, 140.2),
        ("hba1c", "mmol/mol", 48.0, 6.5),
        ("temperature", "[degF]", 98.6, 37.0),
        ("urea", "mg{urea_nitrogen}/dL", 20.0, 7.14),
        ("nt_probnp", "pmol/L", 100.0, 845.7),
        ("lvef", "1", 0.45, 45.0),
        ("sbp", "kPa", 16.0, 120.0),
        ("weight", "[lb_av]", 154.0, 69.85),
        ("sodium", "mmol/L", 140.0, 140.0),
    ],
)
def test_conversions_agree_with_clinical_tables(name, unit, value, expected):
    found = concepts.convert(np.array([value, np.nan]), unit, concepts.concept(name))
    assert found[0] == pytest.approx(expected, rel=1e-2)
    assert np.isnan(found[1])


@pytest.mark.parametrize("name", concepts.names())
def test_unscale_gives_back_what_was_scaled(name):
    concept = concepts.concept(name)
    values = np.append(np.linspace(concept.min, concept.max, 101), [concept.low, concept.high, np.nan])
    back = concepts.unscale(concepts.scale(values, concept), concept)
    # float32 holds 24 bits of the scaled value; of a logarithm they are bits of the ratio
    tolerance = {"rtol": 2e-6} if concept.log else {"rtol": 0, "atol": 1e-6 * (concept.high - concept.low)}
    np.testing.assert_allclose(back, values, **tolerance)
    assert concepts.unscale(np.array([-1.0, 1.0]), concept) == pytest.approx([concept.low, concept.high], rel=1e-12)


def test_unknown_names_are_told_with_the_nearest():
    with pytest.raises(ConsiliumError, match="Did you mean 'creatinine'"):
        concepts.concept("creatinin")
    with pytest.raises(ConsiliumError, match="Known: umol/L, mmol/L, mg/dL"):
        concepts.convert(np.array([1.0]), "mg/l", concepts.concept("creatinine"))


def test_digest_is_that_of_the_file():
    assert concepts.digest() == hashlib.sha256(FILE.read_bytes()).hexdigest()
