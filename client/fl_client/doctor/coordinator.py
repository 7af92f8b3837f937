"""The way to the coordinator: address, TLS, certificates, and whether the clocks agree.

SuperLink refuses a node whose clock is more than 5 s ahead of its own or 305 s behind, and does not say why (flwr
1.41, `supernode-auth`): so the skew is measured here, on the ``Date`` of an answer.
"""

from __future__ import annotations

import email.utils
import http.client
import socket
import ssl
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509

from fl_client.doctor.finding import Finding, fail, ok, warn
from fl_shared.site import Site

SECONDS = 5.0  # to wait for any answer
SOON = timedelta(days=14)
AHEAD, AHEAD_WARN = 4.0, 2.0  # seconds; a Date is only good to half a second, so less than SuperLink's 5 and 305
BEHIND, BEHIND_WARN = 300.0, 60.0
_EXPIRED, _NOT_YET, _NAMES = 10, 9, (62, 64)  # X509_V_ERR_* of OpenSSL's x509_vfy.h


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where SuperLink is."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def examine(site: Site) -> list[Finding]:
    """SuperLink, its certificate, the authority, the clock."""
    host, _, port = site.network.superlink.rpartition(":")
    address = Address(host=host, port=int(port))
    authority, trusted = _authority(site)
    refused = _refused(address)
    if refused:
        mend = "Check network.superlink, the firewall (outbound TCP) and whether the coordinator runs."
        unknown = warn("clock", "not compared: the coordinator does not answer", "Run doctor again when it does.")
        return [authority, fail("coordinator", f"{address}: {refused}", mend), unknown]
    return [authority, *([_tls(address, trusted)] if trusted else []), _certificate(address), _clock(address, trusted)]


def _authority(site: Site) -> tuple[Finding, Path | None]:
    """The coordinator's CA certificate, and its path when it can be used."""
    check = "coordinator's CA"
    if site.network.root_certificates is None:
        mend = "Set network.root_certificates in site.toml to the coordinator's ca.crt, or give --root-certificates."
        return fail(check, "not set", mend), None
    path = site.folder / site.network.root_certificates
    try:
        found = x509.load_pem_x509_certificates(path.read_bytes())
    except (OSError, ValueError) as error:
        mend = "Get ca.crt from the coordinator again (a PEM file), and compare its fingerprint."
        return fail(check, f"{path}: {type(error).__name__}", mend), None
    first = min(found, key=lambda certificate: certificate.not_valid_after_utc)
    return _valid(check, first, "Get the new ca.crt from the coordinator."), path


def _refused(address: Address) -> str:
    """Why no TCP connection can be made; empty when it can."""
    try:
        with socket.create_connection((address.host, address.port), timeout=SECONDS):
            return ""
    except socket.gaierror as error:
        return f"the name is unknown ({error.strerror})"
    except TimeoutError:
        return f"no answer within {SECONDS:.0f} s"
    except (OSError, OverflowError) as error:  # no such port
        return str(getattr(error, "strerror", None) or error)


def _tls(address: Address, trusted: Path) -> Finding:
    """Whether the certificate verifies by the authority and under this name."""
    try:
        with _connect(address, ssl.create_default_context(cafile=str(trusted))) as connection:
            return ok("coordinator", f"{address}, {connection.version()}, certificate verified")
    except ssl.SSLCertVerificationError as error:
        if error.verify_code in (_EXPIRED, _NOT_YET):
            mend = "Check this machine's clock first; if it is right, the coordinator must renew its certificate."
        elif error.verify_code in _NAMES:
            mend = f"The certificate is for another name: use that one, or 'fl-server up --host {address.host}'."
        else:
            mend = "Another authority signed it: get the coordinator's ca.crt again; until then trust nothing there."
        return fail("coordinator", f"{address}: {error.verify_message}", mend)
    except OSError as error:  # ssl.SSLError too
        mend = "Something else listens there, or a proxy breaks TLS: check network.superlink."
        return fail("coordinator", f"{address} speaks no TLS ({type(error).__name__})", mend)


def _certificate(address: Address) -> Finding:
    """How long the server's certificate is valid, whoever signed it."""
    check = "coordinator's certificate"
    anybody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    anybody.check_hostname, anybody.verify_mode = False, ssl.CERT_NONE  # only looked at: nothing is sent
    try:
        with _connect(address, anybody) as connection:
            der = connection.getpeercert(binary_form=True)
            found = x509.load_der_x509_certificate(der or b"")
    except (OSError, ValueError) as error:
        return fail(check, f"cannot be read ({type(error).__name__})", "Check network.superlink.")
    return _valid(check, found, "The coordinator renews it by starting 'fl-server up' again.")


def _valid(check: str, certificate: x509.Certificate, mend: str) -> Finding:
    start, end, now = certificate.not_valid_before_utc, certificate.not_valid_after_utc, datetime.now(UTC)
    if now < start:
        return fail(check, f"valid only from {start:%Y-%m-%d %H:%M} UTC", "Check this machine's clock.")
    if now > end:
        return fail(check, f"expired on {end:%Y-%m-%d}", mend)
    if end - now < SOON:
        return warn(check, f"expires in {(end - now).days} day(s), on {end:%Y-%m-%d}", mend)
    return ok(check, f"valid until {end:%Y-%m-%d}")


def _clock(address: Address, trusted: Path | None) -> Finding:
    """This machine's clock against the coordinator's, over a connection that was verified."""
    unknown = "Run doctor again when the coordinator answers over TLS."
    if trusted is None:
        return warn("clock", "not compared: without the CA no answer can be trusted", unknown)
    context = ssl.create_default_context(cafile=str(trusted))
    connection = http.client.HTTPSConnection(address.host, address.port, timeout=SECONDS, context=context)
    try:
        connection.connect()  # before the time is taken
        before = time.time()
        connection.request("GET", "/health")
        answer = connection.getresponse().getheader("Date")
        after = time.time()
        theirs = email.utils.parsedate_to_datetime(answer or "").timestamp() + 0.5  # cut to whole seconds
    except (OSError, http.client.HTTPException, ValueError) as error:
        return warn("clock", f"not compared ({type(error).__name__})", unknown)
    finally:
        connection.close()
    return skew((before + after) / 2 - theirs)


def skew(ahead: float) -> Finding:
    """What ``ahead`` seconds against the coordinator's clock mean; negative: behind."""
    found = f"{abs(ahead):.1f} s {'ahead of' if ahead > 0 else 'behind'} the coordinator"
    mend = "Set the clock by NTP (timedatectl set-ntp true): the coordinator refuses nodes without saying why."
    if ahead > AHEAD or ahead < -BEHIND:
        return fail("clock", found, mend)
    if ahead > AHEAD_WARN or ahead < -BEHIND_WARN:
        return warn("clock", found, mend)
    return ok("clock", found)


def _connect(address: Address, context: ssl.SSLContext) -> ssl.SSLSocket:
    plain = socket.create_connection((address.host, address.port), timeout=SECONDS)
    try:
        return context.wrap_socket(plain, server_hostname=address.host)
    except BaseException:
        plain.close()
        raise
