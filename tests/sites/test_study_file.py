from __future__ import annotations

import tomllib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_shared.site import load_site
from fl_shared.study import EvaluationPlan, is_held_out, load_study
from fl_sites.study_file import dumps, plan_sites, write_model
from fl_sites.synthetic.hospitals import HOSPITALS
from fl_sites.synthetic.plans import MODALITIES, site_file
from fl_sites.synthetic.studies import study_file

PLAN = EvaluationPlan(holdout=0.2, salt="12345678")
text = st.text(st.characters(codec="utf-8"), max_size=12)
scalar = st.one_of(
    text, st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False, allow_infinity=False)
)
leaf = st.one_of(scalar, st.lists(scalar, max_size=3))
inner = st.dictionaries(text, leaf, max_size=3)
table = st.dictionaries(text, leaf | inner | st.dictionaries(text, leaf | inner, max_size=3), max_size=4)


@settings(max_examples=60, deadline=None)
@given(table)
def test_any_table_reads_back_exactly(data):
    assert tomllib.loads(dumps(data)) == data


def test_values_without_toml_are_refused():
    with pytest.raises(TypeError, match="NoneType"):
        dumps({"a": None})


def test_study_and_site_read_back_equal(tmp_path):
    study = study_file(
        {"a": [f"{i}" for i in range(50)], "b": ["1", "2"]},
        seed=3,
        evaluation=PLAN,
        modalities=MODALITIES,
        system="attention",
    )
    write_model(tmp_path / "study.toml", study, header="one\ntwo")
    read = load_study(tmp_path / "study.toml")
    assert read == study and read.identity == study.identity
    assert (tmp_path / "study.toml").read_text().startswith("# one\n# two\n\nschema = 1\n")

    for name in ("samples.csv", "events.parquet", "prescriptions.csv"):
        (tmp_path / name).touch()
    for hospital in HOSPITALS:
        site = site_file("nanjing", hospital, modalities=MODALITIES)
        write_model(tmp_path / "site.toml", site, header="x")
        assert load_site(tmp_path).model_dump() == site.model_dump()


def test_declared_patients_are_those_not_held_out():
    ids = [f"{i:03d}" for i in range(200)]
    plans = plan_sites({"a": [*ids, *ids], "b": ids}, external="b", plan=PLAN)
    assert plans["a"].role == "train"
    assert plans["a"].patients == 200 - sum(is_held_out(i, site="a", plan=PLAN) for i in ids)
    assert (plans["b"].role, plans["b"].patients) == ("external", 0)
