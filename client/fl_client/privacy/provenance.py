"""The provenance gate: a promise to patients holds only if all that a release depends on is accounted for.

(epsilon, delta) is claimed for what a site releases when every function of its training patients upstream of the
release is itself a mechanism paid for in this site's ledger. The gate lists what lies upstream, says where each part
comes from, and refuses the study when one part breaks the claim. Nothing turns it off.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Literal

from fl_client.files import private_dir, write_private
from fl_client.privacy.chain import Row
from fl_client.privacy.ledger import Ledger
from fl_client.privacy.traces import Traces
from fl_client.privacy.upstream import Origins, Upstream, paid_for
from fl_shared import concepts
from fl_shared.bundle import Origin, origins_of
from fl_shared.errors import ConsiliumError, ExitCode, Fault
from fl_shared.site import Site
from fl_shared.study import JudgedPlan, ModalityPlan, Study
from fl_shared.weights import verified_directory

FOLDER = "provenance"  # below the site's state: one table a file, named by its hash
MEND = "Start from public or disjoint weights, pretrain here under privacy, or use privacy mode 'none'."


class ProvenanceError(ConsiliumError):
    """A study whose releases would depend on patients past the noise."""


class Provenance:
    """The gate of one site; ``ledger`` is its cohort's."""

    def __init__(self, site: Site, ledger: Ledger) -> None:
        self._site, self._ledger = site, ledger
        self._traces = Traces(site)
        self._pinned: set[str] = set()  # digests of weights that were read in this process

    def check(self, study: Study) -> str:
        """Refuse a study whose promise cannot hold; keep its table, and give the table's hash.

        Raises:
            ProvenanceError: something upstream of its releases is not accounted for (exit code 16).
            ConsiliumError: the ledger does not verify (16), or pretrained weights are not what is pinned (11).
        """
        table = self.table(study)
        faults = [
            Fault(
                file="study.toml",
                key="provenance",
                value=" <- ".join(part.chain),
                problem=f"{part.what}: {part.broken}",
                mend=MEND,
            )
            for part in table
            if part.broken
        ]
        if faults:
            claim = f"study '{study.name}' cannot promise privacy at {self._site.name}"
            raise ProvenanceError(f"{claim}: what its releases depend on", code=ExitCode.PRIVACY, faults=faults)
        return self._kept(table)

    def table(self, study: Study) -> tuple[Upstream, ...]:
        """Everything upstream of the study's releases here, in a fixed order."""
        if study.judged is not None:
            return (_finished(study, study.judged),)
        rows = self._ledger.rows()
        encoders = (part for name, plan in study.modalities.items() for part in self._encoder(study, name, plan, rows))
        return (*self._constants(study, rows), *encoders, *self._own(study, rows))

    def _constants(self, study: Study, rows: Sequence[Row]) -> Iterator[Upstream]:
        """What shapes inputs, losses and rows before any training."""
        yield _public(study, "normalisation", f"fixed limits and scales of the concept file {concepts.digest()[:12]}")
        day = study.evaluation.held_out_from
        by = "a salted hash of the patient's number, salt of the study"
        yield _public(
            study, "held-out patients", by if day is None else f"the patient's own index times, from {day} on"
        )
        for task in study.tasks:
            yield _public(study, f"tasks.{task}", "class weights, bands and horizons are constants of the study")
        for identity in study.constants_from:
            name = f"statistics of study {identity[:12]}"
            chain = (_releases(study), "constants of the study", name)
            paid = [row for row in paid_for(rows, identity, "statistics") if row.state == "COMMITTED"]
            trace = "" if paid else self._traces.counted(identity)
            if trace and study.privacy.mode != "none":
                broken = f"released here without DP ({trace})"
                yield Upstream(what=name, provenance="local", why="counts", chain=chain, broken=broken)
            elif paid or trace:
                numbers = tuple(row.reservation for row in paid)
                said: Literal["dp", "local"] = "dp" if paid else "local"
                yield Upstream(what=name, provenance=said, why="counts of this cohort", chain=chain, rows=numbers)
            else:
                yield Upstream(what=name, provenance="disjoint", why="no patient of this site was counted", chain=chain)

    def _encoder(self, study: Study, name: str, plan: ModalityPlan, rows: Sequence[Row]) -> Iterator[Upstream]:
        what = f"encoders.{name}"
        if plan.weights is None or plan.weights_sha256 is None:
            yield _public(study, what, f"drawn from the study's seed {study.seed}")
        else:
            judge = Origins(site=self._site.name, study=study, rows=rows, traces=self._traces)
            chain: tuple[str, ...] = (_releases(study), what, f"weights '{plan.weights}' {plan.weights_sha256[:12]}")
            for origin in reversed(self._origins(plan, str(plan.weights), plan.weights_sha256)):
                if origin.study:
                    chain = (*chain, f"study {origin.study[:12]} at {origin.cohort}")
                yield judge.judged(what, origin, chain)
        yield _public(study, f"features.{name}", "of one patient's own inputs and the encoder above")

    def _origins(self, plan: ModalityPlan, name: str, sha256: str) -> tuple[Origin, ...]:
        folder = self._site.folder / self._site.weights.get(name, name)
        if sha256 not in self._pinned:
            verified_directory(folder, name=name, sha256=sha256)
            self._pinned.add(sha256)
        return origins_of(plan, folder)

    def _own(self, study: Study, rows: Sequence[Row]) -> Iterator[Upstream]:
        """What the study itself makes: every round starts from what earlier releases left."""
        adapters, heads = (f"adapters.{name}" for name in study.modalities), (f"heads.{name}" for name in study.tasks)
        for what in (*adapters, "fusion", *heads):
            yield _public(study, what, f"drawn from the study's seed {study.seed}")
        private = study.privacy.mode != "none"
        said: Literal["dp", "local"] = "dp" if private else "local"
        why = "earlier rounds of this study" + (", each reserved in this ledger before it is computed" * private)
        yield _own(study, "shared groups of earlier rounds", said, why)
        if study.keeps_local:
            trained = {row.round for row in paid_for(rows, study.identity, "training")}
            loose = sorted(set(self._traces.local_rounds(study.identity)) - trained) if private else []
            broken = f"round {loose[0]} was trained here without a row in the ledger" if loose else ""
            yield _own(study, "local groups of earlier rounds", "local" if broken else said, why, broken=broken)
        if study.statistics is not None:
            yield _own(study, "statistics", said, "released before the first round")

    def _kept(self, table: Sequence[Upstream]) -> str:
        """Keep the table under its hash, so that a row of the ledger can be read back to it."""
        content = json.dumps([part.model_dump(mode="json") for part in table], sort_keys=True, indent=1).encode()
        name = hashlib.sha256(content).hexdigest()
        path = private_dir(private_dir(self._site.state_dir) / FOLDER) / f"{name}.json"
        if not path.exists():
            write_private(path, content)
        return name


def _releases(study: Study) -> str:
    return f"releases of {study.name}"


def _finished(study: Study, plan: JudgedPlan) -> Upstream:
    why = f"trained by {', '.join(plan.trained_by)} in study {plan.study[:12]}; here it only predicts"
    what = f"judged model {plan.arrays[:12]}"
    return Upstream(what=what, provenance="disjoint", why=why, chain=(_releases(study), what))


def _public(study: Study, what: str, why: str) -> Upstream:
    return Upstream(what=what, provenance="public", why=why, chain=(_releases(study), what))


def _own(study: Study, what: str, provenance: Literal["dp", "local"], why: str, *, broken: str = "") -> Upstream:
    return Upstream(what=what, provenance=provenance, why=why, chain=(_releases(study), what), broken=broken)
