"""The risk timeline in the report: every outcome with its numbers in words, merged bands, and what is withheld."""

from __future__ import annotations

import re

import numpy as np
import pytest

from fl_server.report import timeline
from fl_shared.metrics.evaluate import evaluate_predictions
from fl_shared.results import Curve, Results
from fl_shared.study import TaskPlan

WINDOWS = (90.0, 365.0)
PLANS = {
    "recovery": TaskPlan(type="survival", windows=WINDOWS),
    "ef_decline": TaskPlan(type="survival", windows=WINDOWS),
    "cause": TaskPlan(type="competing", labels=("cardiac", "other"), windows=WINDOWS),
    "rank": TaskPlan(type="survival", survival_model="cox", windows=WINDOWS),
}
SITES = {"harbour": ("external", 400), "drum_tower": ("train", 300), "north_gate": ("train", 25)}


def _judged(task: str, site: str):
    plan, (role, n) = PLANS[task], SITES[site]
    rng, causes = np.random.default_rng([n, len(task)]), max(1, len(plan.labels))
    level = rng.beta(0.7, 1.5, (n, causes)) / causes
    risk = level[:, None] * np.linspace(0.4, 1.0, plan.bins)[:, None]
    cause = np.where(rng.random(n) < level.sum(1), rng.integers(1, causes + 1, n), 0)
    time = np.where(cause > 0, rng.uniform(1, 365, n), rng.uniform(100, 900, n))
    risk = risk[..., 0] if plan.type == "survival" else risk
    return evaluate_predictions(
        site=site, role=role, task=task, plan=plan, modalities="headline", model="federated",
        predictions=risk[:, -1:] if task == "rank" else risk, targets=np.stack([time, cause], axis=1),
        mask=np.ones((n, 2), bool), patients=np.arange(n), bootstrap=20, seed=1, min_patients=10,
    )  # fmt: skip


@pytest.fixture(scope="module")
def timed(results: Results) -> Results:
    judged = [_judged(task, site) for task in PLANS for site in SITES]
    study = results.study.model_copy(
        update={
            "tasks": {task: plan.told for task, plan in PLANS.items()},
            "types": {task: plan.type for task, plan in PLANS.items()},
            "headline": {task: plan.headline for task, plan in PLANS.items()},
        }
    )
    return results.model_copy(
        update={
            "study": study,
            "evaluation": tuple(row for rows, _ in judged for row in rows),
            "curves": tuple(curve for _, curves in judged for curve in curves),
        }
    )


def test_every_number_of_every_outcome_can_be_heard(timed, read, tmp_path):
    page, tags, text = read(timed, tmp_path)
    assert tags.open == [] and set(tags.targets) <= set(tags.ids) and len(tags.ids) == len(set(tags.ids))
    section = page[page.index('<section aria-labelledby="timeline">') :]
    section = section[: section.index("</section>")]
    told = [
        attributes["aria-label"] for _, attributes in tags.tags if "day and band" in attributes.get("aria-label", "")
    ]
    assert [re.search(r"risk of (.*?), by day", words)[1] for words in told] == [
        "recovery", "ef_decline", "cause, cardiac", "cause, other"]  # fmt: skip
    for curve in (curve for curve in timed.curves if curve.kind == "bands"):
        named = f"{curve.task}, {curve.label}" if curve.task == "cause" else curve.task
        (words,) = [words for words in told if f"risk of {named}, by day" in words]
        said = words[words.index(f"{curve.site}: ") :].partition(f"by day {curve.day:g} ")[2].partition(" by day ")[0]
        for x, y in zip(curve.x, curve.y, strict=True):
            assert f"predicted {x:.1%}, observed {y:.1%}" in said.partition("; ")[0]
    assert section.count('aria-label="Predicted and observed risk') == 4 and "var(--band-high)" in section
    assert "north_gate" not in section  # 25 patients: no site's row without a number
    assert "rank: no site has enough patients and events" in text
    assert text.count("Risk over time") == 2  # contents and section


def test_bands_told_together_are_named_together():
    place = {"site": "a", "task": "t", "label": "90d", "modalities": "all", "kind": "bands", "day": 90.0}
    curve = Curve(**place, x=(0.05, 0.4, 0.4), y=(0.0, 0.35, 0.35))
    assert timeline.words([curve]) == (
        "a: by day 90 low predicted 5.0%, observed 0.0%, middle and high predicted 40.0%, observed 35.0%."
    )
    whole = curve.model_copy(update={"x": (0.2,) * 3, "y": (0.25,) * 3})
    assert "low and middle and high predicted 20.0%, observed 25.0%" in timeline.words([whole])


def test_a_site_without_numbers_of_an_outcome_says_so(timed, read, tmp_path):
    fewer = [c for c in timed.curves if (c.site, c.task) != ("drum_tower", "recovery")]
    page, _, _ = read(timed.model_copy(update={"curves": tuple(fewer)}), tmp_path)
    assert page.count("withheld: too few patients or events</text>") == 1


def test_without_times_to_an_event_the_section_says_so(results, read, tmp_path):
    _, _, text = read(results, tmp_path)
    assert "Risk over time No task of this study is a time to an event." in text
