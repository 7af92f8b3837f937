"""A round of secure aggregation at the coordinator: four questions, masked updates, and the mean of their sum.

What comes in are public keys, shares sealed for others, masked updates, and shares that open one secret a site: the
seed of its own mask when its update came, its mask key when it dropped out. No update stands here by itself, masked
updates are added up as they are, and masks are taken off their sum only.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping

import numpy as np

from fl_server.aggregation import TOGETHER
from fl_server.collect import Answers, Life, ask
from fl_server.validation import Reason
from fl_shared import secure, secure_masks
from fl_shared.fitting_secure import threshold
from fl_shared.results import SiteRound
from fl_shared.wire import Arrays, Kind, Reply

Shapes = Mapping[str, tuple[tuple[int, ...], str]]


def gather(life: Life, number: int, *, base: Arrays, changing: Arrays) -> tuple[Answers, dict[str, Arrays]]:
    """Ask the sites for a round and open the sum of their updates.

    Args:
        life: of the study.
        number: of the round.
        base: what travels to the sites.
        changing: the part of it that a round changes.

    Returns:
        Every training site's outcome, those whose updates are in the sum as accepted; and the weighted mean of their
        parameters under `TOGETHER`, or nothing when they were too few, or the sum did not open.
    """
    gathered = _Round(life, number, changing)
    if (masked := gathered.collect(base)) is None:
        return gathered.answers(), {}
    mean = gathered.open(masked)
    return gathered.answers(), {} if mean is None else {TOGETHER: mean}


class _Round:
    """One run of the protocol."""

    def __init__(self, life: Life, number: int, changing: Arrays) -> None:
        self._life, self._number, self._changing = life, number, changing
        self._study = life.study
        self._asked: list[Answers] = []
        self._bound = b""
        self._keys: Arrays = {}
        self._sharing: tuple[str, ...] = ()  # sites whose masks are on the updates
        self._active: tuple[str, ...] = ()  # sites whose updates came

    def answers(self) -> Answers:
        """Of all questions: a site's last outcome; accepted as in the last question that asked for updates."""
        last = self._asked[-1]
        return Answers(
            outcomes={site: outcome for asked in self._asked for site, outcome in asked.outcomes.items()},
            accepted=last.accepted,
            epsilon={site: epsilon for asked in self._asked for site, epsilon in asked.epsilon.items()},
        )

    def collect(self, base: Arrays) -> secure.Words | None:
        """The sum of the masked updates, or None when fewer sites than the quorum are left."""
        public = ((2, secure_masks.KEY_BYTES), "uint8")
        every = self._study.train_sites
        keyed = self._ask("keys", every, {}, lambda site: {secure.keys_name(site): public}, check=_no_key)
        if len(keyed) < self._study.rounds.quorum:
            return None
        self._keys = {name: array for arrays in keyed.values() for name, array in arrays.items()}
        sealed = ((secure_masks.SEALED_BYTES,), "uint8")
        shared = self._ask("shares", keyed, self._keys, lambda site: dict.fromkeys(_of(site, keyed), sealed))
        if len(shared) < self._study.rounds.quorum:
            return None
        self._sharing = tuple(sorted(shared))
        sent = {n: shared[one][n] for (one, _), n in secure.pairs(shared).items()}
        length = secure.size(self._changing)
        masked = self._ask("train", shared, {**base, **sent}, lambda _: {secure.MASKED: ((length,), "int64")})
        if len(masked) < self._study.rounds.quorum:
            return None
        self._active = tuple(sorted(masked))
        self._bound = secure.transcript(
            study=self._life.identity,
            round=self._number,
            base=secure.model_digest(base),
            keys=self._keys,
            sealed=sent,
        )
        total = np.zeros(length, dtype=np.uint64)
        for arrays in masked.values():
            total += np.asarray(arrays[secure.MASKED], dtype=np.int64).view(np.uint64)
        return total

    def open(self, total: secure.Words) -> Arrays | None:
        """The mean, or None (and failed outcomes) when the shares that came do not open the sum."""
        flags = {secure.ACTIVE: secure.flags(self._study, self._active)}
        lengths = {
            secure.keys_name(site): (
                secure_masks.SEED_SHARE_BYTES if site in self._active else secure_masks.KEY_SHARE_BYTES
            )
            for site in self._sharing
        }
        opened = ask(
            self._life,
            "unmask",
            self._active,
            flags,
            round_number=self._number,
            check=lambda _, __, came: _misfit(came, {name: ((most,), "uint8") for name, most in lengths.items()}),
        )
        try:
            for mask in self._masks({site: came for site, (_, came) in opened.accepted.items()}):
                total = total - mask
            patients = sum(self._study.sites[site].patients for site in self._active)
            return secure.decode(total, self._changing, patients=patients, bits=secure.bits(self._study))
        except ValueError:
            unopened = SiteRound(status="failed", reason=Reason.UNMASK)
            why = {s: unopened if outcome.status == "accepted" else outcome for s, outcome in opened.outcomes.items()}
            self._asked.append(Answers(outcomes=why, accepted={}, epsilon=opened.epsilon))
            return None

    def _masks(self, told: Mapping[str, Arrays]) -> Iterator[secure.Words]:
        """Every mask that is left on the sum.

        Raises:
            ValueError: too few shares, or shares that open nothing.
        """
        length = secure.size(self._changing)
        enough = threshold(len(self._study.train_sites))
        if len(told) < enough:
            raise ValueError("too few shares")
        chosen = sorted(told)[:enough]
        for site in self._sharing:
            name = secure.keys_name(site)
            secret = secure_masks.combine([told[other][name].tobytes() for other in chosen])
            if site in self._active:
                yield secure_masks.own_mask(secret, self._bound, length)
                continue
            if secure_masks.public_key(secret) != self._keys[name][0].tobytes():
                raise ValueError("shares of another key")
            for other in self._active:
                key = self._keys[secure.keys_name(other)][0].tobytes()
                mask = secure_masks.pair_mask(secret, key, self._bound, length)
                yield mask if other < site else np.uint64(0) - mask

    def _ask(
        self,
        kind: Kind,
        sites: Collection[str],
        arrays: Arrays,
        expected: Callable[[str], Shapes],
        *,
        check: Callable[[Arrays], Reason | None] = lambda _: None,
    ) -> dict[str, Arrays]:
        """The arrays of the sites that answered as expected."""

        def judge(site: str, _: Reply, came: Arrays) -> Reason | None:
            return _misfit(came, expected(site)) or check(came)

        answers = ask(self._life, kind, sorted(sites), arrays, round_number=self._number, check=judge)
        self._asked.append(answers)
        return {site: came for site, (_, came) in answers.accepted.items()}


def _of(site: str, others: Collection[str]) -> list[str]:
    """Names of what a site seals for the others."""
    return [secure.share_name(site, other) for other in others if other != site]


def _no_key(arrays: Arrays) -> Reason | None:
    """A key that is none would stop the other sites."""
    fine = all(secure_masks.is_key(row.tobytes()) for both in arrays.values() for row in both)
    return None if fine else Reason.KEY


def _misfit(arrays: Arrays, expected: Shapes) -> Reason | None:
    """The first reason to reject arrays that are not exactly these."""
    if expected.keys() - arrays.keys():
        return Reason.MISSING_ARRAYS
    if arrays.keys() - expected.keys():
        return Reason.UNKNOWN_ARRAYS
    for name, (shape, dtype) in expected.items():
        if arrays[name].shape != shape:
            return Reason.SHAPE
        if str(arrays[name].dtype) != dtype:
            return Reason.DTYPE
    return None
