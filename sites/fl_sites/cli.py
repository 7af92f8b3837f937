"""``fl-sites``: site folders from public data sets, and a synthetic cohort."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Column, Table

from fl_shared.commands import Format, emit, run
from fl_shared.models.systems import SYSTEMS
from fl_sites.importers import mimic_iv
from fl_sites.importers.catalogue import IMPORTERS, Importer
from fl_sites.importers.imported import Imported
from fl_sites.synthetic.cohort import synthesize as synthesize_cohort

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Make [bold]site folders[/]: from your own download of a public data set, or synthetic.\n\n"
    "Each folder holds a site.toml and what it describes, as a hospital would; OUT/study.toml is a study over them.",
)
importers = typer.Typer(no_args_is_help=True, help="Turn your own download of a public data set into site folders.")
app.add_typer(importers, name="import")

From = Annotated[Path, typer.Option("--from", help="The folder of your own, unmodified download.")]
Ccs = Annotated[
    Path | None,
    typer.Option("--ccs", help="AHRQ's single-level CCS file, or the folder of both; adds the task 'phenotypes'."),
]
Out = Annotated[Path, typer.Option("--out", help="Folder to write: one folder a site, and study.toml.")]
Output = Annotated[Format, typer.Option("--format", help="How to print the result.")]


@app.command("list")
def list_importers(fmt: Output = Format.TEXT) -> None:
    """List the data sets that can be imported, and what each needs."""
    known = [{"name": i.name, "title": i.title, "needs": list(i.needs), "download": i.download} for i in IMPORTERS]

    def draw(console: Console) -> None:
        table = Table(
            "import", "data set", Column("needs", overflow="fold"), Column("download", overflow="fold"), show_lines=True
        )
        for importer in IMPORTERS:
            table.add_row(importer.name, importer.title, "\n".join(importer.needs), importer.download)
        console.print(table)

    emit({"importers": known}, fmt=fmt, text=draw)


def _help(importer: Importer) -> str:
    needs = "\n\n".join(f"- {name}" for name in importer.needs)
    return f"{importer.title}.\n\nNeeds, unmodified; nothing is downloaded:\n\n{needs}"


def _add(importer: Importer) -> None:
    """The command of a data set that has no options of its own."""

    def command(source: From, out: Out, fmt: Output = Format.TEXT) -> None:
        _tell(importer.run(source, out), fmt)

    importers.command(importer.name, help=_help(importer))(command)


def _add_mimic_iv(importer: Importer) -> None:
    def command(source: From, out: Out, ccs: Ccs = None, fmt: Output = Format.TEXT) -> None:
        _tell(mimic_iv.import_mimic_iv(source, out, ccs=ccs), fmt)

    importers.command(importer.name, help=_help(importer))(command)


for _importer in IMPORTERS:
    (_add_mimic_iv if _importer.run is mimic_iv.import_mimic_iv else _add)(_importer)


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
    system: Annotated[
        str, typer.Option("--system", help=f"Of the study, with its paper's tasks: {', '.join(SYSTEMS)}.")
    ] = "attention",
    fmt: Output = Format.TEXT,
) -> None:
    """Draw a synthetic cohort of all modalities: cine, ECG, tables, series, notes and prescriptions of known risk.

    Cine for a share of the patients only, as in a hospital; 4 sites of 150 patients take half a minute. The true risks
    and the best reachable AUROC are written to OUT/truth, never into a site folder. The sites are the same whatever
    --system is; the study is of its modalities and tasks.
    """
    names = [name.strip() for name in sites.split(",")]
    done = synthesize_cohort(out, sites=names, patients=patients, seed=seed, system=system)
    notes = [f"True risks and oracle AUROC: {done.truth}"]
    emit(
        _plain(asdict(done)),
        fmt=fmt,
        text=lambda console: _draw(console, done.records, done.patients, done.study, notes),
    )


def _tell(done: Imported, fmt: Format) -> None:
    notes = [f"{count} record(s) left out: {reason}" for reason, count in done.left_out.items() if count]
    notes.extend(done.notes)
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
