"""How figures look: colours that the page fills in for light, dark and print, and how a site is told from the others.

Colours are drawn as placeholders and then replaced by CSS variables. Text stays text. Nothing in a figure points
outside the page.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.figure import Figure

from fl_server.report import view
from fl_shared.page import inline_svg
from fl_shared.results import Results

INK, MUTED, GRID = "#010101", "#020202", "#030303"
EXTERNAL = ("#040401", "#040402", "#040403")
INTERNAL = "#050505"
BANDS = ("#060601", "#060602", "#060603")
BAND_NAMES = ("low", "middle", "high")
VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    GRID: "--line",
    **{colour: f"--external-{index + 1}" for index, colour in enumerate(EXTERNAL)},
    INTERNAL: "--internal",
    **{colour: f"--band-{name}" for colour, name in zip(BANDS, BAND_NAMES, strict=True)},
}
Dash = str | tuple[int, tuple[float, ...]]
_DASHES: tuple[Dash, ...] = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))
BAND_DASHES: tuple[Dash, ...] = ((0, (1.5, 1.5)), (0, (5, 2)), "-")
BAND_WIDTHS = (1.4, 1.8, 2.4)
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "report",
    "font.size": 10.5,
    "text.parse_math": False,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "legend.frameon": False,
}


@dataclass(frozen=True, kw_only=True)
class Picture:
    """An inline SVG with the words that stand for it."""

    svg: Markup
    alt: str
    caption: str


@dataclass(frozen=True, kw_only=True)
class Look:
    """How a site is drawn in every figure: colour, dash, weight."""

    colour: str
    dash: Dash
    width: float
    external: bool


def looks(results: Results) -> dict[str, Look]:
    """External sites strong and in colour, training sites thin and grey; dashes tell them apart without colour."""
    found: dict[str, Look] = {}
    order = view.site_order(results)
    for outside in (True, False):
        for index, name in enumerate(name for name in order if (results.sites[name].role == "external") is outside):
            colour = EXTERNAL[index % len(EXTERNAL)] if outside else INTERNAL
            dash = _DASHES[index % len(_DASHES)]
            found[name] = Look(colour=colour, dash=dash, width=2.4 if outside else 1.3, external=outside)
    return found


class Canvas:
    """One figure in the making; ``svg`` is set when it is done."""

    def __init__(self, width: float, height: float) -> None:
        self.figure = Figure(figsize=(width, height), layout="constrained")
        self.svg = Markup()


@contextlib.contextmanager
def canvas(width: float, height: float, *, key: str) -> Iterator[Canvas]:
    """Draw within the style of the page; sizes in inches, ``key`` as in `inline_svg`."""
    with mpl.rc_context(STYLE):
        drawn = Canvas(width, height)
        yield drawn
        drawn.svg = Markup(inline_svg(drawn.figure, key=key, variables=VARIABLES))


def legend(results: Results, sites: Sequence[str]) -> list[tuple[str, Markup]]:
    """Site and its line, as they are drawn, for a legend in the page."""
    style = looks(results)
    return [
        (f"{site} ({view.ROLE_NAMES[results.sites[site].role]})", _swatch(style[site]))
        for site in view.site_order(results)
        if site in sites
    ]


def _swatch(look: Look) -> Markup:
    dashes = "" if isinstance(look.dash, str) else " ".join(f"{look.width * part:g}" for part in look.dash[1])
    line = f'stroke="var({VARIABLES[look.colour]})" stroke-width="{look.width}" stroke-dasharray="{dashes}"'
    return Markup(f'<svg viewBox="0 0 34 8" width="34" height="8" aria-hidden="true"><path d="M0 4H34" {line}/></svg>')
