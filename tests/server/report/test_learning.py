"""The section of learning curves: every point in a picture's words and in the table, gaps shown, phases marked."""

from __future__ import annotations

import re

import invented
import pytest

from fl_server.report import learning
from fl_shared.results import LearningPoint, PhaseResult

MANY = 100


@pytest.fixture(scope="module")
def results():
    return invented.everything()


@pytest.fixture(scope="module")
def section(results, read, tmp_path_factory):
    page, _, _ = read(results, tmp_path_factory.mktemp("curves"))
    return re.search(r'<section aria-labelledby="learning">.*?</section>', page, re.DOTALL).group()


def point(number, site="east", *, task="death", label="", value=0.7):
    return LearningPoint(
        round=number, site=site, task=task, label=label, metric="auroc", value=value, ci_low=0.6, ci_high=0.8
    )


def test_a_panel_a_training_site_and_a_table_a_task(section):
    assert section.count('role="img"') == 2 * len(invented.TASKS)
    assert section.count("<table>") == len(invented.TASKS)
    assert "harbour" not in section and "drum_tower" in section


def test_every_point_is_told_in_the_table_and_in_words(section, results):
    words = " ".join(re.findall(r'aria-label="([^"]*)"', section))
    rows = re.sub(r"<[^>]+>", " ", section)
    for p in results.learning:
        form = "{:.4g}" if p.metric == "mae" else "{:.3f}"
        assert f"{form.format(p.value)} ({form.format(p.ci_low)}" in words and f"after round {p.round}" in words
        assert form.format(p.value) in rows


def test_a_missing_point_is_a_gap(results):
    found = learning.learning(results, "death", 0)
    cells = {number: dict(zip(found.columns, row, strict=True)) for number, _, row in found.rows}
    assert cells[53]["east"] is None and cells[53]["drum_tower"] is not None
    told = [p for p in results.learning if p.task == "death" and p.site == "east"]
    shared = learning._axes(results, [*told, point(53, "drum_tower")])
    line = learning._line({p.round: p for p in told}, shared, "value")
    assert [value == value for value in line] == [number != 53 for number in shared.rounds]  # NaN breaks the line


def test_phases_are_marked(section, results):
    assert section.count(">unimodal</text>") == section.count(">fusion</text>") == 2 * len(invented.TASKS)
    assert {phase for _, phase, _ in learning.learning(results, "death", 0).rows} == {"fusion"}
    one = results.study.model_copy(update={"phases": (PhaseResult(name="training", first=1, last=83),)})
    alone = learning.learning(results.model_copy(update={"study": one}), "death", 0)
    assert "training" not in alone.pictures[0].svg and {phase for _, phase, _ in alone.rows} == {""}


def test_a_long_run_is_thinned_and_says_so(results, read, tmp_path):
    points = tuple(point(number, value=round(0.5 + number / 400, 4)) for number in range(1, MANY + 1))
    many = results.model_copy(update={"learning": points, "evaluation": (), "curves": ()})
    found = learning.learning(many, "death", 0)
    numbers = [number for number, _, _ in found.rows]
    assert len(numbers) == learning.MOST and (numbers[0], numbers[-1]) == (1, MANY) and found.left_out
    assert sorted(set(numbers)) == numbers
    said = re.findall(r"after round (\d+)", found.pictures[0].alt)
    assert len(said) == learning.MOST_SAID and (said[0], said[-1]) == ("1", str(MANY))
    assert "some rounds, results.json has all" in read(many, tmp_path)[2]


def test_one_point_is_drawn(results):
    found = learning.learning(results.model_copy(update={"learning": (point(83),)}), "death", 0)
    assert found.columns == ("east",) and "0.700 (0.600–0.800) after round 83" in found.pictures[0].alt


def test_labels_other_than_the_headline_stay_in_the_results(results):
    points = (point(1, task="events", label="stroke"), point(1, task="events", label="macro", value=0.65))
    found = learning.learning(results.model_copy(update={"learning": points}), "events", 0)
    assert [row[0].value for _, _, row in found.rows] == [0.65]


def test_without_any(results, read, tmp_path):
    _, _, text = read(invented.nothing(), tmp_path)
    assert "evaluation.every" in text
