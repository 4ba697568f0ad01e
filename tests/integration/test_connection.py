"""The connection of a deployment: to a server that proves who it is, with a token of each connection's own."""

from __future__ import annotations

from contextlib import ExitStack, closing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql as compose

from loop_runner import rds_token
from loop_runner.database import Database
from loop_runner.rds_token import Credentials, sign_token
from loop_runner.services import Services
from loop_runner.settings import Settings
from tests.conftest import LOOPS, MIGRATIONS, Client
from tests.tls import Authority, TlsProxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.conftest import Lines, Sql

HOST = "127.0.0.1"
NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
ROLE_OF_FUNCTION = Credentials("ASIAEXAMPLE", "secret/key", "session+token==", "eu-central-1")
CALLER = {"iam": {"userArn": "arn:aws:iam::123456789012:user/ann"}}


class Clock(datetime):
    """A clock that stands still."""

    @classmethod
    def now(cls, tz: object = None) -> datetime:  # type: ignore[override]
        return NOW


class Deployment:
    """The API on a database whose role knows a password that the function must sign."""

    def __init__(self, database_url: str, folder: Path, sql: Sql) -> None:
        self.authority = Authority(folder / "ours")
        self.others = Authority(folder / "others")
        self.sql = sql
        self._database = urlsplit(database_url)
        self.user = f"iam_{uuid4().hex}"
        sql(f"CREATE ROLE {self.user} LOGIN IN ROLE loop_app")
        self._ends = ExitStack()

    def client(self, port: int, roots: Path) -> Client:
        """On the server at this port of ours, which is to be of one of these authorities."""
        token = sign_token(HOST, port, self.user, ROLE_OF_FUNCTION, NOW)
        self.sql.connection.execute(
            compose.SQL("ALTER ROLE {} PASSWORD {}").format(compose.Identifier(self.user), compose.Literal(token))
        )
        url = f"postgresql://{self.user}@{HOST}:{port}{self._database.path}?sslmode=verify-full&sslrootcert={roots}"
        services = Services(Settings(url, LOOPS, MIGRATIONS, signs_in_with_iam=True))
        self._ends.callback(services.database.close)
        return Client(services)

    def behind(self, certificate: Path, roots: str = "roots.pem") -> Client:
        """On a server that presents this certificate; our authority is the one that is trusted."""
        proxy = self._ends.enter_context(TlsProxy(self._database.geturl(), certificate))
        return self.client(proxy.port, self.authority.roots.with_name(roots))

    def in_plain_text(self) -> Client:
        return self.client(self._database.port or 5432, self.authority.roots)

    def close(self) -> None:
        self._ends.close()
        self.sql(f"DROP ROLE {self.user}")


@pytest.fixture
def deployment(
    database_url: str, app_role: str, tmp_path: Path, sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Deployment]:
    monkeypatch.setattr(rds_token, "datetime", Clock)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ROLE_OF_FUNCTION.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", ROLE_OF_FUNCTION.secret_key)
    monkeypatch.setenv("AWS_SESSION_TOKEN", ROLE_OF_FUNCTION.session_token)
    monkeypatch.setenv("AWS_REGION", ROLE_OF_FUNCTION.region)
    with closing(Deployment(database_url, tmp_path, sql)) as deployment:
        yield deployment


def test_server_with_the_right_name_and_a_known_authority_is_signed_in_to(deployment: Deployment) -> None:
    client = deployment.behind(deployment.authority.certificate(HOST))
    answer = client("GET", "/api/health/deep", actor=None, authorizer=CALLER)
    assert answer.status == 200, answer.text
    assert client.services.database._connected().pgconn.ssl_in_use
    assert client.services.database._connected().info.user == deployment.user


@pytest.mark.parametrize(
    ("server", "reason"),
    [
        (lambda it: it.behind(it.authority.certificate("db.example")), 'certificate for "db.example"'),
        (
            lambda it: it.behind(it.authority.certificate(HOST, until=datetime.now(UTC) - timedelta(days=1))),
            "the certificate has expired, or none of the authorities in sslrootcert has signed it",
        ),
        (
            lambda it: it.behind(it.others.certificate(HOST)),
            "the certificate has expired, or none of the authorities in sslrootcert has signed it",
        ),
        (Deployment.in_plain_text, "server does not support SSL, but SSL was required"),
        (lambda it: it.behind(it.authority.certificate(HOST), "nowhere.pem"), 'nowhere.pem" does not exist'),
    ],
    ids=["wrong name", "expired", "unknown authority", "plain text", "no roots"],
)
def test_server_that_does_not_prove_who_it_is_gets_no_token_and_the_log_says_why(
    deployment: Deployment, server: Callable[[Deployment], Client], reason: str, written: Callable[[], Lines]
) -> None:
    client = server(deployment)
    answer = client("GET", "/api/health/deep", actor=None, authorizer=CALLER)
    assert (answer.status, answer.error) == (503, "UNAVAILABLE")
    lines = written()
    (told,) = (line["reason"] for line in lines if line["message"] == "the database cannot serve")
    assert reason in told
    assert reason not in answer.text, "callers are not told where the database is"
    assert "X-Amz-Signature" not in str(lines)


def test_signature_that_the_server_does_not_take_is_told(deployment: Deployment, written: Callable[[], Lines]) -> None:
    client = deployment.behind(deployment.authority.certificate(HOST))
    deployment.sql(f"ALTER ROLE {deployment.user} PASSWORD 'another'")
    assert client("GET", "/api/health/deep", actor=None, authorizer=CALLER).error == "UNAVAILABLE"
    (told,) = (line["reason"] for line in written() if line["message"] == "the database cannot serve")
    assert f'password authentication failed for user "{deployment.user}"' in told


def test_each_connection_is_made_with_a_url_of_its_own_and_a_warm_one_is_kept(app_database_url: str, sql: Sql) -> None:
    made: list[str] = []

    def sign() -> str:
        made.append(f"{app_database_url}?application_name=number-{len(made) + 1}")
        return made[-1]

    with closing(Database(sign)) as database:
        assert made == []
        for _ in range(3):
            assert database.query("SELECT current_setting('application_name') AS name", []) == [{"name": "number-1"}]
        sql("SELECT pg_terminate_backend(pid, 30000) FROM pg_stat_activity WHERE application_name = 'number-1'")
        assert database.query("SELECT current_setting('application_name') AS name", []) == [{"name": "number-2"}]
    with psycopg.connect(sign()) as connection:
        assert connection.info.parameter_status("application_name") == "number-3"
