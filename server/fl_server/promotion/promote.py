"""``fl-server promote``: hand a model on as a signed bundle, if it reached what its study had asked of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fl_shared.commands import Format, emit
from fl_shared.errors import ConsiliumError, ExitCode

SIGNING = "signing"  # folder of the coordinator's home
ADD = """Thresholds are written before training, in the study that the sites approve, for example:
[[promotion.discrimination]]
task = "{task}"
metric = "{metric}"
{bound}
at = "worst"
Train under such a study; a model is not promoted by thresholds that were written after its results."""


def promote(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run's folder (runs/NAME).", exists=True)],
    out: Annotated[Path | None, typer.Option(help="The bundle's new folder; RUN/bundle when absent.")] = None,
    home: Annotated[Path, typer.Option("--home", help="Coordinator's folder: holds the signing key.")] = Path(
        "coordinator"
    ),
    fmt: Annotated[Format, typer.Option("--format", help="How to print the result.")] = Format.TEXT,
) -> None:
    """Judge a run's model by the thresholds of its study, and write it as a signed bundle if all are met.

    Exit code 20 when one is missed or unknown: nothing is written then. Without thresholds in the study, 10.
    """
    from fl_server.promotion.requirements import requirements
    from fl_server.promotion.source import model_of, read_run
    from fl_shared.model_bundle import write_bundle
    from fl_shared.model_card import describe
    from fl_shared.model_signature import ensure_signing_key, fingerprint

    run = read_run(folder)
    if run.study.promotion is None:
        raise ConsiliumError(f"study '{run.study.name}' has no thresholds. {_example(run.study)}", code=ExitCode.STUDY)
    target = folder / "bundle" if out is None else out
    if target.exists():
        raise ConsiliumError(f"{target} exists already. Choose another --out.", code=ExitCode.USAGE)
    source = model_of(run, run.study.promotion.model)
    found = requirements(run.study, run.results)
    met = all(one.met for one in found)
    body: dict[str, Any] = {
        "study": run.study.name,
        "hash": run.identity,
        "model": source.finished.model,
        "requirements": [one.model_dump(mode="json") for one in found],
        "met": met,
    }
    if met:
        private, public = ensure_signing_key(home / SIGNING)
        card = describe(
            study=run.study,
            results=run.results,
            arrays=source.finished.arrays,
            round=source.round,
            model=source.finished.model,
            requirements=found,
        )
        write_bundle(
            target,
            canonical=run.canonical,
            arrays=source.finished.arrays,
            card=card,
            results=run.results,
            private=private,
        )
        body |= {"bundle": str(target), "public_key": str(public), "fingerprint": fingerprint(public)}
    emit(body, fmt=fmt, text=lambda console: _show(body, console))
    if not met:
        raise typer.Exit(int(ExitCode.NOT_PROMOTED))


def _example(study: Any) -> str:
    from fl_shared.metrics.table import METRICS, metrics_of

    task, plan = next(iter(study.tasks.items()))
    metric = metrics_of(plan.type)[0]
    bound = "at_least = 0.70" if METRICS[metric].higher_is_better else "at_most = 1.0"
    return ADD.format(task=task, metric=metric, bound=bound)


def _show(body: dict[str, Any], console: Console) -> None:
    from fl_server.promotion.requirements import WORDS

    table = Table("requirement", "site", "figure", "95 % interval", "", title=f"Promotion of {body['study']}")
    colours = {True: "green", False: "red", None: "yellow"}
    for one in body["requirements"]:
        value = "" if one["value"] is None else f"{one['value']:.4g}"
        between = "" if one["low"] is None else f"{one['low']:.4g} to {one['high']:.4g}"
        word = f"[{colours[one['met']]}]{WORDS[one['met']]}[/]" + (f" ({escape(one['note'])})" if one["note"] else "")
        table.add_row(escape(one["text"]), one["site"], value, between, word)
    console.print(table)
    if not body["met"]:
        console.print("not promoted: every requirement must be met, and an unknown figure is not met")
        return
    console.print(
        f"bundle: {body['bundle']}\nsigned by the key {body['public_key']}\nSHA-256 {body['fingerprint']}\n"
        "Give hospitals the public key apart from the bundle, and compare the fingerprint by voice.",
        soft_wrap=True,
        highlight=False,
    )
