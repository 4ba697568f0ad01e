"""Secrets stay where they belong: each is a value of its own, looked for in all that a journey through the functions
leaves. ``PLACES`` says where each may be, and is exactly where it is found: in an answer, in a row, in a line.
"""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql as compose

from functions.migrate import app as migrate
from functions.run_worker import app as run_worker
from loop_runner.errors import LoopError
from loop_runner.observability import logger
from loop_runner.results import Blocked, Completed, Failed
from loop_runner.services import Services
from tests.conftest import Client, Context
from tests.security.conftest import rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.conftest import Answer, Sql
    from tests.fake_steps import Steps
    from tests.security.conftest import Output

PUBLISHED = {"answers", "rows"}
"""What callers and steps write for people to read. It is in no line."""

PLACES: dict[str, set[str]] = {
    # of the functions
    "password of the database": set(),
    "password in a URL that cannot be read": set(),
    "key that tokens are signed with": set(),
    "session of that key": set(),
    "address for CloudFormation's answer": set(),
    # with which callers prove who they are
    "authorization": set(),
    "cookie": set(),
    "session of the caller": set(),
    "other claims": set(),
    "task token": set(),
    "wrong task token": set(),
    # that nobody keeps
    "query": set(),
    "header": set(),
    "body that is not JSON": set(),
    "value that is refused": set(),
    "key that is refused": {"answers"},
    "status that is refused": {"answers"},
    "message that is none": set(),
    # that keep runs apart
    "lease token": {"rows"},
    "hash of the task token": {"rows"},
    "hash of the request": {"rows"},
    # for people
    "subject": PUBLISHED,
    "fact": PUBLISHED,
    "protected fact": PUBLISHED,
    "reason": PUBLISHED,
    "comment": PUBLISHED,
    "message of a step": PUBLISHED,
    "error of a step": PUBLISHED,
    "blocker of a step": PUBLISHED,
    "Idempotency-Key": PUBLISHED,
    # that the database did not take, and quotes
    "fact that breaks a rule": set(),
    "fact that is no number": set(),
}


class Journey:
    """The functions with a secret in each place; ``answers`` is all that came back."""

    def __init__(self, steps: Steps, sql: Sql, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps, self.sql, self.patch = steps, sql, monkeypatch
        self.secrets = {name: f"canary-{uuid4().hex}" for name in PLACES}
        self.answers: list[str] = []

    def __getitem__(self, name: str) -> str:
        return self.secrets[name]

    def call(
        self, method: str, path: str, body: Any = None, *, status: int = 200, client: Client | None = None, **parts: Any
    ) -> Answer:
        headers = {
            "authorization": f"Bearer {self['authorization']}",
            "cookie": f"session={self['cookie']}",
            "x-amz-security-token": self["session of the caller"],
            "user-agent": self["header"],
            **parts.pop("headers", {}),
        }
        claims = {"sub": self["subject"], "email": self["other claims"], "jti": self["other claims"]}
        parts = {"actor": None, "authorizer": {"jwt": {"claims": claims}}, **parts}
        answer = (client or self.steps.client)(method, path, body, headers=headers, **parts)
        assert answer.status == status, answer.text
        self.answers.append(answer.text + json.dumps(answer.headers))
        return answer

    def register(self, loop: str, issue_id: str, **facts: Any) -> str:
        """The path of a new issue."""
        path = f"/api/loop/issues/{issue_id}"
        self.call("PUT", path, {"loop": loop, "facts": facts}, status=201)
        return path

    def remember(self, name: str, statement: str) -> None:
        """Take for the secret what the database has as ``value``."""
        self.secrets[name] = str(self.sql.one(statement)["value"])


@pytest.fixture
def journey(steps: Steps, sql: Sql, monkeypatch: pytest.MonkeyPatch) -> Iterator[Journey]:
    """As a role with a password of its own, without which there is no connection."""
    journey = Journey(steps, sql, monkeypatch)
    user, password = f"canary_{uuid4().hex}", journey["password of the database"]
    sql(f"CREATE ROLE {user} LOGIN IN ROLE loop_app")
    sql.connection.execute(
        compose.SQL("ALTER ROLE {} PASSWORD {}").format(compose.Identifier(user), compose.Literal(password))
    )
    parts = urlsplit(steps.services.settings.database_url)
    url = parts._replace(netloc=f"{user}:{password}@{parts.hostname}:{parts.port}").geturl()
    steps.services.settings = replace(steps.services.settings, database_url=url)
    yield journey
    steps.services.database.close()
    sql(f"DROP ROLE {user}")


def steps_are_executed(on: Journey) -> None:
    path = on.register("protected", "A-3", note=on["fact"])
    on.steps.will(
        Blocked("NOT_YET", on["blocker of a step"]),
        Failed("Broken", on["error of a step"]),
        Completed({"pr": on["protected fact"]}, message=on["message of a step"]),
    )
    for _ in range(3):
        run = on.call("POST", f"{path}/run-next-step").json["runId"]
    for read in (path, f"{path}/runs", f"{path}/events", f"/api/loop/runs/{run}"):
        on.call("GET", read)


def people_decide(on: Journey) -> None:
    path = on.register("approve", "A-2")
    on.call("POST", f"{path}/run-next-step", headers={"idempotency-key": on["Idempotency-Key"]})
    on.remember("hash of the request", "SELECT request_hash AS value FROM loop_runs WHERE idempotency_key IS NOT NULL")
    on.call("POST", f"{path}/hold", {"reason": on["reason"]})
    version = on.call("POST", f"{path}/resume", {"reason": on["reason"]}).headers["etag"]
    decision = {"decision": "rejected", "comment": on["comment"]}
    on.call("POST", f"{path}/approvals", decision, headers={"if-match": version})
    for read in (path, f"{path}/runs", f"{path}/events"):
        on.call("GET", read)


def a_step_is_handed_over(on: Journey) -> None:
    waits = on.steps.ask()
    run = f"/api/loop/runs/{waits.run_id}"
    on.secrets["task token"] = waits.token
    on.remember("lease token", "SELECT lease_token AS value FROM loop_runs WHERE completed_at IS NULL")
    on.remember(
        "hash of the task token",
        "SELECT task_token_hash AS value FROM loop_run_steps WHERE task_token_hash IS NOT NULL",
    )
    on.call("POST", f"{run}/heartbeat", {"taskToken": on["wrong task token"]}, status=403)
    on.call("POST", f"{run}/result", {"taskToken": on["wrong task token"], "status": "completed"}, status=403)
    on.call("POST", f"{run}/heartbeat", {"taskToken": waits.token})
    on.call("POST", f"{run}/result", {"taskToken": waits.token, "status": on["status that is refused"]}, status=400)
    on.call("GET", run)
    on.call("POST", f"{run}/result", {"taskToken": waits.token, "status": "completed"})


def calls_are_refused(on: Journey) -> None:
    path = "/api/loop/issues/A-2"
    for query in ("limit", "cursor", "status", "since"):
        on.call("GET", "/api/loop/runs", query={query: on["query"]}, status=400)
    on.call("GET", "/api/loop/runs", query={"actor": on["query"]})
    on.call("PATCH", path, f'{{"draft": "{on["body that is not JSON"]}"', status=400)
    on.call("POST", f"{path}/run-next-step", {"mode": on["value that is refused"]}, status=400)
    on.call("POST", f"{path}/run-next-step", {on["key that is refused"]: 1}, status=400)
    on.call("PUT", path, {"loop": [on["value that is refused"]]}, status=400)
    on.call("PATCH", path, {}, headers={"if-match": on["header"]}, status=400)
    record = {"messageId": "1", "body": f'{{"issueId": "{on["message that is none"]}'}
    on.patch.setattr(run_worker, "services", lambda: on.steps.services)
    failed = run_worker.handler({"Records": [record]}, Context())  # type: ignore[arg-type]
    assert failed["batchItemFailures"]


def the_database_refuses(on: Journey) -> None:
    path = "/api/loop/issues/A-2"
    on.sql(f"ALTER TABLE loop_issues ADD CHECK (facts::text NOT LIKE '%{on['fact that breaks a rule']}%')")
    on.call("PATCH", path, {"draft": on["fact that breaks a rule"]}, status=500)
    on.sql("ALTER TABLE loop_issues ADD CHECK ((facts->>'count')::integer > 0)")
    on.call("PATCH", path, {"count": on["fact that is no number"]}, status=500)


def the_database_is_out_of_reach(on: Journey) -> None:
    on.patch.setenv("AWS_ACCESS_KEY_ID", "ASIA")
    on.patch.setenv("AWS_SECRET_ACCESS_KEY", on["key that tokens are signed with"])
    on.patch.setenv("AWS_SESSION_TOKEN", on["session of that key"])
    on.patch.setenv("AWS_REGION", "us-east-1")
    deployed = "postgresql://loop_app@127.0.0.1:1/none?sslmode=verify-full"
    for url, iam, status in (
        (deployed, True, 503),
        (f"postgresql://app:{on['password of the database']}@127.0.0.1:1/none", False, 503),
        (f"postgresql://app:{on['password in a URL that cannot be read']}%zz@127.0.0.1:1/none", False, 500),
    ):
        services = Services(replace(on.steps.services.settings, database_url=url, signs_in_with_iam=iam))
        with closing(services.database):
            on.call("GET", "/api/loop/issues/A-2", client=Client(services), status=status)


def cloudformation_is_not_answered(on: Journey) -> None:
    request = {
        "RequestType": "Delete",
        "ResponseURL": "http://127.0.0.1:1/?X-Amz-Signature=" + on["address for CloudFormation's answer"],
        **dict.fromkeys(("StackId", "RequestId", "LogicalResourceId"), "x"),
    }
    with pytest.raises(LoopError) as raised:
        migrate.handler(request, Context(2_000))  # type: ignore[arg-type]
    on.answers.append(str(raised.value))


STAGES: list[Callable[[Journey], None]] = [
    steps_are_executed,
    people_decide,
    a_step_is_handed_over,
    calls_are_refused,
    the_database_refuses,
    the_database_is_out_of_reach,
    cloudformation_is_not_answered,
]


def test_each_secret_is_where_it_may_be_and_nowhere_else(journey: Journey, output: Output) -> None:
    for stage in STAGES:
        stage(journey)
    places = {"answers": "\n".join(journey.answers), "rows": rows(journey.sql), "lines": output()}
    assert '"message":"answered"' in places["lines"]
    found = {
        name: {place for place, text in places.items() if secret in text} for name, secret in journey.secrets.items()
    }
    assert found == PLACES


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        ("SELECT 'hunter2'::uuid", "SQLSTATE 22P02: (not shown: it quotes a value)"),
        ("SELECT ('{\"a\": hunter2}')::jsonb", "SQLSTATE 22P02: (not shown: it quotes a value)"),
        (
            "INSERT INTO loop_issues (id, loop_name, state) VALUES ('hunter2', 'x', NULL)",
            "violates not-null constraint loop_issues state",
        ),
        ("SELECT hunter FROM loop_issues WHERE id = 'hunter2'", 'SQLSTATE 42703: column "hunter" does not exist'),
    ],
)
def test_line_says_what_the_database_refused_and_not_what_it_quotes(
    sql: Sql, output: Output, statement: str, told: str
) -> None:
    try:
        try:
            sql(statement)
        except psycopg.Error as refused:
            raise RuntimeError("wrapped") from refused
    except RuntimeError:
        logger.exception("the call failed")
    line = json.loads(output())
    assert told in line["exception"]
    assert "RuntimeError: wrapped" in line["exception"]
    assert "hunter2" not in json.dumps(line)
