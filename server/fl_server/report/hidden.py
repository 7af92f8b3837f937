"""How the model bears missing inputs: the headline metric as more and more of them are hidden at random."""

from __future__ import annotations

from dataclasses import dataclass

from fl_server.report import view
from fl_server.report.style import GRID, Picture, canvas, looks
from fl_server.report.subgroups import HIDDEN
from fl_shared.metrics.table import METRICS
from fl_shared.results import EvaluationRow, Results

SIZE = (6.4, 3.1)  # inches


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """columns: shares hidden, as the sites tell them ('' nothing). rows: a site's cells; None: not told."""

    picture: Picture | None
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[EvaluationRow | None, ...]], ...]


def sweep(results: Results, task: str, index: int) -> Sweep | None:
    """The sweep of a task's headline; None where the study hides nothing."""
    wanted = {**view.headline_of(results, task), "model": view.main_model(results)}
    mine = [
        r
        for r in results.evaluation
        if view.is_of(r, wanted) and r.subgroup.startswith((HIDDEN,) if r.subgroup else "")
    ]
    shares = sorted({row.subgroup for row in mine if row.subgroup}, key=share)
    if not shares:
        return None
    columns = ("", *shares)
    by = {(row.site, row.subgroup): row for row in mine}
    sites = [site for site in view.site_order(results) if any((site, name) in by for name in shares)]
    rows = tuple((site, tuple(by.get((site, column)) for column in columns)) for site in sites)
    return Sweep(picture=_picture(results, rows, key=f"hidden{index}"), columns=columns, rows=rows)


def what(results: Results) -> str:
    """What is hidden, in words."""
    return " and ".join(results.study.hidden_of) or "the inputs"


def share(subgroup: str) -> float:
    """0.5 of 'hidden=0.5'; 0 of no subgroup."""
    return float(subgroup.removeprefix(HIDDEN) or 0.0)


def _picture(
    results: Results, rows: tuple[tuple[str, tuple[EvaluationRow | None, ...]], ...], *, key: str
) -> Picture | None:
    style, said, metric = looks(results), [], None
    with canvas(*SIZE, key=key) as drawn:
        axes = drawn.figure.add_subplot()
        for at, (site, cells) in enumerate(reversed(rows)):
            told = [cell for cell in cells if cell is not None and cell.value is not None]
            if not told:
                continue
            look, metric = style[site], METRICS[told[0].metric]
            x = [share(cell.subgroup) + 0.006 * (at - (len(rows) - 1) / 2) for cell in told]
            y, mark = [cell.value or 0.0 for cell in told], "D" if look.external else "o"
            axes.plot(x, y, color=look.colour, linestyle=look.dash, linewidth=look.width, marker=mark, markersize=5)
            for place, cell in zip(x, told, strict=True):
                if cell.ci_low is not None and cell.ci_high is not None:
                    axes.vlines(place, cell.ci_low, cell.ci_high, color=look.colour, linewidth=1)
            points = [f"{view.number(c.value or 0.0, c)} with {share(c.subgroup):g} hidden" for c in told]
            said.append(f"{site}: {', '.join(points)}")
        if metric is None:
            return None
        if metric.chance is not None:
            axes.axhline(metric.chance, color=GRID, linewidth=1.2, linestyle=(0, (4, 3)))
        axes.set(xlabel=f"Share of {what(results)} hidden at random", ylabel=metric.title)
        axes.xaxis.set_major_formatter(lambda part, _: f"{part:.0%}")
        axes.grid(axis="y", color=GRID, linewidth=0.7)
    alt = f"{metric.title} as more of {what(results)} is hidden. {'; '.join(reversed(said))}."
    return Picture(svg=drawn.svg, alt=alt, caption="")
