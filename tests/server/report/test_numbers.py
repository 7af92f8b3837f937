"""The machine twin: every number on the page is in results.json; a number that is not is found."""

from __future__ import annotations

import re

import invented
import pytest
from numbers_of_page import strangers


@pytest.fixture(scope="module")
def full(read, tmp_path_factory):
    results = invented.everything()
    return results, read(results, tmp_path_factory.mktemp("full"))


def test_every_number_on_the_page_is_in_the_results(full):
    results, (page, _, _) = full
    assert strangers(page, results) == []


def test_of_judged_predictions_too(results, read, tmp_path):
    page, _, _ = read(results, tmp_path)
    assert strangers(page, results) == []


@pytest.mark.parametrize("planted", ["0.777", "77.7 %", "-0.4561", "1,235", "84"])
def test_a_number_that_the_page_made_up_is_found(full, planted):
    results, (page, _, _) = full
    assert any(
        planted in found for found in strangers(page.replace("</main>", f"<p>AUROC {planted} here</p></main>"), results)
    )


def test_one_in_a_picture_or_its_words_is_found(full):
    results, (page, _, _) = full
    text = re.search(r"<text [^>]*>Net benefit</text>", page).group()
    assert strangers(page.replace(text, text.replace("Net benefit", "0.777"), 1), results)
    assert strangers(page.replace("Net benefit of the model ", "Net benefit of the model 0.777, ", 1), results)
    changed = page.replace("(0.683–", "(0.684–", 1)
    assert changed != page and strangers(changed, results)
