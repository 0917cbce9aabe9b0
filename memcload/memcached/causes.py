"""Why a request failed, in words that say what to do, and whether it is worth another try."""

from __future__ import annotations

import errno
import socket
import ssl

from memcload.memcached.protocol import BadReply, ErrorReply, SpeaksTls
from memcload.memcached.tls import WrongPassword, explain_tls

FAILURES = (OSError, BadReply, ErrorReply, SpeaksTls, WrongPassword)
"""What a request may raise."""


_NO_DESCRIPTORS = {
    errno.EMFILE: "this process has run out of file descriptors: raise its limit (ulimit -n), "
    "each device type needs a connection to each of its servers",
    errno.ENFILE: "this system has run out of file descriptors: raise its limit (sysctl fs.file-max)",
}


class Failure(Exception):
    """A request failed.

    cause: what happened, in words
    is_transient: another try may end well
    is_ours: it says nothing about the server
    """

    def __init__(self, cause: str, is_transient: bool = True, is_ours: bool = False) -> None:
        super().__init__(cause)
        self.cause = cause
        self.is_transient = is_transient
        self.is_ours = is_ours


def explain(error: Exception) -> Failure:
    """Return what one of FAILURES means."""
    if isinstance(error, ssl.SSLError):
        return Failure(*explain_tls(error))
    if isinstance(error, SpeaksTls):
        return Failure("wants TLS: use --tls", is_transient=False)
    if isinstance(error, WrongPassword):
        return Failure("does not accept the user or password in --auth-file", is_transient=False)
    if isinstance(error, ErrorReply):
        return _explain_reply(str(error))
    if isinstance(error, socket.gaierror):
        return Failure(f"can't resolve its name: {(error.strerror or str(error)).lower()}")
    if isinstance(error, OSError) and error.errno in _NO_DESCRIPTORS:
        return Failure(_NO_DESCRIPTORS[error.errno], is_ours=True)
    if isinstance(error, OSError) and error.strerror:
        return Failure(error.strerror.lower())
    return Failure(str(error) or type(error).__name__)


def _explain_reply(reply: str) -> Failure:
    words = reply.lower()
    if "authentic" in words:
        return Failure("wants a password: use --auth-file", is_transient=False)
    if "too many open connections" in words:
        return Failure("has too many connections: raise memcached -c")
    return Failure(f"replied {reply}")
