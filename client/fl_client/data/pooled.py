"""The patients of several sites as one site's: for simulations on a machine that holds all their data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from fl_client.data.cohort import Cohort
from fl_client.data.load import load_cohort
from fl_shared.site import Site
from fl_shared.study import Study


@dataclass(frozen=True, kw_only=True)
class PooledReader:
    """Reads the cohorts of its members; each patient is held out as at the own site."""

    members: tuple[Site, ...]

    def __call__(self, site: Site, study: Study) -> Cohort:
        """The cohort of ``site``, which has no data of its own.

        Raises:
            ConsiliumError: a member's data are rejected.
        """
        return pooled([load_cohort(member, study)[0] for member in self.members], site=site.name)


def pooled_site(name: str, members: Sequence[Site]) -> Site:
    """A site for all members' patients: what any of them can read, under the strictest of their rules."""
    first = members[0]
    strictest = first.privacy.model_copy(
        update={
            "epsilon_cap": min(site.privacy.epsilon_cap for site in members),
            "delta": min(site.privacy.delta for site in members),
            "allow_without_privacy": all(site.privacy.allow_without_privacy for site in members),
            "min_patients": max(site.privacy.min_patients for site in members),
        }
    )
    mapped = ("modalities", "tasks")
    both = {key: {k: v for site in reversed(members) for k, v in getattr(site, key).items()} for key in mapped}
    return first.model_copy(update={"name": name, "title": "", "privacy": strictest, **both})


def pooled(cohorts: Sequence[Cohort], *, site: str) -> Cohort:
    """One cohort of all samples, in the order of the cohorts; ids begin with the name of their site."""
    offsets = np.cumsum([0, *(len(cohort.patient_ids) for cohort in cohorts)])
    whole = {field.name: _joined([getattr(cohort, field.name) for cohort in cohorts]) for field in fields(Cohort)}
    own = {
        "site": site,
        "sample_ids": tuple(f"{c.site}/{sample}" for c in cohorts for sample in c.sample_ids),
        "patient_ids": tuple(f"{c.site}/{patient}" for c in cohorts for patient in c.patient_ids),
        "patient": np.concatenate([c.patient + offset for c, offset in zip(cohorts, offsets, strict=False)]),
    }
    return Cohort(**whole | own)


def _joined(parts: Sequence[Any]) -> Any:
    """Arrays one after the other, within mappings too."""
    first = parts[0]
    if isinstance(first, Mapping):
        return {key: _joined([part[key] for part in parts]) for key in first}
    return np.concatenate(parts) if isinstance(first, np.ndarray) else first
