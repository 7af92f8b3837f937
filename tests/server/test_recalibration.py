"""Intercepts refitted from counts: the shift, what it mends after clipping, and its way through a run."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.optimize import brentq
from sklearn.metrics import roc_auc_score

from fl_server.checkpoint import RunDirectory
from fl_server.recalibration import FARTHEST, planned_noise, refit, shifted
from fl_server.rounds import run_study
from fl_shared.budget import budget
from fl_shared.counts import LOGITS, recalibration_schema, recalibration_sensitivity
from fl_shared.results import Curve, EvaluationRow
from fl_shared.study import Study
from fl_shared.wire import Code, Reply

SITES = ("aarau", "basel", "chur")
BIAS = "heads.mace.linear.bias"


def sigmoid(z: Any) -> Any:
    return 1 / (1 + np.exp(-np.asarray(z)))


def cells(logits: np.ndarray) -> np.ndarray:
    return np.bincount(LOGITS.place(logits), minlength=LOGITS.size)


def test_the_shift_is_that_of_the_single_patients() -> None:
    rng = np.random.default_rng(0)
    for mean, prevalence in ((0.0, 0.05), (-4.0, 0.5), (1.0, 0.9)):
        logits = rng.normal(mean, 1.2, 20_000)
        events = int(20_000 * prevalence)
        oracle = brentq(lambda s, z=logits, e=events: sigmoid(z + s).sum() - e, -10, 10)
        found = refit(cells(logits), events, noise=0.0)
        assert found is not None and found.shift == pytest.approx(oracle, abs=0.01)
        assert found.expected == pytest.approx(sigmoid(logits).sum(), rel=0.01) and found.observed == events


def test_no_shift_without_events_or_patients_and_none_beyond_the_limit() -> None:
    full = cells(np.zeros(100))
    assert refit(np.zeros(66), 0, noise=0.0) is None
    assert refit(full, 0, noise=0.0) is None
    assert refit(full, 100, noise=0.0) is None
    assert refit(full, -3, noise=2.0) is None
    assert refit(full * 0 - 4, 20, noise=2.0) is None
    far = refit(cells(np.full(10**6, 8.0)), 1, noise=0.0)
    assert far is not None and far.shift == pytest.approx(-FARTHEST, abs=1e-6)


def test_a_shift_below_its_noise_is_not_made() -> None:
    logits = np.random.default_rng(0).normal(-2, 1, 2000)
    events = sigmoid(logits).sum()
    assert refit(cells(logits), events * 1.02, noise=5.0).shift == 0.0
    assert refit(cells(logits), events * 1.02, noise=0.0).shift == pytest.approx(0.02 / 0.83, abs=0.01)
    spread = [
        refit(
            cells(logits) + np.random.default_rng(k).normal(0, 5, 66),
            events * 3 + np.random.default_rng(k + 99).normal(0, 5),
            noise=5.0,
        )
        for k in range(200)
    ]
    told = np.mean([one.noise for one in spread])
    assert np.std([one.shift for one in spread]) == pytest.approx(told, rel=0.35)  # the noise that it tells is its own


def clipped_model(sites: list[tuple[np.ndarray, np.ndarray]], *, clip: float) -> tuple[np.ndarray, float]:
    """Federated logistic regression whose patients' gradients are clipped to ``clip``, too short to learn the level."""
    w, b = np.zeros(3), 0.0
    for _ in range(30):
        step_w, step_b, n = np.zeros(3), 0.0, 0
        for x, y in sites:
            error = sigmoid(x @ w + b) - y
            gradient = np.column_stack([error[:, None] * x, error])
            scale = np.minimum(1, clip / np.linalg.norm(gradient, axis=1))
            total = (gradient * scale[:, None]).sum(0)
            step_w, step_b, n = step_w + total[:3], step_b + total[3], n + len(y)
        w, b = w - step_w / n, b - step_b / n
    return w, b


@pytest.mark.parametrize("noise", [0.0, 12.0])
def test_clipping_ruins_the_level_and_the_intercept_mends_it(noise: float) -> None:
    """Facts: clipping ruins calibration while AUROC looks fine. Held-out patients, expected over observed."""
    rng = np.random.default_rng(1)

    def patients(n: int) -> tuple[np.ndarray, np.ndarray]:
        x = rng.normal(size=(n, 3))
        return x, (rng.random(n) < sigmoid(x @ [1.2, -0.8, 0.5] - 2.6)).astype(float)

    sites, (x, y) = [patients(n) for n in (900, 700, 1400)], patients(4000)
    w, b = clipped_model(sites, clip=0.02)
    before = sigmoid(x @ w + b)
    counts = np.sum([cells(sx @ w + b) + rng.normal(0, noise, 66) for sx, _ in sites], axis=0)
    events = sum(float(sy.sum() + rng.normal(0, noise)) for _, sy in sites)
    found = refit(counts, events, noise=noise * 3**0.5)
    after = sigmoid(x @ w + b + found.shift)
    assert before.sum() / y.sum() > 2
    assert 0.8 <= after.sum() / y.sum() <= 1.25
    assert abs(roc_auc_score(y, after) - roc_auc_score(y, before)) < 1e-9
    assert roc_auc_score(y, before) > 0.75


def recalibrating(make_study: Any, **changes: Any) -> Study:
    return make_study(**{"evaluation": {"salt": "saltsalt", "recalibrate": True}, **changes})


def test_biases_move_label_by_label_from_the_sites_that_tell(make_study: Any) -> None:
    labels = {"tasks": {"mace": {"type": "multilabel", "labels": ["af", "hf"]}}}
    study = recalibrating(make_study, **labels)
    model = {BIAS: np.array([0.5, -1.0], np.float32)}
    told = np.append(cells(np.full(400, 0.0)), 40)
    silent = np.zeros(67, int)
    counts = [{"tasks.mace": np.stack([told, silent])}, {"tasks.mace": np.stack([told, silent])}]
    moved = shifted(study, model, {"mace": BIAS}, counts, noise=0.0)
    assert moved[BIAS].dtype == np.float32
    assert moved[BIAS].tolist() == pytest.approx([0.5 + np.log(1 / 9), -1.0], abs=0.2)  # cells are a quarter wide
    assert shifted(study, model, {"mace": BIAS}, [{"tasks.mace": np.stack([silent, silent])}], noise=0.0) == {}


def test_the_noise_is_that_of_the_plan(make_study: Any) -> None:
    private = {"privacy": {"mode": "patient", "epsilon": 8.0}}
    study = recalibrating(
        make_study, **private, evaluation={"salt": "saltsalt", "recalibrate": True, "recalibrate_epsilon": 1.0}
    )
    event = budget(study, "aarau", delta=1e-5).recalibration
    found = planned_noise(study, {"mace": BIAS})
    assert found == pytest.approx(event.sigma * recalibration_sensitivity(study, ["mace"]))
    assert planned_noise(recalibrating(make_study), {"mace": BIAS}) == 0.0


class Judging:
    """The fake fleet with an intercept: sites tell exact logits, and judge whatever model they are given."""

    def __init__(self, fleet: Any, **faults: Any) -> None:
        self.fleet, self.asked, self.faults = fleet, [], faults
        fleet._rows = lambda site: ()

    def hello(self, *args: Any, **more: Any) -> Any:
        return self.fleet.hello(*args, **more)

    def ask(self, questions: Any, **more: Any) -> Any:
        (kind,) = {request.kind for request, _ in questions.values()}
        if kind not in ("recalibrate", "evaluate"):
            return self.fleet.ask(questions, **more)
        return {site: self._answer(site, *question) for site, question in questions.items()}

    def _answer(self, site: str, request: Any, arrays: Any) -> Any:
        self.asked.append((request.kind, request.model, site, request.round, float(arrays[BIAS][0])))
        role = self.fleet.study.sites[site].role
        reply = Reply(status="ok", site=site, role=role, approved=True)
        fault = self.faults.get(f"{site}_{request.kind}_{request.model}")
        if isinstance(fault, Code):
            return reply.model_copy(update={"status": "refused", "code": fault}), {}
        if request.kind == "recalibrate":
            counts = np.append(cells(np.full(90, float(arrays[BIAS][0]))), 10)[None]
            return reply, {"tasks.mace": counts}
        place = {"site": site, "task": "mace", "label": "", "modalities": "all", "model": fault or request.model}
        row = EvaluationRow(
            **place, role=role, metric="expected_observed", value=1.0, ci_low=0.9, ci_high=1.1, n=40, events=12
        )
        curve = Curve(**place, kind="calibration", x=(0.1, 0.2), y=(0.1, 0.2))
        return reply.model_copy(update={"evaluation": (row,), "curves": (curve,)}), {}


@pytest.fixture
def live(make_fleet: Any, initial: Any, tmp_path: Any) -> Any:
    """Run a study; gives results, the fleet and the run's folder."""
    run = RunDirectory(tmp_path / "run")
    given = {n: a for n, a in initial.items() if not n.startswith("heads.")} | {BIAS: np.zeros(1, np.float32)}

    def start(study: Study, **faults: Any) -> Any:
        fleet = Judging(make_fleet(study), **faults)
        return run_study(study=study, fleet=fleet, run=run, initial=given, log=lambda _: None), fleet, run

    return start


def test_both_models_are_judged_and_stand_beside_each_other(live: Any, make_study: Any) -> None:
    study = recalibrating(make_study)
    results, fleet, run = live(study)
    final = run.load_final(last=run.latest(study=study.identity))
    made = run.load_recalibrated(final=final)
    bias, moved = float(final.model[BIAS][0]), float(made.model[BIAS][0])
    center = np.floor(bias / 0.25) * 0.25 + 0.125
    assert moved - bias == pytest.approx(np.log(1 / 8) - center, abs=1e-3)  # 10 of 90
    assert {n for n in final.model if not np.array_equal(final.model[n], made.model[n])} == {BIAS}
    assert made.manifest.parent == final.digest
    assert [s.model_dump() for s in results.shifts] == [
        {"task": "mace", "label": "", "shift": pytest.approx(moved - bias, abs=1e-6)}
    ]
    kinds = [(kind, model, site) for kind, model, site, *_ in fleet.asked]
    everybody = sorted(study.sites)
    assert kinds == [
        *(("evaluate", "federated", s) for s in everybody), *(("recalibrate", "federated", s) for s in SITES),
        *(("evaluate", "recalibrated", s) for s in everybody),
    ]  # fmt: skip
    sent = {(kind, model): value for kind, model, _, _, value in fleet.asked}
    assert sent["evaluate", "recalibrated"] == pytest.approx(moved) and sent["recalibrate", "federated"] == bias
    assert {number for *_, number, _ in fleet.asked} == {3}
    told = {(row.site, row.model) for row in results.evaluation}
    assert told == {(site, model) for site in study.sites for model in ("federated", "recalibrated")}
    assert {(c.site, c.model) for c in results.curves} == told

    run.results.unlink()
    _, again, _ = live(study)
    assert not [asked for asked in again.asked if asked[0] == "recalibrate"]  # the committed one is judged


def test_what_is_missing_is_said(live: Any, make_study: Any) -> None:
    results, *_ = live(
        recalibrating(make_study), chur_recalibrate_federated=Code.TOO_FEW, davos_evaluate_recalibrated=Code.DATA
    )
    assert "Recalibrated model, gave no counts for recalibration: chur (cohort-too-small)." in results.notes
    assert "Recalibrated model, did not judge it: davos (site-data-rejected)." in results.notes
    assert ("davos", "federated") in {(row.site, row.model) for row in results.evaluation}


def test_too_few_sites_leave_the_model_as_it_is(live: Any, make_study: Any) -> None:
    results, fleet, run = live(
        recalibrating(make_study), chur_recalibrate_federated=Code.TOO_FEW, basel_recalibrate_federated=Code.TOO_FEW
    )
    assert results.notes[-1] == (
        "Not recalibrated: 1 sites gave counts, 2 are needed: basel (cohort-too-small), chur (cohort-too-small)."
    )
    assert results.shifts == () and not run.recalibrated.exists()
    assert {model for _, model, *_ in fleet.asked} == {"federated"}


def test_results_under_another_name_are_rejected(live: Any, make_study: Any) -> None:
    results, *_ = live(recalibrating(make_study), davos_evaluate_recalibrated="federated")
    assert "Recalibrated model, did not judge it: davos (rows-outside-the-study)." in results.notes


def test_a_study_that_does_not_ask_is_not_recalibrated(live: Any, make_study: Any) -> None:
    results, fleet, _ = live(make_study())
    assert {kind for kind, *_ in fleet.asked} == {"evaluate"} and results.shifts == ()
    assert recalibration_schema(make_study(), []) == {}


def test_a_model_without_intercepts_says_so(make_study: Any, make_fleet: Any, initial: Any, tmp_path: Any) -> None:
    study = recalibrating(make_study)
    run = RunDirectory(tmp_path / "run")
    results = run_study(study=study, fleet=make_fleet(study), run=run, initial=initial, log=lambda _: None)
    assert results.notes[-1] == "Not recalibrated: no task has an intercept of its own in the common model."
