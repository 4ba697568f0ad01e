"""What of GitHub's webhook is ours: the signature over the raw body, and the events that can let a step go on."""

from __future__ import annotations

import copy
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loop_runner.errors import InvalidRequestError
from loop_runner.github_events import Delivery, delivery_of, is_signed, read_payload

ID = UUID("72d3162e-cc78-11e3-81ab-4c9367dc0958")
SHA = "6dcb09b5b57875f334f61aebed695e2e4193db5e"
REPOSITORY = {"id": 1296269, "full_name": "Octo/Hello-World", "html_url": "https://github.com/Octo/Hello-World"}
SECRET, BODY = "It's a Secret to Everybody", b"Hello, World!"
SIGNATURE = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
"""The test values of "Validating webhook deliveries" in GitHub's documentation."""


def pull_request(number: int, repository_id: int = 1296269) -> dict[str, Any]:
    return {"number": number, "base": {"ref": "main", "repo": {"id": repository_id}}}


def check(**parts: Any) -> dict[str, Any]:
    return {"head_sha": SHA, "head_branch": "feature", "pull_requests": [pull_request(7)], **parts}


PAYLOADS: dict[str, dict[str, Any]] = {
    "pull_request": {"action": "synchronize", "pull_request": {"number": 7}, "repository": REPOSITORY},
    "pull_request_review": {
        "action": "submitted",
        "review": {"state": "approved", "body": "ok"},
        "pull_request": {"number": 7},
        "repository": REPOSITORY,
    },
    "check_suite": {"action": "completed", "check_suite": check(), "repository": REPOSITORY},
    "check_run": {
        "action": "completed",
        "check_run": {"head_sha": SHA, "pull_requests": [pull_request(7)], "check_suite": {"head_branch": "feature"}},
        "repository": REPOSITORY,
    },
    "status": {
        "state": "success",
        "sha": SHA,
        "branches": [{"name": "feature", "commit": {"sha": SHA}}],
        "repository": REPOSITORY,
    },
    "deployment_status": {
        "action": "created",
        "deployment_status": {"state": "success"},
        "deployment": {"sha": SHA, "environment": "production"},
        "repository": REPOSITORY,
    },
}
EVENTS = sorted(PAYLOADS)


def changed(event: str, *path: str, value: Any) -> dict[str, Any]:
    """The payload with another value at the path."""
    payload = copy.deepcopy(PAYLOADS[event])
    at = payload
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return payload


def test_signature_is_as_github_documents_it() -> None:
    assert is_signed(BODY, SIGNATURE, SECRET)


@pytest.mark.parametrize(
    ("body", "signature", "secret"),
    [
        (BODY + b" ", SIGNATURE, SECRET),
        (BODY, SIGNATURE[:-1] + "f", SECRET),
        (BODY, SIGNATURE, SECRET + "!"),
        (BODY, SIGNATURE.upper(), SECRET),
        (BODY, SIGNATURE.removeprefix("sha256="), SECRET),
        (BODY, "sha1=" + SIGNATURE.removeprefix("sha256="), SECRET),
        (BODY, "sha1=01dc10d0c83e72ed246219cdd91669667fe2ca59", SECRET),
        (BODY, f"{SIGNATURE},{SIGNATURE}", SECRET),
        (BODY, "", SECRET),
        (BODY, "sha256=\u00e9\ud800", SECRET),
    ],
)
def test_another_body_secret_algorithm_or_form_is_not_signed(body: bytes, signature: str, secret: str) -> None:
    assert not is_signed(body, signature, secret)


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        ("pull_request", {"pull_requests": (7,)}),
        ("pull_request_review", {"pull_requests": (7,)}),
        ("check_suite", {"pull_requests": (7,), "sha": SHA, "branches": ("feature",)}),
        ("check_run", {"pull_requests": (7,), "sha": SHA, "branches": ("feature",)}),
        ("status", {"sha": SHA, "branches": ("feature",)}),
        ("deployment_status", {"sha": SHA}),
    ],
)
def test_an_event_goes_on_as_what_names_its_pull_requests_and_nothing_else(
    event: str, expected: dict[str, Any]
) -> None:
    assert delivery_of(event, ID, PAYLOADS[event]) == Delivery(ID, "Octo/Hello-World", **expected)


@pytest.mark.parametrize(
    ("event", "payload"),
    [
        *(
            (event, changed(event, "action", value="labeled"))
            for event in EVENTS
            if "check" in event or "pull" in event
        ),
        ("check_run", changed("check_run", "action", value="created")),
        ("status", changed("status", "state", value="pending")),
        *(
            ("deployment_status", changed("deployment_status", "deployment_status", "state", value=state))
            for state in ("inactive", "in_progress", "queued", "pending")
        ),
        ("push", {"ref": "refs/heads/main", "repository": REPOSITORY}),
        ("issues", {"action": "opened"}),
        ("__class__", {}),
    ],
)
def test_what_lets_no_step_go_on_is_left_alone(event: str, payload: dict[str, Any]) -> None:
    assert delivery_of(event, ID, payload) is None


@pytest.mark.parametrize("none", [[], None])
def test_a_check_of_a_fork_names_no_pull_request_and_goes_on_with_its_commit(none: list[Any] | None) -> None:
    delivery = delivery_of("check_suite", ID, changed("check_suite", "check_suite", "pull_requests", value=none))
    assert delivery == Delivery(ID, "Octo/Hello-World", sha=SHA, branches=("feature",))
    status = delivery_of("status", ID, changed("status", "branches", value=none))
    assert status == Delivery(ID, "Octo/Hello-World", sha=SHA)


def test_pull_requests_of_another_repository_are_none_of_this_ones() -> None:
    """A commit that a fork has pull requests of its own for: they are listed with the check, and have other numbers."""
    mixed = [pull_request(3, repository_id=999), pull_request(7)]
    delivery = delivery_of("check_suite", ID, changed("check_suite", "check_suite", "pull_requests", value=mixed))
    assert delivery
    assert delivery.pull_requests == (7,)


@pytest.mark.parametrize(
    ("event", "path", "value"),
    [
        ("pull_request", ("repository", "full_name"), "a/b/c"),
        ("pull_request", ("repository", "full_name"), "a/b'; --"),
        ("pull_request", ("repository",), None),
        ("pull_request", ("pull_request", "number"), "7"),
        ("pull_request", ("pull_request", "number"), 0),
        ("pull_request", ("pull_request", "number"), True),
        ("pull_request", ("pull_request",), []),
        ("check_suite", ("check_suite", "head_sha"), "main"),
        ("check_suite", ("check_suite", "pull_requests"), [{"number": 7}]),
        ("status", ("sha",), SHA.upper()),
        ("status", ("branches",), {"name": "x"}),
        ("deployment_status", ("deployment",), {}),
    ],
)
def test_a_payload_of_another_form_is_refused(event: str, path: tuple[str, ...], value: Any) -> None:
    with pytest.raises(InvalidRequestError, match=f"not that of the event {event}"):
        delivery_of(event, ID, changed(event, *path, value=value))


@given(
    event=st.sampled_from(EVENTS),
    noise=st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists),
    key=st.sampled_from(
        ["action", "pull_request", "check_run", "check_suite", "repository", "sha", "branches", "state"]
    ),
)
def test_no_payload_breaks_the_reading(event: str, noise: Any, key: str) -> None:
    try:
        delivery_of(event, ID, {**PAYLOADS[event], key: noise})
    except InvalidRequestError:
        return


@pytest.mark.parametrize("body", [b"", b"{", b"payload=%7B%7D", b"[]", b"1", b"\xff", b"[" * 100_000])
def test_what_is_no_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequestError):
        read_payload(body)


@pytest.mark.parametrize("event", EVENTS)
def test_a_message_says_what_the_delivery_does_and_how_often_it_was_sent_again(event: str) -> None:
    delivery = delivery_of(event, ID, PAYLOADS[event])
    assert delivery
    assert Delivery.of_message(delivery.message()) == delivery
    assert Delivery.of_message(delivery.again().message()).resends == 1
