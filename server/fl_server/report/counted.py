"""The report's page of federated statistics: a small picture of each histogram, and its quantiles in words."""

from __future__ import annotations

from markupsafe import Markup

from fl_shared.statistics import FieldStatistics, Quantile

WIDTH, HEIGHT = 128, 28  # of a picture, in its own units
TOLD = (0.01, 0.25, 0.5, 0.75, 0.99)


def histogram(field: FieldStatistics) -> Markup:
    """Bars of the told counts, the tallest as high as the picture; cells that are not told are left blank."""
    counts = [count or 0 for count in field.counts]
    top, wide = max(counts, default=0) or 1, WIDTH / max(len(counts), 1)
    bars = [
        f"M{i * wide:.1f} {HEIGHT}V{HEIGHT - HEIGHT * count / top:.1f}h{wide:.1f}V{HEIGHT}Z"
        for i, count in enumerate(counts)
        if count
    ]
    box = f'viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}"'
    return Markup(f'<svg {box} aria-hidden="true"><path d="{"".join(bars)}" fill="var(--mark)"/></svg>')


def told(field: FieldStatistics) -> list[Quantile | None]:
    """The quantiles of the table."""
    by_share = {quantile.share: quantile for quantile in field.quantiles}
    return [by_share.get(share) for share in TOLD]


def number(value: float) -> str:
    """Three digits."""
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def codes(field: FieldStatistics) -> str:
    """A categorical field's counts in words."""
    pairs = zip(field.codes, field.counts, strict=True)
    return ", ".join(f"{code:g}: {'withheld' if count is None else f'{count:,}'}" for code, count in pairs)
