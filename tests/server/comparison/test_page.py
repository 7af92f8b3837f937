"""The page of a comparison: every number is that of the file, it stands alone, and it hides no refusal."""

from __future__ import annotations

import ast
import html
import json
import re
import shutil
import subprocess
from bisect import bisect_left
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import made_up
import numbers_of_page as told_numbers
import pytest
from made_up import comparison, contrast, number, variant
from rich.console import Console

import fl_server.comparison
from fl_server.comparison.page import write_comparison_report
from fl_server.comparison.plan import TablePlan
from fl_server.comparison.terminal import show_comparison
from fl_server.report import forest
from fl_shared.metrics import table

VOID = {"meta", "br", "use", "path", "rect"}


class Tags(HTMLParser):
    """Tags, ids and text; tags must close in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open, self.tags, self.text = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "title"):
            self.text.append(data)

    @property
    def words(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.text))

    def values(self, name: str) -> list[str]:
        return [attributes[name] for _, attributes in self.tags if name in attributes]


def page_of(result, folder: Path) -> str:
    write_comparison_report(result, folder / "runs" / "report.html")
    return (folder / "runs" / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module", params=["tables of its own", "none"])
def made(request):
    result = made_up.marked(made_up.everything())
    return result if request.param != "none" else result.model_copy(update={"tables": ()})


@pytest.fixture(scope="module")
def page(made, tmp_path_factory):
    return page_of(made, tmp_path_factory.mktemp("page"))


def _phrases() -> str:
    """What the sources of the page say in words of their own."""
    folder = Path(fl_server.comparison.__file__).parent
    templates = (*folder.glob("*.j2"), Path(forest.__file__).with_name("macros.j2"))
    texts = [told_numbers._CUT.sub(" ", html.unescape(path.read_text())) for path in templates]
    for source in (*folder.glob("*.py"), Path(table.__file__), Path(forest.__file__)):
        parts = ast.walk(ast.parse(source.read_text(encoding="utf-8")))
        texts += [part.value for part in parts if isinstance(part, ast.Constant) and isinstance(part.value, str)]
    return " " + re.sub(r"\s+", " ", " ¦ ".join(texts)) + " "


def _counts(result) -> list[str]:
    """What the page counts: cells, variants, seeds, variants of those compared; numbers of footnotes."""
    states = [cell.state for cell in result.cells]
    told = [f"{states.count(state)} {state}" for state in set(states)]
    told += [f"of {len(states)} cells", f"{len(result.variants)} variants", f"with {len(result.seeds)} seed"]
    return told


def _is_told(word: str, values: list[float]) -> bool:
    """Whether a value, written like this, is this word."""
    plain, percent = word.rstrip("% ").replace(",", ""), word.endswith("%")
    decimals, scale = len(plain.partition(".")[2]) + 2 * percent, 100 if percent else 1
    near = (0.5 * 10.0**-decimals if decimals else 0.0) + 1e-9
    at = bisect_left(values, float(plain) / scale - near)
    return at < len(values) and values[at] <= float(plain) / scale + near


def strangers(page: str, result) -> list[str]:
    """Numbers of the page that are neither in comparison.json nor the page's own words."""
    reader = told_numbers._Texts()
    reader.feed(re.sub(r"<sup>\[[\d, ]+\]</sup>|(?<=refused) \[\d+\]", "", page))
    values = sorted({abs(v) for v in told_numbers._values(json.loads(result.model_dump_json(by_alias=True)))})
    phrases, counts, unknown = _phrases(), _counts(result), []
    for line in (re.sub(r"\s+", " ", piece) for piece in " ".join(reader.found).split("\n")):
        line = re.sub(r"\d+ of \d+ seeds|: \d+ of \d+\.", "", line)
        for match in told_numbers._NUMBER.finditer(line):
            before = (re.findall(r"\S+", line[: match.start()]) or [""])[-1]
            behind = (re.findall(r"\S+", line[match.end() :]) or [""])[0]
            word = match.group().lstrip("+-")
            known = _is_told(word, values) or told_numbers._is_prose(word, before, behind, phrases)
            if not known and not any(word in count and count in line for count in counts):
                unknown.append(f"{before} {match.group()} {behind}")
    return unknown


def test_every_number_on_the_page_is_in_the_file(made, page):
    assert strangers(page, made) == []
    assert len(re.findall(r"\d\.\d{3}", page)) > 500


def test_a_number_that_the_file_does_not_hold_is_found(made, page):
    (one,) = {
        n.value
        for n in made.numbers
        if (n.variant, n.mode, n.role, n.site, n.metric, n.subgroup)
        == ("early", "federated", "external", "", "auroc", "")
    }
    assert f"{one:.3f}" in page
    assert strangers(page.replace(f"{one:.3f}", f"{one + 0.002:.3f}", 1), made)


def test_the_page_is_small_and_asks_for_nothing(page):
    assert len(page.encode()) < 3_000_000
    assert not re.search(r"https?:|//[a-z]|@import|url\((?!#)|(src|href)=\"(?!#)", page)
    tags = Tags(page)
    assert not {"script", "img", "link", "iframe", "object"} & {tag for tag, _ in tags.tags}
    assert "default-src 'none'" in page


def test_the_page_is_well_formed_and_accessible(made, page):
    tags = Tags(page)
    ids = tags.values("id")
    assert tags.open == [] and len(ids) == len(set(ids))
    assert {href[1:] for href in tags.values("href")} <= set(ids)
    names = [tag for tag, _ in tags.tags]
    levels = [int(name[1]) for name in names if re.fullmatch(r"h\d", name)]
    assert names.count("h1") == names.count("main") == 1 and all(
        after - before <= 1 for before, after in pairwise(levels)
    )
    assert all(a.get("scope") for tag, a in tags.tags if tag == "th")
    pictures = [a["aria-label"] for _, a in tags.tags if a.get("role") == "img"]
    kinds = [alt.split()[0] for alt in pictures]
    assert {"Heat", "Forest"} <= set(kinds) and any("over share hidden" in alt for alt in pictures)
    assert all(len(alt) > 40 for alt in pictures)
    assert all(a.get("aria-hidden") == "true" for tag, a in tags.tags if tag == "svg")
    scrolls = [a for _, a in tags.tags if a.get("class") == "scroll"]
    assert scrolls and all(
        a.get("tabindex") == "0" and a.get("aria-label") and a.get("role") == "region" for a in scrolls
    )


def test_every_picture_has_its_table_beside_it(page):
    sections = re.findall(r'<section aria-labelledby="table-\d+">.*?</section>', page, re.DOTALL)
    assert len(sections) >= 6
    for section in sections:
        assert section.count("<figure>") >= 1 and section.count('<table class="pivot">') == 1
        assert section.index("<figure>") < section.index('<table class="pivot">') < section.index('<ul class="told">')


def test_refusals_failures_and_waits_are_told_with_their_reasons(page):
    words = Tags(page).words
    assert made_up.REFUSED in words and "<b>mixes" not in page  # escaped
    assert "MMTM (federated, epsilon 3; federated, epsilon 8)" in words
    assert "out of memory" in words and "three levels are needed" in words and "Joint: not trained yet." in words
    assert "Not complete" in words and "2 of 3 seeds" in words
    assert "419 finished, 9 refused, 3 failed, 4 waiting of 435 cells" in words


def test_warnings_stand_before_everything_else(made, tmp_path):
    words = Tags(page_of(made, tmp_path)).words
    for said in ("SYNTHETIC DATA", "NO PRIVACY GUARANTEE in these modes: each site alone; federated; pooled."):
        assert 0 < words.index(said) < words.index("Summary AUROC" if "Summary AUROC" in words else "cells (a cell")
    real = comparison(
        [variant("plain")], [number("plain", 0.7, mode="epsilon_8")], synthetic=False, modes=("epsilon_8",)
    )
    words = Tags(page_of(real, tmp_path)).words
    assert "SYNTHETIC" not in words and "NO PRIVACY GUARANTEE" not in words
    assert "Differentially private in: federated, epsilon 8" in words


def test_published_figures_come_with_their_warning(tmp_path):
    words = Tags(page_of(made_up.everything(), tmp_path)).words
    assert (
        "published 0.77" in words and "of other patients: for the eye, never a test. other, federated: 0.71." in words
    )
    words = Tags(page_of(made_up.everything().model_copy(update={"tables": ()}), tmp_path)).words
    assert "published" not in words.lower()


def test_the_summary_says_who_won_and_what_is_noise(tmp_path):
    told = [number("plain", 3.4, metric="mae"), number("good", 3.1, metric="mae"), number("odd", 3.3, metric="mae")]
    tested = [contrast("good", -0.3, 0.01, metric="mae"), contrast("odd", -0.1, 0.4, metric="mae")]
    three = [variant("plain", "Plain"), variant("good", "Good"), variant("odd", "Odd")]
    result = comparison(three, told, tested, types={"death": "regression"})
    page = page_of(result, tmp_path)
    (winners,) = re.findall(r'<table class="winners">.*?</table>', page, re.DOTALL)
    row = Tags(winners[winners.index("<tbody>") : winners.index("</tbody>") + 8]).words
    assert "Good 3.1 (3.06–3.14)" in row and "▲ better" in row and "p 0.010" in row
    assert "May be chance against the reference: Odd." in row
    assert set(re.findall(r'<tr><th scope="row">(\w+)</th><td class="best', page)) == {"Good"}


def test_nothing_trained_yet_has_a_page(tmp_path):
    waiting = [made_up.CellTold(variant="plain", mode="federated", seed=1, state="waiting")]
    result = comparison([variant("plain")], [], cells=waiting, tables=(TablePlan(title="T", picture="lines"),))
    for one in (result, result.model_copy(update={"tables": ()})):
        page = page_of(one, tmp_path)
        words = Tags(page).words
        assert "1 waiting of 1 cells" in words and "Not complete" in words and "<figure>" not in page


def test_the_terminal_tells_the_same(tmp_path, capsys):
    result = made_up.everything()
    show_comparison(result, tmp_path, Console(width=220))
    said = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert said.startswith("SYNTHETIC DATA") and "NO PRIVACY GUARANTEE in: each site alone; federated; pooled" in said
    assert "[1] refused: " + made_up.REFUSED in said
    value = next(
        n.value for n in result.numbers if n.variant == "plain" and n.mode == "federated" and n.role == "external"
    )
    assert f"{value:.3f} (" in said and "may be chance" in said and "reference" in said
    assert str(tmp_path / "comparison.json") in said
    share = next(part.value for part in result.parts if (part.kind, part.role) == ("attention", "external"))
    assert "Attention to each modality: federated, at harbour" in said and f"{share:.2f} (" in said
    show_comparison(result, tmp_path, Console(width=80))
    narrow = capsys.readouterr().out
    assert re.search(rf"federated +{value:.3f} \(", narrow) and "≈" in narrow  # a line a cell
    show_comparison(comparison([variant("plain")], [], cells=[]), tmp_path, Console(width=80))
    assert "No number was told." in capsys.readouterr().out


FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--enable-logging=stderr",
    "--v=0",
)


def test_a_real_browser_shows_the_page(made, tmp_path):
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("needs a browser (Debian: apt install chromium)")
    page_of(made, tmp_path)
    picture = tmp_path / "report.png"
    command = [browser, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1366,3000",
               f"--screenshot={picture}", "--dump-dom", (tmp_path / "runs" / "report.html").as_uri()]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert 'id="notes"' in done.stdout and "</html>" in done.stdout
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line or "Refused to" in line] == []
    assert picture.stat().st_size > 50_000  # not a blank page
