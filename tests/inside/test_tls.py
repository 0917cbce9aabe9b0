"""TLS and passwords, on real memcached: what works, what is refused and how that is told."""

from __future__ import annotations

import datetime
import logging
import os
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from memc_client import MemcacheClient, ServerDown
from memcload.cancel import Cancel
from memcload.memcached.batch import LOOKUP_SIZE, lookups
from memcload.memcached.tls import Credentials, make_tls_context, read_credentials
from tests.inside.peers import Peer, listening, replying
from tests.inside.test_batch import make_batch

RECORDS = [(b"idfa:%d" % number, b"value %d" % number) for number in range(100)]
SECRET = "correct:horse"


class Certificates:
    """Files of an authority and of certificates that it has signed."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._authority = trustme.CA()
        self.ca = str(directory / "ca.pem")
        self._authority.cert_pem.write_to_path(self.ca)

    def issue(self, name: str, *hosts: str, expired: bool = False) -> tuple[str, str]:
        """Return the paths of a certificate and its key."""
        until = datetime.datetime(2020, 1, 1) if expired else None
        issued = self._authority.issue_cert(*hosts, not_before=datetime.datetime(2019, 1, 1), not_after=until)
        cert, key = self._directory / f"{name}.pem", self._directory / f"{name}.key"
        issued.private_key_pem.write_to_path(cert if name == "both" else key)
        issued.cert_chain_pems[0].write_to_path(cert, append=name == "both")
        return str(cert), str(key)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("other"))


@pytest.fixture(scope="module")
def tls(certificates: Certificates) -> ssl.SSLContext:
    return make_tls_context(certificates.ca)


@pytest.fixture(scope="module")
def password_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("auth") / "auth"
    path.write_text(f"user:{SECRET}\n")
    path.chmod(0o600)
    return path


def memcached(*options: str) -> AbstractContextManager[str]:
    """Start a memcached that may not answer just anybody; its address is what it yields."""
    user = ["-u", "root"] if os.geteuid() == 0 else []
    return listening(lambda port: ["memcached", "-l", "127.0.0.1", "-p", str(port), *user, *options])


def tls_memcached(certificate: tuple[str, str], *options: str) -> AbstractContextManager[str]:
    cert, key = certificate
    return memcached("-Z", "-o", f"ssl_chain_cert={cert}", "-o", f"ssl_key={key}", *options)


@pytest.fixture(scope="module")
def tls_server(certificates: Certificates) -> Iterator[str]:
    with tls_memcached(certificates.issue("server", "127.0.0.1", "localhost")) as address:
        yield address


@pytest.fixture(scope="module")
def password_server(password_file: Path) -> Iterator[str]:
    with memcached("-Y", str(password_file)) as address:
        yield address


def failure(client: MemcacheClient) -> str:
    """Return why a client can't store anything; see that it was not tried in vain."""
    with closing(client):
        with pytest.raises(ServerDown) as caught:
            client.store([make_batch(RECORDS)])
        assert client.server.retries == 0
        assert caught.value.server == client.server.address
        assert SECRET not in "".join(map(str, [caught.value, caught.value.__cause__, caught.value.__context__]))
        with pytest.raises(ServerDown):
            client.confirm()
    return caught.value.cause


# --- TLS ----------------------------------------------------------------------------------------


def test_everything_works_over_tls(tls_server: str, tls: ssl.SSLContext) -> None:
    with closing(MemcacheClient(tls_server, tls=tls)) as client:
        batch = make_batch([(b"idfa:%d" % number, os.urandom(100)) for number in range(20_000)])
        stored = client.store([batch, make_batch(RECORDS)])
        assert stored.refusals == []
        assert client.set(b"key", b"value") is None
        assert [client.lookup(lookup) for lookup in lookups(list(batch.records())[100:])] == [[]] * 39
        assert [client.lookup(lookup) for lookup in lookups([*RECORDS, (b"key", b"value")])] == [[]]
        assert client.confirm() == stored.identity
        assert client.server.retries == 0


@pytest.mark.parametrize(
    "size",
    [1000, 8000, 15_000, 15_400, 15_500, 16_000, 16_200, 16_300, 16_400, 16_500, 20_000, 33_000, 250_000, 900_000],
)
def test_a_record_of_any_size_is_stored_over_tls(tls_server: str, tls: ssl.SSLContext, size: int) -> None:
    """memcached 1.6.18 hangs where a send holds a command of more than 16 KiB and something behind it."""
    large = [(b"large:%d" % number, os.urandom(size)) for number in range(4)]
    records = [*RECORDS[:50], *large[:2], *RECORDS[50:], *large[2:]]
    with closing(MemcacheClient(tls_server, tls=tls, retries=0)) as client:
        assert client.store([make_batch(records), make_batch(large)]).refusals == []
        assert client.set(*large[0]) is None
        assert [client.lookup(lookup) for lookup in lookups(records)] == [[]]
        too_large = (b"too-large", bytes(2 << 20))
        refusals = client.store([make_batch([large[0], too_large, *RECORDS, too_large])]).refusals
        assert [refusal.position for refusal in refusals] == [1, 102]


def test_lookups_of_any_length_are_answered_over_tls(tls_server: str, tls: ssl.SSLContext) -> None:
    for size in (20, 43, 249):
        records = [(b"%0*d" % (size, number), b"value %d" % number) for number in range(LOOKUP_SIZE)]
        with closing(MemcacheClient(tls_server, tls=tls, retries=0)) as client:
            assert client.store([make_batch(records)]).refusals == []
            assert [client.lookup(lookup) for lookup in lookups(records)] == [[]]


def test_small_requests_over_tls_do_not_wait_for_each_other(tls_server: str, tls: ssl.SSLContext) -> None:
    with closing(MemcacheClient(tls_server, tls=tls)) as client:
        client.confirm()
        started = time.monotonic()
        for _ in range(50):
            client.store([make_batch(RECORDS)])
        assert time.monotonic() - started < 50 * 0.04  # what Nagle's algorithm costs each


def test_the_name_that_is_verified_is_the_one_that_was_given(tls_server: str, tls: ssl.SSLContext) -> None:
    with closing(MemcacheClient(tls_server.replace("127.0.0.1", "localhost"), tls=tls)) as client:
        assert client.set(b"key", b"value") is None


def test_a_certificate_for_another_name_is_refused(certificates: Certificates, tls: ssl.SSLContext) -> None:
    with tls_memcached(certificates.issue("elsewhere", "memcached.example")) as address:
        assert failure(MemcacheClient(address, tls=tls)) == (
            "its certificate is not trusted: it is not valid for '127.0.0.1'"
        )
        named = address.replace("127.0.0.1", "localhost")
        assert (
            failure(MemcacheClient(named, tls=tls)) == "its certificate is not trusted: it is not valid for 'localhost'"
        )


def test_an_unknown_authority_is_refused(tls_server: str, strangers: Certificates) -> None:
    for context in (make_tls_context(strangers.ca), make_tls_context()):
        assert failure(MemcacheClient(tls_server, tls=context)) == (
            "its certificate is not trusted: unknown authority; name it with --tls-ca"
        )


def test_an_expired_certificate_is_refused(certificates: Certificates, tls: ssl.SSLContext) -> None:
    with tls_memcached(certificates.issue("old", "127.0.0.1", expired=True)) as address:
        assert failure(MemcacheClient(address, tls=tls)) == "its certificate is not trusted: it has expired"


def test_a_server_may_want_a_certificate_of_its_clients(
    certificates: Certificates, strangers: Certificates, tls: ssl.SSLContext
) -> None:
    options = ("-o", f"ssl_verify_mode=2,ssl_ca_cert={certificates.ca}")
    with tls_memcached(certificates.issue("server", "127.0.0.1"), *options) as address:
        for cert in (certificates.issue("client", "client"), (certificates.issue("both", "client")[0], None)):
            with closing(MemcacheClient(address, tls=make_tls_context(certificates.ca, *cert))) as client:
                assert client.store([make_batch(RECORDS)]).refusals == []
        for _ in range(10):  # the refusal comes with the first reply, or while the first request is sent
            assert failure(MemcacheClient(address, tls=tls)) == (
                "requires a client certificate: use --tls-cert and --tls-key"
            )
        stranger = make_tls_context(certificates.ca, *strangers.issue("client", "client"))
        assert failure(MemcacheClient(address, tls=stranger)) == (
            "does not accept the certificate in --tls-cert: unknown ca"
        )


def test_a_server_that_wants_tls_and_gets_none_is_told(tls_server: str) -> None:
    assert failure(MemcacheClient(tls_server)) == "wants TLS: use --tls"
    assert failure(MemcacheClient(tls_server.replace("127.0.0.1", "localhost"))) == "wants TLS: use --tls"
    assert failure(MemcacheClient(tls_server, credentials=Credentials(b"user", b"x"))) == "wants TLS: use --tls"


def test_a_server_that_ends_connections_in_good_order_may_want_tls() -> None:
    def talk(sock: socket.socket) -> None:
        sock.recv(100)

    with Peer(talk) as peer, closing(MemcacheClient(peer.address, retries=1)) as client:
        with pytest.raises(ServerDown, match="closed the connection at once: if it wants TLS, use --tls"):
            client.confirm()
        assert peer.connections == 2
    alert = b"\x15\x03\x03\x00\x02\x02\x46"
    with Peer(replying(alert)) as peer:
        assert failure(MemcacheClient(peer.address)) == "wants TLS: use --tls"


def test_a_server_that_speaks_no_tls_is_told(tls: ssl.SSLContext, password_server: str) -> None:
    with memcached() as address:
        assert failure(MemcacheClient(address, tls=tls)) == "does not speak TLS: leave out --tls"
    assert failure(MemcacheClient(password_server, tls=tls)) == "does not speak TLS: leave out --tls"


def test_a_server_that_just_closes_connections_does_not_want_tls() -> None:
    with Peer(lambda sock: None) as peer, closing(MemcacheClient(peer.address, retries=2)) as client:
        with pytest.raises(ServerDown, match=r"closed|reset"):
            client.confirm()
        assert client.server.retries == 2
        assert peer.connections <= 4  # it was asked once at most


@pytest.mark.parametrize("shows_life", [False, True])
def test_a_frozen_handshake_ends_in_time(tls: ssl.SSLContext, shows_life: bool) -> None:
    over = threading.Event()

    def talk(sock: socket.socket) -> None:
        while not over.wait(0.02):
            if shows_life:
                sock.sendall(b"\x16\x03\x03\x40\x00" if sock.recv(1 << 16) else b"\x00")

    with Peer(talk) as peer, closing(MemcacheClient(peer.address, tls=tls, retries=0, connect_timeout=0.3)) as client:
        started = time.monotonic()
        with pytest.raises(ServerDown, match=r"timed out after 0\.3 s"):
            client.confirm()
        assert 0.3 <= time.monotonic() - started < 1
        over.set()


def test_an_endless_reply_over_tls_ends_in_time(certificates: Certificates, tls: ssl.SSLContext) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*certificates.issue("endless", "127.0.0.1"))

    def talk(sock: socket.socket) -> None:
        with context.wrap_socket(sock, server_side=True) as secure:
            secure.recv(100)
            secure.sendall(b"VERSION 1\r\n")
            secure.recv(100)
            secure.sendall(b"".join(b"STAT %s 1\r\n" % name for name in (b"pid", b"time", b"uptime")) + b"END\r\n")
            secure.recv(100)
            secure.sendall(b"CLIENT_ERROR invalid mode\r\nEN\r\nMN\r\n")
            secure.recv(1000)
            secure.sendall(b"VA 1000000000\r\n")
            while True:
                secure.sendall(bytes(1 << 20))

    with Peer(talk) as peer, closing(MemcacheClient(peer.address, tls=tls, retries=0, timeout=0.5)) as client:
        started = time.monotonic()
        with pytest.raises(ServerDown, match="timed out"):
            client.lookup(next(lookups(RECORDS)))
        assert time.monotonic() - started < 3


def test_a_frozen_handshake_ends_when_the_run_is_cancelled(tls: ssl.SSLContext) -> None:
    cancel = Cancel()
    over = threading.Event()

    def talk(sock: socket.socket) -> None:
        over.wait(20)

    threading.Timer(0.2, cancel.set).start()
    with (
        Peer(talk) as peer,
        closing(MemcacheClient(peer.address, tls=tls, timeout=0.2, connect_timeout=20, cancel=cancel)) as client,
    ):
        started = time.monotonic()
        with pytest.raises(ServerDown, match="stopped"):
            client.confirm()
        assert time.monotonic() - started < 1
        over.set()


@pytest.mark.parametrize("after", [0, 100, 3000, 20_000, 60_000])
def test_a_connection_that_is_cut_within_a_record_is_made_again(
    tls_server: str, tls: ssl.SSLContext, after: int
) -> None:
    host, _, port = tls_server.rpartition(":")
    cuts = [after, after + 7]

    def relay(sock: socket.socket) -> None:
        remaining = cuts.pop() if cuts else 1 << 40
        with socket.create_connection((host, int(port))) as server:
            thread = threading.Thread(target=pump, args=(server, sock))
            thread.start()
            while remaining and (data := sock.recv(min(1 << 16, remaining))):
                remaining -= len(data)
                server.sendall(data)
            server.shutdown(socket.SHUT_WR)
            thread.join()

    def pump(source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(1 << 16):
                target.sendall(data)
        except OSError:
            pass

    records = [(b"cut:%d" % number, os.urandom(200)) for number in range(1000)]
    with Peer(relay) as peer, closing(MemcacheClient(peer.address, tls=tls, timeout=2)) as client:
        assert client.store([make_batch(records)]).refusals == []
        assert client.server.retries == 2
        assert client.server.restarts == 0
    with closing(MemcacheClient(tls_server, tls=tls)) as client:
        assert [client.lookup(lookup) for lookup in lookups(records)] == [[], []]


def test_a_unix_socket_with_tls_is_wrong(tls: ssl.SSLContext) -> None:
    with pytest.raises(ValueError, match=r"unix:/run/memcached\.sock: TLS does not work over a Unix socket"):
        MemcacheClient("unix:/run/memcached.sock", tls=tls)


def test_files_of_certificates_that_are_no_good_are_named(
    certificates: Certificates, strangers: Certificates, tmp_path: Path
) -> None:
    cert, key = certificates.issue("mine", "client")
    _, other = strangers.issue("theirs", "client")
    empty = tmp_path / "empty.pem"
    empty.write_text("nothing\n")
    encrypted = tmp_path / "encrypted.pem"
    encrypted.write_bytes(
        load_pem_private_key(Path(key).read_bytes(), None).private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"passphrase")
        )
    )
    for arguments, says in [
        ((str(empty),), "empty.pem: no certificates"),
        ((certificates.ca, str(empty), key), "empty.pem, .*no certificate and key"),
        ((certificates.ca, cert, other), "does not belong"),
        ((certificates.ca, cert), "no certificate and key"),
        ((certificates.ca, None, key), "--tls-cert"),
        ((certificates.ca, cert, str(encrypted)), "encrypted.pem: the key is encrypted"),
    ]:
        with pytest.raises(ValueError, match=says):
            make_tls_context(*arguments)
    for arguments in [
        ("/missing.pem",),
        (certificates.ca, "/missing.pem", key),
        (certificates.ca, cert, "/missing.pem"),
    ]:
        with pytest.raises(FileNotFoundError, match=r"missing\.pem"):
            make_tls_context(*arguments)


# --- passwords ----------------------------------------------------------------------------------


def test_everything_works_with_a_password(password_server: str, password_file: Path) -> None:
    with closing(MemcacheClient(password_server, credentials=read_credentials(str(password_file)))) as client:
        stored = client.store([make_batch(RECORDS)])
        assert stored.refusals == []
        assert client.set(b"key", b"value") is None
        client.close()
        assert client.confirm() == stored.identity
        assert client.server.speaks_meta


def test_a_password_over_tls(certificates: Certificates, tls: ssl.SSLContext, password_file: Path) -> None:
    with tls_memcached(certificates.issue("server", "127.0.0.1"), "-Y", str(password_file)) as address:
        with closing(MemcacheClient(address, tls=tls, credentials=read_credentials(str(password_file)))) as client:
            assert client.store([make_batch(RECORDS)]).refusals == []
        assert failure(MemcacheClient(address, tls=tls)) == "wants a password: use --auth-file"
        assert failure(MemcacheClient(address)) == "wants TLS: use --tls"


def test_a_server_that_wants_a_password_and_gets_none_is_told(
    password_server: str, caplog: pytest.LogCaptureFixture
) -> None:
    logging.getLogger("memcload").propagate = True
    assert failure(MemcacheClient(password_server)) == "wants a password: use --auth-file"
    assert caplog.messages == [f"{password_server}: wants a password: use --auth-file; marked down"]


@pytest.mark.parametrize(("user", "password"), [("user", "wrong"), ("nobody", SECRET), ("user", "two words")])
def test_a_wrong_password_is_told_and_not_shown(
    password_server: str, user: str, password: str, caplog: pytest.LogCaptureFixture
) -> None:
    logging.getLogger("memcload").propagate = True
    caplog.set_level("DEBUG")
    credentials = Credentials(user.encode(), password.encode())
    client = MemcacheClient(password_server, credentials=credentials)
    assert failure(client) == "does not accept the user or password in --auth-file"
    assert password not in caplog.text
    assert password not in repr(credentials) + repr(client) + repr(vars(client))


def test_a_server_that_wants_no_password_keeps_none() -> None:
    with memcached() as address, closing(MemcacheClient(address, credentials=Credentials(b"user", b"pass"))) as client:
        assert client.set(b"key", b"value") is None
        differences = [client.lookup(lookup) for lookup in lookups([(b"auth", b"user pass")])]
        assert [(d.position, d.kind) for found in differences for d in found] == [(0, "missing")]


@pytest.mark.parametrize(
    ("content", "user", "password"),
    [
        (b"user:secret\n", b"user", b"secret"),
        (b"user:secret", b"user", b"secret"),
        (b"user:secret\r\n", b"user", b"secret"),
        (b"user:a:b:c\nother:x\n", b"user", b"a:b:c"),
        (b"user: \xff\n", b"user", b" \xff"),
    ],
)
def test_a_password_file_holds_a_user_and_a_password(
    tmp_path: Path, content: bytes, user: bytes, password: bytes
) -> None:
    path = tmp_path / "auth"
    path.write_bytes(content)
    path.chmod(0o400)
    assert read_credentials(str(path)) == Credentials(user, password)


@pytest.mark.parametrize("content", [b"", b"secret\n", b":secret\n", b"user:\n", b"us er:secret\n", b"\nuser:secret\n"])
def test_a_password_file_that_holds_something_else_is_named_and_not_shown(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "auth"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(ValueError, match="auth: the first line of a password file must be user:password") as caught:
        read_credentials(str(path))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o444])
def test_a_password_file_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "auth"
    path.write_bytes(b"user:secret\n")
    path.chmod(mode)
    with pytest.raises(ValueError, match="auth: other users can read this password file: run chmod 600 on it"):
        read_credentials(str(path))
    with pytest.raises(FileNotFoundError):
        read_credentials(str(tmp_path / "missing"))
