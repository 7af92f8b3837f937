"""``fl-client predict``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from fl_shared.commands import Format, emit
from fl_shared.errors import ConsiliumError, ExitCode
from fl_shared.site import Site


def predict(
    context: typer.Context,
    model: Annotated[Path, typer.Option(help="Folder of a model bundle (fl-server promote).")],
    patient: Annotated[str | None, typer.Option(help="Id in the samples table: one page.")] = None,
    everyone: Annotated[bool, typer.Option("--all", help="A page of every patient, and a table of all.")] = False,
    out: Annotated[Path | None, typer.Option(help="Folder of the pages; below the site's state when absent.")] = None,
    trust: Annotated[Path | None, typer.Option(help="Public key of the coordinator who signed the bundle.")] = None,
    unsigned: Annotated[bool, typer.Option("--unsigned", help="Use a bundle that nobody vouches for.")] = False,
    fmt: Annotated[Format, typer.Option("--format", help="How to print the result.")] = Format.TEXT,
) -> None:
    """What a model bundle says of this site's patients, as offline pages that stay here. Not a medical device.

    The site need not have taken part in the study. No outcome is read and nothing is sent.
    """
    if (patient is None) != everyone:
        raise ConsiliumError("say whom: --patient ID, or --all (and not both)", code=ExitCode.USAGE)
    from fl_shared.model_bundle import trusted

    key = trusted(trust, unsigned=unsigned)
    from fl_client.bedside.opened import open_model
    from fl_client.bedside.predict import folder_of, ward_of, write_all, write_one
    from fl_client.bedside.register import Register

    site: Site = context.obj
    register = Register.of(site)
    wanted = None if patient is None else frozenset({register.known(patient)})
    opened = open_model(model, site, trust=key)
    folder = folder_of(site, opened, out)
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        files, pages = bar.add_task("reading files", total=None), bar.add_task("pages", total=None)
        ward = ward_of(site, opened, register, wanted, progress=lambda n, of: bar.update(files, completed=n, total=of))
        if patient is None:
            body = write_all(ward, folder, done=lambda n, of: bar.update(pages, completed=n, total=of))
        else:
            body = write_one(ward, patient, folder)
    emit(body, fmt=fmt, text=lambda console: _show(body, console))


def _show(body: dict[str, Any], console: Console) -> None:
    for warning in (body["model"]["unsigned"], "SYNTHETIC DATA" if body["synthetic"] else ""):
        if warning:
            console.print(warning, style="bold", markup=False)
    if len(body["patients"]) == 1:
        _show_one(body["patients"][0], console)
    else:
        console.print(f"{len(body['patients'])} patients with a number, {len(body['without'])} without")
    if body["model"]["not_mapped_here"]:
        console.print(f"missing in everybody: {', '.join(body['model']['not_mapped_here'])} (site.toml maps none)")
    name = body["patients"][0]["page"] if len(body["patients"]) == 1 else ""
    console.print(str(Path(body["folder"]) / name), soft_wrap=True, markup=False, highlight=False)
    console.print("Not a medical device: research use. These files show patients and must not leave the hospital.")


def _show_one(told: dict[str, Any], console: Console) -> None:
    table = Table("outcome", "model says", "of similar patients (95 % interval)", title=f"Patient {told['patient']}")
    for each in told["numbers"]:
        risk, like = each["kind"] == "risk", (each["similar"] or {}).get("together")
        words = f"{like['share']:.0%} ({like['low']:.0%} to {like['high']:.0%}) of {like['patients']}" if like else "-"
        table.add_row(each["title"], f"{each['value']:.1%}" if risk else f"{each['value']:.4g}", words)
    console.print(table)
    missing = ", ".join(each["modality"] for each in told["missing"]) or "none"
    console.print(f"inputs: {', '.join(told['present'])}; missing: {missing}")
