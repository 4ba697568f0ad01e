"""The token of GitHub: read when needed, read again when it was rotated, and nowhere but in requests to GitHub."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import psycopg
import pytest
from psycopg.rows import dict_row

from tests.conftest import Sql
from tests.github.faults import Fault
from tests.security.conftest import rows

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.github.delivery import Delivery
    from tests.github.fake import FakeGithub
    from tools.local.stack import Stack

SECRET = "GITHUB_TOKEN"
"""Its name on the local stack."""


@pytest.fixture
def secret(stack: Stack, world: FakeGithub) -> Iterator[None]:
    """Whatever the test does with it, the next one has the token that is valid."""
    yield
    stack.secrets[SECRET] = world.token
    world.app.expire()


def test_token_that_was_rotated_is_read_again_and_the_call_repeated(
    delivery: Delivery, stack: Stack, secret: None
) -> None:
    delivery.make_ready()
    delivery.patch(prUrl=None)
    delivery.go()
    delivery.patch(prUrl=delivery.pull_url)
    delivery.github.log.clear()
    stack.secrets[SECRET] = json.dumps({"token": delivery.github.rotate()})
    assert delivery.blocker()[0] == "NO_DEPLOYMENT_OBSERVATIONS"
    assert {run["status"] for run in delivery.runs()} == {"completed", "blocked"}
    refused = [each for each in delivery.github.log if each.status == 401]
    assert all(each.token != delivery.github.token for each in refused)


def test_token_that_is_not_valid_fails_the_step_after_one_more_look_at_the_secret(
    delivery: Delivery, stack: Stack, secret: None
) -> None:
    delivery.make_ready()
    delivery.github.rotate()
    code, message = delivery.failure()
    assert code == "GitHub.Unauthorized"
    assert "secret" in message.lower()
    assert [each.status for each in delivery.github.log] == [401, 401]
    assert "nextAttemptAt" not in delivery.get()
    stack.secrets[SECRET] = delivery.github.token
    assert delivery.blocker()[0] == "NO_DEPLOYMENT_OBSERVATIONS"


def test_app_acts_with_tokens_of_its_installation(delivery: Delivery, stack: Stack, secret: None) -> None:
    delivery.make_ready()
    app = delivery.github.app
    stack.secrets[SECRET] = json.dumps(
        {"appId": app.app_id, "installationId": app.installation_id, "privateKey": app.private_key}
    )
    delivery.github.rotate()
    assert delivery.blocker()[0] == "NO_DEPLOYMENT_OBSERVATIONS"
    assert delivery.facts["pr"]["mergedBy"] == "loop-runner[bot]"
    app.expire()
    delivery.pull.deploy("success")
    assert delivery.go()["stateAfter"] == "CLOSED"


def test_token_is_in_no_row_no_answer_and_no_line_even_where_github_repeats_it(
    delivery: Delivery, stack: Stack, log_file: Path
) -> None:
    delivery.make_ready()
    token = delivery.github.token
    echo = f"Bad request with Authorization: Bearer {token}"
    answers = []
    for status in (400, 401, 403, 404, 405, 409, 422, 429, 500):
        for pattern in ("GET .*/reviews", "GET .*/check-runs", "PUT .*/merge"):
            delivery.github.clear()
            delivery.github.on(
                pattern, Fault(status, echo, {"x-echo": token}, more={"errors": [{"message": token}]}), times=2
            )
            answers.append(delivery.go())
            answers += [delivery.get(), *delivery.runs(), *delivery.events()]
    with psycopg.connect(stack.database_url, autocommit=True, row_factory=dict_row) as connection:
        everywhere = {
            "rows": rows(Sql(connection)),
            "answers": json.dumps(answers),
            "lines": log_file.read_text(),
        }
    assert "Bad request" in everywhere["rows"], "what GitHub says is told, without the token"
    for place, text in everywhere.items():
        for sent in {each.token for each in delivery.github.log}:
            assert sent.partition("_")[2] not in text, place
