"""A record in front of a real model: Shapley values, targets, attributions of each input."""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest
import torch

from fl_client.bedside import explain
from fl_client.bedside.case import Case, predictions, records
from fl_client.bedside.opened import read_patients
from fl_client.bedside.targets import Target, log_odds, main_target, number, scores, targets_of
from fl_client.bedside.timeline import lanes_of, suggestion_of
from fl_client.bedside.words import from_bytes, words_of
from fl_shared.metrics.timeline import risk_at
from fl_shared.text import byte_windows


@pytest.fixture(scope="module")
def opened(drawn):
    return drawn.opened()


@pytest.fixture(scope="module")
def cohort(drawn, opened):
    return read_patients(drawn.site(), opened, None)[0]


@pytest.fixture(scope="module")
def case(drawn, opened, cohort):
    row = [cohort.patient_ids[p] for p in cohort.patient].index(drawn.whole)
    return Case.of(opened.model, opened.bundle.study, records(cohort, [row]))


@pytest.fixture(scope="module")
def main(opened):
    return main_target(opened.bundle.study)


def test_shapley_values_are_the_mean_over_all_orders(case):
    start = {target: 0.1 * k for k, target in enumerate(targets_of(case.study))}
    found = case.contributions(start)
    assert case.present == ("cine", "ecg", "ehr", "text")
    for target in targets_of(case.study):
        parts = dict.fromkeys(case.present, 0.0)
        for order in permutations(case.present):
            before = start[target]
            for k, name in enumerate(order, 1):
                after = case.with_only(order[:k])[target]
                parts[name] += (after - before) / math.factorial(len(order))
                before = after
        assert found[target] == pytest.approx(parts, abs=1e-9)
        assert sum(found[target].values()) == pytest.approx(case.scores()[target] - start[target], abs=1e-9)


def test_targets_say_what_the_heads_predict(case, opened, cohort):
    """Every risk, through its log-odds and back, is that of `Head.predict`; timed ones as `risk_at` reads them."""
    study, model = opened.bundle.study, opened.model
    with torch.no_grad():
        logits = model(records(cohort, range(len(cohort)))).logits
        said = {task: x.numpy() for task, x in model.predict({t: z.double() for t, z in logits.items()}).items()}
        found = scores(model, study, logits)
    for target, each in found.items():
        plan, got = study.tasks[target.task], [number(float(s), target) for s in each]
        if target.day is None:
            expected = said[target.task][:, target.place]
        else:
            at = risk_at(said[target.task], edges=plan.edges, days=[target.day])[:, 0]
            expected = at if at.ndim == 1 else at[:, target.place]
        assert got == pytest.approx(expected.tolist(), abs=1e-9), target
    assert {t.task for t in found} == set(study.tasks) - {"fibrosis"}
    assert predictions(model, study, cohort)[main_target(study)] == pytest.approx(found[main_target(study)], abs=1e-5)


def test_a_window_between_two_edges_is_interpolated():
    target = Target(task="t", label="", kind="risk", day=45.0)
    assert (target.told, target.title) == ("45d", "t, event by day 45")
    assert float(log_odds(torch.tensor([0.0, 1.0]))[1]) > 25  # a certainty stays finite


def test_the_first_risk_in_the_order_of_the_results_is_the_main_one(opened):
    """The canonical text of a study sorts tasks; the results keep the order that was written: survival first."""
    assert next(iter(opened.bundle.study.tasks)) == "survival"
    assert main_target(opened.bundle.study).title == "survival, event by day 365"


def test_signals_and_words_are_complete(case, main):
    """Attributions sum to the number as it is less the number at the baseline, asked of the whole model."""
    signal = explain.of_signal(case, main, "ecg")
    flat = {**case.inputs("ecg"), "signal": torch.zeros_like(case.inputs("ecg")["signal"])}
    expected = case.scores()[main] - float(case.score_of(main, "ecg", flat))
    assert signal.total == pytest.approx(expected, abs=1e-5)
    assert float(signal.values.sum()) == pytest.approx(expected, abs=max(0.02 * abs(expected), 0.02))
    text = explain.of_text(case, main, "text")
    assert text is not None and text.gap <= max(0.02 * abs(text.total), 0.02)
    mask = case.inputs("text")["mask"][0]
    assert not text.values[0, ~mask].any()
    last = int(mask.nonzero()[-1])
    assert text.values[0, 0] == 0 and text.values[0, last] == 0 and text.values[0, 1:last].abs().sum() > 0


def test_a_field_left_out_is_as_if_it_had_not_been_observed(case, main):
    found = {field.name: field for field in explain.of_fields(case, main, "ehr")}
    inputs = {key: each.clone() for key, each in case.inputs("ehr").items()}
    where = case.study.modalities["ehr"].fields.index("lvef")
    inputs["observed"][0, where] = False
    expected = case.scores()[main] - float(case.score_of(main, "ehr", inputs))
    assert found["lvef"].effect == pytest.approx(expected, abs=1e-6)
    assert found["qtc"].effect is None  # no column of it in this hospital


def test_grad_cam_has_the_places_of_the_last_level(case, main):
    heat = explain.of_images(case, main, "cine")
    assert heat.shape == (4, 1, 2, 2) and bool((heat >= 0).all())


def test_labels_are_drawn_on_every_phase(case):
    assert explain.drawn(case)["fibrosis"].shape == (4, 1, 32, 32)


def test_words_of_bytes_keep_text_and_sum(drawn, case):
    text = "Ödem: keins. 心衰 门诊\n2.5 mg"
    plan = case.study.modalities["text"].model_copy(update={"window": 16})
    ids, mask, _ = byte_windows(text, max_tokens=256, window=16)
    values = torch.arange(256, dtype=torch.float64)
    words = words_of(torch.from_numpy(ids), torch.from_numpy(mask), values, plan=plan, site=drawn.site())
    assert "".join(word.text for word in words) == text
    content = torch.from_numpy(mask & (ids >= 4))
    assert sum(word.value for word in words) == pytest.approx(float(values[content].sum()))
    assert [piece for piece, _ in from_bytes([ord("a") + 4, ord(" ") + 4, ord("b") + 4], [1, 2, 3])] == ["a", " ", "b"]


def test_lanes_have_the_bands_of_the_plan(opened):
    study = opened.bundle.study
    risks = {"30": 0.05, "365": 0.3001}
    said = {
        t: float(log_odds(torch.tensor(risks[f"{t.day:g}"], dtype=torch.float64)))
        for t in targets_of(study)
        if t.task == "survival"
    }
    (lane,) = lanes_of(study, said)
    assert [(w.day, w.band) for w in lane.windows] == [(30.0, "low"), (365.0, "high")]
    assert lane.windows[1].risk == pytest.approx(0.3001)


def test_the_suggestion_is_the_likeliest_follow_up(opened, case):
    found = suggestion_of(opened.bundle.study, case.scores())
    assert found is not None and sum(found.shares.values()) == pytest.approx(1.0)
    assert found.shares[found.suggested] == max(found.shares.values())


def test_other_rows_do_not_matter(opened, cohort, case, main):
    together = predictions(opened.model, opened.bundle.study, cohort)[main]
    row = list(cohort.sample_ids).index(
        next(s for s, p in zip(cohort.sample_ids, cohort.patient, strict=True) if p == 0)
    )
    alone = Case.of(opened.model, opened.bundle.study, records(cohort, [row])).scores()[main]
    assert together[row] == pytest.approx(alone, abs=1e-5)
    assert np.isfinite(together).all()
