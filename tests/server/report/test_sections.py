"""The report with all that it can show, and with nothing: every section says its numbers, or why it has none."""

from __future__ import annotations

import re

import invented
import pytest

from fl_server.report import cohort, differences, forest, incidence, modalities, page, subgroups, summary, view
from fl_server.report.tripod import AUTHORS, checklist
from fl_server.report.tripod_items import ITEMS
from fl_shared.results import EvaluationRow


@pytest.fixture(scope="module")
def everything():
    return invented.everything()


@pytest.fixture(scope="module")
def full(everything, read, tmp_path_factory):
    return read(everything, tmp_path_factory.mktemp("full"))


@pytest.fixture(scope="module")
def bare(read, tmp_path_factory):
    return read(invented.nothing(), tmp_path_factory.mktemp("bare"))


def test_all_of_five_sites_and_four_tasks_is_small_and_well_formed(full):
    source, tags, _ = full
    assert len(source.encode()) < 3_000_000
    assert not re.search(r"https?:|//[a-z]|@import|url\((?!#)", source)
    assert tags.open == [] and len(tags.ids) == len(set(tags.ids)) and set(tags.targets) <= set(tags.ids)
    assert all(a.get("scope") for tag, a in tags.tags if tag == "th")
    pictures = [attributes for _, attributes in tags.tags if attributes.get("role") == "img"]
    assert all(
        re.search(r"\d", attributes["aria-label"]) or "accepted" in attributes["aria-label"] for attributes in pictures
    )


def test_every_section_is_there_and_reached_from_the_contents(full, bare):
    for _, tags, _ in (full, bare):
        assert set(page.SECTIONS) <= set(tags.ids) and set(page.SECTIONS) <= set(tags.targets)


def test_a_section_without_data_says_why(bare):
    _, _, text = bare
    for why in (
        "not asked for in the study (evaluation.described)", "Not asked for in the study (evaluation.subgroups)",
        "not asked for in the study (evaluation.subsets)", "Not asked for in the study (evaluation.hidden)",
        "Not asked for in the study (evaluation.recalibrate)", "No site told a decision curve", "No round is recorded",
        "These results hold one model", "No site reported a headline result", "no [statistics]",
    ):  # fmt: skip
        assert why in text, why


def test_the_summary_leads_with_new_hospitals_the_worst_and_what_is_lost(full, everything):
    _, _, text = full
    front = text[text.index("Summary AUROC") : text.index("Study and sites Identity")]
    for task in everything.study.tasks:
        digest = summary.digest(everything, task)
        for told in (digest.external, digest.gap, digest.worst):
            assert view.number(told.value, told) in front and view.interval(told) in front
        assert digest.worst.site == digest.external.worst == "lake_side"
        assert f"between {view.number(0.503, digest.external)} and {view.number(0.853, digest.external)}" in front
    assert front.count("worst external site") == 4


def test_without_a_summary_the_worst_site_is_the_one_with_the_worst_number(everything):
    alone = everything.model_copy(update={"summaries": (), "gaps": ()})
    for task, best in (("death", max), ("ef", min)):
        digest = summary.digest(alone, task)
        values = [row.value for row in digest.of_role("external")]
        assert digest.external is None and digest.worst.value != best(values)
        assert digest.worst.value == (min if best is max else max)(values)


def test_rows_of_a_subgroup_stay_in_their_section(everything):
    planted = [r.model_copy(update={"value": 0.999, "subgroup": "sex=male"}) for r in everything.evaluation[:4000]]
    changed = everything.model_copy(update={"evaluation": (*planted, *everything.evaluation)})
    for task in everything.study.tasks:
        assert view.headline_rows(changed, task) == view.headline_rows(everything, task)
        assert modalities.sets(changed, task) == modalities.sets(everything, task)
        assert page.metric_tables(changed, task) == page.metric_tables(everything, task)
    row = view.find(changed.evaluation, site="harbour", task="death", metric="auroc")
    assert row.value != 0.999


def test_subgroups_have_all_patients_beside_them(everything):
    found = subgroups.forest(everything, "death")
    assert found.groups[0].name == "harbour (external)"
    names = [line.name for line in found.groups[0].lines]
    assert names == ["all judged patients", "age: 18-64", "age: 65-", "some modality lacking",
                     "every modality there", "sex: female", "sex: male"]  # fmt: skip
    assert not any("hidden" in line.name for group in found.groups for line in group.lines)


def test_differences_and_contributions_are_drawn_around_nothing(everything, full):
    for shown in (*differences.forests(everything, "death"), *modalities.contributions(everything, "death")):
        assert shown.axis.low == -shown.axis.high and shown.axis.reference == 0
    assert "federated less local_only" in full[2] and "0.043bootstrap" in full[2]


def test_attention_and_groups_of_fields_stand_beside_contributions(everything, full, bare):
    [found] = modalities.attention(everything)
    assert (found.axis.low, found.axis.high, found.axis.reference) == (0.0, 1.0, 0.25)
    assert [group.name for group in found.groups] == list(invented.MODALITIES)
    assert [line.name for line in found.groups[0].lines] == view.site_order(everything)
    assert view.estimate(found.groups[0].lines[0].told) == "0.53 (0.43–0.63)" in full[2]
    [worth] = modalities.importance(everything, "death")
    assert [group.name for group in worth.groups] == list(invented.GROUPS)
    assert worth.axis.low == -worth.axis.high and "group of fields" in worth.caption
    assert "What the fusion attends to" in full[2] and "What the fusion attends to" not in bare[2]
    assert "Groups of fields" in full[2] and "Groups of fields" not in bare[2]


def test_what_is_hidden_is_named(everything, read, tmp_path):
    some = everything.study.model_copy(update={"hidden_of": ("ecg", "text")})
    text = read(everything.model_copy(update={"study": some}), tmp_path)[2]
    assert "a share of ecg and text hidden at random" in text and "by share of ecg and text hidden" in text


def test_marks_lie_where_their_numbers_say():
    axis = forest.Axis(low=0.5, high=1.0, reference=0.5)
    row = EvaluationRow(site="a", role="external", task="t", label="", modalities="all", model="m", metric="auroc",
                        value=0.75, ci_low=0.6, ci_high=2.0, n=1, events=None)  # fmt: skip
    drawn = forest.Forest(caption="", groups=(), axis=axis).drawn(forest.Line(name="a", told=row, kind="external"))
    assert axis.at(0.75) == pytest.approx(forest.WIDTH / 2)
    assert f"M{forest.WIDTH / 2 - 4.5:.1f} 6.5h9v9h-9Z" in drawn  # a square in the middle
    assert f"H{axis.at(1.0):.1f}" in drawn  # an interval beyond the axis ends with it


def test_table_one_and_the_flow_say_what_is_withheld(everything, full):
    _, _, text = full
    assert "63 (sd 13), median 63 (53 to 73), missing 4.3 %" in text and "42.3 %" in text
    assert "suppressed: fewer than 13 patients" in text
    passed = [stage.name for stage in cohort.stages(everything, left_out=False)]
    assert passed == ["rows of the table", "with a usable modality", "judged"]
    left = {stage.name: stage.cells[0] for stage in cohort.stages(everything, left_out=True)}
    assert left["outcome-before-index"][0].samples == 23 and left["cine: unreadable"][0].samples is None


def test_numbers_at_risk_stand_under_their_days(everything):
    first = incidence.courses(everything, "survival", 0)[0]
    told = {c.group: dict(zip(c.x, c.counts, strict=True)) for c in everything.curves
            if c.kind == "incidence" and c.site == "harbour"}  # fmt: skip
    for name, counts in first.at_risk.groups:
        assert counts == tuple(told[name][day] for day in first.at_risk.days)
    assert "high 35" not in first.picture.alt or "%" in first.picture.alt
    assert all(f"{name} " in first.picture.alt for name in told)


def test_the_checklist_has_every_item_and_claims_nothing_for_the_authors(everything, bare):
    numbers = [number for _, items in ITEMS for number, _ in items]
    assert {int(re.match(r"\d+", number).group()) for number in numbers} == set(range(1, 28))
    assert len(numbers) == len(set(numbers)) == 52
    answered = {
        i.number: i.answer for found in (everything, invented.nothing()) for _, items in checklist(found) for i in items
    }
    for authors in ("1", "2", "3a", "17", "18a", "18d", "19", "25", "27c"):
        assert answered[authors] is None
    assert bare[2].count(AUTHORS) >= 40
    empty = {i.number: i.answer for _, items in checklist(invented.nothing()) for i in items}
    assert all(empty[number] is None for number in ("12e", "14", "20a", "20b", "21", "23a", "24"))
