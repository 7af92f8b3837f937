"""One site's part in one round of secure aggregation: its secrets, and the order in which it answers.

A session goes keys, shares, train, unmask, each once. It is kept in memory: a site that restarts within a round has
forgotten its keys and drops out of the sum, and nothing of a backup can be played again. Only the simulation, whose
sites move between processes, keeps it in a file.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field

from fl_client.failures import RefusedError
from fl_client.files import private_dir, write_private
from fl_shared import secure_masks as masks
from fl_shared.fitting_secure import threshold
from fl_shared.secure import Words, keys_name, share_name, transcript
from fl_shared.study import Study
from fl_shared.toml import Section
from fl_shared.wire import Arrays, Code

Stage = Literal["keys", "shares", "train"]
"""The last question that was answered; after unmask there is no session any more."""


class Session(Section):
    """What one site knows in one round; a step gives a new session and never changes an old one."""

    model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")

    site: str
    study: str
    round: int
    stage: Stage = "keys"
    mask_key: bytes
    seal_key: bytes
    keys: dict[str, tuple[bytes, bytes]] = Field(default={})  # of every site that gave keys: for masks, for sealing
    seed: bytes = b""
    shares: dict[str, tuple[bytes, bytes]] = Field(default={})  # of every site that shared: of seed and mask key
    base: str = ""
    masked_with: tuple[str, ...] = ()  # the sites, this one included, whose masks are on the update

    @classmethod
    def begin(cls, *, site: str, study: Study, round: int) -> Session:
        """Fresh keys."""
        keys = {"mask_key": masks.new_key(), "seal_key": masks.new_key()}
        return cls(site=site, study=study.identity, round=round, **keys)

    def public(self) -> masks.Octets:
        """The two public keys (2, `masks.KEY_BYTES`)."""
        return _rows((masks.public_key(self.mask_key), masks.public_key(self.seal_key)))

    def share(self, keys: Arrays, *, study: Study) -> tuple[Session, dict[str, masks.Octets]]:
        """Share this site's secrets among the sites whose keys these are.

        Raises:
            RefusedError: too few sites, without this one, with a key of it that it never made, or one key twice.
        """
        known = {site: _both(keys[keys_name(site)]) for site in study.train_sites if keys_name(site) in keys}
        every = [key for both in known.values() for key in both]
        own = (masks.public_key(self.mask_key), masks.public_key(self.seal_key))
        if len(known) < study.rounds.quorum or known.get(self.site) != own or len({*every}) != len(every):
            raise RefusedError(Code.SECURE)
        enough, seed = threshold(len(study.train_sites)), os.urandom(masks.SEED_BYTES)
        parts = zip(
            masks.split(seed, threshold=enough, parts=len(known)),
            masks.split(self.mask_key, threshold=enough, parts=len(known)),
            strict=True,
        )
        mine = dict(zip(sorted(known), parts, strict=True))
        sealed = {
            share_name(self.site, other): masks.octets(self._sealed(other, known[other][1], mine[other], study))
            for other in known
            if other != self.site
        }
        update = {"stage": "shares", "keys": known, "seed": seed, "shares": {self.site: mine[self.site]}}
        return self.model_copy(update=update), sealed

    def receive(self, sealed: Arrays, *, sites: Collection[str], base: str, study: Study) -> Session:
        """Take the shares of the sites that will be in this round, before anything is computed.

        Raises:
            RefusedError: too few sites, without this one; shares that were sealed for another round or site.
        """
        if len(sites) < study.rounds.quorum or self.site not in sites or not set(sites) <= self.keys.keys():
            raise RefusedError(Code.SECURE)
        place = {name: number for number, name in enumerate(study.train_sites)}
        shares = dict(self.shares)
        for other in set(sites) - {self.site}:
            try:
                found = masks.unseal(
                    masks.agree(self.seal_key, self.keys[other][1]),
                    sealed[share_name(other, self.site)].tobytes(),
                    source=place[other],
                    target=place[self.site],
                )
            except ValueError as error:
                raise RefusedError(Code.SECURE) from error
            shares[other] = (found.seed, found.key)
        return self.model_copy(update={"shares": shares, "base": base, "masked_with": tuple(sorted(sites))})

    def mask(self, words: Words, *, sealed: Arrays) -> tuple[Session, Words]:
        """The update under this site's own mask and one a pair; after it only `unmask` is left."""
        keys = {keys_name(site): _rows(both) for site, both in self.keys.items()}
        bound = transcript(study=self.study, round=self.round, base=self.base, keys=keys, sealed=sealed)
        total = words + masks.own_mask(self.seed, bound, len(words))
        for other in set(self.masked_with) - {self.site}:
            pair = masks.pair_mask(self.mask_key, self.keys[other][0], bound, len(words))
            total = total + pair if self.site < other else total - pair
        return self.model_copy(update={"stage": "train"}), total

    def unmask(self, active: Collection[str]) -> dict[str, masks.Octets]:
        """Shares of the seeds of ``active`` sites and of the mask keys of those that dropped out, never both of one."""
        return {
            keys_name(site): masks.octets(self.shares[site][0 if site in active else 1]) for site in self.masked_with
        }

    def _sealed(self, other: str, key: bytes, parts: tuple[bytes, bytes], study: Study) -> bytes:
        place = study.train_sites.index
        shares = masks.Shares(seed=parts[0], key=parts[1])
        try:
            return masks.seal(masks.agree(self.seal_key, key), shares, source=place(self.site), target=place(other))
        except ValueError as error:
            raise RefusedError(Code.SECURE) from error


class Sessions:
    """The sessions of a site, one a study: in memory, or (simulation) in files of ``folder``."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._held: dict[str, Session] = {}

    def find(self, study: Study, *, round: int, stage: Stage) -> Session:
        """The session of a round that has come as far as ``stage``.

        Raises:
            RefusedError: there is none: this site restarted, or the questions come in another order.
        """
        session = self._held.get(study.identity) if self._folder is None else self._load(study.identity)
        if session is None or (session.round, session.stage) != (round, stage):
            raise RefusedError(Code.SECURE)
        return session

    def keep(self, session: Session) -> None:
        """Put a session in the place of the study's last one."""
        if self._folder is None:
            self._held[session.study] = session
        else:
            write_private(private_dir(self._folder) / f"{session.study}.json", session.model_dump_json().encode())

    def end(self, study: Study) -> None:
        """Forget the study's session."""
        self._held.pop(study.identity, None)
        if self._folder is not None:
            (self._folder / f"{study.identity}.json").unlink(missing_ok=True)

    def _load(self, identity: str) -> Session | None:
        path = (self._folder or Path()) / f"{identity}.json"
        return Session.model_validate_json(path.read_bytes()) if path.exists() else None


def _both(keys: NDArray[np.generic]) -> tuple[bytes, bytes]:
    return keys[0].tobytes(), keys[1].tobytes()


def _rows(both: tuple[bytes, bytes]) -> masks.Octets:
    return masks.octets(b"".join(both)).reshape(2, masks.KEY_BYTES)
