"""The report's sections of statistics and of recalibration."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from fl_server.report import view
from fl_shared.metrics.evaluate import evaluate_predictions
from fl_shared.results import Results, Shift
from fl_shared.statistics import CountedSite, FieldStatistics, LabelStatistics, Quantile, Statistics
from fl_shared.study import TaskPlan


def statistics() -> Statistics:
    quantiles = tuple(
        Quantile(share=p, value=v, low=0.9 * v, high=1.1 * v) for p, v in ((0.01, 41.0), (0.5, 88.5), (0.99, 2310.0))
    )
    place: dict[str, Any] = {"modality": "ehr", "log": True, "missing": None, "n": 1234}
    return Statistics(
        schema=1, study="cardiac_demo", identity="ab" * 32, package="0.1.0", concepts="cd" * 32, synthetic=True,
        provenance="dp", epsilon=1.0, delta=1e-5, sensitivity=2.0,
        sites={"drum_tower": CountedSite(status="accepted", noise=7.5), "north_gate": CountedSite(status="absent")},
        fields=(
            FieldStatistics(**place, field="creatinine", title="Creatinine <b>", unit="umol/L", edges=(1.0, 2.0, 4.0),
                            counts=(600, None), quantiles=quantiles),
            FieldStatistics(**place, field="sex", title="Sex", unit="1", codes=(0.0, 1.0), counts=(700, 534)),
        ),
        labels=(
            LabelStatistics(task="death", label="", n=1234, events=200, share=0.162, low=0.14, high=0.19, sites=2),
            LabelStatistics(task="diagnosis", label="HYP", n=None,
                            events=None, share=None, low=None, high=None, sites=0),
        ),
        lines='constants_from = ["abab"]\n\n[tasks.death]\nweights = [5.17]\n',
        notes=("Noised: each count.",),
    )  # fmt: skip


def recalibrated(results: Results) -> Results:
    """Results of a recalibrated model beside the raw ones."""
    rng = np.random.default_rng(1)
    y = (rng.random((240, 1)) < 0.3).astype(float)
    p = 1 / (1 + np.exp(-(2 * (y - 0.5) + rng.normal(size=y.shape))))
    rows, curves = evaluate_predictions(
        site="west_bank", role="external", task="death", plan=TaskPlan(type="binary"), modalities="headline",
        model="recalibrated", predictions=p, targets=y, mask=np.ones_like(y, bool), patients=np.arange(240),
        bootstrap=100, seed=1, min_patients=10,
    )  # fmt: skip
    return results.model_copy(
        update={
            "evaluation": (*results.evaluation, *rows),
            "curves": (*results.curves, *curves),
            "shifts": (Shift(task="death", label="", shift=-1.234), Shift(task="diagnosis", label="MI", shift=0.0)),
            "statistics": statistics(),
            "privacy": results.privacy.model_copy(update={"evaluation_epsilon": 3.0}),
        }
    )


@pytest.fixture(scope="module")
def page(results: Results, read: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return read(recalibrated(results), tmp_path_factory.mktemp("counts"))


def test_statistics_are_told_with_their_bounds(page: Any) -> None:
    source, tags, text = page
    assert tags.open == [] and set(tags.targets) <= set(tags.ids) and len(tags.ids) == len(set(tags.ids))
    section = text[text.index("Statistics of the training patients") :]
    assert "added up over 1 sites" in section and "Noised: each count." in section
    assert re.search(r"16\.2\s?% \(14\.0–19\.0\)", section)
    assert re.search(r"88\.5\s?79\.[67] to 97\.[34]", section)
    assert "2,310" in section and "0: 700, 1: 534" in section and "Creatinine <b>" in section
    assert 'constants_from = ["abab"]' in section and "weights = [5.17]" in section
    assert "<b>" not in source


def test_recalibration_shows_both_models_and_stays_out_of_headlines(page: Any, results: Results) -> None:
    _, _, text = page
    section = text[text.index("Recalibration The intercept") : text.index("Subgroups Not asked")]
    assert "death logit shifted by -1.234" in section and "diagnosis, MI logit shifted by +0.000" in section
    both = recalibrated(results)
    raw = view.find(both.evaluation, site="west_bank", task="death", label="", modalities="headline",
                    metric="expected_observed", model="attention, round 12")  # fmt: skip
    then = view.find(both.evaluation, site="west_bank", task="death", model="recalibrated", metric="expected_observed")
    assert f"{view.estimate(raw)} then {view.estimate(then)}" in section
    assert "recalibrated" not in text[text.index("Summary AUROC") : text.index("Study and sites Identity")]
    assert {row.model for row in view.headline_rows(both, "death")} == {"attention, round 12"}


def test_noised_metrics_are_named_under_privacy(page: Any, results: Results) -> None:
    assert "judged patients have an epsilon of their own, 3," in page[2]
    assert "the statistics, the counts of the recalibration" in page[2]


def test_without_them_their_sections_say_why(results: Results, read: Any, tmp_path: Any) -> None:
    _, _, text = read(results, tmp_path)
    assert "Recalibration Not asked for in the study (evaluation.recalibrate)" in text
    assert "Statistics of the training patients Not counted: the study has no [statistics]." in text
