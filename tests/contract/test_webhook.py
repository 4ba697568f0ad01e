"""POST /api/github/webhook: what GitHub signed is taken, and what lets a step go on is passed on."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import boto3
import pytest
from moto import mock_aws

from functions.github_webhook import app as github_webhook
from loop_runner import aws
from tests.conftest import Answer, Context, event
from tests.contract.conftest import assert_error
from tests.sample_events import SECRET
from tests.webhook_client import PATH, signature

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.conftest import Lines

ROTATED = "marked-webhook-secret-of-later"
REVIEW = {
    "action": "submitted",
    "review": {"state": "approved", "body": "canary-of-the-payload"},
    "pull_request": {"number": 7, "title": "canary-of-the-payload"},
    "repository": {"id": 1296269, "full_name": "octo/hello"},
}


class Webhook:
    """The function, with a secret and a queue of moto's; ``sent`` are the messages to run-worker."""

    def __init__(self) -> None:
        self.sqs, self.secrets = boto3.client("sqs"), boto3.client("secretsmanager")
        self.queue_url = self.sqs.create_queue(QueueName="RunQueue")["QueueUrl"]
        self.arn = self.secrets.create_secret(Name="github-webhook", SecretString=SECRET)["ARN"]

    def send(self, body: bytes, headers: dict[str, str | None] | None = None, *, encoded: bool = False) -> Answer:
        """Deliver these bytes. ``headers`` replace those of a signed review; None leaves one out."""
        given = {
            "X-GitHub-Event": "pull_request_review",
            "X-GitHub-Delivery": str(uuid4()),
            "X-Hub-Signature-256": signature(body),
            "Content-Type": "application/json",
            **(headers or {}),
        }
        text = base64.b64encode(body).decode() if encoded else body.decode()
        made = event("POST", PATH, text, headers={name: value for name, value in given.items() if value is not None})
        made["isBase64Encoded"] = encoded
        answer = github_webhook.handler(made, Context())  # type: ignore[arg-type]
        return Answer(answer["statusCode"], answer["headers"], answer["body"])

    def deliver(self, payload: Any = REVIEW, headers: dict[str, str | None] | None = None) -> Answer:
        return self.send(json.dumps(payload).encode(), headers)

    def rotate(self, text: str) -> None:
        self.secrets.put_secret_value(SecretId=self.arn, SecretString=text)

    @property
    def sent(self) -> list[dict[str, Any]]:
        found = self.sqs.receive_message(QueueUrl=self.queue_url, MaxNumberOfMessages=10, VisibilityTimeout=0)
        return [json.loads(message["Body"]) for message in found.get("Messages", [])]


@pytest.fixture
def webhook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Webhook]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    monkeypatch.setattr(github_webhook, "SETTLE_SECONDS", 0)
    aws.client.cache_clear()
    with mock_aws():
        webhook = Webhook()
        monkeypatch.setenv("RUN_QUEUE_URL", webhook.queue_url)
        monkeypatch.setenv("GITHUB_WEBHOOK_SECRET_ARN", webhook.arn)
        github_webhook.secret.cache_clear()
        github_webhook.api.__dict__.pop("services", None)
        yield webhook
    github_webhook.secret.cache_clear()
    github_webhook.api.__dict__.pop("services", None)
    aws.client.cache_clear()


def test_what_lets_a_step_go_on_is_passed_on_as_what_names_the_pull_request(webhook: Webhook) -> None:
    delivery = "72d3162e-cc78-11e3-81ab-4c9367dc0958"
    answer = webhook.deliver(headers={"X-GitHub-Delivery": delivery})
    assert answer.status == 202, answer.text
    assert answer.json == {
        "schemaVersion": "loop.githubWebhook.v1",
        "requestId": answer.headers["x-request-id"],
        "delivery": delivery,
        "event": "pull_request_review",
        "passedOn": True,
    }
    named = {"repository": "octo/hello", "pullRequests": [7], "branches": []}
    assert webhook.sent == [{"delivery": delivery, **named, "resends": 0}]


def test_what_lets_no_step_go_on_is_taken_and_left_alone(webhook: Webhook) -> None:
    for name, payload in (("push", {"ref": "x"}), ("pull_request_review", {**REVIEW, "action": "x"}), ("new_one", {})):
        answer = webhook.deliver(payload, {"X-GitHub-Event": name})
        assert (answer.status, answer.json["passedOn"], answer.json["event"]) == (202, False, name)
    answer = webhook.deliver({"zen": "Keep it logically awesome."}, {"X-GitHub-Event": "ping"})
    assert (answer.status, answer.json["passedOn"]) == (200, False)
    assert webhook.sent == []


@pytest.mark.parametrize(
    "header",
    [None, "", "sha256=", "sha256=00", signature(b"{}"), signature(json.dumps(REVIEW).encode(), "another")],
)
def test_what_github_did_not_sign_is_401_without_a_word_of_why(webhook: Webhook, header: str | None) -> None:
    answer = webhook.deliver(headers={"X-Hub-Signature-256": header, "X-GitHub-Event": None})
    assert_error(answer, 401, "UNAUTHORIZED")
    assert answer.json["error"] == {
        "code": "UNAUTHORIZED",
        "message": "X-Hub-Signature-256 is not that of the body with the webhook's secret",
    }
    assert webhook.sent == []


def test_signature_of_sha1_is_none(webhook: Webhook) -> None:
    body = json.dumps(REVIEW).encode()
    old = f"sha1={hmac.new(SECRET.encode(), body, hashlib.sha1).hexdigest()}"
    assert_error(webhook.deliver(headers={"X-Hub-Signature-256": old}), 401, "UNAUTHORIZED")
    assert_error(webhook.deliver(headers={"X-Hub-Signature-256": None, "X-Hub-Signature": old}), 401, "UNAUTHORIZED")


def test_signature_is_of_the_bytes_however_api_gateway_brings_them(webhook: Webhook) -> None:
    body = json.dumps({**REVIEW, "sender": {"name": "Zoë ✓"}}, ensure_ascii=False).encode()
    for encoded in (False, True):
        assert webhook.send(body, encoded=encoded).status == 202
    spaced = json.dumps(REVIEW, indent=2).encode() + b"\r\n"
    assert webhook.send(spaced).status == 202
    changed = webhook.send(spaced.replace(b"\r\n", b"\n"), {"X-Hub-Signature-256": signature(spaced)})
    assert_error(changed, 401, "UNAUTHORIZED")
    assert len(webhook.sent) == 3


def test_names_of_headers_are_of_any_case(webhook: Webhook) -> None:
    body = json.dumps(REVIEW).encode()
    headers = {"X-GitHub-Event": None, "X-GitHub-Delivery": None, "X-Hub-Signature-256": None}
    lower = {"x-github-event": "pull_request_review", "x-github-delivery": str(uuid4())}
    answer = webhook.send(body, {**headers, **lower, "x-HUB-signature-256": signature(body)})
    assert (answer.status, answer.json["passedOn"]) == (202, True)


@pytest.mark.parametrize(
    "headers",
    [
        {"X-GitHub-Event": None},
        {"X-GitHub-Event": "Pull Request"},
        {"X-GitHub-Event": "x" * 65},
        {"X-GitHub-Delivery": None},
        {"X-GitHub-Delivery": "7"},
    ],
)
def test_a_signed_delivery_without_its_headers_is_400(webhook: Webhook, headers: dict[str, str | None]) -> None:
    assert_error(webhook.deliver(headers=headers), 400, "INVALID_REQUEST")
    assert webhook.sent == []


@pytest.mark.parametrize("body", [b"", b"{", b"payload=%7B%7D", b"[]", json.dumps({"action": "submitted"}).encode()])
def test_a_signed_body_of_another_form_is_400(webhook: Webhook, body: bytes) -> None:
    assert_error(webhook.send(body), 400, "INVALID_REQUEST")
    assert webhook.sent == []


def test_form_that_github_sends_by_default_is_400_with_what_to_set(webhook: Webhook) -> None:
    body = b"payload=" + json.dumps(REVIEW).encode()
    assert "application/json" in webhook.send(body).json["error"]["message"]


def test_payload_may_be_larger_than_other_bodies_and_has_an_end(webhook: Webhook) -> None:
    assert webhook.deliver({**REVIEW, "more": "x" * 500_000}).status == 202
    assert_error(webhook.deliver({**REVIEW, "more": "x" * 1_100_000}), 413, "PAYLOAD_TOO_LARGE")


def test_rotated_secret_is_read_when_a_signature_does_not_fit_once_a_minute(
    webhook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = json.dumps(REVIEW).encode()
    assert webhook.deliver().status == 202
    webhook.rotate(ROTATED)
    rotated = signature(body, ROTATED)
    assert webhook.deliver(headers={"X-Hub-Signature-256": rotated}).status == 401, "it was read just now"
    monkeypatch.setattr(github_webhook, "ROTATION_SECONDS", 0)  # a minute later
    assert webhook.deliver(headers={"X-Hub-Signature-256": rotated}).status == 202
    assert webhook.deliver().status == 401, "that of before"


@pytest.mark.parametrize("text", [json.dumps({"secret": SECRET}), f"{SECRET}\n"])
def test_secret_may_be_as_the_console_of_aws_or_an_editor_writes_it(webhook: Webhook, text: str) -> None:
    webhook.rotate(text)
    assert webhook.deliver().status == 202


@pytest.mark.parametrize("text", ['{"token": "x"}', '{"secret": ""}', '{"secret": 7}', "  \n"])
def test_secret_that_is_none_lets_nobody_in(webhook: Webhook, text: str) -> None:
    webhook.rotate(text)
    for key in ("", text):
        body = json.dumps(REVIEW).encode()
        assert_error(webhook.send(body, {"X-Hub-Signature-256": signature(body, key)}), 500, "INTERNAL_ERROR")
    assert webhook.sent == []


def test_secret_that_is_not_there_lets_nobody_in(webhook: Webhook, monkeypatch: pytest.MonkeyPatch) -> None:
    for arn in ("gone", ""):
        monkeypatch.setenv("GITHUB_WEBHOOK_SECRET_ARN", arn)
        github_webhook.secret.cache_clear()
        answer = webhook.deliver()
        assert_error(answer, 500, "INTERNAL_ERROR")
        assert not {"gone", "arn", "GITHUB", "Secrets"} & set(re.findall(r"\w+", answer.json["error"]["message"]))


def test_delivery_that_cannot_be_passed_on_is_503_so_that_github_shows_it(webhook: Webhook) -> None:
    webhook.sqs.delete_queue(QueueUrl=webhook.queue_url)
    answer = webhook.deliver()
    assert_error(answer, 503, "UNAVAILABLE")
    assert "deliver it again" in answer.json["error"]["message"]


def test_neither_the_secret_nor_the_payload_is_in_a_line_or_an_answer(
    webhook: Webhook, written: Callable[[], Lines]
) -> None:
    answers = [
        webhook.deliver(),
        webhook.deliver(headers={"X-Hub-Signature-256": "sha256=0"}),
        webhook.deliver({**REVIEW, "repository": "canary-of-the-payload"}),
        webhook.send(b'{"canary-of-the-payload'),
    ]
    assert [each.status for each in answers] == [202, 401, 400, 400]
    told = json.dumps(written()) + "".join(each.text for each in answers) + json.dumps(webhook.sent)
    assert "octo/hello" in told
    for canary in (SECRET, "canary-of-the-payload", signature(json.dumps(REVIEW).encode())):
        assert canary not in told


def test_other_methods_and_paths_are_not_served(webhook: Webhook) -> None:
    made = event("GET", PATH)
    answer = github_webhook.handler(made, Context())  # type: ignore[arg-type]
    assert answer["statusCode"] in {401, 405}
    assert webhook.sent == []
