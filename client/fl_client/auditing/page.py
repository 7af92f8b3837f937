"""An audit in plain language, as one offline HTML file for the privacy officer."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fl_client.auditing.run import Audit
from fl_client.files import write_private
from fl_shared.page import environment
from fl_shared.site import Site
from fl_shared.study import Study


def summary(found: Audit, *, site: Site, study: Study) -> dict[str, Any]:
    """What was found, as plain values."""
    gates = [
        {"name": gate.name, "measured": gate.measured, "low": gate.low, "high": gate.high, "holds": gate.holds}
        for gate in found.gates
    ]
    names = ("claimed", "delta", "watched", "membership_auc", "canaries", "guessed", "right", "floor", "holds")
    told = {"site": site.name, "study": study.name, "hash": study.identity, "synthetic": site.synthetic}
    return told | {name: getattr(found, name) for name in names} | {"gates": gates}


def write_page(found: Mapping[str, Any], path: Path) -> None:
    """Write the `summary` to ``path`` (0600); it needs no network, no script and no other file."""
    page = (
        environment("fl_client.auditing")
        .get_template("audit.html.j2")
        .render(found=found, version=version("consilium"), date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"))
    )
    write_private(path, page.encode())
