"""What is read beside the model's inputs: a split by time, subgroups, and values of Table 1."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from fl_client.data.load import load_cohort
from fl_client.training.rows import phase_rows
from fl_shared.errors import ConsiliumError
from fl_shared.plans import EvaluationPlan, PhasePlan
from fl_shared.study import Study, hidden_draw, in_stack, is_held_out

WARD = '\n[subgroups.ward]\ncolumn = "station"\ncodes = { K = "cardiac", I = "icu", "9" = "icu" }\n'


def asking(study: Study, **options: Any) -> Study:
    body = study.model_dump(mode="json", by_alias=True)
    return Study.model_validate(body | {"evaluation": body["evaluation"] | options})


def test_a_split_by_time_equals_a_plain_loop(make_site: Any, study: Study) -> None:
    """Midnight is the site's (Shanghai); one sample on the later side holds out all of a patient's."""
    rng, first = np.random.default_rng(4), datetime(2014, 12, 25, tzinfo=UTC)
    table = []
    for k in range(120):
        when = first + timedelta(hours=float(rng.uniform(0, 15 * 24)))
        zone = UTC if k % 3 else ZoneInfo("Asia/Shanghai")
        written = when.astimezone(zone).isoformat() if k % 3 else when.astimezone(zone).replace(tzinfo=None).isoformat()
        table.append(
            {"patient_id": f"p{rng.integers(60):02}", "sample_id": f"s{k:03}", "index_time": written, "Alter": 50}
        )
    table.append({"patient_id": "edge", "sample_id": "e1", "index_time": "2014-12-31T16:00:00Z", "Alter": 50})
    table.append({"patient_id": "early", "sample_id": "e2", "index_time": "2014-12-31T15:59:59Z", "Alter": 50})
    site = make_site(table)
    cohort, _ = load_cohort(site, asking(study, held_out_from="2015-01-01"))

    cut = datetime(2015, 1, 1, tzinfo=ZoneInfo("Asia/Shanghai"))
    later = set()
    for row in table:
        when = datetime.fromisoformat(row["index_time"])
        when = when.replace(tzinfo=ZoneInfo("Asia/Shanghai")) if when.tzinfo is None else when
        if when >= cut:
            later.add(row["patient_id"])
    assert {p for p, out in zip(cohort.patient_ids, cohort.held_out, strict=True) if out} == later
    assert "edge" in later and "early" not in later and 5 < len(later) < 60
    both = [p for p in later if any(r["patient_id"] == p and r["index_time"] < "2014-12-30" for r in table)]
    assert both, "nobody has samples on both sides"

    plan = asking(study, held_out_from="2015-01-01").evaluation
    stack = phase_rows(cohort, PhasePlan(name="x", rounds=1, patients="stack"), site=site.name, plan=plan)
    fit = phase_rows(cohort, PhasePlan(name="x", rounds=1, patients="fit"), site=site.name, plan=plan)
    training = {p for p in cohort.patient_ids if p not in later}
    assert {cohort.patient_ids[cohort.patient[k]] for k in [*stack, *fit]} == training
    assert {cohort.patient_ids[cohort.patient[k]] for k in stack} == {
        p for p in training if in_stack(p, site=site.name, plan=plan)
    }


def test_by_time_nobody_is_held_out_by_guess() -> None:
    by_hash = EvaluationPlan(salt="saltsalt")
    by_time = EvaluationPlan(salt="saltsalt", held_out_from=date(2015, 1, 1))
    assert is_held_out("p", site="a", plan=by_time, latest=date(2015, 1, 1))
    assert not is_held_out("p", site="a", plan=by_time, latest=date(2014, 12, 31))
    with pytest.raises(ValueError, match="by time"):
        is_held_out("p", site="a", plan=by_time)
    assert by_hash.split == EvaluationPlan(salt="saltsalt", bootstrap=200).split != by_time.split
    other = EvaluationPlan(salt="saltsalt", held_out_from=date(2016, 1, 1))
    assert by_time.split != other.split and by_time.split == by_time.model_copy(update={"salt": "othersalt"}).split


def test_subgroups_and_values_are_read_where_a_study_asks(make_site: Any, study: Study) -> None:
    table = [
        {"patient_id": f"p{k}", "sample_id": f"s{k}", "tot": k % 2, "Krea": "1.0"} | more
        for k, more in enumerate(
            [
                {"Alter": 64.9, "Geschlecht": "m", "station": "K"},
                {"Alter": 65, "Geschlecht": "w", "station": "I"},
                {"Alter": 79, "Geschlecht": "", "station": "9"},
                {"Alter": 80, "Geschlecht": "m", "station": ""},
                {"Alter": "", "Geschlecht": "w", "station": "Zhang"},
            ]
        )
    ]
    site = make_site(table)
    lines = site.samples_path.read_text().splitlines()
    wards = ["station", *(str(row["station"]) for row in table)]
    site.samples_path.write_text("".join(f"{a},{b}\n" for a, b in zip(lines, wards, strict=True)))
    plain, _ = load_cohort(site, study)
    assert (plain.traits, plain.groups, plain.report) == ({}, {}, None)
    asked = asking(study, subgroups=["age", "sex", "ward", "paired", "elsewhere"], age_edges=[65, 80], described=True)
    cohort, report = load_cohort(_with_ward(site), asked)
    assert cohort.groups["age"].tolist() == ["0-64", "65-79", "65-79", "80+", ""]
    assert cohort.groups["sex"].tolist() == ["male", "female", "", "male", "female"]
    assert cohort.groups["ward"].tolist() == ["cardiac", "icu", "icu", "", ""]
    wanted = np.where(cohort.present["ecg"] & cohort.present["ehr"], "yes", "no")
    assert cohort.groups["paired"].tolist() == wanted.tolist()
    assert set(cohort.groups) == {"age", "sex", "ward", "paired"}  # 'elsewhere' is another site's
    assert report.repairs["subgroup ward: unknown code, in no group"] == 1
    np.testing.assert_allclose(cohort.traits["age"], [64.9, 65, 79, 80, np.nan], rtol=1e-5)
    np.testing.assert_allclose(cohort.traits["creatinine"], 88.4, rtol=1e-3)
    assert cohort.report is report


def _with_ward(site: Any) -> Any:
    from fl_shared.site import load_site

    path = site.folder / "site.toml"
    path.write_text(path.read_text() + WARD)
    return load_site(path)


def test_a_subgroup_without_its_column_is_a_fault(make_site: Any, study: Study) -> None:
    site = _with_ward(make_site([{"patient_id": "p", "sample_id": "s", "Alter": 50}]))
    load_cohort(site, study)
    with pytest.raises(ConsiliumError) as error:
        load_cohort(site, asking(study, subgroups=["ward"]))
    assert [(f.key, f.problem) for f in error.value.faults] == [("station", "column is missing (subgroup ward)")]


def test_what_is_hidden_differs_by_patient_modality_and_salt() -> None:
    plan = EvaluationPlan(salt="saltsalt")
    draws = np.array(
        [[hidden_draw(f"p{k}", site="a", modality=m, plan=plan) for k in range(2000)] for m in ("ecg", "ehr")]
    )
    assert ((draws >= 0) & (draws < 1)).all()
    assert abs((draws < 0.3).mean() - 0.3) < 0.03 and abs(np.corrcoef(draws)[0, 1]) < 0.07
    other = plan.model_copy(update={"salt": "othersalt"})
    assert hidden_draw("p1", site="a", modality="ecg", plan=other) != draws[0, 1]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"hidden": [0.5, 0.5]}, "twice"),
        ({"hidden": [1.5]}, "less than or equal to 1"),
        ({"hidden": [1.0]}, "every modality but one"),
        ({"age_edges": [80, 65]}, "rise"),
        ({"subgroups": ["bmi"]}, "no group"),
        ({"subgroups": ["age"], "age_edges": []}, "empty"),
        ({"epsilon": 2.0, "subsets": "every"}, "no noised form"),
        ({"epsilon": 2.0, "described": True}, "no noised form"),
        ({"held_out_from": "yesterday"}, "date"),
    ],
)
def test_options_that_cannot_be_meant(study: Study, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        asking(study, **options)


def test_every_set_is_of_five_modalities_at_most(study: Study) -> None:
    body = study.model_dump(mode="json", by_alias=True)
    note = next(plan for plan in body["modalities"].values() if plan["kind"] == "table")
    body["modalities"] = {f"t{k}": note for k in range(6)}
    assert Study.model_validate(body)
    with pytest.raises(ValueError, match="too many sets"):
        Study.model_validate(body | {"evaluation": body["evaluation"] | {"subsets": "every"}})
