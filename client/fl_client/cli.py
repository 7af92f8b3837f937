"""``fl-client``: everything that a hospital does.

Exit codes: 0 ok, 2 usage, 10 study file, 11 site file or machine, 12 data rejected, 13 study does not fit or is
not approved, 14 already running, 15 no sandbox, 16 privacy ledger, 19 a model bundle does not verify, 1 anything else.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from fl_client import officer
from fl_client.auditing.command import audit_privacy
from fl_client.bedside.command import predict
from fl_client.ledger_command import ledger
from fl_client.offline.command import evaluate
from fl_shared.commands import Format, emit, run
from fl_shared.errors import ConsiliumError, ExitCode, nearest
from fl_shared.processes import set_environment
from fl_shared.site import Network, Site, load_site

app = typer.Typer(
    help="Run by a hospital: join a federation, check the data, approve studies, read the privacy ledger.",
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
Objective = Literal["supervised", "masked", "segmentation", "contrastive"]
FormatOption = Annotated[Format, typer.Option("--format", help="How to print the result.")]


@app.callback(invoke_without_command=True)
def site_command(
    context: typer.Context,
    site: Annotated[
        str | None, typer.Option(help="Name of the site: SITES_DIR/NAME/site.toml. Always needed, before the command.")
    ] = None,
    sites_dir: Annotated[Path, typer.Option(help="Folder of all sites.", envvar="CONSILIUM_SITES")] = Path("sites"),
    superlink: Annotated[str | None, typer.Option(help="Coordinator host:port, over site.toml.")] = None,
    root_certificates: Annotated[Path | None, typer.Option(help="Coordinator's ca.crt, over site.toml.")] = None,
    ray_address: Annotated[
        str | None, typer.Option(help="Share a Ray on this host (demonstrations only; a hospital runs its own).")
    ] = None,
) -> None:
    """Without a command: join, and serve approved studies until SIGTERM."""
    if "--help" in sys.argv[1:]:  # a command's own help, which needs no site
        return
    if site is None:
        raise typer.BadParameter("it is missing before the command: fl-client --site NAME check", param_hint="--site")
    if not (sites_dir / site / "site.toml").is_file():
        known = sorted(path.parent.name for path in sites_dir.glob("*/site.toml"))
        mend = nearest(site, known) if known else "No site is there: give --sites-dir, or set CONSILIUM_SITES."
        raise ConsiliumError(f"no {sites_dir.resolve() / site / 'site.toml'}. {mend}", code=ExitCode.SITE)
    found = _reached_by(load_site(sites_dir / site), superlink, root_certificates)
    context.obj = found
    if found.name != site:
        raise ConsiliumError(
            f"{sites_dir / site / 'site.toml'}: name = '{found.name}', but --site says '{site}'. Make them equal.",
            code=ExitCode.SITE,
        )
    if context.invoked_subcommand is None:
        from fl_client import join  # torch-free, but Ray is heavy: other commands answer at once

        options = join.resolve(found, superlink=superlink, certificates=root_certificates, ray_address=ray_address)
        join.join(found, options, console=Console(stderr=True))


def _reached_by(site: Site, superlink: str | None, root_certificates: Path | None) -> Site:
    """The site with the coordinator that the command line names."""
    given: dict[str, object] = {}
    if superlink is not None:
        given["superlink"] = superlink
    if root_certificates is not None:
        given["root_certificates"] = root_certificates.resolve()
    try:
        network = Network.model_validate(site.network.model_dump() | given)
    except ValidationError as error:
        raise typer.BadParameter(f"'{superlink}' is not host:port", param_hint="--superlink") from error
    return site.model_copy(update={"network": network})


@app.command()
def check(
    context: typer.Context,
    study: Annotated[Path | None, typer.Option(help="Check against this study.toml as well.")] = None,
    local: Annotated[bool, typer.Option("--local", help="Row-level detail: for this hospital's eyes only.")] = False,
    report: Annotated[
        Path | None, typer.Option(help="Write one offline HTML file too, with pictures when --local.")
    ] = None,
    fmt: FormatOption = Format.TEXT,
) -> None:
    """Read every file and say what will train, what is set aside and why. Exit code 12 on rejects.

    Without --local the result can be shown to outsiders: no identifier, no row, no file name, no count below 10.
    """
    from fl_client.data import check as checks
    from fl_client.data.check_report.page import writable, write_page
    from fl_client.data.check_report.pictures import pictures_of
    from fl_client.data.checking.wanted import wanted_by
    from fl_shared.study import load_study

    site: Site = context.obj
    plan = load_study(study) if study else None
    if report is not None:
        writable(report)  # before minutes of reading
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:  # minutes, at a hospital
        files = bar.add_task("reading files", total=None)
        cohort, found = checks.examine(site, plan, progress=lambda n, of: bar.update(files, completed=n, total=of))
    summary = checks.summary(found, cohort, site=site, study=plan, local=local)
    if report is not None:
        seen = pictures_of(cohort, wanted_by(plan, site)[0].modalities) if local and cohort is not None else ()
        write_page(summary, report, pictures=seen)
    emit(summary, fmt=fmt, text=lambda console: checks.render(summary, console))
    if found.rejects:
        raise typer.Exit(int(ExitCode.DATA))


@app.command()
def doctor(context: typer.Context, fmt: FormatOption = Format.TEXT) -> None:
    """Check this machine: resources, clock, coordinator, key, sandbox, Ray. Exit code 11 when a check fails.

    It reaches nothing but the coordinator that site.toml (or --superlink) names.
    """
    from fl_client import doctor as machine

    findings = machine.examine(context.obj)
    emit(machine.summary(context.obj, findings), fmt=fmt, text=lambda console: machine.render(findings, console))
    if any(finding.status == "fail" for finding in findings):
        raise typer.Exit(int(ExitCode.SITE))


@app.command()
def approve(
    context: typer.Context,
    study: Annotated[Path, typer.Argument(help="The coordinator's study.toml.")],
    fmt: FormatOption = Format.TEXT,
) -> None:
    """Allow a study to run here: it is stored under the hash of its resolved text, and nothing else will run.

    Its model is built once: an unknown part, or weights that do not fit, are told now and not in the first round.
    """
    from fl_client import approval
    from fl_shared.models.build import build_model
    from fl_shared.study import load_study

    site: Site = context.obj
    plan = load_study(study)
    approval.fits(site, plan, file=str(study))
    build_model(plan, weights={name: site.folder / where for name, where in site.weights.items()})
    record = approval.approve_study(site, plan, file=str(study))

    def show(console: Console) -> None:
        table = Table(title=f"Approved: {record.study}", show_header=False)
        for key, value in record.model_dump(exclude={"upstream"}).items():
            table.add_row(key, ", ".join(value) if isinstance(value, tuple) else str(value))
        console.print(table)
        upstream = Table("what", "provenance", "why", title="What its releases depend on")
        for part in record.upstream:
            paid = f" (ledger rows {part.rows[0]} to {part.rows[-1]})" if part.rows else ""
            upstream.add_row(part.what, part.provenance, part.why + paid)
        console.print(upstream)

    emit(record.model_dump(mode="json"), fmt=fmt, text=show)


@app.command()
def approvals(context: typer.Context, fmt: FormatOption = Format.TEXT) -> None:
    """List the studies that may run here, and what each lets leave."""
    from fl_client import approval

    records = approval.list_approved(context.obj)

    def show(console: Console) -> None:
        table = Table("study", "role", "privacy", "leaves", "approved", "hash", title="Approved studies")
        for r in records:
            privacy = "none" if r.epsilon is None else f"epsilon {r.epsilon:g}"
            table.add_row(r.study, r.role, privacy, "\n".join(r.leaves), f"{r.time[:10]} {r.by}", r.identity)
        console.print(table)

    emit({"approved": [record.model_dump(mode="json") for record in records]}, fmt=fmt, text=show)


@app.command()
def revoke(
    context: typer.Context,
    identity: Annotated[str, typer.Argument(metavar="HASH", help="Of the study, as 'approvals' lists it.")],
    fmt: FormatOption = Format.TEXT,
) -> None:
    """Withdraw an approval: the study's next request is refused. Exit code 13 when it was not approved."""
    from fl_client import approval

    if not approval.revoke(context.obj, identity):
        mend = f"See fl-client --site {context.obj.name} approvals."
        raise ConsiliumError(f"no study with the hash '{identity}' is approved. {mend}", code=ExitCode.NOT_APPROVED)
    emit({"revoked": identity}, fmt=fmt, text=lambda console: console.print(f"revoked {identity}", soft_wrap=True))


for _command in (ledger, officer.egress, officer.withdraw, audit_privacy, evaluate, predict):
    app.command()(_command)


@app.command()
def key(context: typer.Context, fmt: FormatOption = Format.TEXT) -> None:
    """Make this site's node key if there is none; show the public half to give to the coordinator, and its fingerprint.

    The coordinator's 'fl-server register' shows the same fingerprint: compare them by voice.
    """
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_public_key

    from fl_client.keys import ensure_key

    _, public = ensure_key(context.obj)
    text = public.read_text().strip()
    der = load_ssh_public_key(text.encode()).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    fingerprint = hashlib.sha256(der).hexdigest()
    body = {"site": context.obj.name, "public_key": str(public), "text": text, "fingerprint": fingerprint}
    emit(body, fmt=fmt, text=lambda console: console.print(f"{public}\n{text}\nSHA-256 {fingerprint}", soft_wrap=True))


@app.command()
def pretrain(
    context: typer.Context,
    study: Annotated[Path, typer.Argument(help="Gives modalities, tasks, sizes and privacy.")],
    modality: Annotated[list[str], typer.Option(help="Whose encoder; repeat for several.")],
    objective: Annotated[
        Objective,
        typer.Option(
            metavar="KIND",
            help="supervised: the tasks; masked: hidden parts of series; segmentation: drawn masks of a cine; "
            "contrastive: several modalities of one patient.",
        ),
    ] = "supervised",
    rounds: Annotated[int, typer.Option(min=1, help="Of as many steps as the study's.")] = 10,
    provenance: Annotated[
        Literal["public", "disjoint", "local"],
        typer.Option(help="Of this site's patients: public data, patients that no study trains on, or its own."),
    ] = "local",
    out: Annotated[
        Path, typer.Option(help="One folder a modality is written here; an older bundle is replaced.")
    ] = Path("bundles"),
    fmt: FormatOption = Format.TEXT,
) -> None:
    """Pretrain encoders on this site's training patients and write bundles that a study can start from or freeze.

    Under the study's privacy it is paid from this site's ledger (exit code 16 when that forbids it).

    Stopped at any time, the same command goes on after the last finished round. Exit code 14 while fl-client serves.
    """
    from fl_client.pretraining import Pretraining, pretrain
    from fl_client.runtime import SiteLock
    from fl_shared.study import load_study

    site: Site = context.obj
    loaded = load_study(study)
    said = "dp" if loaded.privacy.mode != "none" else provenance
    plan = Pretraining(modalities=tuple(modality), objective=objective, rounds=rounds, provenance=provenance)
    lock, console = SiteLock(site), Console(stderr=True)
    lock.acquire()
    try:
        with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
            task = bar.add_task(f"{objective} pretraining", total=rounds)
            found = pretrain(site, loaded, plan, out=out, done=lambda number: bar.update(task, completed=number))
    finally:
        lock.release()
    body = {
        name: {"folder": str(folder), "weights_sha256": digest, "provenance": said}
        for name, (folder, digest) in found.items()
    }

    def show(console: Console) -> None:
        for name, about in body.items():
            lines = (
                f"{name}: {about['folder']}",
                f'  site.toml   [weights]  {name} = "{Path(about["folder"]).resolve()}"',
                f'  study.toml  [modalities.{name}]  weights = "{name}"',
                f'    weights_sha256 = "{about["weights_sha256"]}"',
                f'    provenance = "{about["provenance"]}"',
            )
            console.print("\n".join(lines), soft_wrap=True, markup=False, highlight=False)

    emit({"site": site.name, "bundles": body}, fmt=fmt, text=show)


def main() -> None:
    """Entry point of ``fl-client``."""
    set_environment()
    run(app)


if __name__ == "__main__":
    main()
