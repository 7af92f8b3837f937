"""The sum of the sites' counts: what is accepted, what is told of it, and when it is asked for."""

from __future__ import annotations

import tomllib
from typing import Any

import numpy as np
import pytest

from fl_server import statistics
from fl_server.checkpoint import RunDirectory
from fl_server.rounds import run_study
from fl_server.validation import Reason, validate_counts
from fl_shared.budget import budget
from fl_shared.concepts import concept, scale
from fl_shared.counts import field_counts, statistics_schema, statistics_sensitivity
from fl_shared.errors import ConsiliumError, ExitCode
from fl_shared.results import SiteRound
from fl_shared.statistics import Statistics
from fl_shared.study import Study
from fl_shared.wire import Reply

PLAN: dict[str, Any] = {
    "modalities": {
        "ecg": {"kind": "waveform", "leads": ["I"], "rate": 100, "seconds": 10},
        "ehr": {"kind": "table", "fields": ["creatinine", "sex"]},
    },
    "tasks": {"mace": {"type": "binary"}, "ward": {"type": "multiclass", "labels": ["icu", "ccu", "other"]}},
    "statistics": {"modalities": ["ehr"], "tasks": ["mace", "ward"]},
}
PRIVATE = {"privacy": {"mode": "patient", "epsilon": 8.0}, "evaluation": {"salt": "saltsalt"}}
SITES = ("aarau", "basel", "chur")


def counting(make_study: Any, **changes: Any) -> Study:
    plan = {**PLAN, **changes}
    plan["statistics"] = {**PLAN["statistics"], **changes.get("statistics", {})}
    body = make_study().model_dump(mode="json", by_alias=True, exclude_none=True)
    body["training"].pop("phases")
    return Study.model_validate({**body, **plan})


def site_counts(study: Study, *, seed: int, n: int) -> dict[str, np.ndarray]:
    """A site's exact counts: log-normal creatinine, a third women, a sixth with the event."""
    rng = np.random.default_rng(seed)
    creatinine, sex = field_counts(study)
    scaled = scale(np.exp(rng.normal(np.log(90), 0.4, n)), by=creatinine.concept).astype(float)
    there = rng.random(n) < 0.9
    women = scale((rng.random(n) < 1 / 3).astype(float), by=sex.concept).astype(float)
    event = rng.random(n) < 1 / 6
    ward = rng.choice(4, n, p=[0.2, 0.3, 0.4, 0.1])
    return {
        "fields.ehr.creatinine": np.bincount(creatinine.cells(scaled, there), minlength=67),
        "fields.ehr.sex": np.bincount(sex.cells(women, np.ones(n, bool)), minlength=3),
        "tasks.mace": np.array([[(~event).sum(), event.sum(), 0]]),
        "tasks.ward": np.bincount(ward, minlength=4),
    }


def told(study: Study, counts: dict[str, Any], **lacking: SiteRound) -> Statistics:
    outcomes = {site: SiteRound(status="accepted") for site in counts} | lacking
    return statistics.summarise(study, counts, outcomes=outcomes)


def noised(study: Study, n: int, *, seed: int = 0) -> dict[str, dict[str, np.ndarray]]:
    noise, rng = statistics.planned_noise(study), np.random.default_rng(seed)
    exact = {site: site_counts(study, seed=seed + k, n=n) for k, site in enumerate(SITES)}
    return {
        site: {name: np.rint(c + rng.normal(0, noise, c.shape)).astype(np.int64) for name, c in cells.items()}
        for site, cells in exact.items()
    }


def test_quantiles_shares_and_weights_of_noised_counts(make_study: Any) -> None:
    study = counting(make_study, **PRIVATE, statistics={"epsilon": 2.0})
    event = budget(study, "aarau", delta=1e-5).statistics
    assert statistics.planned_noise(study) == pytest.approx(event.sigma * statistics_sensitivity(study))
    found = told(study, noised(study, 3000))
    creatinine, sex = found.fields
    truth = {0.25: 90 * np.exp(-0.4 * 0.6745), 0.5: 90.0, 0.75: 90 * np.exp(0.4 * 0.6745)}
    for quantile in creatinine.quantiles:
        assert quantile.low <= quantile.value <= quantile.high
        if quantile.share in truth:
            assert quantile.value == pytest.approx(truth[quantile.share], rel=0.02)
            assert quantile.low <= truth[quantile.share] <= quantile.high
    assert creatinine.edges[0] == pytest.approx(15) and creatinine.edges[-1] == pytest.approx(3000)
    assert np.diff(np.log(creatinine.edges)) == pytest.approx(np.log(200) / 64, rel=1e-4)
    assert creatinine.n == pytest.approx(8100, rel=0.02) and creatinine.missing == pytest.approx(900, rel=0.1)
    assert sex.codes == (0.0, 1.0) and sex.counts[1] == pytest.approx(3000, rel=0.05)
    mace, *ward = found.labels
    assert mace.low < 1 / 6 < mace.high and mace.sites == 3
    assert [label.label for label in ward] == ["icu", "ccu", "other"]
    assert [label.share for label in ward] == pytest.approx([2 / 9, 3 / 9, 4 / 9], abs=0.02)
    lines = tomllib.loads(found.lines)
    assert lines["constants_from"] == [study.identity]
    assert lines["tasks"]["mace"]["weights"] == [pytest.approx(5.0, rel=0.1)]
    assert lines["tasks"]["ward"]["weights"] == pytest.approx([1.5, 1.0, 0.75], rel=0.1)
    Study.model_validate({**study.model_dump(mode="json", by_alias=True), "constants_from": [found.identity]})
    assert (found.provenance, found.epsilon, found.sites["basel"].noise) == ("dp", 2.0, statistics.planned_noise(study))


def test_counts_that_mean_few_patients_are_not_told(make_study: Any) -> None:
    study = counting(make_study, **PRIVATE, statistics={"epsilon": 2.0})
    found = told(study, noised(study, 3000))
    least = max(10, 2 * statistics.planned_noise(study) * 3**0.5)
    numbers = [n for n in (*found.fields[0].counts, found.fields[0].above, found.fields[0].below) if n is not None]
    assert numbers and min(numbers) >= least * 0.9  # those kept are scaled to the total
    few = told(study, noised(study, 5))
    assert few.fields[0].n is None and few.fields[0].quantiles == ()
    assert few.labels[0].share is None and "weights" not in few.lines


def test_exact_counts_of_a_site_with_a_small_cell_are_left_out(make_study: Any) -> None:
    study = counting(make_study)
    counts = {site: site_counts(study, seed=k, n=600) for k, site in enumerate(SITES)}
    counts["chur"]["tasks.mace"] = np.array([[580, 0, 0]])  # withheld there
    counts["chur"]["tasks.ward"] = np.array([0, 200, 300, 100])
    found = told(study, counts)
    mace, icu, *_ = found.labels
    expected = counts["aarau"]["tasks.mace"][0] + counts["basel"]["tasks.mace"][0]
    assert (mace.sites, mace.events, mace.n) == (2, expected[1], expected[:2].sum())
    assert icu.sites == 2
    assert (found.provenance, found.epsilon, found.sensitivity) == ("local", None, None)
    assert "NOT noised" in found.notes[-1]
    lacking = told(study, {s: counts[s] for s in SITES[:2]}, chur=SiteRound(status="absent", reason="no-reply"))
    assert lacking.notes[0] == "Not counted: chur." and lacking.sites["chur"].reason == "no-reply"


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda c: {k: v for k, v in c.items() if k != "tasks.mace"}, Reason.MISSING_ARRAYS),
        (lambda c: c | {"patients": np.array([1])}, Reason.UNKNOWN_ARRAYS),
        (lambda c: c | {"tasks.mace": np.array([[300, 40]])}, Reason.SHAPE),
        (lambda c: c | {"tasks.mace": np.array([[300, 40, 0]], np.float32)}, Reason.DTYPE),
        (lambda c: c | {"tasks.mace": np.array([[300, 9, 0]])}, Reason.SMALL_CELLS),
        (lambda c: c | {"tasks.mace": np.array([[300, -40, 0]])}, Reason.SMALL_CELLS),
        (lambda c: c | {"tasks.mace": np.array([[300, 400, 0]])}, Reason.TOO_MANY),
        (lambda c: c | {"tasks.mace": np.array([[2**62, 2**62, 2**62]])}, Reason.TOO_MANY),
        (lambda c: c, None),
    ],
)
def test_what_a_site_says_is_judged(spoil: Any, reason: Any, make_study: Any) -> None:
    study = counting(make_study)
    schema = statistics_schema(study)
    counts = {name: np.full(shape, 20 if shape[-1] < 5 else 0, dtype) for name, (shape, dtype) in schema.items()}
    counts["fields.ehr.creatinine"][20] = 150
    judge = {"schema": schema, "study": study}
    assert validate_counts(spoil(counts), site="basel", noise=0.0, **judge) == reason
    assert validate_counts(counts, site="davos", noise=0.0, **judge) == Reason.ROLE
    wild = counts | {"tasks.mace": np.array([[-30, 25, 3]])}
    assert validate_counts(wild, site="basel", noise=10.0, **judge) is None


class Counting:
    """The fake fleet, with counts."""

    def __init__(self, fleet: Any, study: Study, **faults: Any) -> None:
        self.fleet, self.study, self.asked, self.faults = fleet, study, [], faults

    def hello(self, *args: Any, **more: Any) -> Any:
        return self.fleet.hello(*args, **more)

    def ask(self, questions: Any, **more: Any) -> Any:
        (kind,) = {request.kind for request, _ in questions.values()}
        if kind != "statistics":
            return self.fleet.ask(questions, **more)
        self.asked.append(sorted(questions))
        return {site: self._counts(site) for site in questions}

    def _counts(self, site: str) -> Any:
        counts = {n: np.asarray(c, np.int64) for n, c in site_counts(self.study, seed=1, n=100).items()}
        counts = {n: np.where(c < 10, 0, c) for n, c in counts.items()}
        counts |= self.faults.get(site, {})
        return Reply(status="ok", site=site, role="train", approved=True), counts


def test_statistics_stand_before_the_first_round_and_are_asked_for_once(
    make_study: Any, make_fleet: Any, initial: Any, tmp_path: Any
) -> None:
    study = counting(make_study)
    initial = initial | {"heads.ward.scale": np.ones(3, np.float32)}
    base = make_fleet(study)
    base._work = lambda site, request, arrays: dict(arrays) if request.kind == "train" else {}
    fleet = Counting(base, study, chur={"tasks.mace": np.array([[50, 3, 0]])})
    study = study.model_copy(update={"training": study.training.model_copy(update={"final_encoders": "initial"})})
    base.study = fleet.study = study
    run = RunDirectory(tmp_path / "run")

    def live() -> Any:
        return run_study(study=study, fleet=fleet, run=run, initial=initial, log=lambda _: None)

    results = live()
    assert fleet.asked == [["aarau", "basel", "chur"]]
    assert results.statistics is not None and results.statistics.identity == study.identity
    assert results.statistics.sites["chur"].reason == Reason.SMALL_CELLS
    kept = (run.path / statistics.FILE).read_bytes()
    assert Statistics.model_validate_json(kept) == results.statistics
    run.results.unlink()
    assert live().statistics == results.statistics and len(fleet.asked) == 1  # resumed: nobody is asked again
    run.results.unlink()
    (run.path / statistics.FILE).write_text("{")
    assert live().statistics == results.statistics and len(fleet.asked) == 2  # sites repeat their bytes


def test_too_few_sites_end_the_run_before_anything_is_trained(
    make_study: Any, make_fleet: Any, initial: Any, tmp_path: Any
):
    study = counting(make_study)
    base = make_fleet(study)
    spoiled = {"tasks.mace": np.array([[50, 3, 0]])}
    fleet = Counting(base, study, chur=spoiled, basel=spoiled)
    with pytest.raises(ConsiliumError, match="The statistics of study 'toy' failed: 1 answer") as error:
        run_study(study=study, fleet=fleet, run=RunDirectory(tmp_path / "run"), initial=initial, log=lambda _: None)
    assert error.value.code == ExitCode.ROUND_FAILED
    assert not [asked for asked in base.asked if asked[0] == "train"]


def test_concepts_are_the_products_own(make_study: Any) -> None:
    creatinine, sex = field_counts(counting(make_study))
    assert (creatinine.concept, sex.concept) == (concept("creatinine"), concept("sex"))
