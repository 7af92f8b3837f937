"""What the coordinator makes of the sites' rows and curves."""

from __future__ import annotations

import time

import numpy as np
from sklearn.metrics import roc_auc_score

from fl_server.synthesis import synthesized
from fl_shared.metrics.evaluate import evaluate_predictions
from fl_shared.metrics.table import METRICS, metrics_of
from fl_shared.results import Curve, EvaluationRow
from fl_shared.task import TaskPlan

ROLES = {"a": "train", "b": "train", "c": "external", "d": "external"}


def row(site, value, *, metric="auroc", subgroup="", role=None, reach=0.05, **where):
    place = {"task": "t", "label": "", "modalities": "all", "model": "federated"} | where
    return EvaluationRow(
        site=site, role=role or ROLES[site], **place, subgroup=subgroup, metric=metric, value=value,
        ci_low=max(value - reach, 0.0), ci_high=value + reach, n=100, events=30,
    )  # fmt: skip


def test_roles_apart_and_what_is_lost():
    rows = [row("a", 0.85), row("b", 0.83), row("c", 0.70), row("d", 0.78), row("c", 0.2, subgroup="sex=female")]
    found = synthesized(rows, (), roles=ROLES)
    by_role = {summary.role: summary for summary in found.summaries}
    assert by_role["train"].sites == ("a", "b")
    assert by_role["external"].sites == ("c", "d")
    assert by_role["external"].worst == "c"
    assert 0.70 < by_role["external"].value < 0.78
    (gap,) = found.gaps
    assert gap.value == round(gap.value, 4)
    assert abs(gap.value - (by_role["train"].value - by_role["external"].value)) < 1.1e-4
    assert gap.ci_low < gap.value < gap.ci_high


def test_no_gap_of_what_has_a_right_value_or_no_external_site():
    rows = [row("a", 1.1, metric="calibration_slope"), row("c", 0.7, metric="calibration_slope"), row("b", 0.8)]
    found = synthesized(rows, (), roles=ROLES)
    assert [summary.metric for summary in found.summaries].count("calibration_slope") == 2
    assert not found.gaps


def test_a_model_is_never_mixed_with_another():
    rows = [row("a", 0.9), row("b", 0.8, model="personal"), row("a", 0.7, modalities="ecg"), row("a", 0.6, label="x")]
    found = synthesized(rows, (), roles=ROLES)
    assert sorted(summary.value for summary in found.summaries) == [0.6, 0.7, 0.8, 0.9]


def test_a_mean_of_other_labels_is_named():
    note = "mean of 2 of 3 labels, without x"
    rows = [row("a", 0.9, label="macro"), row("b", 0.8, label="macro").model_copy(update={"note": note})]
    (summary,) = synthesized(rows, (), roles=ROLES).summaries
    assert summary.note == f"b: {note}"


def curve(site, counts=(40, 40, 40), **more):
    return Curve(
        site=site, task="t", label="", modalities="all", kind="risks", x=(0.1, 0.3, 0.6), y=(0.1, 0.25, 0.5),
        counts=counts, **more,
    )  # fmt: skip


def test_pooled_of_two_sites_and_more():
    curves = [curve("a"), curve("b"), curve("c"), curve("c", model="other")]
    found = synthesized((), curves, roles=ROLES).pooled
    assert [(one.role, one.sites, one.n) for one in found] == [
        ("train", ("a", "b"), 240),
        ("all", ("a", "b", "c"), 360),
    ]
    assert all(one.note.startswith("approximate") for one in found)
    assert all(one.ci_low < one.value < one.ci_high for one in found)


def test_sites_that_withhold_a_count_are_not_pooled():
    assert not synthesized((), [curve("a"), curve("b", counts=(40, None, 40))], roles=ROLES).pooled


def test_from_predictions_at_four_sites_to_one_number():
    rng = np.random.default_rng(4)
    rows, curves, told = [], [], []
    for site, role in ROLES.items():
        y = (rng.random(300) < 0.3).astype(float)
        risks = 1 / (1 + np.exp(1 - (1.5 if role == "train" else 1.0) * y - rng.normal(size=300)))
        found = evaluate_predictions(
            site=site, role=role, task="t", plan=TaskPlan(type="binary"), modalities="all", model="federated",
            predictions=risks[:, None], targets=y[:, None], mask=np.ones((300, 1), bool), patients=np.arange(300),
            bootstrap=200, seed=0, min_patients=10,
        )  # fmt: skip
        rows, curves, told = rows + found[0], curves + found[1], [*told, (risks, y)]
    found = synthesized(rows, curves, roles=ROLES)
    values = {row.site: row.value for row in rows if row.metric == "auroc"}
    for role, sites in (("train", "ab"), ("external", "cd")):
        (summary,) = (one for one in found.summaries if one.metric == "auroc" and one.role == role)
        assert min(values[site] for site in sites) <= summary.value <= max(values[site] for site in sites)
    (everyone,) = (one for one in found.pooled if one.role == "all")
    exact = roc_auc_score(np.concatenate([y for _, y in told]), np.concatenate([risks for risks, _ in told]))
    assert abs(everyone.value - exact) < 0.002
    assert everyone.n == 1200
    assert {gap.metric for gap in found.gaps} == {row.metric for row in rows if METRICS[row.metric].ideal is None}


def test_five_sites_four_tasks_five_sets_take_less_than_a_second():
    rng = np.random.default_rng(0)
    sites = {f"s{k}": "train" if k < 3 else "external" for k in range(5)}
    rows = [
        row(
            site, float(rng.uniform(0.6, 0.9)), role=role, metric=metric, task=f"t{task}", label=f"l{label}",
            modalities=f"m{m}",
        )
        for site, role in sites.items() for task in range(4) for label in range(3) for m in range(5)
        for metric in metrics_of("binary")
    ]  # fmt: skip
    start = time.process_time()
    found = synthesized(rows, (), roles=sites)
    assert time.process_time() - start < 1.0
    assert len(found.summaries) == 2 * 4 * 3 * 5 * len(metrics_of("binary"))
