"""The findings of a check as one offline HTML file. Its numbers are those of the `summary`, fit for its reader."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from markupsafe import Markup

from fl_client.data.check_report import figures
from fl_client.data.check_report.pictures import Picture
from fl_client.data.checking import words
from fl_client.files import write_private
from fl_shared.errors import ConsiliumError, ExitCode
from fl_shared.page import environment


@dataclass(frozen=True, kw_only=True)
class Step:
    """A step of the cohort flow: what is left, and what was set aside on the way to it."""

    title: str
    count: object
    aside: Sequence[str]


def write_page(summary: Mapping[str, Any], path: Path, *, pictures: Sequence[Picture] = ()) -> None:
    """Write the report to ``path`` (0600); it needs no network, no script and no other file.

    Args:
        summary: of `checking.summary`.
        path: in a folder that exists (`writable`).
        pictures: of patients, only with a local summary.
    """
    if pictures and not summary["local"]:
        raise ValueError("pictures show a patient: only a local report may hold them")
    page = (
        environment("fl_client.data.check_report")
        .get_template("template.html.j2")
        .render(
            summary=summary,
            words=words,
            steps=_steps(summary),
            histograms=_histograms(summary),
            pictures=pictures,
            version=version("consilium"),
            date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        )
    )
    write_private(path, page.encode())


def writable(path: Path) -> None:
    """Make sure that a report can be written to ``path``.

    Raises:
        ConsiliumError: USAGE, it is a folder, or its folder cannot be made or written to.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        possible = not path.is_dir() and os.access(path.parent, os.W_OK | os.X_OK)
    except OSError:
        possible = False
    if not possible:
        mend = "Give a file in a folder that you may write to."
        raise ConsiliumError(f"{path}: the report cannot be written. {mend}", code=ExitCode.USAGE)


def _steps(summary: Mapping[str, Any]) -> list[Step]:
    """The flow, with each reason beside the step that it belongs to."""
    aside: dict[str, list[str]] = {}
    for found in summary["quarantined"]:
        if found["modality"] == "(sample)":
            check = found["check"]
            step = {"no-modality": "usable", "outcome-before-index": "after_outcome_check"}.get(check, "index_time_ok")
            aside.setdefault(step, []).append(f"{found['count']} {check}")
    titles = dict(zip(summary["flow"], words.flow_steps(summary), strict=True))
    return [Step(title=title, count=n, aside=aside.get(step, [])) for step, (title, n) in titles.items()]


def _histograms(summary: Mapping[str, Any]) -> list[Picture]:
    found = []
    for at, item in enumerate(summary.get("table_1", ())):
        bars = item.get("histogram", {}).get("bars")
        if not bars:
            continue
        unit, source = words.unit(item["unit"]), item["source"]
        name = item["title"] + (f" ({unit})" if unit else "") + (f", {source}, last value" if source else "")
        said = "; ".join(f"{_range(bar)} {bar['count']}" for bar in bars)
        svg = Markup(figures.histogram(bars, item["histogram"]["edges"], key=f"histogram{at}"))
        found.append(Picture(body=svg, alt=f"Histogram of {name}: {said}.", caption=name))
    return found


def _range(bar: Mapping[str, Any]) -> str:
    if bar["from"] is None:
        return f"below {words.number(bar['to'])}:"
    if bar["to"] is None:
        return f"from {words.number(bar['from'])}:"
    return f"{words.number(bar['from'])} to {words.number(bar['to'])}:"
