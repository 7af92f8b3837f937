"""The plan of sites of a study file; the file itself is written by `fl_shared.written`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from fl_shared.study import EvaluationPlan, SitePlan, is_held_out
from fl_shared.written import dumps, write_model

__all__ = ["LEADS", "dumps", "plan_sites", "write_model"]
LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")


def plan_sites(
    patients: Mapping[str, Iterable[str]], *, external: str | None, plan: EvaluationPlan
) -> dict[str, SitePlan]:
    """Roles of the sites, and the training patients that each declares.

    Args:
        patients: site -> its patient ids.
        external: the site that only judges (None: all train).
        plan: fixes the held-out patients, which are not declared.

    Returns:
        Site -> plan. A training site declares its patients that are not held out; the external site declares none.
    """
    training = {s: sum(not is_held_out(p, site=s, plan=plan) for p in set(ids)) for s, ids in patients.items()}
    return {
        site: SitePlan(role="external") if site == external else SitePlan(role="train", patients=count)
        for site, count in training.items()
    }
