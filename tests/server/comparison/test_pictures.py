"""Pictures of a comparison: what is drawn where, in which words, and that they can be read."""

from __future__ import annotations

import re
from pathlib import Path

import made_up
import pytest
from made_up import comparison, contrast, number, variant

import fl_server.report
import fl_shared.page
from fl_server.comparison import heat as heats
from fl_server.comparison.forests import forests
from fl_server.comparison.heat import heat
from fl_server.comparison.index import index_of
from fl_server.comparison.lines import lines
from fl_server.comparison.pivot import pivots
from fl_server.comparison.plan import TablePlan
from fl_server.comparison.result import CellTold
from fl_server.report.forest import WIDTH

AXES = {"ecg": {"cnn": "CNN", "lstm": "LSTM"}, "ehr": {"ft": "FT & more", "tpc": "TPC"}}
GRID = [variant(f"{a}.{b}", ecg=a, ehr=b) for a in AXES["ecg"] for b in AXES["ehr"]]
METRIC = {"auroc": (0.70, 0.72, 0.74, 0.80), "mae": (3.4, 3.3, 3.2, 2.9)}  # the same order of good


def pivot_of(result, **plan):
    (pivot,) = pivots(index_of(result), TablePlan(title="T", **plan))
    return pivot


def grid(metric="auroc", **changes):
    told = [number(v.name, value, metric=metric) for v, value in zip(GRID, METRIC[metric], strict=True)]
    tested = [
        contrast(v.name, round(value - METRIC[metric][0], 3), p, metric=metric, against="cnn.ft")
        for v, value, p in zip(GRID[1:], METRIC[metric][1:], (0.4, 0.06, 0.01), strict=True)
    ]
    result = comparison(GRID, told, tested, axes=AXES, **changes)
    return pivot_of(result, rows=("ecg",), columns=("ehr",), only={"metric": (metric,)}, picture="heat")


def texts(svg: str) -> list[str]:
    return re.findall(r"<tspan[^>]*>([^<]*)</tspan>", svg)


@pytest.mark.parametrize("metric", METRIC)
def test_a_heat_map_is_strongest_where_the_metric_is_best(metric):
    shown = heat(grid(metric))
    opacity = [float(found) for found in re.findall(r'fill-opacity="([\d.]+)"', shown.svg)]
    assert opacity[0] == pytest.approx(heats.WEAKEST) and opacity[-1] == pytest.approx(heats.STRONGEST)
    value = METRIC[metric]
    share = (value[1] - value[0]) / (value[3] - value[0])
    assert opacity[1] == pytest.approx(heats.WEAKEST + share * (heats.STRONGEST - heats.WEAKEST), abs=1e-3)
    form = ("%.3f" if metric == "auroc" else "%.4g").__mod__
    assert texts(shown.svg) == [
        "FT &amp; more", "TPC", "CNN", form(value[0]), "reference", form(value[1]), "≈ may be chance",
        "LSTM", form(value[2]), "≈ may be chance", form(value[3]), "▲ better",
    ]  # fmt: skip
    assert shown.svg.count("heat-best") == 1
    title = "AUROC" if metric == "auroc" else "MAE"
    assert f"LSTM: FT & more {title} {form(value[2])} (may be chance, p 0.060)" in shown.alt
    assert f"TPC {title} {form(value[3])} (best, better, p 0.010)" in shown.alt


def test_a_heat_map_shows_where_nothing_is_and_why():
    cells = [CellTold(variant="lstm.ft", mode="federated", seed=1, state="refused", reason="no levels")]
    told = [number(v.name, 0.7) for v in GRID if v.name not in ("lstm.ft", "cnn.tpc")]
    pivot = pivot_of(comparison(GRID, told, axes=AXES, cells=cells), rows=("ecg",), columns=("ehr",))
    shown = heat(pivot)
    assert "refused [1]" in texts(shown.svg) and "–" in texts(shown.svg)
    assert shown.svg.count("heat-none") == 2 and 'fill-opacity="nan' not in shown.svg
    assert "FT & more refused" in shown.alt and "TPC no number" in shown.alt


def test_columns_of_different_metrics_have_scales_of_their_own():
    two = [variant("plain"), variant("good")]
    told = [
        number(name, value, metric=metric)
        for metric, values in (("auroc", (0.6, 0.9)), ("brier", (0.1, 0.2)))
        for name, value in zip(("plain", "good"), values, strict=True)
    ]
    shown = heat(pivot_of(comparison(two, told), columns=("metric",)))
    assert re.findall(r'fill-opacity="([\d.]+)"', shown.svg) == ["0.050", "0.420", "0.420", "0.050"]
    assert "of the same metric" in shown.caption


def test_long_titles_are_broken_within_their_cells():
    long = "Temporal pointwise convolution with everything else that one can think of"
    axes = {"ecg": {"cnn": long, "lstm": "LSTM"}, "ehr": {"ft": long, "tpc": "TPC"}}
    told = [number(v.name, 0.7) for v in GRID]
    shown = heat(pivot_of(comparison(GRID, told, axes=axes), rows=("ecg",), columns=("ehr",)))
    assert max(map(len, texts(shown.svg))) <= heats.LABEL_CHARACTERS
    places = [float(y) for y in re.findall(r'<tspan x="[\d.-]+" y="([\d.-]+)"', shown.svg)]
    assert min(places) > 8  # whole letters above the base line
    assert max(places) < float(re.search(r'viewBox="0 0 \d+ (\d+)"', shown.svg)[1])


def _colours(css: str) -> dict[str, str]:
    return dict(re.findall(r"--([\w-]+): (#[0-9a-f]{3,6})\b", css))


def _parts(colour: str) -> list[float]:
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    return [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]


def _luminance(parts: list[float]) -> float:
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("theme", ["light", "dark", "print"])
def test_text_on_the_strongest_cell_keeps_its_contrast(theme):
    base = (Path(fl_shared.page.__file__).parent / "base.css").read_text(encoding="utf-8")
    paper = (Path(fl_server.report.__file__).parent / "print.css").read_text(encoding="utf-8")
    light, dark = base.split("@media (prefers-color-scheme: dark)", 1)
    theme_colours = {"light": {}, "dark": _colours(dark), "print": _colours(paper)}[theme]
    colours = {name: _parts(colour) for name, colour in (_colours(light) | theme_colours).items()}
    share = heats.STRONGEST
    mixed = [share * mark + (1 - share) * card for mark, card in zip(colours["mark"], colours["card"], strict=True)]
    low, high = sorted((_luminance(mixed), _luminance(colours["ink"])))
    assert (high + 0.05) / (low + 0.05) >= 4.5


def _marks(svg: str) -> float:
    """Where the middle of a square or circle is drawn, 0 to 1."""
    found = re.search(r'class="mark-(?:external|train)" d="M([\d.]+) ', svg)
    return (float(found[1]) + 4.5) / WIDTH


def test_a_forest_draws_values_and_differences_on_axes_of_their_own():
    three = [variant("plain"), variant("good"), variant("odd")]
    told = [number(name, value) for name, value in (("plain", 0.7), ("good", 0.74), ("odd", 0.66))]
    tested = [contrast("good", 0.04, 0.01), contrast("odd", -0.04, 0.3)]
    (shown,) = forests(pivot_of(comparison(three, told, tested), columns=("mode",)))
    ((_, rows),) = shown.groups
    assert [row.standing for row in rows] == ["reference", "better", "may be chance"]
    assert [row.best for row in rows] == [False, True, False]
    assert rows[0].difference == "" and shown.differences is not None
    assert _marks(rows[2].value) < _marks(rows[0].value) < _marks(rows[1].value)
    assert (_marks(rows[1].difference) + _marks(rows[2].difference)) / 2 == pytest.approx(0.5, abs=2e-3)
    assert shown.axis.low <= 0.62 and shown.axis.high >= 0.78 and shown.axis.high - shown.axis.low < 0.25
    assert shown.differences.low == -shown.differences.high and shown.differences.high >= 0.07
    assert "good 0.740 (0.700–0.780), difference +0.040 (+0.010 to +0.070), p 0.010, better" in shown.alt
    assert "Right of 0 is better" in shown.caption


def test_a_forest_of_an_error_says_that_left_is_better_and_one_of_a_ratio_says_neither():
    two = [variant("plain"), variant("good")]
    for metric, words in (("mae", "Left of 0 is better"), ("auroc", "Right of 0 is better"), ("calibration_slope", "")):
        told = [number(name, 0.9, metric=metric) for name in ("plain", "good")]
        result = comparison(two, told, [contrast("good", 0.1, 0.01, metric=metric)])
        (shown,) = forests(pivot_of(result, columns=("metric",)))
        assert words in shown.caption and ("better" in shown.caption) is bool(words)


def test_metrics_do_not_share_an_axis_and_what_is_absent_is_left_out():
    two = [variant("plain"), variant("good")]
    told = [number("plain", 0.7), number("plain", 0.2, metric="brier"), number("good", None)]
    found = forests(pivot_of(comparison(two, told), columns=("metric",)))
    assert [(shown.title, [row.name for _, rows in shown.groups for row in rows]) for shown in found] == [
        ("AUROC of death", ["plain"]), ("Brier score of death", ["plain"]),
    ]  # fmt: skip
    assert all(shown.differences is None for shown in found)


def test_lines_run_over_the_share_hidden():
    two = [variant("plain", "Plain"), variant("good", "Good")]
    groups = {"": 0.8, "hidden=0.25": 0.75, "hidden=0.5": 0.7}
    told = [
        number(name, value - 0.01 * at, subgroup=group)
        for at, name in enumerate(("plain", "good"))
        for group, value in groups.items()
    ]
    pivot = pivot_of(comparison(two, told), columns=("subgroup",), picture="lines")
    (shown,) = lines(pivot, "k")
    assert [name for name, _ in shown.legend] == ["Plain", "Good"]
    assert (
        "Plain: 0.800 (0.760–0.840) at 0 %, 0.750 (0.710–0.790) at 25 %, 0.700 (0.660–0.740) at 50 %"
        in shown.picture.alt
    )
    assert "Good: 0.790" in shown.picture.alt
    assert {"0 %", "25 %", "50 %"} <= set(re.findall(r">([^<>]+)</text>", shown.picture.svg))
    assert not re.search(r"#0[0-9a-f]{5}\b", shown.picture.svg)  # every colour is the page's


def test_lines_over_modes_go_by_epsilon_and_leave_the_yardsticks_apart():
    modes = ("pooled", "federated", "epsilon_8", "epsilon_3", "local")
    told = [number("plain", 0.8 - at / 100, mode=mode) for at, mode in enumerate(modes)]
    pivot = pivot_of(comparison([variant("plain", "Plain")], told, modes=modes), columns=("mode",), picture="lines")
    (shown,) = lines(pivot, "k")
    order = re.findall(r"at ((?:each|federated|pooled)[^;.]*?)(?:,|\.$)(?! epsilon)", shown.picture.alt)
    assert order == ["each site alone", "federated, epsilon 3", "federated, epsilon 8", "federated", "pooled"]


def test_every_line_can_be_told_without_colour():
    many = [variant(f"v{at}") for at in range(12)]
    told = [number(v.name, 0.7 + at / 100, subgroup=group) for at, v in enumerate(many) for group in ("", "hidden=0.5")]
    (shown,) = lines(pivot_of(comparison(many, told), columns=("subgroup",)), "k")
    swatches = [str(swatch) for _, swatch in shown.legend]
    assert len(set(swatches)) == 12
    plain = [re.sub(r'(stroke|fill)="var[^"]*"', "", swatch) for swatch in swatches[:4]]
    assert len(set(plain)) == 4


def test_a_table_without_any_number_has_no_lines_and_no_forest():
    pivot = pivot_of(comparison([variant("plain")], []), columns=("mode",))
    assert not pivot.told and lines(pivot, "k") == [] and forests(pivot) == []
    assert made_up.everything().tables
