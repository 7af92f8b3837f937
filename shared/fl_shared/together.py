"""Distributed noise: how much of it each site adds, so that the mean of any quorum of sites protects each of them.

A unit (patient or site) moves the mean of the sites by at most r_k C at site k, up to a factor that all sites share
(`budget.reach`). By itself site k would need noise T_k = sigma_k r_k (in clips, in the mean). If it adds the variance

    c_k = max(b, T_k^2 - (Q - 1) b)

then any Q or more sites that answer, k among them, hold c_k and Q - 1 others of at least b each: at least T_k^2. So the
ledger of site k may count sigma_k, whoever answers. b = 0 is local noise, b = max T^2 / Q makes all add the same. The
sum of all c_k is convex and piecewise linear in b; it is least where the sites that need more than b Q are at most one
in Q: at b = (the floor(K / Q) + 1-th largest T^2) / Q.

This holds for the mean alone, which is all that secure aggregation shows, and against whoever does not know some site's
noise: a site that takes part knows its own. Under mode 'patient' it further needs the mean to be a linear function of
one clipped sum a site (one step of SGD): after a second step a site's update would hang on its first sum under that
site's noise alone, in a way that the other sites' noise does not cover.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from fl_shared.budget import budget, reach
from fl_shared.study import Study


def own_sigma(study: Study, site: str, sigma: float) -> float:
    """The noise multiplier that a site adds itself where its ledger counts ``sigma``."""
    if study.privacy.noise == "local":
        return sigma
    plans = {name: budget(study, name, delta=study.privacy.delta).training for name in study.train_sites}
    common = {name: event.sigma for name, event in plans.items() if event is not None}
    return own_sigmas(study, {site: sigma}, common=common, quorum=study.rounds.quorum)[site]


def own_sigmas(
    study: Study, sigmas: Mapping[str, float], *, common: Mapping[str, float], quorum: int
) -> dict[str, float]:
    """As `own_sigma`, of several sites.

    Args:
        study: gives the weights of the sites.
        sigmas: site -> what its ledger counts.
        common: training site -> the same as all sites know it: by the study's delta.
        quorum: sites that answer at least.
    """
    needs = sorted(((common[name] * reach(study, name)) ** 2 for name in study.train_sites), reverse=True)
    place = len(needs) // quorum
    level = needs[place] / quorum if place < len(needs) else 0.0

    def own(site: str, sigma: float) -> float:
        need = (sigma * reach(study, site)) ** 2
        return math.sqrt(max(level, need - (quorum - 1) * level)) / reach(study, site)

    return {site: own(site, sigma) for site, sigma in sigmas.items()}
