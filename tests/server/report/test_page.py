"""The HTML report: complete, escaped, offline, small."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest

from fl_shared.results import PrivacyResult, RoundResult, SiteRound


@pytest.fixture(scope="module")
def report(results, read, tmp_path_factory):
    return read(results, tmp_path_factory.mktemp("report"))


def test_small_and_offline(report):
    page, tags, _ = report
    assert len(page.encode()) < 3_000_000
    assert not re.search(r"https?:|//[a-z]|@import|url\((?!#)", page)
    assert not {"script", "img", "link", "iframe", "object"} & {tag for tag, _ in tags.tags}


def test_well_formed_and_accessible(report):
    _, tags, _ = report
    assert tags.open == []
    assert len(tags.ids) == len(set(tags.ids))
    assert set(tags.targets) <= set(tags.ids)
    names = [tag for tag, _ in tags.tags]
    assert names.count("h1") == names.count("main") == 1
    levels = [int(name[1]) for name in names if re.fullmatch(r"h\d", name)]
    assert all(after - before <= 1 for before, after in pairwise(levels))
    pictures = [attributes for _, attributes in tags.tags if attributes.get("role") == "img"]
    kinds = [attributes["aria-label"].split(" of ")[0] for attributes in pictures]
    for kind in ("Discrimination (ROC)", "Precision and recall", "Calibration"):
        assert kinds.count(kind) == 6  # NORM, MI, STTC, CD, HYP (large sites) and death
    assert all(len(attributes["aria-label"]) > 20 for attributes in pictures)
    assert all(a.get("scope") for tag, a in tags.tags if tag == "th")
    assert ("html", {"lang": "en"}) in tags.tags


def test_what_a_hospital_writes_is_escaped(report):
    page, _, text = report
    assert "<script" not in page
    assert "North Gate Clinic <script>alert(1)</script>" in text


def test_everything_appears(report, results):
    _, _, text = report
    assert "SYNTHETIC DATA" in text
    assert results.study.hash in text
    for name, site in results.sites.items():
        assert name in text
        assert site.title in text
    for note in (*results.notes, *(part for row in results.evaluation for part in row.note.split("; "))):
        assert note in text
    for row in results.evaluation:
        if row.value is not None:
            dash = " to " if row.ci_low < 0 else "–"
            assert f"{row.value:.3f} ({row.ci_low:.3f}{dash}{row.ci_high:.3f})" in text
    for entry in results.rounds:
        assert all(site.reason in text and site.status in text for site in entry.sites.values())
    assert "patient-level DP: epsilon = 7.93" in text
    assert "6.874" in text


def test_external_sites_come_first_and_leaky_inputs_stay_out_of_the_summary(report, results):
    _, _, text = report
    summary = text[text.index("Summary AUROC") : text.index("Study and sites Identity")]
    assert summary.index("Harbour General") < summary.index("Drum Tower Hospital")
    shown = {row.modalities for row in results.evaluation if row.value and f"{row.value:.3f} AUROC, 95" in summary}
    assert "headline" in shown
    leaky = {
        f"{r.value:.3f}"
        for r in results.evaluation
        if r.modalities in ("all", "text") and r.label == "macro" and r.value
    }
    assert not any(f"{value} AUROC, 95" in summary for value in leaky)
    assert text.count("leaky: states the diagnosis") == 5  # modality list, and all and text alone in two tables


def test_no_privacy_and_real_data_are_said(results, read, tmp_path):
    changed = results.model_copy(
        update={
            "study": results.study.model_copy(update={"synthetic": False, "leaky": (), "modalities": ("ecg", "ehr")}),
            "curves": (),
            "privacy": PrivacyResult(mode="none", delta=1e-5, epsilon_budget=None, epsilon_spent={}),
        }
    )
    _, _, text = read(changed, tmp_path)
    assert "NO PRIVACY GUARANTEE (mode none)" in text
    assert "SYNTHETIC DATA" not in text
    assert "Epsilon spent" not in text


def test_a_run_without_results_still_has_a_report(results, read, tmp_path):
    empty = results.model_copy(update={"evaluation": (), "curves": (), "rounds": (), "notes": ()})
    _, _, text = read(empty, tmp_path)
    assert "No site reported a headline result for this task." in text


def test_a_very_long_run_shows_its_troubles(results, read, tmp_path):
    fine, bad = SiteRound(status="accepted"), SiteRound(status="failed", reason="trainer-failed")
    rounds = tuple(
        RoundResult(round=r, outcome="committed", seconds=1.0, sites={"drum_tower": bad if r == 17 else fine})
        for r in range(5000)
    )
    page, _, text = read(results.model_copy(update={"rounds": rounds, "evaluation": (), "curves": ()}), tmp_path)
    assert len(page.encode()) < 3_000_000
    assert "trainer-failed" in text
    assert "results.json has all" in text
