"""Approvals: the studies that this site takes part in, each stored under the hash of its resolved text.

What a site computes or releases is decided by the stored study alone; a coordinator can only name it by its hash.
"""

from __future__ import annotations

import getpass
import json
import os
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from fl_client.files import private_dir, write_private
from fl_client.payment import site_ledger
from fl_client.privacy.provenance import Provenance
from fl_client.privacy.traces import Traces
from fl_client.privacy.upstream import Upstream
from fl_client.withdrawn import IDENTITY, set_aside, withdrawal
from fl_shared.audit import AuditLog
from fl_shared.counts import leaving
from fl_shared.errors import ConsiliumError, ExitCode, Fault, nearest
from fl_shared.site import Site
from fl_shared.study import PhasePlan, Study, load_study
from fl_shared.toml import Section
from fl_shared.trust import trust


class ApprovalRecord(Section):
    """What was approved, by whom, and what the study will do here."""

    identity: str
    study: str
    role: Literal["train", "external"]
    patients: int  # declared
    rounds: int
    privacy: Literal["patient", "site", "none"]
    epsilon: float | None
    delta: float
    leaves: tuple[str, ...]  # parameter groups and metrics that leave the site
    upstream: tuple[Upstream, ...]  # what that depends on, and who pays for it
    trust: tuple[str, ...]  # whom the site trusts for what when it takes part
    notes: tuple[str, ...]  # what the approver should know
    time: str
    by: str


class _Stored(Section):
    """The file ``state/approved/<hash>.json``."""

    canonical: str
    record: ApprovalRecord


def approve(site: Site, study_path: Path) -> ApprovalRecord:
    """Check that the study of a file fits this site, store it, and say what it will do.

    Raises:
        ConsiliumError: the study is invalid (10) or does not fit this site (13), all faults at once; its releases
            would depend on patients unprotected, or the ledger does not verify (16).
    """
    return approve_study(site, load_study(study_path), file=str(study_path))


def approve_study(site: Site, study: Study, *, file: str) -> ApprovalRecord:
    """As `approve`; ``file`` is named in faults."""
    fits(site, study, file=file)
    gate = Provenance(site, site_ledger(site))
    gate.check(study)
    upstream = gate.table(study)
    plan = study.sites[site.name]
    record = ApprovalRecord(
        identity=study.identity,
        study=study.name,
        role=plan.role,
        patients=plan.patients,
        rounds=study.training.rounds if plan.role == "train" else 0,
        privacy=study.privacy.mode,
        epsilon=study.privacy.epsilon,
        delta=min(study.privacy.delta, site.privacy.delta),
        leaves=_leaves(study, plan.role),
        upstream=upstream,
        trust=_trust(study),
        notes=(*_notes(site, study), *_open_studies(site, study)),
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        by=user(),
    )
    stored = _Stored(canonical=study.canonical(), record=record)
    folder = private_dir(private_dir(site.state_dir) / "approved")
    write_private(folder / f"{record.identity}.json", stored.model_dump_json(indent=1).encode())
    set_aside(site, record.identity)  # whoever withdrew may take part again
    audit_log(site).append(record.by, "approve", study=record.identity, name=study.name, role=plan.role)
    return record


def fits(site: Site, study: Study, *, file: str) -> None:
    """Check that a study fits this site.

    Raises:
        ConsiliumError: it does not (13), all faults at once.
    """
    if faults := list(_faults(site, study, file)):
        message = f"study '{study.name}' cannot be approved at {site.name}: {len(faults)} fault(s)"
        raise ConsiliumError(message, code=ExitCode.NOT_APPROVED, faults=faults)


def approved(site: Site, identity: str) -> Study | None:
    """The approved study of that identity, or None; the stored text must still hash to it."""
    stored = _read(site, identity)
    if stored is None:
        return None
    try:
        study = Study.model_validate(json.loads(stored.canonical)["study"])
    except (ValueError, KeyError, TypeError):
        return None
    return study if study.identity == identity and site.name in study.sites else None


def revoke(site: Site, identity: str) -> bool:
    """Withdraw an approval; False when there was none."""
    path = _path(site, identity)
    if path is None or not path.exists():
        return False
    path.unlink()
    audit_log(site).append(user(), "revoke", study=identity)
    return True


def list_approved(site: Site) -> tuple[ApprovalRecord, ...]:
    """Records of the studies that are approved and still verify, oldest first."""
    found = (path.stem for path in (site.state_dir / "approved").glob("*.json"))
    stored = (_read(site, identity) for identity in found if approved(site, identity) is not None)
    return tuple(sorted((item.record for item in stored if item is not None), key=lambda record: record.time))


def audit_log(site: Site) -> AuditLog:
    """The site's log of approvals and requests, ``state/audit.jsonl``."""
    return AuditLog(site.state_dir / "audit.jsonl")


def _path(site: Site, identity: str) -> Path | None:
    return site.state_dir / "approved" / f"{identity}.json" if IDENTITY.fullmatch(identity) else None


def _read(site: Site, identity: str) -> _Stored | None:
    path = _path(site, identity)
    try:
        return _Stored.model_validate_json(path.read_bytes()) if path else None
    except (FileNotFoundError, ValidationError):
        return None


def _faults(site: Site, study: Study, file: str) -> Iterator[Fault]:
    plan = study.sites.get(site.name)
    if plan is None:
        mend = f"Ask the coordinator to name this site. {nearest(site.name, study.sites)}"
        yield Fault(file=file, key="sites", value=site.name, problem="this site is not in the study", mend=mend)
    elif plan.role not in site.roles:
        mend = f"This site takes the roles {sorted(site.roles)}: change the study, or 'roles' in site.toml."
        yield Fault(file=file, key=f"sites.{site.name}.role", value=plan.role, problem="role refused here", mend=mend)
    yield from _trained_here(site, study, file)
    if study.privacy.mode == "none" and study.judged is None and not site.privacy.allow_without_privacy:
        mend = "Use mode = 'patient', or set privacy.allow_without_privacy = true in site.toml."
        yield Fault(file=file, key="privacy.mode", value="none", problem="this site requires privacy", mend=mend)
    yield from _unknown(site, study, file)


def _unknown(site: Site, study: Study, file: str) -> Iterator[Fault]:
    """Tasks, labels and modalities that this site cannot serve."""
    for name, task in study.tasks.items():
        if (here := site.tasks.get(name)) is None:
            mend = f"Map it under [tasks.{name}] in site.toml. {nearest(name, site.tasks)}"
            yield Fault(file=file, key=f"tasks.{name}", problem="not mapped at this site", mend=mend)
        elif missing := [label or "value" for label in task.names if (label or "value") not in here.columns]:
            mend = f"Map them under [tasks.{name}.columns] in site.toml."
            yield Fault(file=file, key=f"tasks.{name}", value=str(missing), problem="labels not mapped", mend=mend)
    if not set(study.modalities) & set(site.modalities):
        mend = f"This site has {sorted(site.modalities)}."
        yield Fault(file=file, key="modalities", problem="this site has none of the study's modalities", mend=mend)
    for name, modality in study.modalities.items():
        if (have := site.modalities.get(name)) is None:
            continue
        if have.kind != modality.kind:
            mend = f"Here it is '{have.kind}': use one name for one kind."
            yield Fault(file=file, key=f"modalities.{name}", value=modality.kind, problem="another kind", mend=mend)
        if modality.weights is not None and modality.weights not in site.weights:
            mend = "Put its local path under [weights] in site.toml."
            yield Fault(
                file=file, key=f"modalities.{name}.weights", value=modality.weights, problem="unknown", mend=mend
            )


def _trained_here(site: Site, study: Study, file: str) -> Iterator[Fault]:
    """A finished model is judged by those who took no part in it, whatever they were called."""
    plan = study.judged
    if plan is None:
        return
    for key, trained in {"study": plan.study, "against": plan.against.study if plan.against else ""}.items():
        if trained and (where := Traces(site).trained(trained)):
            mend = "Leave this site out: what its held-out patients tell is in the results of that study."
            problem = f"this site trained the model ({where})"
            yield Fault(file=file, key=f"judged.{key}", value=trained, problem=problem, mend=mend)


def _trust(study: Study) -> tuple[str, ...]:
    """Of those who train; a site that judges a finished model lets nothing but results out."""
    if study.judged is not None:
        return ()
    return trust(mode=study.privacy.mode, aggregation=study.privacy.aggregation, noise=study.privacy.noise)


def _leaves(study: Study, role: str) -> tuple[str, ...]:
    phases = study.training.phases
    masked = ", masked" if study.privacy.aggregation == "secure" else ""
    told = [f"{_shared(study, phase)} (every round{_of(phase, phases)}{masked})" for phase in phases]
    found = told if role == "train" else []
    trained = list(dict.fromkeys(part for phase in phases for part in phase.trains))
    own = [part for part in trained if study.is_local(f"{part}.")]
    own += ["normalisation layers"] if "norms" in study.training.local else []
    if found and own and study.training.final_encoders == "mean":
        found.append(f"{', '.join(own)} (once, after the last round)")
    return (*found, *leaving(study, role))


def _shared(study: Study, phase: PhasePlan) -> str:
    adapted = study.training.encoders == "adapters"
    told = {part: f"low-rank adapters of {part}" if adapted and _is_encoder(part) else part for part in phase.trains}
    leaves = [text for part, text in told.items() if study.is_shared(f"{part}.") or (adapted and _is_encoder(part))]
    return ", ".join(leaves) or "nothing"


def _is_encoder(part: str) -> bool:
    return part.split(".")[0] == "encoders"


def _of(phase: PhasePlan, phases: Sequence[PhasePlan]) -> str:
    return f" of phase '{phase.name}'" if len(phases) > 1 else ""


def _notes(site: Site, study: Study) -> Iterator[str]:
    if (left := withdrawal(site, study.identity)) is not None:
        yield f"{left}; approving it anew lets it take part again"
    yield from study.warnings()
    if study.judged is not None:
        both = " and how it differs from a second one" if study.judged.against is not None else ""
        yield f"nothing is trained: the finished model {study.judged.arrays[:12]} is judged{both}"
    if absent := sorted(set(study.modalities) - set(site.modalities)):
        yield f"modalities not available here, treated as missing: {', '.join(absent)}"
    if study.judged is not None:
        return
    if study.privacy.mode == "none":
        summed = "their sum over the sites is" if study.privacy.aggregation == "secure" else "updates are"
        yield f"NO privacy mechanism: {summed} released as computed"
    elif study.privacy.epsilon is not None and study.privacy.epsilon > site.privacy.epsilon_cap:
        yield f"the study may ask for epsilon {study.privacy.epsilon}; this site stops at {site.privacy.epsilon_cap}"


def _open_studies(site: Site, study: Study) -> Iterator[str]:
    """What was learnt from these patients without privacy, which no promise of a later study takes back."""
    if study.privacy.mode == "none" or study.judged is not None:
        return
    paid = {row.study for row in site_ledger(site).rows()}
    if found := Traces(site).studies() - paid - {study.identity}:
        told = ", ".join(identity[:12] for identity in sorted(found))
        yield f"trained here without privacy before, and outside what this study promises: {told}"


def user() -> str:
    """Who acts: the operating system's name of the account."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # no passwd entry, as in a container
        return f"uid {os.getuid()}"
