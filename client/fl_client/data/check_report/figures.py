"""The check report's figures: matplotlib SVG that takes the page's colours and font, and grey pictures as PNG.

Colours are drawn as placeholders and then replaced by CSS variables, so one figure serves light, dark and print.
Text stays text. Nothing in a figure points outside the page.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.image import imsave
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from fl_client.data.checking.words import number
from fl_shared.page import inline_svg

INK, MUTED, GRID, MARK, CARD = "#010101", "#020202", "#030303", "#040404", "#050505"
_VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--line", MARK: "--mark", CARD: "--card"}
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "check",
    "font.size": 10.5,
    "text.parse_math": False,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
}
TILE = 128  # pixels of a picture in the montage, at most
COLUMNS = 8  # of a montage of one slice
MAX_TICKS = 5


def histogram(bars: Sequence[Mapping[str, Any]], edges: Sequence[float], *, key: str) -> str:
    """Bars of a `checking.histogram` over bins of one width, as one SVG element; the height is that of one bin."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(3.6, 1.9), layout="constrained")
        axes = figure.add_subplot()
        widths = np.array([bar["bins"] for bar in bars])
        heights = [bar["count"] / bar["bins"] for bar in bars]
        axes.bar(np.cumsum(widths) - widths, heights, width=widths, align="edge", color=MARK, edgecolor=CARD)
        every = -(-len(edges) // MAX_TICKS)
        places = range(0, len(edges), every)
        axes.set_xticks([1 + place for place in places], [number(_short(edges[place])) for place in places])
        axes.set_xlim(0, len(edges) + 1)
        axes.yaxis.set_major_locator(MaxNLocator(3, integer=True))
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
        return inline_svg(figure, key=key, variables=_VARIABLES)


def ecg(signal: NDArray[Any], leads: Sequence[str], there: NDArray[np.bool_], *, rate: float, key: str) -> str:
    """A strip a lead (leads, T) in mV, in two columns, as one SVG element; missing leads say so."""
    with mpl.rc_context(_STYLE | {"path.simplify_threshold": 0.5}):
        rows = -(-len(leads) // 2)
        figure = Figure(figsize=(9.2, 0.4 + 0.85 * rows), layout="constrained")
        seconds = np.arange(signal.shape[1]) / rate
        reach = float(np.abs(signal[there]).max()) if there.any() else 1.0
        for at, (name, axes) in enumerate(zip(leads, figure.subplots(rows, 2, sharex=True).T.flat, strict=False)):
            axes.set(ylim=(-reach, reach), xlim=(0, seconds[-1]), yticks=[0])
            axes.grid(color=GRID, linewidth=0.7)
            axes.set_ylabel(name, rotation=0, ha="right", va="center", fontweight="bold")
            axes.tick_params(axis="y", length=0, labelleft=False)
            axes.spines[["left", "bottom"]].set_visible(False)
            axes.tick_params(axis="x", length=0, labelbottom=at % rows == rows - 1)
            if there[at]:
                axes.plot(seconds, signal[at], color=INK, linewidth=0.8)
            else:
                axes.text(0.5, 0.5, "missing", transform=axes.transAxes, ha="center", va="center", color=MUTED)
        figure.supxlabel(f"seconds (height of a strip: {2 * reach:.2g} mV)", fontsize=10)
        return inline_svg(figure, key=key, variables=_VARIABLES)


def montage(images: NDArray[Any]) -> str:
    """Grey images (rows, columns, height, width) side by side, as a ``data:`` address of a PNG."""
    if images.shape[0] == 1:  # one slice: its phases in lines
        images = _in_lines(images[0])
    step = -(-images.shape[-1] // TILE)
    images = images[..., ::step, ::step].astype(np.float32)
    rows, columns, height, width = images.shape
    low, high = np.percentile(images, [1, 99])
    sheet = images.transpose(0, 2, 1, 3).reshape(rows * height, columns * width)
    buffer = io.BytesIO()
    imsave(buffer, np.clip(sheet, low, high), cmap="gray", format="png")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _in_lines(images: NDArray[Any]) -> NDArray[Any]:
    """(n, height, width) -> (lines, `COLUMNS`, height, width), empty places black."""
    lines = -(-len(images) // COLUMNS)
    columns = min(len(images), COLUMNS)
    full = np.full((lines * columns, *images.shape[1:]), images.min(), dtype=images.dtype)
    full[: len(images)] = images
    return full.reshape(lines, columns, *images.shape[1:])


def _short(value: float) -> float:
    """A round edge as it is; one of a logarithm to two digits."""
    return value if float(f"{value:.4g}") == value else float(f"{value:.2g}")
