"""An API that is slow, gone or somebody else's, and credentials that there are not: the page says what to do."""

from __future__ import annotations

import socket
import ssl
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.console.browser import RUNS, Browser, console_of, error_of, message_of
from tests.console.signed_api import KEY, SECRET, SESSION, Api, api_on

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def browser(api: Api) -> Iterator[Browser]:
    """On a console that has looked for no credentials yet."""
    with console_of(api.url) as browser:
        yield browser


@pytest.fixture
def no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder of the files ``config`` and ``credentials``, which there are not yet."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    return tmp_path


def test_api_that_is_silent_is_a_504(api: Api) -> None:
    silent = threading.Event()
    api.before = lambda _connection: silent.wait(60)
    with console_of(api.url, seconds=0.2) as browser:
        answer = browser("POST", RUNS, b"{}")
    silent.set()
    assert error_of(answer) == (504, "UNAVAILABLE")
    assert "look whether the call was done" in message_of(answer)


def test_calls_do_not_wait_for_each_other(browser: Browser, api: Api) -> None:
    asked, silent = threading.Event(), threading.Event()

    def wait(_connection: socket.socket) -> bool:
        if "slow" in api.received[-1].line:
            asked.set()
            return silent.wait(60)
        return True

    api.before = wait
    with ThreadPoolExecutor() as pool:
        slow = [pool.submit(browser, "GET", "/api/slow") for _ in range(3)]
        assert asked.wait(60)
        assert browser("GET", RUNS).status == 200
        assert not any(call.done() for call in slow)
        silent.set()
        assert [call.result().status for call in slow] == [200] * 3


def test_api_that_never_ends_its_answer_is_a_504(api: Api) -> None:
    ended = threading.Event()

    def drip(connection: socket.socket) -> bool:
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n")
        while not ended.wait(0.05):
            connection.sendall(b"x")
        return False

    api.before = drip
    with console_of(api.url, seconds=0.5) as browser:
        assert error_of(browser("GET", RUNS)) == (504, "UNAVAILABLE")
    ended.set()


def closed(_connection: socket.socket) -> bool:
    return False


def garbled(connection: socket.socket) -> bool:
    connection.sendall(b"SSH-2.0-OpenSSH\r\n")
    return False


def cut(connection: socket.socket) -> bool:
    connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nhalf of it")
    return False


@pytest.mark.parametrize("what", [closed, garbled, cut])
def test_api_that_breaks_off_is_a_502(browser: Browser, api: Api, what: Callable[[socket.socket], bool]) -> None:
    api.before = what
    answer = browser("GET", RUNS, x_request_id="3f0c5b1e-7a52-4b8e-9d57-0c2b8a6f1d34")
    assert error_of(answer) == (502, "UNAVAILABLE")
    assert UUID(answer.json()["requestId"]) == UUID("3f0c5b1e-7a52-4b8e-9d57-0c2b8a6f1d34")
    assert "is API_URL right?" in message_of(answer)


def test_answer_that_is_larger_than_api_gateway_makes_is_a_502(browser: Browser, api: Api) -> None:
    api.body = b"x" * (10 * 1024 * 1024 + 1)
    assert error_of(browser("GET", RUNS)) == (502, "UNAVAILABLE")


def test_api_that_is_not_there_is_a_502(api: Api) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        with console_of(f"http://127.0.0.1:{nobody.getsockname()[1]}") as browser:
            assert error_of(browser("GET", RUNS)) == (502, "UNAVAILABLE")
            assert browser("GET", "/console").status == 200


def self_signed(folder: Path) -> tuple[ssl.SSLContext, Path]:
    """A server's TLS with a certificate that it has made itself, and the certificate."""

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    names = x509.SubjectAlternativeName([x509.DNSName("localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(x509.random_serial_number()).not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1)).add_extension(names, critical=False)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    encoding = serialization.Encoding.PEM
    (folder / "cert.pem").write_bytes(certificate.public_bytes(encoding))
    (folder / "key.pem").write_bytes(
        key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return context, folder / "cert.pem"


def test_certificate_of_the_api_is_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context, certificate = self_signed(tmp_path)
    with api_on(context) as api:
        url = api.url.replace("127.0.0.1", "localhost")
        with console_of(url) as browser:
            answer = browser("GET", RUNS)
            assert error_of(answer) == (502, "UNAVAILABLE")
            assert "has no certificate to trust" in message_of(answer)
            assert api.received == []
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        with console_of(url) as browser:
            assert browser("GET", RUNS).status == 200
        with console_of(api.url) as browser:  # trusted, but another's name
            assert error_of(browser("GET", RUNS)) == (502, "UNAVAILABLE")
    assert len(api.received) == 1
    assert api.received[0].is_signed


# ---------------------------------------------------------------------------------------------- credentials


def test_without_credentials_the_page_says_how_to_get_some_and_goes_on_once_there_are(
    no_credentials: Path, browser: Browser, api: Api
) -> None:
    answer = browser("GET", RUNS)
    assert error_of(answer) == (502, "UNAUTHORIZED")
    assert "aws sso login" in message_of(answer)
    assert browser("GET", "/console").status == 200
    assert api.received == []
    text = f"[default]\naws_access_key_id = {KEY}\naws_secret_access_key = {SECRET}\n"
    (no_credentials / "credentials").write_text(text)
    assert browser("GET", RUNS).status == 200
    assert api.received[0].is_signed


def test_credentials_that_cannot_be_had_are_told_without_what_their_process_printed(
    no_credentials: Path, browser: Browser, api: Api
) -> None:
    process = f"{sys.executable} -c \"import sys; sys.exit('{SECRET}')\""
    (no_credentials / "config").write_text(f"[default]\ncredential_process = {process}\n")
    answer = browser("GET", RUNS)
    assert error_of(answer) == (502, "UNAUTHORIZED")
    assert "no AWS credentials are to be had (CredentialRetrievalError)" in message_of(answer)
    assert SECRET.encode() not in answer.body
    assert api.received == []


def test_credentials_are_renewed_before_they_are_over(no_credentials: Path, browser: Browser, api: Api) -> None:
    printed = {"Version": 1, "AccessKeyId": KEY, "SecretAccessKey": SECRET, "Expiration": "2020-01-01T00:00:00Z"}
    count = no_credentials / "count"
    script = no_credentials / "process.py"
    script.write_text(
        f"import datetime, json, pathlib\ncount = pathlib.Path({str(count)!r})\n"
        "number = len(count.read_text()) if count.exists() else 0\ncount.write_text('x' * (number + 1))\n"
        "at = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=60 if number == 0 else 36000)\n"
        f"print(json.dumps({printed!r} | {{'SessionToken': f'token-{{number}}', 'Expiration': at.isoformat()}}))\n"
    )
    (no_credentials / "config").write_text(f"[default]\ncredential_process = {sys.executable} {script}\n")
    for _ in range(3):
        assert browser("GET", RUNS).status == 200
    tokens = [received.get("x-amz-security-token") for received in api.received]
    assert tokens[-1] == tokens[-2] == "token-1", "a minute is too little, ten hours are enough"
    assert all(received.is_signed for received in api.received)


@pytest.mark.parametrize("word", ["expired", "invalid"])
def test_credentials_that_aws_finds_expired_are_a_502_and_looked_for_anew(
    browser: Browser, api: Api, monkeypatch: pytest.MonkeyPatch, word: str
) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "old")
    api.status, api.body = 403, f'{{"message":"The security token included in the request is {word}"}}'.encode()
    answer = browser("GET", RUNS)
    assert error_of(answer) == (502, "UNAUTHORIZED")
    assert "aws sso login" in message_of(answer)
    monkeypatch.setenv("AWS_SESSION_TOKEN", "new")
    browser("GET", RUNS)
    assert [received.get("x-amz-security-token") for received in api.received] == ["old", "new"]


@pytest.mark.parametrize("body", [b'{"message":"Forbidden"}', b"<html>", b"[]", b""])
def test_refusal_of_api_gateway_is_explained_in_the_envelope(browser: Browser, api: Api, body: bytes) -> None:
    api.status, api.body = 403, body
    answer = browser("GET", RUNS)
    assert error_of(answer) == (403, "FORBIDDEN")
    assert "execute-api:Invoke" in message_of(answer)


def test_refusal_of_the_api_itself_stays_as_it_is(browser: Browser, api: Api) -> None:
    api.status, api.body = 403, b'{"schemaVersion": "loop.error.v1", "error": {"code": "FORBIDDEN"}}'
    answer = browser("GET", RUNS)
    assert (answer.status, answer.body) == (403, api.body)


def test_no_answer_holds_credentials(browser: Browser, api: Api) -> None:
    targets = ["/console", "/console/none", "/", "/console?token=x", RUNS]
    for status in (200, 401, 403, 500):
        api.status = status
        for answer in (browser("GET", target) for target in targets):
            told = str(answer).encode() + answer.body
            for secret in (KEY, SECRET, SESSION, "AWS4-HMAC"):
                assert secret.encode() not in told
