"""The tables of what was measured, each figure beside its target; a target that was missed stands there as missed.

Scripts in this folder keep their figures in ``results/NAME.json``; this one writes all of them into ``TABLES.md``.

    python tests/benchmarks/targets.py
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

HERE = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One measured number.

    Attributes:
        what: Names it within its table (``federated, external, AUROC of death``).
        value: As measured.
        low: Lower end of its 95 % interval, or of its spread over seeds.
        high: Upper end.
        target: What it is held against; None when nothing was promised.
        better: Which side of the target is met.
        note: Seeds, sizes, and for a missed target what was tried.
    """

    what: str
    value: float
    low: float | None = None
    high: float | None = None
    target: float | None = None
    better: Literal["higher", "lower"] = "higher"
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the target is reached; None without one."""
        if self.target is None:
            return None
        return self.value >= self.target if self.better == "higher" else self.value <= self.target


def keep(name: str, *, title: str, command: str, figures: Sequence[Figure], results: Path = HERE / "results") -> None:
    """Store one table: ``title`` says data, sizes and unit, ``command`` makes it again."""
    results.mkdir(exist_ok=True)
    body = {"title": title, "command": command, "figures": [asdict(figure) for figure in figures]}
    (results / f"{name}.json").write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")


def tables(results: Path = HERE / "results") -> str:
    """All stored tables as Markdown."""
    parts = [
        "# Figures and targets",
        "Written by `python tests/benchmarks/targets.py`. Every `missed` was left standing.",
    ]
    for path in sorted(results.glob("*.json")):
        body = json.loads(path.read_text(encoding="utf-8"))
        figures = [Figure(**figure) for figure in body["figures"]]
        parts += [f"## {body['title']}", f"`{body['command']}`", "\n".join(_lines(figures))]
    return "\n\n".join(parts) + "\n"


def _lines(figures: Iterable[Figure]) -> list[str]:
    lines = ["| what | measured | target | | note |", "|---|---|---|---|---|"]
    for figure in figures:
        shown = f"{figure.value:.4g}"
        if figure.low is not None and figure.high is not None:
            shown += f" ({figure.low:.4g} to {figure.high:.4g})"
        sign = "at least" if figure.better == "higher" else "at most"
        target = "" if figure.target is None else f"{sign} {figure.target:.4g}"
        met = {None: "", True: "met", False: "**missed**"}[figure.met]
        lines.append(f"| {figure.what} | {shown} | {target} | {met} | {figure.note} |")
    return lines


if __name__ == "__main__":
    (HERE / "TABLES.md").write_text(tables(), encoding="utf-8")
    print(HERE / "TABLES.md")
