"""The report of a design: its numbers are those of design.json, and it needs nothing but itself."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

from fl_server.designs import Design
from fl_server.designs.collect import collect
from fl_server.report.design import write_design_report

SITES = {"davos": {"role": "external", "patients": 50}}
VALUES = {"aarau": 0.8123, "basel": 0.7011, "chur": 0.8567, "davos": 0.6049, "pooled": 0.9}


class Words(HTMLParser):
    """The text that a reader sees."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.parts: list[str] = []
        self._hidden = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs) -> None:
        self._hidden = tag in ("style", "title")

    def handle_endtag(self, tag: str) -> None:
        self._hidden = False

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.parts.append(data)


def numbers(node: object) -> Iterator[str]:
    """Every number of a JSON body, as the page writes it."""
    if isinstance(node, dict | list):
        for part in node.values() if isinstance(node, dict) else node:
            yield from numbers(part)
    elif isinstance(node, int | float):
        yield f"{node:.3f}"


@pytest.mark.parametrize("design", list(Design))
def test_every_number_on_the_page_is_in_the_file(design: Design, make_plan, finished, told, tmp_path: Path) -> None:
    plan = make_plan(design, seeds=(1, 2), sites=SITES)
    shift = {derived.arm: number / 100 for number, derived in enumerate(plan.studies)}
    found = finished(plan, lambda arm, site, role: told(site, role, VALUES[site] + shift[arm] / 10))
    result = collect(plan, found, simulated=True)
    write_design_report(result, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    known = set(numbers(json.loads(result.model_dump_json(by_alias=True))))
    shown = set(re.findall(r"\d+\.\d{3}", " ".join(Words(page).parts)))
    assert len(shown) > 10 and shown <= known
    assert not re.search(r"(src|href)=\"(?!#)", page) and "<script" not in page
    assert "url(http" not in page and "NO PRIVACY GUARANTEE" in page


def test_the_worst_site_is_named_and_marked(make_plan, finished, told, tmp_path: Path) -> None:
    plan = make_plan(Design.LOSO, sites=SITES)
    result = collect(plan, finished(plan, lambda arm, site, role: told(site, role, VALUES[site])), simulated=False)
    write_design_report(result, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Worst site: davos, 0.605 (0.555–0.655)" in page
    assert re.findall(r'<tr class="worst"><th scope="row">(\w+)', page) == ["davos"]


def test_a_design_without_a_result_yet_has_a_page(make_plan, tmp_path: Path) -> None:
    plan = make_plan(Design.LOSO, sites=SITES)
    write_design_report(collect(plan, {}, simulated=False), tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "0 of 4 studies" in page and "No site reported a headline result yet" in page
