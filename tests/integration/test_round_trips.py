"""A run costs two round trips and two commits (design, section 4, rule 10), counted on the wire and in the rows."""

from __future__ import annotations

import socket
import threading
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from psycopg.conninfo import conninfo_to_dict

from loop_runner.services import Services

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from loop_runner.settings import Settings
    from tests.conftest import Client, Sql

ISSUE = "/api/loop/issues/AFU9-123"
URL = "https://github.com/acme/app/issues/1"


class Messages:
    """Splits one direction of PostgreSQL's protocol 3: type byte, then a length that counts itself; see its chapter 54.

    The first message of a frontend, startup, has no type byte. TLS and GSSAPI are off: nothing comes before it.
    """

    def __init__(self, *, starts_up: bool) -> None:
        self._rest, self._has_type = b"", not starts_up

    def of(self, data: bytes) -> Iterator[tuple[str, bytes]]:
        """The messages that are complete now: type ("" of startup) and content."""
        self._rest += data
        while len(self._rest) >= (head := 4 + self._has_type):
            end = head - 4 + int.from_bytes(self._rest[head - 4 : head])
            if len(self._rest) < end:
                return
            yield self._rest[: head - 4].decode(), self._rest[head:end]
            self._rest, self._has_type = self._rest[end:], True


class Proxy:
    """Stands between functions and server and counts: connections, messages by type, and how commands ended."""

    def __init__(self, host: str, port: int) -> None:
        self._server = host, port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = [self._listener]
        self.port = self._listener.getsockname()[1]
        self.sent: Counter[str] = Counter()
        self.completed: list[str] = []
        self.ready: Counter[str] = Counter()
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def round_trips(self) -> int:
        """How often the frontend waited: Sync of the extended protocol, Query of the simple one, startup."""
        return self.sent["S"] + self.sent["Q"] + self.sent[""]

    def forget(self) -> None:
        self.sent.clear()
        self.completed.clear()
        self.ready.clear()

    def close(self) -> None:
        for end in self._open:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._server)
                self._open += [client, server]
                threading.Thread(target=self._pump, args=(client, server, self._from_client), daemon=True).start()
                threading.Thread(target=self._pump, args=(server, client, self._from_server), daemon=True).start()

    def _from_client(self, kind: str, content: bytes) -> None:
        self.sent[kind] += 1

    def _from_server(self, kind: str, content: bytes) -> None:
        if kind == "C":
            self.completed.append(content.rstrip(b"\0").decode())
        elif kind == "Z":
            self.ready[content.decode()] += 1

    def _pump(self, source: socket.socket, target: socket.socket, seen: Callable[[str, bytes], None]) -> None:
        messages = Messages(starts_up=seen == self._from_client)
        with suppress(OSError):
            while data := source.recv(65536):
                for message in messages.of(data):
                    seen(*message)  # before it goes on: whoever has an answer finds it counted
                target.sendall(data)
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)


@pytest.fixture
def proxy(database_url: str) -> Iterator[Proxy]:
    parts = conninfo_to_dict(database_url)
    proxy = Proxy(str(parts["host"]), int(parts["port"] or 5432))
    yield proxy
    proxy.close()


@pytest.fixture
def services(settings: Settings, proxy: Proxy) -> Iterator[Services]:
    """The functions' own, on a connection that leads through the proxy."""
    parts = conninfo_to_dict(settings.database_url)
    url = "postgresql://{user}:{password}@127.0.0.1:{port}/{dbname}?sslmode=disable&gssencmode=disable".format(
        **{**parts, "password": parts.get("password") or "", "port": proxy.port}
    )
    services = Services(replace(settings, database_url=url))
    yield services
    services.database.close()


def cost(proxy: Proxy, call: Callable[[], Any], status: int = 200) -> int:
    """The round trips of a call, each of which was one statement in a transaction of its own."""
    proxy.forget()
    answer = call()
    assert answer.status == status, answer.text
    assert proxy.completed == ["SELECT 1"] * proxy.round_trips
    assert proxy.ready == Counter({"I": proxy.round_trips} if proxy.round_trips else {})
    return proxy.round_trips


def transactions_of_run(sql: Sql, run_id: str) -> list[str]:
    """The transactions that wrote the run's rows: of each row, and each event, the last one that did."""
    rows = sql(
        """
        SELECT xmin::text AS x, 'run' AS what FROM loop_runs WHERE id = %(id)s
        UNION ALL SELECT xmin::text, 'step' FROM loop_run_steps WHERE run_id = %(id)s
        UNION ALL SELECT xmin::text, event_type FROM loop_events WHERE run_id = %(id)s
        UNION ALL SELECT xmin::text, 'issue' FROM loop_issues
        """.replace("%(id)s", "%s"),
        *[run_id] * 3,
    )
    by_transaction: dict[str, list[str]] = {}
    for row in rows:
        by_transaction.setdefault(row["x"], []).append(row["what"])
    return sorted(", ".join(sorted(written)) for written in by_transaction.values())


# --- two


def test_a_completed_run_costs_two_round_trips(client: Client, proxy: Proxy) -> None:
    client.register(githubUrl=URL)
    assert cost(proxy, client.run) == 2


def test_a_run_with_a_skipped_step_costs_two_round_trips(client: Client, proxy: Proxy) -> None:
    client.register(draft={"committed": True, "status": "valid"})
    assert cost(proxy, client.run) == 2


def test_a_blocked_run_costs_two_round_trips(client: Client, proxy: Proxy) -> None:
    client.register()
    assert cost(proxy, client.run) == 2


def test_a_run_of_a_finished_issue_costs_two_round_trips(client: Client, proxy: Proxy, sql: Sql) -> None:
    client.register()
    sql("UPDATE loop_issues SET state = 'CLOSED'")
    assert cost(proxy, client.run) == 2


@pytest.mark.parametrize("facts", [{}, {"githubUrl": URL}])
def test_a_dry_run_costs_two_round_trips(client: Client, proxy: Proxy, facts: dict[str, str]) -> None:
    client.register(**facts)
    assert cost(proxy, lambda: client.run(body={"mode": "dryRun"})) == 2


def test_the_takeover_of_a_lost_run_costs_no_more(client: Client, proxy: Proxy, sql: Sql) -> None:
    client.register(githubUrl=URL)
    client.services.runs.create_run(issue_id="AFU9-123", actor="bob", request_id="r")
    sql("UPDATE loop_runs SET lease_expires_at = clock_timestamp()")
    assert cost(proxy, client.run) == 2


def test_the_first_call_of_a_process_costs_the_connection_and_two(client: Client, proxy: Proxy, sql: Sql) -> None:
    client.register(githubUrl=URL)
    client.services.database.close()
    proxy.forget()
    assert client.run().status == 200
    assert (proxy.sent[""], proxy.sent["S"], proxy.sent["Q"]) == (1, 2, 0)


# --- one or none


def test_a_refusal_of_the_claim_costs_one_round_trip(client: Client, proxy: Proxy) -> None:
    client.register(githubUrl=URL)
    assert cost(proxy, lambda: client.run("NEW-1"), status=404) == 1
    assert cost(proxy, lambda: client.run(headers={"if-match": '"7"'}), status=412) == 1
    client.services.runs.create_run(issue_id="AFU9-123", actor="bob", request_id="r")
    assert cost(proxy, client.run, status=409) == 1


def test_reading_an_issue_a_run_or_a_list_costs_one_round_trip(client: Client, proxy: Proxy) -> None:
    client.register(githubUrl=URL)
    run_id = client.run().json["runId"]
    for path in (ISSUE, f"/api/loop/runs/{run_id}"):
        assert cost(proxy, lambda path=path: client("GET", path)) == 1  # type: ignore[misc]
    for path in (f"{ISSUE}/runs", f"{ISSUE}/events"):
        proxy.forget()
        assert client("GET", path).status == 200
        assert proxy.round_trips == 1


@pytest.mark.parametrize(
    ("parts", "status"),
    [
        pytest.param({"path": f"{ISSUE}/run-next-step", "actor": None}, 401, id="no identity"),
        pytest.param({"path": f"{ISSUE}/run-next-step", "authorizer": {}}, 401, id="no principal"),
        pytest.param({"path": f"{ISSUE}/run-next-step", "actor": "a,b"}, 400, id="identity given twice"),
        pytest.param({"path": f"{ISSUE}/run-next-step", "body": "{"}, 400, id="bad body"),
        pytest.param({"path": f"{ISSUE}/run-next-step", "body": {"mode": "x"}}, 400, id="bad mode"),
        pytest.param({"path": f"{ISSUE}/run-next-step", "body": "x" * 70_000}, 413, id="large body"),
        pytest.param({"path": f"{ISSUE}/run-next-step", "headers": {"if-match": "1"}}, 400, id="bad If-Match"),
        pytest.param({"path": "/api/loop/issues/a b/run-next-step"}, 400, id="bad issue id"),
        pytest.param({"path": "/nowhere"}, 404, id="unknown path"),
        pytest.param({"path": ISSUE}, 405, id="wrong method"),
    ],
)
def test_what_is_refused_by_its_form_does_not_even_connect(
    client: Client, proxy: Proxy, parts: dict[str, Any], status: int
) -> None:
    assert client("POST", **parts).status == status
    assert proxy.sent == Counter()


def test_health_does_not_connect(client: Client, proxy: Proxy) -> None:
    assert client("GET", "/api/health", actor=None).status == 200
    assert proxy.sent == Counter()


# --- commits


def test_a_run_is_written_by_two_transactions_all_of_its_end_by_one(client: Client, sql: Sql) -> None:
    client.register(draft={"committed": True, "status": "valid"})
    run_id = client.run().json["runId"]
    assert transactions_of_run(sql, run_id) == [
        "issue, loop_run_finished, loop_step_completed, loop_step_skipped, run, step, step",
        "loop_run_started",
    ]


def test_a_blocked_run_is_written_by_two_transactions(client: Client, sql: Sql) -> None:
    client.register()
    run_id = client.run().json["runId"]
    assert transactions_of_run(sql, run_id) == ["issue", "loop_run_blocked, run", "loop_run_started"]


def test_a_dry_run_is_written_by_one_transaction(client: Client, sql: Sql) -> None:
    client.register()
    run_id = client.run(body={"mode": "dryRun"}).json["runId"]
    assert transactions_of_run(sql, run_id) == ["issue", "run"]
