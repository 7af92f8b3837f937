"""Secure aggregation at a site: keys, shares, the masked update, and the one unmasking of a round.

Here the update is protected from the coordinator itself, so nothing of this may run where its code runs. What a site
opens in a round it writes down first: were a round's sum opened over two sets of sites, their difference would be one
site's update.
"""

from __future__ import annotations

from collections.abc import Mapping

from fl_client.egress import Schema
from fl_client.failures import RefusedError
from fl_client.inbound import read_arrays
from fl_client.jobs import training
from fl_client.jobs.desk import Answer, Desk
from fl_client.outbox import Opened
from fl_client.secure_session import Session
from fl_shared import secure, secure_masks
from fl_shared.study import Study
from fl_shared.wire import Code, Request

KEYS = ((2, secure_masks.KEY_BYTES), "uint8")
SEALED = ((secure_masks.SEALED_BYTES,), "uint8")


def keys(desk: Desk, request: Request, study: Study, _: Mapping[str, bytes], deadline: float) -> Answer:
    """Begin a round: two fresh public keys. A round that was begun before is forgotten."""
    _check(desk, request, study)
    session = Session.begin(site=desk.site.name, study=study, round=request.round)
    desk.sessions.keep(session)
    name = secure.keys_name(desk.site.name)
    return desk.reply(study), desk.release({name: session.public()}, request, study, {name: KEYS})


def shares(desk: Desk, request: Request, study: Study, arrays: Mapping[str, bytes], deadline: float) -> Answer:
    """Share this site's secrets among the sites whose keys came: sites of the approved study alone."""
    _check(desk, request, study)
    session = desk.sessions.find(study, round=request.round, stage="keys")
    known = {name: KEYS for site in study.train_sites if (name := secure.keys_name(site)) in arrays}
    session, sealed = session.share(read_arrays(arrays, known), study=study)
    desk.sessions.keep(session)
    return desk.reply(study), desk.release(sealed, request, study, dict.fromkeys(sealed, SEALED))


def train(desk: Desk, request: Request, study: Study, arrays: Mapping[str, bytes], deadline: float) -> Answer:
    """A round of training; in a study with secure aggregation the update leaves masked, and only so."""
    if study.privacy.aggregation == "plain":
        return training.train(desk, request, study, arrays, deadline)
    _check(desk, request, study)
    session = desk.sessions.find(study, round=request.round, stage="shares")
    came = {name: data for name, data in arrays.items() if name.startswith(secure.PREFIX)}
    sites = secure.sealed_sites(came, among=session.keys)
    sealed = read_arrays(came, dict.fromkeys(came, SEALED))
    session = session.receive(sealed, sites=sites, base=request.base, study=study)
    model = {name: data for name, data in arrays.items() if name not in came}
    base, update = training.computed(desk, request, study, model, deadline)
    changing = {name: base[name] for name in update}
    patients = study.sites[desk.site.name].patients
    words = secure.encode(update, changing, patients=patients, bits=secure.bits(study))
    session, masked = session.mask(words, sealed=sealed)
    desk.sessions.keep(session)  # before it leaves: no second update under the same masks
    schema: Schema = {secure.MASKED: ((len(masked),), "int64")}
    return desk.reply(study), desk.release({secure.MASKED: masked.view("int64")}, request, study, schema)


def unmask(desk: Desk, request: Request, study: Study, arrays: Mapping[str, bytes], deadline: float) -> Answer:
    """Open the sum over the sites whose updates came: at least the quorum, this one among them; once a round."""
    _check(desk, request, study)
    session = desk.sessions.find(study, round=request.round, stage="train")
    asked = read_arrays(arrays, {secure.ACTIVE: ((len(study.train_sites),), "int64")})[secure.ACTIVE]
    active = tuple(site for site, flag in zip(study.train_sites, asked.tolist(), strict=True) if flag)
    if len(active) < study.rounds.quorum or desk.site.name not in active or not {*active} <= {*session.masked_with}:
        raise RefusedError(Code.SECURE)
    opened = Opened(base=session.base, sites=active)
    if (desk.outbox.opened(study, request.round) or opened) != opened:
        raise RefusedError(Code.SECURE)
    desk.outbox.put_opened(study, request.round, opened)
    desk.sessions.end(study)
    found = session.unmask(active)
    schema: Schema = {name: ((len(share),), "uint8") for name, share in found.items()}
    return desk.reply(study), desk.release(found, request, study, schema)


def _check(desk: Desk, request: Request, study: Study) -> None:
    """A round of a study with secure aggregation, which was not opened from another start."""
    if study.privacy.aggregation != "secure" or not 1 <= request.round <= study.training.rounds:
        raise RefusedError(Code.BAD_REQUEST)
    opened = desk.outbox.opened(study, request.round)
    if request.kind == "train" and opened is not None and opened.base != request.base:
        raise RefusedError(Code.SECURE)
