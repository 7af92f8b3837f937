"""Cohorts that several cells of one process read: a site's tables are parsed once for all studies that want the same.

Samples in files are decoded once for all processes already (`fl_client.data.cache`).
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from fl_client.data.cohort import Cohort
from fl_client.data.load import load_cohort
from fl_client.data.pooled import pooled
from fl_shared.site import Site
from fl_shared.study import Study

KEPT = 12  # cohorts; the least recently used goes first
_IRRELEVANT = {"encoder", "dropout", "leaky", "provenance"}  # of a modality: change no array


class SharedReader:
    """Reads a cohort, or takes the one that another study read: nothing changes a cohort's arrays."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, Cohort] = OrderedDict()

    def __call__(self, site: Site, study: Study) -> Cohort:
        """The site's cohort for the study; raises as `load_cohort`."""
        key = _key(site, study)
        if key not in self._known:
            self._known[key] = load_cohort(site, study, workers=1)[0]
        self._known.move_to_end(key)
        while len(self._known) > KEPT:
            self._known.popitem(last=False)
        return self._known[key]


@dataclass(frozen=True, kw_only=True)
class SharedPool:
    """Reads the cohorts of its members as one site's; each patient is held out as at the own site."""

    members: tuple[Site, ...]
    read: SharedReader

    def __call__(self, site: Site, study: Study) -> Cohort:
        """The cohort of ``site``, which has no data of its own."""
        return pooled([self.read(member, study) for member in self.members], site=site.name)


def _key(site: Site, study: Study) -> str:
    """Everything of site and study that a cohort is read by (`fl_client.data.load.Wanted`)."""
    parts = [str(site.folder), site.model_dump_json(exclude={"state", "cache"}), study.evaluation.model_dump_json()]
    parts += [f"{name} {plan.model_dump_json(exclude=_IRRELEVANT)}" for name, plan in study.modalities.items()]
    parts += [f"{name} {plan.model_dump_json()}" for name, plan in study.tasks.items()]
    return "\0".join(parts)
