"""TLS and passwords: what they are made of, and what their failures mean."""

from __future__ import annotations

import os
import ssl
import stat
from dataclasses import dataclass, field

_EXPIRED, _NOT_YET_VALID = 10, 9  # OpenSSL's X509_V_ERR_…
_UNKNOWN_AUTHORITY = (2, 18, 19, 20, 21, 27)
_OTHER_NAME = (62, 64)


@dataclass(frozen=True)
class Credentials:
    """A user and a password, as for `memcached -Y`."""

    user: bytes
    password: bytes = field(repr=False)


class WrongPassword(Exception):
    """The server refuses the user or the password."""


def read_credentials(path: str) -> Credentials:
    """Read `user:password` from the first line of a file.

    Raises:
        OSError: the file can't be read.
        ValueError: others can read it, too, or it holds something else.
    """
    with open(path, "rb") as file:
        mode = os.fstat(file.fileno()).st_mode
        if stat.S_ISREG(mode) and mode & (stat.S_IRGRP | stat.S_IROTH):
            raise ValueError(f"{path}: other users can read this password file: run chmod 600 on it")
        line = file.readline(1 << 16).rstrip(b"\r\n")
    user, colon, password = line.partition(b":")
    if not (user and colon and password) or any(byte <= 0x20 for byte in user):
        raise ValueError(f"{path}: the first line of a password file must be user:password")
    return Credentials(user, password)


def make_tls_context(ca: str | None = None, cert: str | None = None, key: str | None = None) -> ssl.SSLContext:
    """Return what TLS connections are made with; certificates and names are verified.

    Args:
        ca: a file of certificates of authorities to trust; None for those of the system.
        cert: a file with this client's own certificate, where servers want one.
        key: a file with its key; None if it is in the file of the certificate.

    Raises:
        OSError: a file can't be read.
        ValueError: a file does not hold what it should.
    """
    if key and not cert:
        raise ValueError("--tls-key does nothing without --tls-cert")
    for path in (ca, cert, key):
        if path:
            with open(path, "rb"):
                pass  # OpenSSL's own errors do not name the file
    try:
        context = ssl.create_default_context(cafile=ca)
    except ssl.SSLError as error:
        raise ValueError(f"{ca}: no certificates in PEM format ({error.reason or error})") from error
    if cert:
        try:
            context.load_cert_chain(cert, key, password=_no_password)
        except ssl.SSLError as error:
            names = cert if key is None else f"{cert}, {key}"
            why = "the key does not belong to the certificate"
            if error.reason != "KEY_VALUES_MISMATCH":
                why = f"no certificate and key in PEM format ({error.reason or error})"
            raise ValueError(f"{names}: {why}") from error
        except _EncryptedKey:
            raise ValueError(f"{key or cert}: the key is encrypted: give one without a passphrase") from None
    return context


class _EncryptedKey(Exception):
    """A passphrase is needed to read a key."""


def _no_password() -> bytes:
    raise _EncryptedKey


def explain_tls(error: ssl.SSLError) -> tuple[str, bool]:
    """Return what a failure of TLS means and what to do, and whether it may pass by itself."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {_explain_certificate(error)}", False
    reason = error.reason or ""
    if reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE"):
        return "does not speak TLS: leave out --tls", False
    if "CERTIFICATE_REQUIRED" in reason:
        return "requires a client certificate: use --tls-cert and --tls-key", False
    if "ALERT_UNKNOWN_CA" in reason or ("ALERT" in reason and "CERTIFICATE" in reason):
        words = reason.partition("ALERT_")[2].replace("_", " ").lower()
        return f"does not accept the certificate in --tls-cert: {words}", False
    if "HANDSHAKE_FAILURE" in reason:
        return "refused the TLS handshake: it may require a client certificate (--tls-cert, --tls-key)", False
    if "PROTOCOL_VERSION" in reason or reason in ("UNSUPPORTED_PROTOCOL", "NO_PROTOCOLS_AVAILABLE"):
        return "supports only other versions of TLS", False
    return f"TLS failed: {reason.replace('_', ' ').lower() or error}", True


def _explain_certificate(error: ssl.SSLCertVerificationError) -> str:
    if error.verify_code in _OTHER_NAME:
        return f"it {error.verify_message.rpartition('certificate ')[2].rstrip('.')}"  # is not valid for 'name'
    if error.verify_code == _EXPIRED:
        return "it has expired"
    if error.verify_code == _NOT_YET_VALID:
        return "it is not valid yet"
    if error.verify_code in _UNKNOWN_AUTHORITY:
        return "unknown authority; name it with --tls-ca"
    return error.verify_message
