"""Secure aggregation (SecAgg+): the numbers and names that coordinator and sites must agree on.

Bell et al. 2020 (Secure single-server aggregation with (poly)logarithmic overhead) thin the graph of neighbours for
thousands of clients; among a handful of hospitals every site is every other's neighbour, which makes it the protocol of
Bonawitz et al. 2017 (Practical secure aggregation for privacy-preserving machine learning, figure 4). A round asks:

1. keys: two fresh public keys a site, one for masks, one to seal shares;
2. shares: each site shares the seed of its own mask and its private mask key among all (Shamir), sealed for each;
3. train: the update comes back in fixed point, plus the site's own mask, plus or minus one mask a pair of sites;
4. unmask: of a site whose update came, shares of its seed; of one that dropped out, shares of its key. Never both.

The sum over the sites whose updates came is then known, and nothing else. The cryptography is in `secure_masks`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from fl_shared.study import Study
from fl_shared.wire import Arrays, digest

PREFIX = "secure."  # of arrays that belong to the protocol; no group of a model is named so
MASKED, ACTIVE = "masked", f"{PREFIX}active"
RANGE = 2.0**16  # a coordinate of an update beyond it has diverged
TOP = 62  # bits of a sum, its sign not counted; masks wrap at 64

Words = NDArray[np.uint64]


def keys_name(site: str) -> str:
    """Name of the array with a site's two public keys."""
    return f"{PREFIX}{site}"


def share_name(source: str, target: str) -> str:
    """Name of the array with what ``source`` sealed for ``target``."""
    return f"{PREFIX}{source}.{target}"


def pairs(sites: Iterable[str]) -> dict[tuple[str, str], str]:
    """(source, target) -> name of what the first sealed for the second, for all pairs of sites."""
    names = sorted(sites)
    return {(one, other): share_name(one, other) for one in names for other in names if one != other}


def model_digest(arrays: Arrays) -> str:
    """Digest of a request's model arrays, which is what names a round's start; the protocol's own are left out."""
    return digest({name: array for name, array in arrays.items() if not name.startswith(PREFIX)})


def transcript(*, study: str, round: int, base: str, keys: Arrays, sealed: Arrays) -> bytes:
    """What masks are bound to: whoever was shown another start, other keys or other sites has masks that do not cancel.

    A coordinator could otherwise send each site a model made for it (Pasquini et al. 2022, Eluding secure aggregation).
    """
    return f"{study}\0{round}\0{base}\0{digest({**keys, **sealed})}".encode()


def bits(study: Study) -> int:
    """Bits after the point in the study's fixed-point sums; the mean over patients is off by at most 2^-(bits + 1)."""
    patients = sum(study.sites[name].patients for name in study.train_sites)
    return TOP - int(math.log2(RANGE)) - patients.bit_length()


def encode(update: Arrays, base: Arrays, *, patients: int, bits: int) -> Words:
    """The difference of an update to its base in fixed point, times the site's declared patients, modulo 2^64.

    Args:
        update: after training.
        base: before it: exactly the arrays that the round changes.
        patients: declared.
        bits: after the point.

    Raises:
        FloatingPointError: a coordinate is beyond `RANGE`, or not finite.
    """
    flat = [np.subtract(update[name], base[name], dtype=np.float64).ravel() for name in sorted(base)]
    difference = np.concatenate(flat) if flat else np.empty(0)
    if not (np.abs(difference) <= RANGE).all():
        raise FloatingPointError(f"the update moves a parameter by more than {RANGE:g}")
    fixed = np.rint(difference * 2.0**bits).astype(np.int64) * np.int64(patients)
    return fixed.view(np.uint64)


def decode(total: Words, base: Arrays, *, patients: int, bits: int) -> dict[str, NDArray[np.float64]]:
    """The weighted mean of the sites' parameters from their sum.

    Args:
        total: sum of what `encode` gave, modulo 2^64.
        base: as there.
        patients: declared, of all sites in the sum.
        bits: as there.

    Raises:
        ValueError: no such sum: some mask was not taken off.
    """
    signed, most = total.view(np.int64), int(RANGE * 2.0**bits * patients)
    if not ((-most <= signed) & (signed <= most)).all():
        raise ValueError("the sum is outside its range")
    mean = signed.astype(np.float64) / (2.0**bits * patients)
    found, start = {}, 0
    for name in sorted(base):
        before = np.asarray(base[name], dtype=np.float64)
        found[name] = before + mean[start : start + before.size].reshape(before.shape)
        start += before.size
    return found


def size(base: Mapping[str, NDArray[np.generic]]) -> int:
    """Coordinates of an update."""
    return sum(int(array.size) for array in base.values())


def sealed_sites(names: Collection[str], *, among: Collection[str]) -> list[str]:
    """The sites whose sealed shares these arrays are: all that are named, or none if some pair is missing.

    Args:
        names: of all arrays of the protocol in a request.
        among: sites whose keys are known.
    """
    sites = sorted(site for site in among if any(name.startswith(f"{PREFIX}{site}.") for name in names))
    return sites if set(names) == set(pairs(sites).values()) else []


def flags(study: Study, active: Collection[str]) -> NDArray[np.int64]:
    """1 for each training site in ``active``, else 0, in the order of `Study.train_sites`."""
    return np.array([site in active for site in study.train_sites], dtype=np.int64)
