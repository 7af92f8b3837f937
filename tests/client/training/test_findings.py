"""Every set of modalities, contributions, hidden inputs, subgroups, Table 1 and flow of one judged model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import combinations, permutations
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from fl_client.data.cohort import CheckReport, Cohort, Quarantined
from fl_client.egress import Egress
from fl_client.training.contributions import contributions, filled, shapley
from fl_client.training.findings import judged
from fl_client.training.flow import flow
from fl_client.training.hidden import hidden_inputs
from fl_client.training.judge import Judge, Told, predict
from fl_client.training.loop import Trainer
from fl_client.training.rows import as_batch
from fl_client.training.subgroups import subgroup_rows
from fl_shared.counts import subsets
from fl_shared.metrics.bootstrap import patient_weights
from fl_shared.metrics.evaluate import evaluate_predictions
from fl_shared.models.build import build_model, select
from fl_shared.results import Findings
from fl_shared.site import Site
from fl_shared.study import Study

PATIENTS, RECORDS = 400, 500
ASKED = {
    "subsets": "every", "hidden": [0.25, 0.5], "subgroups": ["age", "sex", "ward"], "age_edges": [40, 65, 97],
    "described": True,
}  # fmt: skip
TASKS = {
    "death": {"type": "binary"},
    "mace": {"type": "multilabel", "labels": ["mi", "hf"], "headline": ["hf"]},
    "ef": {"type": "regression", "offset": 55.0, "scale": 10.0},
    "kind": {"type": "multiclass", "labels": ["dcm", "hcm", "none"]},
    "late": {"type": "survival", "horizon": 100.0, "bins": 5, "windows": [50.0]},
}


@pytest.fixture
def study(make_study: Any) -> Study:
    body = make_study().model_dump(mode="json", by_alias=True)
    table = {"kind": "table", "fields": ["age", "sex", "bmi"]}
    vectors = {"kind": "embedding", "features": 3, "leaky": True}
    body["modalities"] = {"ecg": body["modalities"]["ecg"], "ehr": table, "note": vectors}
    return Study.model_validate(body | {"tasks": TASKS, "evaluation": body["evaluation"] | ASKED})


@pytest.fixture
def site(tmp_path: Any) -> Site:
    ward = {"ward": {"column": "ward", "codes": {"1": "icu", "2": "general"}}}
    made = Site.model_validate(
        {"schema": 1, "name": "z", "state": "state", "privacy": {"min_patients": 2}, "subgroups": ward}
    )
    made._folder = tmp_path
    made.state_dir.mkdir()
    return made


@pytest.fixture
def cohort() -> Cohort:
    rng = np.random.default_rng(8)
    n, patient = (
        RECORDS,
        np.sort(np.concatenate([np.arange(PATIENTS), rng.integers(PATIENTS, size=RECORDS - PATIENTS)])),
    )
    sick = (rng.random(PATIENTS) < 0.4)[patient]
    age, male = rng.uniform(20, 99, PATIENTS)[patient], (rng.random(PATIENTS) < 0.6)[patient]
    age[rng.random(n) < 0.1] = np.nan
    ecg, ehr, note = rng.random(n) < 0.8, rng.random(n) < 0.8, rng.random(n) < 0.6
    ehr |= ~(ecg | note)
    days = np.stack([rng.exponential(90, n) * np.where(sick, 0.6, 1.2), rng.random(n) < 0.7], axis=1)
    signal = rng.normal(size=(n, 2, 100)) * np.where(sick, 2, 1)[:, None, None] * ecg[:, None, None]
    edges = np.array(["0-39", "40-64", "65-96", "97+"])
    return Cohort(
        site="z",
        sample_ids=tuple(f"s{k}" for k in range(n)),
        patient_ids=tuple(f"p{k}" for k in range(PATIENTS)),
        patient=patient.astype(np.int64),
        held_out=np.arange(PATIENTS) % 2 == 0,
        inputs={
            "ecg": {"signal": signal.astype(np.float32), "lead_mask": np.ones((n, 2), bool)},
            "ehr": {"values": (rng.random((n, 3)) + sick[:, None]).astype(np.float32) * ehr[:, None],
                    "observed": np.repeat(ehr[:, None], 3, axis=1)},
            "note": {"vectors": rng.normal(size=(n, 1, 3)).astype(np.float32) * note[:, None, None],
                     "mask": note[:, None]},
        },
        present={"ecg": ecg, "ehr": ehr, "note": note},
        targets={
            "death": sick[:, None].astype(np.float32),
            "mace": np.stack([rng.random(n) < 0.03, sick], axis=1).astype(np.float32),
            "ef": (60 - 15 * sick + rng.normal(0, 5, n))[:, None].astype(np.float32),
            "kind": rng.integers(0, 3, (n, 1)).astype(np.float32),
            "late": days.astype(np.float32),
        },
        target_mask={
            "death": np.ones((n, 1), bool), "mace": rng.random((n, 2)) < 0.9, "ef": np.ones((n, 1), bool),
            "kind": np.ones((n, 1), bool), "late": np.ones((n, 2), bool),
        },
        traits={"age": age, "sex": 1.0 - male, "bmi": rng.normal(25, 4, n)},
        groups={
            "age": np.where(np.isnan(age), "", edges[np.searchsorted([40, 65, 97], np.nan_to_num(age), side="right")]),
            "sex": np.where(male, "male", "female"),
            "ward": np.where(rng.random(PATIENTS) < 0.7, "icu", "general")[patient],
        },
        report=CheckReport(
            rows=n + 60, rejects=(), repairs={},
            quarantined=[Quarantined(row=k, modality=None, check="index-time-in-future", detail="") for k in range(30)]
            + [Quarantined(row=k, modality="ecg", check="undecodable", detail="") for k in range(20)]
            + [Quarantined(row=k, modality="ecg", check="path-invalid", detail="") for k in range(3)],
            flow={"rows": n + 60, "index_time_ok": n + 30, "after_outcome_check": n + 30, "usable": n},
        ),
    )  # fmt: skip


@pytest.fixture
def judge(study: Study, site: Site, cohort: Cohort) -> Judge:
    return Judge(study=study, site=site, cohort=cohort)


@pytest.fixture
def found(judge: Judge) -> Findings:
    model = build_model(judge.study)
    return judged(judge, model, as_batch(judge.cohort, device=torch.device("cpu")), name="federated")


def invented(cohort: Cohort, study: Study, *, seed: int = 1) -> dict[str, Told]:
    """Risks of death from every set of modalities: the more are there, the better."""
    rng, rows = np.random.default_rng(seed), np.arange(len(cohort))
    noise = {m: rng.normal(size=len(rows)) for m in study.modalities}
    told = {}
    for name, members in subsets(study).items():
        here = rows[np.any([cohort.present[m] for m in members], axis=0)]
        signal = sum((cohort.targets["death"][here, 0] + noise[m][here]) * cohort.present[m][here] for m in members)
        risk = 1 / (1 + np.exp(-np.asarray(signal)[:, None]))
        told[name] = Told(
            rows=here, predictions={"death": risk}, targets={"death": cohort.targets["death"][here]},
            mask={"death": cohort.target_mask["death"][here]},
        )  # fmt: skip
    return told


def test_all_that_a_study_asks_for_passes_the_gate(found: Findings, study: Study, site: Site) -> None:
    gate = Egress(site)
    assert gate.release_findings(found, study=study, round=1, min_patients=2) == found
    assert {row.modalities for row in found.evaluation} == {
        "ecg", "ehr", "note", "ecg+note", "ehr+note", "all", "headline",
    }  # fmt: skip
    told = {row.subgroup for row in found.evaluation if row.value is not None}
    assert told >= {"", "hidden=0.25", "hidden=0.5", "sex=male", "sex=female", "age=40-64", "ward=icu"}
    assert "age=97+" not in told and "age=97+" in {row.subgroup for row in found.evaluation}
    assert {row.modalities for row in found.evaluation if row.subgroup} == {"headline"}
    assert {part.task for part in found.contributions} == set(TASKS)
    assert all(part.value is not None and part.ci_low is not None for part in found.contributions)
    assert found.described and [part.stage for part in found.flow[:5]] == [
        "rows", "index_time_ok", "after_outcome_check", "usable", "judged",
    ]  # fmt: skip


def some_of(cohort: Cohort, patients: int, *, seed: int) -> Cohort:
    """The first patients, with outcomes and groups that are not known of some."""
    rng, rows = np.random.default_rng(seed), cohort.patient < patients
    n = int(rows.sum())
    mask = {task: each[rows] & (rng.random((n, 1)) < 0.95) for task, each in cohort.target_mask.items()}
    groups = {name: np.where(rng.random(n) < 0.97, each[rows], "") for name, each in cohort.groups.items()}
    return replace(
        cohort, sample_ids=cohort.sample_ids[:n], patient_ids=cohort.patient_ids[:patients],
        patient=cohort.patient[rows], held_out=cohort.held_out[:patients],
        inputs={m: {k: v[rows] for k, v in named.items()} for m, named in cohort.inputs.items()},
        present={m: there[rows] for m, there in cohort.present.items()},
        targets={task: each[rows] for task, each in cohort.targets.items()}, target_mask=mask, groups=groups,
        traits={name: each[rows] for name, each in cohort.traits.items()},
        report=replace(cohort.report, flow=cohort.report.flow | {"usable": n}) if cohort.report else None,
    )  # fmt: skip


@pytest.mark.parametrize("patients", [6, 18, 45, 90, 170, 260])
def test_small_cohorts_with_gaps_pass_the_gate_too(study: Study, site: Site, cohort: Cohort, patients: int) -> None:
    """What the gate refuses as a cell by subtraction is withheld before: otherwise nothing at all would leave."""
    known = some_of(cohort, patients, seed=patients)
    model, batch = build_model(study), as_batch(known, device=torch.device("cpu"))
    found = judged(Judge(study=study, site=site, cohort=known), model, batch, name="federated")
    Egress(site).check_findings(found, study=study, min_patients=2)


def whole_headline(cohort: Cohort) -> Cohort:
    """Every sample has an input of the headline's, so that ``all`` and ``headline`` are of the same samples."""
    return replace(cohort, present=cohort.present | {"ehr": cohort.present["ehr"] | ~cohort.present["ecg"]})


def test_a_training_site_passes_too(study: Study, site: Site, cohort: Cohort) -> None:
    here = site.model_copy(update={"name": "a"})
    here._folder = site._folder
    known = replace(whole_headline(cohort), site="a")
    model, batch = build_model(study), as_batch(known, device=torch.device("cpu"))
    found = judged(Judge(study=study, site=here, cohort=known), model, batch, name="federated")
    Egress(here).check_findings(found, study=study, min_patients=2)
    stages = {stage.stage: stage.samples for stage in found.flow}
    held_out = int(cohort.held_out[cohort.patient].sum())
    assert (stages["usable"], stages["judged"]) == (RECORDS, held_out)
    assert next(row.n for row in found.evaluation if (row.task, row.modalities) == ("death", "all")) == held_out


def test_a_study_without_the_options_costs_no_more(
    study: Study, site: Site, cohort: Cohort, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Encoders run once a chunk, with all options and without; without them nothing is judged that was not before."""
    plain = study.model_copy(update={"evaluation": study.evaluation.model_copy(update={
        "subsets": "alone", "hidden": (), "subgroups": (), "described": False})})  # fmt: skip
    batch, counted = as_batch(cohort, device=torch.device("cpu")), {}
    for name, plan in {"asked": study, "plain": plain}.items():
        model, runs = build_model(plan), []
        for encoder in model.encoders.values():
            encoder.register_forward_hook(lambda *_, runs=runs: runs.append(1))
        model.fusion.register_forward_hook(lambda *_, runs=runs: runs.append(0))
        calls: list[str] = []
        monkeypatch.setattr(
            "fl_client.training.judge.evaluate_predictions",
            lambda calls=calls, **more: (calls.append(more["modalities"]), ([], []))[1],
        )
        judge = Judge(study=plan, site=site, cohort=replace(cohort, groups={}))
        found = judged(judge, model, batch, name="federated")
        counted[name] = sum(runs), runs.count(0), len(calls)
    assert counted["asked"][0] == counted["plain"][0] == 3 * 2  # encoders x chunks
    assert counted["plain"][1:] == (5 * 2, 5 * len(TASKS))  # three alone, all, headline
    assert not found.contributions and not found.described and not found.flow


def test_sets_between_one_and_all_are_judged_on_the_same_rows(found: Findings) -> None:
    ns = {
        (row.task, row.label): {r.n for r in found.evaluation if (r.task, r.label) == (row.task, row.label)
            and not r.subgroup and ("+" in r.modalities or r.modalities == "all")}
        for row in found.evaluation
    }  # fmt: skip
    assert all(len(each) == 1 for each in ns.values())


# contributions


def test_shapley_values_equal_the_mean_over_all_orders() -> None:
    rng, players = np.random.default_rng(0), ("a", "b", "c", "d")
    values = {frozenset(s): rng.normal(size=7) for k in range(5) for s in combinations(players, k)}
    for player in players:
        gains = []
        for order in permutations(players):
            before = frozenset(order[: order.index(player)])
            gains.append(values[before | {player}] - values[before])
        np.testing.assert_allclose(shapley(values, player), np.mean(gains, axis=0), atol=1e-12)
    total = sum(shapley(values, player) for player in players)
    np.testing.assert_allclose(total, values[frozenset(players)] - values[frozenset()], atol=1e-12)


def test_a_set_that_shows_nothing_of_a_row_gives_the_mean_risk(judge: Judge) -> None:
    told = invented(judge.cohort, judge.study)
    said = filled(told["ecg"], told["all"])
    assert said.rows.tolist() == told["all"].rows.tolist()
    shown = judge.cohort.present["ecg"]
    np.testing.assert_array_equal(said.predictions["death"][shown], told["ecg"].predictions["death"])
    np.testing.assert_allclose(said.predictions["death"][~shown], told["all"].predictions["death"].mean())


def test_contributions_equal_a_loop_over_orders_and_resamples(judge: Judge) -> None:
    """With scikit-learn's AUROC on every set, of the rows as they are and of each resample of patients."""
    from sklearn.metrics import roc_auc_score

    study = judge.study.model_copy(update={"tasks": {"death": judge.study.tasks["death"]}})
    judge = replace(judge, study=study)
    told, patient = invented(judge.cohort, study), judge.cohort.patient
    y, names = judge.cohort.targets["death"][:, 0], tuple(study.modalities)
    members = {
        frozenset(m): filled(told[name], told["all"]).predictions["death"][:, 0] for name, m in subsets(study).items()
    }

    def phis(weights: Any) -> dict[str, float]:
        value = {s: float(roc_auc_score(y, risk, sample_weight=weights[patient])) for s, risk in members.items()}
        value[frozenset()] = 0.5
        orders = {name: [order[: order.index(name)] for order in permutations(names)] for name in names}
        return {
            name: float(np.mean([value[frozenset((*o, name))] - value[frozenset(o)] for o in each]))
            for name, each in orders.items()
        }

    rows, _ = judge.evaluate("death", told["all"], modalities="all", model="federated")
    found = {c.modality: c for c in contributions(judge, "death", told, rows, model="federated")}
    [draws] = patient_weights(PATIENTS, resamples=100, seed=study.seed, rows=100)
    once, loop = phis(np.ones(PATIENTS)), [phis(weights) for weights in draws]
    for name in names:
        low, high = np.percentile([each[name] for each in loop], [2.5, 97.5])
        assert found[name].value == pytest.approx(once[name], abs=5.1e-5)
        assert found[name].ci_low == pytest.approx(low, abs=5.1e-5)
        assert found[name].ci_high == pytest.approx(high, abs=5.1e-5)
        assert found[name].n == RECORDS and found[name].value > 0
    whole = next(row.value for row in rows if row.metric == "auroc")
    assert sum(found[name].value or 0 for name in names) == pytest.approx((whole or 0) - 0.5, abs=2e-4)


# hidden inputs


def test_shares_of_the_inputs_are_hidden_and_never_the_last_one(study: Study, cohort: Cohort) -> None:
    many = 4000
    rng = np.random.default_rng(2)
    ecg, ehr = rng.random(many) < 0.7, rng.random(many) < 0.7
    wide = replace(
        cohort, sample_ids=tuple(map(str, range(many))), patient_ids=tuple(f"q{k}" for k in range(many)),
        patient=np.arange(many), present={"ecg": ecg, "ehr": ehr | ~ecg, "note": rng.random(many) < 0.5},
    )  # fmt: skip
    hidden = hidden_inputs(wide, study)
    assert list(hidden) == ["hidden=0.25", "hidden=0.5"]
    there = np.stack([wide.present[m] for m in ("ecg", "ehr")])
    for name, share in (("hidden=0.25", 0.25), ("hidden=0.5", 0.5)):
        shown = np.stack([hidden[name][m] for m in ("ecg", "ehr")])
        assert not (shown & ~there).any() and shown.any(0).all()
        assert not hidden[name]["note"].any()  # the headline inputs alone
        both = there.all(0)
        # of two, both are drawn in share^2 of the rows; then one is given back
        lost = (there & ~shown)[:, both]
        assert lost.any(0).mean() == pytest.approx(1 - (1 - share) ** 2, abs=0.03)
        assert lost.mean() == pytest.approx(share - share**2 / 2, abs=0.02)
        assert not (there & ~shown)[:, ~both].any()
    less, more = (np.stack([hidden[name][m] for m in ("ecg", "ehr")]) for name in hidden)
    assert not (more & ~less).any()
    again = hidden_inputs(replace(wide, patient_ids=tuple(f"r{k}" for k in range(many))), study)
    assert not np.array_equal(again["hidden=0.5"]["ecg"], hidden["hidden=0.5"]["ecg"])


def test_hidden_inputs_are_those_of_a_batch_that_lacks_them(judge: Judge) -> None:
    study, model = judge.study, build_model(judge.study)
    batch, rows = as_batch(judge.cohort, device=torch.device("cpu")), np.arange(RECORDS)
    hidden = hidden_inputs(judge.cohort, study)
    said = predict(model, batch, rows=rows, tasks=study.tasks, subsets=subsets(study), hidden=hidden)
    lacking = {m: torch.from_numpy(hidden["hidden=0.5"][m]) for m in study.modalities}
    alone = predict(
        model, replace(batch, present=lacking), rows=rows, tasks=study.tasks, subsets={"all": tuple(study.modalities)}
    )["all"]
    np.testing.assert_array_equal(said["hidden=0.5"].rows, alone.rows)
    np.testing.assert_array_equal(alone.rows, said["headline"].rows)  # nobody leaves
    np.testing.assert_allclose(said["hidden=0.5"].predictions["death"], alone.predictions["death"], atol=1e-6)
    assert not np.allclose(said["hidden=0.5"].predictions["death"], said["headline"].predictions["death"])


# subgroups


def rows_of(judge: Judge, said: Told) -> dict[tuple[str, str], Any]:
    found = subgroup_rows(judge, "death", said, modalities="headline", model="federated")
    return {(row.subgroup, row.metric): row for row in found}


def test_subgroups_equal_the_evaluation_of_their_rows(judge: Judge) -> None:
    said = invented(judge.cohort, judge.study)["headline"]
    found = rows_of(judge, said)
    for variable, name in (("sex", "male"), ("sex", "female"), ("age", "40-64"), ("ward", "icu")):
        inside = judge.cohort.groups[variable][said.rows] == name
        alone, _ = evaluate_predictions(
            site="z", role="external", task="death", plan=judge.study.tasks["death"], modalities="headline",
            model="federated", predictions=said.predictions["death"][inside], targets=said.targets["death"][inside],
            mask=said.mask["death"][inside], patients=judge.cohort.patient[said.rows[inside]], bootstrap=100,
            seed=judge.study.seed, min_patients=2,
        )  # fmt: skip
        for row in alone:
            assert found[f"{variable}={name}", row.metric] == row.model_copy(update={"subgroup": f"{variable}={name}"})


def told_names(judge: Judge, said: Told, **groups: Any) -> set[str]:
    cohort = replace(judge.cohort, groups=groups)
    return {name for (name, _), row in rows_of(replace(judge, cohort=cohort), said).items() if row.n is not None}


def test_groups_that_would_tell_a_few_are_withheld(judge: Judge) -> None:
    """One sample a patient; 100 of 200 with the event."""
    n = 200
    sick = np.arange(n) % 2 == 0
    cohort = replace(judge.cohort, patient=np.arange(RECORDS))
    judge = replace(judge, cohort=cohort)
    rng = np.random.default_rng(3)
    said = Told(
        rows=np.arange(n), predictions={"death": rng.random((n, 1))}, targets={"death": sick[:, None].astype(float)},
        mask={"death": np.ones((n, 1), bool)},
    )  # fmt: skip

    def ages(*sizes: int) -> Any:
        """The first patients are of the first group, and so on; the rest of none."""
        names = [
            *(np.repeat(f"{name}", size) for name, size in zip(("0-39", "40-64", "65-96", "97+"), sizes, strict=False))
        ]
        found = np.concatenate([*names, np.repeat("", RECORDS)])[:RECORDS]
        return found

    def told(*sizes: int) -> set[str]:
        return {name.removeprefix("age=") for name in told_names(judge, said, age=ages(*sizes))}

    assert told(100, 100) == {"0-39", "40-64"}
    assert told(200) == set()  # the whole is no group
    assert told(100, 82, 18) == {"0-39"}  # 9 events: withheld, and with it the group beside which it would follow
    assert told(80, 60, 42, 18) == {"0-39", "40-64"}
    assert told(80, 60, 60) == {"0-39", "40-64", "65-96"}
    assert told(100, 60) == {"0-39", "40-64"}  # 40 of unknown age
    assert told(100, 90) == {"0-39"}  # 10 of unknown age would follow, 5 of them with the event
    assert told(100, 80) == {"0-39", "40-64"}  # 20: 10 with the event and 10 without


def test_a_rare_label_has_no_subgroups(found: Findings) -> None:
    mi = [row for row in found.evaluation if row.label == "mi" and row.modalities == "headline" and not row.subgroup]
    assert mi and all(row.events for row in mi)
    of = [row for row in found.evaluation if row.task == "mace" and row.subgroup.startswith("sex=")]
    assert all(row.value is None for row in of if row.label == "mi")
    assert any(row.value is not None for row in of if row.label == "hf")
    assert any(row.value is not None for row in of if row.label == "macro")  # of the headline label alone


# Table 1 and flow


def test_table_1_equals_pandas(found: Findings, cohort: Cohort) -> None:
    frame = pd.DataFrame({name: values for name, values in cohort.traits.items()})
    told = {(d.variable, d.category, d.statistic): d.value for d in found.described}
    for name in ("age", "bmi"):
        about = frame[name].describe()
        for ours, theirs in {"mean": "mean", "sd": "std", "median": "50%", "q1": "25%", "q3": "75%"}.items():
            assert told[name, "", ours] == float(f"{about[theirs]:.3g}")
        assert told[name, "", "missing"] == round(frame[name].isna().mean(), 2)
    shares = pd.Series(cohort.groups["sex"]).value_counts(normalize=True)
    assert {c: told["sex", c, "share"] for c in ("male", "female")} == shares.round(2).to_dict()
    assert told["ward", "icu", "share"] == round((cohort.groups["ward"] == "icu").mean(), 2)
    assert told["has ecg", "", "share"] == round(cohort.present["ecg"].mean(), 2)
    assert told["outcome death", "", "share"] == round(float(cohort.targets["death"].mean()), 2)
    known = cohort.target_mask["mace"][:, 1]
    assert told["outcome mace", "hf", "share"] == round(float(cohort.targets["mace"][known, 1].mean()), 2)
    assert told["outcome kind", "dcm", "share"] == round(float((cohort.targets["kind"] == 0).mean()), 2)
    assert told["outcome ef", "", "mean"] == float(f"{pd.Series(cohort.targets['ef'][:, 0].astype(float)).mean():.3g}")
    assert told["outcome late", "", "share"] == round(float(cohort.targets["late"][:, 1].mean()), 2)


def test_nothing_of_table_1_is_of_few_patients(judge: Judge, study: Study) -> None:
    from fl_client.training.described import described

    cohort, few = judge.cohort, np.arange(RECORDS) < 7
    rare = np.where(few, "general", "icu")
    lame = replace(
        cohort,
        traits={"age": np.where(few, 50.0, np.nan), "sex": np.where(few, 1.0, 0.0)},
        groups={"ward": rare},
        present=cohort.present | {"ecg": ~few, "note": few},
        targets=cohort.targets | {"death": few[:, None].astype(np.float32)},
    )
    told = described(lame, np.arange(RECORDS), study=study, site=judge.site)
    for variable in ("sex", "ward", "has ecg", "has note", "outcome death"):
        assert [d.value for d in told if d.variable == variable and d.statistic == "share"], variable
        assert all(d.value is None for d in told if d.variable == variable and d.statistic == "share"), variable
    assert all(d.value is None for d in told if d.variable == "age")


def test_the_flow_and_why_samples_were_set_aside(judge: Judge) -> None:
    judge = replace(judge, cohort=whole_headline(judge.cohort))
    batch = as_batch(judge.cohort, device=torch.device("cpu"))
    found = judged(judge, build_model(judge.study), batch, name="federated")
    told = {stage.stage: (stage.samples, stage.patients) for stage in found.flow}
    assert told["rows"] == (RECORDS + 60, None) and told["index_time_ok"] == (RECORDS + 30, None)
    assert told["usable"] == told["judged"] == (RECORDS, PATIENTS)
    assert told["set aside: index-time-in-future"][0] == 30
    assert told["set aside: ecg: path-invalid"][0] is None  # 3

    def stages(**mask: Any) -> dict[str, int | None]:
        cohort = replace(judge.cohort, target_mask=judge.cohort.target_mask | mask)
        judged_rows, _ = replace(judge, cohort=cohort).evaluate(
            "death", replace(invented(cohort, judge.study)["all"]), modalities="all", model="federated"
        )
        found = flow(cohort, np.arange(RECORDS), study=judge.study, evaluation=judged_rows)
        return {stage.stage: stage.samples for stage in found}

    known = np.ones((RECORDS, 1), bool)
    known[:4] = False
    some = stages(death=known)
    assert some["judged"] is None and some["usable"] is None  # beside n = 496, 4 without a known outcome
    assert some["rows"] == RECORDS + 60


def test_the_trainer_tells_it_all(
    study: Study, site: Site, cohort: Cohort, make_trainer: Callable[..., Trainer]
) -> None:
    trainer = Trainer(study=study, site=site, cohort=cohort)
    found = trainer.evaluate(arrays=select(build_model(study), study.is_shared))
    assert found.contributions and found.described and found.flow
    assert Findings.model_validate_json(found.model_dump_json()) == found
