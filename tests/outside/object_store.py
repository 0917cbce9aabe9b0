"""A real S3 server as a process (moto), a bucket of it for each test, and a gate before it where requests go wrong."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.outside.loading import own_environ

CUT = "x-test-cut"  # a header that a rule adds: after so many bytes of the answer the connection ends
LOST = "x-test-lost"  # a header that a rule adds: the request is done, but the connection ends before the answer
SECRET = "wJalrXUtnFEMIsecretsecretEXAMPLEKEY"
HOP = {"connection", "keep-alive", "transfer-encoding", "server", "date"}
_START_TIMEOUT = 60.0  # seconds

Headers = dict[str, str]
Rule = Callable[[str, str, Headers], "tuple[int, str] | None"]
"""Sees the method, the path with its query and the headers of a request. It may change these, wait, or answer itself:
with a status and an error code of S3."""


@contextlib.contextmanager
def s3_server() -> Iterator[int]:
    """Run a server; give its port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    environ = {**own_environ(), "MOTO_S3_DEFAULT_MAX_KEYS": "7"}  # so that listings have several pages
    process = subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + _START_TIMEOUT
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=5).close()
                break
            except OSError:
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.1)
        yield port
    finally:
        process.kill()
        process.wait()


def environ_for(port: int) -> dict[str, str]:
    """Return the variables by which the store at a port, and credentials for it, are found."""
    return {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "AKIATEST",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }


class Gate:
    """Passes requests on to a server. `rule` may interfere; `seen` are the methods and paths that came."""

    def __init__(self, port: int) -> None:
        gate = self
        self.rule: Rule | None = None
        self.seen: list[tuple[str, str]] = []

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self) -> None:
                self.raw_requestline = self.rfile.readline(65537)
                if not self.raw_requestline or not self.parse_request():
                    self.close_connection = True
                    return
                gate.pass_on(self, port)

            def log_message(self, format: str, *args: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: object, client_address: object) -> None:
                pass  # a loader that was killed

        self._server = Server(("127.0.0.1", 0), Handler)
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> Gate:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def pass_on(self, handler: BaseHTTPRequestHandler, port: int) -> None:
        """Pass one request on, and its answer back."""
        headers = {name.lower(): value for name, value in handler.headers.items()}
        if "100-continue" in headers.pop("expect", ""):
            handler.send_response_only(100)
            handler.end_headers()
        body = handler.rfile.read(int(headers.get("content-length", 0)))
        self.seen.append((handler.command, handler.path))
        own = self.rule(handler.command, handler.path, headers) if self.rule else None
        if own:
            status, code = own
            text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{code} of a test</Message></Error>"
            answer, reply_headers = text.encode(), {"content-type": "application/xml"}
        else:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            connection.request(handler.command, handler.path, body, headers)
            response = connection.getresponse()
            status, answer = response.status, response.read()
            reply_headers = {name.lower(): value for name, value in response.getheaders()}
            connection.close()
        if LOST in headers:
            handler.close_connection = True
            return
        handler.send_response(status)
        for name, value in reply_headers.items():
            if name not in HOP and not (name == "content-length" and handler.command != "HEAD"):
                handler.send_header(name, value)
        if handler.command != "HEAD":
            handler.send_header("content-length", str(len(answer)))
        handler.end_headers()
        if CUT in headers:
            handler.wfile.write(answer[: int(headers[CUT])])
            handler.close_connection = True
        elif handler.command != "HEAD":
            handler.wfile.write(answer)
            handler.wfile.flush()


class Bucket:
    """A bucket of a test, as the test sees it: past the gate. Loaders reach it through the gate."""

    def __init__(self, port: int, gate: Gate) -> None:
        import s3fs

        self.name = f"bucket{random.randrange(10**12)}"
        self.gate = gate
        self.system: Any = s3fs.S3FileSystem(
            endpoint_url=f"http://127.0.0.1:{port}",
            key="test",
            secret="test",
            client_kwargs={"region_name": "us-east-1"},
            use_listings_cache=False,
            skip_instance_cache=True,
        )
        self.system.call_s3("create_bucket", Bucket=self.name)

    def environ(self, **other: str) -> Mapping[str, str]:
        """Return the environment in which a loader finds the store and its credentials."""
        return {
            **{name: value for name, value in own_environ().items() if not name.startswith("AWS_")},
            **environ_for(self.gate.port),
            **other,
        }

    def url(self, key: str) -> str:
        """Return the URL of an object, or the pattern of some."""
        return f"s3://{self.name}/{key}"

    def write(self, key: str, data: bytes) -> None:
        """Write an object."""
        self.system.pipe_file(f"{self.name}/{key}", data)

    def write_log(self, key: str, text: bytes) -> bytes:
        """Write a log as gzip; return its text."""
        self.write(key, gzip.compress(text, 1))
        return text

    def read(self, key: str) -> bytes:
        """Return the content of an object."""
        data = self.system.cat_file(f"{self.name}/{key}")
        assert isinstance(data, bytes)
        return data

    def delete(self, key: str) -> None:
        """Delete an object."""
        self.system.rm_file(f"{self.name}/{key}")

    def names(self) -> list[str]:
        """Return the keys of all objects, sorted."""
        found = self.system.find(self.name)
        return sorted(key.removeprefix(f"{self.name}/") for key in found)
