"""`fl-client doctor`: will this machine join and train? Each check says ok, warn or fail, and how to mend it.

It reaches nothing but the coordinator that ``site.toml`` names, and reads no patient's file.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fl_client.doctor import coordinator, machine, private, software
from fl_client.doctor.finding import Finding
from fl_shared.site import Site

__all__ = ["Finding", "examine", "render", "summary"]

_COLOURS = {"ok": "green", "warn": "yellow", "fail": "bold red"}


def examine(site: Site) -> list[Finding]:
    """Every check; takes seconds, at most about three minutes where nothing answers."""
    plan = site.resources
    return [
        machine.gpus(plan, seen=machine.seen_gpus()),
        machine.processors(plan, cores=machine.usable_cores()),
        machine.memory(plan, available=machine.available_memory()),
        machine.disk("disk, state", site.state_dir, least=machine.LEAST_STATE, ample=machine.AMPLE_STATE),
        machine.disk("disk, cache", site.cache_dir, least=machine.LEAST_CACHE, ample=machine.cache_room(site)),
        *coordinator.examine(site),
        private.state_folder(site),
        private.node_key(site),
        private.sandbox(site, opt_out=os.environ.get("CONSILIUM_SANDBOX", "")),
        private.metrics_port(site),
        software.ray(),
        *software.weights(site),
        software.time_zone(site),
    ]


def summary(site: Site, findings: Sequence[Finding]) -> dict[str, Any]:
    """The findings as JSON."""
    ok = all(finding.status != "fail" for finding in findings)
    return {"site": site.name, "ok": ok, "checks": [asdict(finding) for finding in findings]}


def render(findings: Sequence[Finding], console: Console) -> None:
    """Print the findings, and below them how to mend what is wrong."""
    table = Table("check", "", "found", title="Machine check")
    for finding in findings:
        colour = _COLOURS[finding.status]
        table.add_row(finding.check, f"[{colour}]{finding.status}[/]", escape(finding.found))
    console.print(table)
    for finding in findings:
        if finding.mend:
            console.print(f"  - {finding.check}: {escape(finding.mend)}", highlight=False, soft_wrap=True)
