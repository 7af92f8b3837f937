"""``fl-sites``: site folders from public data sets, and a synthetic cohort."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from fl_shared.commands import Format, emit, run
from fl_sites.importers import ptb_xl
from fl_sites.synthetic.cohort import synthesize as synthesize_cohort

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Make [bold]site folders[/]: from your own download of a public data set, or synthetic.\n\n"
    "Each folder holds a site.toml and what it describes, as a hospital would; OUT/study.toml is a study over them.",
)
importers = typer.Typer(no_args_is_help=True, help="Turn your own download of a public data set into site folders.")
app.add_typer(importers, name="import")

Out = Annotated[Path, typer.Option("--out", help="Folder to write: one folder a site, and study.toml.")]
Output = Annotated[Format, typer.Option("--format", help="How to print the result.")]


@app.command("list")
def list_importers(fmt: Output = Format.TEXT) -> None:
    """List the data sets that can be imported, and what each needs."""
    known = [{"name": "ptb-xl", "title": ptb_xl.TITLE, "needs": list(ptb_xl.NEEDS), "download": ptb_xl.DOWNLOAD}]

    def draw(console: Console) -> None:
        table = Table("import", "data set", "needs", "download")
        for row in known:
            table.add_row(str(row["name"]), str(row["title"]), "\n".join(row["needs"]), str(row["download"]))
        console.print(table)

    emit({"importers": known}, fmt=fmt, text=draw)


@importers.command("ptb-xl")
def import_ptb_xl(
    source: Annotated[Path, typer.Option("--from", help="The folder that holds ptbxl_database.csv.")],
    out: Out,
    fmt: Output = Format.TEXT,
) -> None:
    """PTB-XL: 12-lead ECG with reports; one site folder for each value of its column 'site'.

    Needs ptbxl_database.csv, scp_statements.csv and records100, unmodified. Nothing is downloaded.
    """
    done = ptb_xl.import_ptb_xl(source, out)
    notes = [f"{count} record(s) left out: {reason}" for reason, count in done.left_out.items() if count]
    emit(
        _plain(asdict(done)),
        fmt=fmt,
        text=lambda console: _draw(console, done.records, done.patients, done.study, notes),
    )


@app.command()
def synthesize(
    out: Out,
    sites: Annotated[
        str,
        typer.Option(
            "--sites",
            help="Names, separated by commas; the last one is external. In turn German, Chinese, English, Chinese.",
        ),
    ],
    patients: Annotated[int, typer.Option("--patients", min=1, help="Patients at each site.")],
    seed: Annotated[int, typer.Option("--seed", min=0, max=2**31 - 1, help="The same seed gives the same files.")] = 0,
    fmt: Output = Format.TEXT,
) -> None:
    """Draw a synthetic cohort: ECG, laboratory values and notes that follow a known risk.

    The true risks and the best reachable AUROC are written to OUT/truth, never into a site folder.
    """
    names = [name.strip() for name in sites.split(",")]
    done = synthesize_cohort(out, sites=names, patients=patients, seed=seed)
    notes = [f"True risks and oracle AUROC: {done.truth}"]
    emit(
        _plain(asdict(done)),
        fmt=fmt,
        text=lambda console: _draw(console, done.records, done.patients, done.study, notes),
    )


def _plain(data: Mapping[str, Any]) -> dict[str, Any]:
    return {key: str(value) if isinstance(value, Path) else value for key, value in data.items()}


def _draw(
    console: Console, records: Mapping[str, int], patients: Mapping[str, int], study: Path, notes: list[str]
) -> None:
    table = Table("site", "patients", "records")
    for name, count in records.items():
        table.add_row(name, str(patients[name]), str(count))
    console.print(table)
    for note in [f"Study: {study}", *notes]:
        console.print(note, highlight=False, soft_wrap=True)


def main() -> None:
    """Entry point of ``fl-sites``."""
    run(app)


if __name__ == "__main__":
    main()
