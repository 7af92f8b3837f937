"""``fl-server paper``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fl_server.comparison.papers import Paper
from fl_shared.commands import Format, emit
from fl_shared.errors import ConsiliumError, ExitCode

HEADER = """Comparison '{name}' in the form of the tables of {paper}, over the study {study}.
Take choices out for a smaller grid; modes: local, pooled, federated, epsilon_8 (any epsilon).
Next: fl-server compare-systems {file} --plan
"""


def paper_command(
    paper: Annotated[Paper, typer.Argument(help="Whose tables.")],
    study: Annotated[
        Path, typer.Argument(help="The study.toml: sites, tasks, inputs, training.", exists=True, dir_okay=False)
    ],
    write: Annotated[Path, typer.Option(help="The comparison's file.")],
    fmt: Annotated[Format, typer.Option("--format", help="How to print the result.")] = Format.TEXT,
) -> None:
    """Write the comparison that asks of a study what a paper asked: its variants, baselines and tables."""
    from fl_server.comparison.papers import BODIES
    from fl_server.comparison.plan import ComparisonPlan
    from fl_shared.study import load_study
    from fl_shared.written import write_model

    body = BODIES[paper](load_study(study))
    seen = os.path.relpath(study.resolve(), write.resolve().parent)
    plan = ComparisonPlan.model_validate(
        {"schema": 1, "name": body["name"], "title": body["title"], "study": seen, **body}
    )
    header = HEADER.format(name=plan.name, paper=paper, study=study.name, file=write)
    try:
        write_model(write, plan, header=header)
    except OSError as error:
        problem = f"{write}: cannot be written ({error.strerror}). Name another file with --write."
        raise ConsiliumError(problem, code=ExitCode.USAGE) from error
    told = {"file": str(write), "name": plan.name, "variants": list(plan.combined()), "tables": len(plan.tables)}

    def text(console: Console) -> None:
        console.print(f"{write}: {len(plan.combined())} variants, {len(plan.tables)} tables", highlight=False)
        console.print(f"next: fl-server compare-systems {write} --plan", highlight=False)

    emit(told, fmt=fmt, text=text)
