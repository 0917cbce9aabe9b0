"""Servers that want TLS or a password."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.outside.memcached import PATIENCE


@contextmanager
def memcached(*options: str) -> Iterator[str]:
    """Start a memcached that a plain client can't talk to, and give its address."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
    user = ["-u", "root"] if os.geteuid() == 0 else []
    process = subprocess.Popen(
        ["memcached", "-l", "127.0.0.1", "-p", str(port), *user, *options], stderr=subprocess.PIPE
    )
    try:
        deadline = time.monotonic() + PATIENCE
        while process.poll() is None and time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
            except OSError:
                time.sleep(0.02)
            else:
                break
        else:
            pytest.skip("this memcached can't be started so")
        yield f"127.0.0.1:{port}"
    finally:
        process.kill()
        process.communicate()


def make_certificate(directory: Path) -> tuple[Path, Path]:
    """Make a certificate for 127.0.0.1 that vouches for itself; return its path and that of its key."""
    if not shutil.which("openssl"):
        pytest.skip("needs the command openssl")
    cert, key = directory / "cert.pem", directory / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=127.0.0.1", "-days", "2"]
    options = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)]
    subprocess.run([*command, *options], check=True, capture_output=True)
    return cert, key
