"""Contrast of the page's colours, light, dark and printed: AA of text (4.5), 3 of lines and marks."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import fl_server.report
import fl_shared.page

FOLDER = Path(fl_server.report.__file__).parent
BASE = (Path(fl_shared.page.__file__).parent / "base.css").read_text(encoding="utf-8")
REPORT, PRINT = ((FOLDER / name).read_text(encoding="utf-8") for name in ("report.css", "print.css"))
TEXT = [("ink", "paper"), ("ink", "card"), ("ink", "soft"), ("muted", "paper"), ("muted", "card"), ("muted", "soft"),
        ("mark", "paper"), ("mark", "card"), ("good", "card"), ("bad", "card"), ("warn-ink", "warn-paper"),
        ("alarm-ink", "alarm-paper"), ("ink", "calm-paper"), ("mark", "calm-paper")]  # fmt: skip
LINES = [(name, "card") for name in ("external-2", "external-3", "internal", "band-low", "band-middle", "band-high")]


def _colours(css: str) -> dict[str, str]:
    return dict(re.findall(r"--([\w-]+): (#[0-9a-f]{3,6})\b", css))


def _themes() -> dict[str, dict[str, str]]:
    (light, dark), (more, more_dark) = (css.split("@media (prefers-color-scheme: dark)", 1) for css in (BASE, REPORT))
    base = _colours(light) | _colours(more)
    return {"light": base, "dark": base | _colours(dark) | _colours(more_dark), "print": base | _colours(PRINT)}


def _luminance(colour: str) -> float:
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    """As WCAG 2.2 defines it."""
    dark, light = sorted((_luminance(one), _luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def test_the_formula_is_that_of_wcag():
    assert contrast("#000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.005)  # known to just fail AA


@pytest.mark.parametrize("theme", ["light", "dark", "print"])
def test_text_and_lines_can_be_told_from_what_is_behind(theme):
    colours = _themes()[theme]
    for front, behind in TEXT:
        assert contrast(colours[front], colours[behind]) >= 4.5, (front, behind)
    for front, behind in LINES:
        assert contrast(colours[front], colours[behind]) >= 3, (front, behind)
