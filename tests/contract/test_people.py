"""What people may do to an issue: hold it, resume it, set its state, approve, and which facts they may not write."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from loop_runner.results import Completed, Failed, StepCall
from tests.contract.conftest import Unchanged, assert_error

if TYPE_CHECKING:
    from loop_runner.settings import Settings
    from tests.conftest import Answer
    from tests.fake_steps import Steps

ISSUE = "/api/loop/issues/A-1"
WEB = "arn:aws:iam::123456789012:role/web"
WEB_SESSION = "arn:aws:sts::123456789012:assumed-role/web/i-0123"
BOT = "arn:aws:iam::123456789012:user/bot"
REASON = {"reason": "audit"}


@pytest.fixture
def database_url(emptied_database_url: str) -> str:
    return emptied_database_url


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Front end ``web`` may name persons."""
    return replace(settings, actor_delegates=frozenset({WEB}))


def iam(arn: str, person: str | None = None) -> dict[str, Any]:
    """A call signed by this principal, which may name a person."""
    return {"actor": person, "authorizer": {"iam": {"userArn": arn}}}


def decide(steps: Steps, decision: str, version: int | str = 1, comment: str | None = None, **parts: Any) -> Answer:
    body = {"decision": decision, **({"comment": comment} if comment else {})}
    headers = {} if version == "" else {"if-match": version if isinstance(version, str) else f'"{version}"'}
    return steps.client("POST", f"{ISSUE}/approvals", body, headers=headers, **{"actor": "bob", **parts})


def event_of(steps: Steps, event_type: str) -> dict[str, Any]:
    (row,) = steps.sql("SELECT event_data FROM loop_events WHERE event_type = %s", event_type)
    data: dict[str, Any] = row["event_data"]
    return data


# ---------------------------------------------------------------------------------------------- hold, resume


def test_a_held_issue_runs_nothing_until_it_is_resumed(steps: Steps) -> None:
    steps.register("work")
    answer = steps.client("POST", f"{ISSUE}/hold", REASON, "bob")
    assert (answer.status, answer.headers["etag"], answer.json["version"]) == (200, '"2"', 2)
    hold = answer.json["hold"]
    assert set(hold) == {"reason", "by", "since", "state"}
    assert (hold["reason"], hold["by"], hold["state"]) == ("audit", "bob", "OPEN")
    assert [gate["blocker"] for gate in answer.json["unmetGates"]] == ["ON_HOLD"]
    body = steps.run().json
    assert (body["blocker"]["code"], steps.calls) == ("ON_HOLD", [])
    assert body["blocker"]["message"].endswith('POST /api/loop/issues/A-1/resume {"reason":"<why>"}')
    resumed = steps.client("POST", f"{ISSUE}/resume", {"reason": "done"}, "bob")
    assert (resumed.json["version"], "hold" in resumed.json, resumed.json["unmetGates"]) == (3, False, [])
    assert steps.run().json["loopStatus"] == "completed"


def test_holds_and_resumes_are_events_with_who_and_why(steps: Steps) -> None:
    steps.register("work")
    steps.client("POST", f"{ISSUE}/hold", REASON, **iam(WEB_SESSION, "bob"))
    steps.client("POST", f"{ISSUE}/resume", {"reason": " done "}, **iam(BOT))
    assert event_of(steps, "loop_issue_held") == {
        "actor": "bob", "principal": WEB_SESSION, "reason": "audit", "state": "OPEN", "version": 2,
    }  # fmt: skip
    assert event_of(steps, "loop_issue_resumed") == {"actor": BOT, "reason": "done", "state": "OPEN", "version": 3}


def test_what_is_so_already_stays_as_it_is(steps: Steps, unchanged: Unchanged) -> None:
    steps.register("work")
    with unchanged():
        assert steps.client("POST", f"{ISSUE}/resume", REASON).status == 200
    steps.client("POST", f"{ISSUE}/hold", REASON, "bob")
    with unchanged():
        answer = steps.client("POST", f"{ISSUE}/hold", {"reason": "another"}, "eve")
    assert (answer.status, answer.json["hold"]["by"], answer.json["hold"]["reason"]) == (200, "bob", "audit")


def test_a_live_run_goes_on_and_its_end_moves_the_state_that_resume_returns_to(steps: Steps) -> None:
    def hold(call: StepCall) -> Completed:
        answer = steps.client("POST", f"{ISSUE}/hold", REASON, "bob")
        assert (answer.status, answer.json["liveRun"]["status"]) == (200, "running")
        return Completed({"a": 1}, outcome="gave_up")

    steps.register("work")
    steps.will(hold)
    assert steps.run().json["stepExecuted"]["status"] == "completed"
    issue = steps.client("GET", ISSUE).json
    assert (issue["state"], issue["hold"]["state"], issue["hold"]["by"]) == ("ABANDONED", "ABANDONED", "bob")
    assert (issue["facts"], issue["version"]) == ({"a": 1}, 3)


def test_a_retry_waits_while_the_issue_is_held(steps: Steps, unchanged: Unchanged) -> None:
    steps.register("work")
    steps.will(Failed("Busy", "later"))
    run_id = steps.run().json["runId"]
    steps.let_be_due()
    steps.client("POST", f"{ISSUE}/hold", REASON)
    with unchanged():
        steps.work({"issueId": "A-1", "after": run_id})
        assert steps.sweep()["sent"] == 0
    steps.client("POST", f"{ISSUE}/resume", REASON)
    assert steps.sweep()["sent"] == 1
    steps.work({"issueId": "A-1", "after": run_id})
    assert steps.issue()["state"] == "DONE"


def test_an_issue_that_has_ended_cannot_be_held(steps: Steps, unchanged: Unchanged) -> None:
    steps.register("work")
    steps.run()
    with unchanged():
        error = assert_error(steps.client("POST", f"{ISSUE}/hold", REASON), 409, "ISSUE_FINISHED")
    assert error["message"] == "issue A-1 is DONE: there is nothing to hold"


def test_an_issue_whose_loop_is_gone_can_be_held(steps: Steps) -> None:
    steps.register("work")
    steps.sql("UPDATE loop_issues SET loop_name = 'gone'")
    assert steps.client("POST", f"{ISSUE}/hold", REASON).json["hold"]["by"] == "ann"


# ---------------------------------------------------------------------------------------------- state


def test_the_state_is_set_by_hand_with_a_reason(steps: Steps) -> None:
    steps.register("work")
    steps.sql("UPDATE loop_issues SET state = 'LOST'")
    message = steps.run().json["blocker"]["message"]
    assert message.endswith('POST /api/loop/issues/A-1/state {"state":"OPEN","reason":"<why>"}')
    answer = steps.client("POST", f"{ISSUE}/state", {"state": "OPEN", "reason": "renamed"}, **iam(WEB_SESSION, "bob"))
    assert (answer.status, answer.json["state"], answer.headers["etag"]) == (200, "OPEN", '"2"')
    assert event_of(steps, "loop_state_set") == {
        "actor": "bob", "principal": WEB_SESSION, "reason": "renamed", "stateBefore": "LOST", "stateAfter": "OPEN",
        "version": 2,
    }  # fmt: skip
    assert steps.run().json["loopStatus"] == "completed"


def test_the_state_that_it_has_is_set_and_nothing_changes(steps: Steps, unchanged: Unchanged) -> None:
    steps.register("work")
    with unchanged():
        assert steps.client("POST", f"{ISSUE}/state", {"state": "OPEN", "reason": "x"}).headers["etag"] == '"1"'


def test_another_state_is_another_visit(steps: Steps, unchanged: Unchanged) -> None:
    """Attempts, a planned retry, the doubt about an execution, who asked for an approval: of the step before."""
    steps.register("work")
    steps.will(Failed("Busy", "later", is_unknown=True))
    run_id = steps.run().json["runId"]
    steps.sql("UPDATE loop_issues SET approval_requesters = '[]'")
    steps.client("POST", f"{ISSUE}/state", {"state": "ABANDONED", "reason": "x"})
    issue = steps.issue()
    assert (issue["failed_attempts"], issue["failed_run_id"], issue["idempotency_token"]) == (0, None, None)
    assert (issue["next_attempt_at"], issue["next_attempt_after"], issue["approval_requesters"]) == (
        None, None, [{"actor": "ann", "principal": None}],
    ), "who moves it does not approve what follows"  # fmt: skip
    with unchanged():
        steps.work({"issueId": "A-1", "after": run_id})


def test_the_state_is_not_set_while_a_run_is_live(steps: Steps, unchanged: Unchanged) -> None:
    waits = steps.ask()
    with unchanged():
        error = assert_error(
            steps.client("POST", f"{ISSUE}/state", {"state": "DONE", "reason": "x"}), 409, "LOOP_CONFLICT"
        )
    assert error["details"]["runId"] == waits.run_id


def test_the_state_is_set_over_a_run_that_was_lost_which_is_ended(steps: Steps) -> None:
    waits = steps.ask()
    steps.let_time_out()
    answer = steps.client("POST", f"{ISSUE}/state", {"state": "ABANDONED", "reason": "x"}, "bob")
    assert (answer.status, answer.json["state"], "liveRun" in answer.json) == (200, "ABANDONED", False)
    assert (waits.row["status"], waits.row["error_code"]) == ("failed", "States.Timeout")
    assert (steps.issue()["next_attempt_at"], steps.issue()["failed_attempts"]) == (None, 0)
    assert "nextAttemptAt" not in answer.json


def test_a_state_that_the_loop_does_not_know_and_a_loop_that_is_gone_are_refused(
    steps: Steps, unchanged: Unchanged
) -> None:
    steps.register("work")
    for state in ("LOST", "open", "", "x" * 65, 1, None):
        with unchanged():
            answer = steps.client("POST", f"{ISSUE}/state", {"state": state, "reason": "x"})
            error = assert_error(answer, 400, "INVALID_REQUEST")
        assert state != "LOST" or error["message"].endswith("no state 'LOST'; it has: ABANDONED, DONE, OPEN")
    steps.sql("UPDATE loop_issues SET loop_name = 'gone'")
    with unchanged():
        assert_error(steps.client("POST", f"{ISSUE}/state", {"state": "OPEN", "reason": "x"}), 400, "INVALID_REQUEST")


# ---------------------------------------------------------------------------------------------- all three


@pytest.mark.parametrize("what", ["hold", "resume", "state"])
def test_a_change_of_another_version_an_unknown_issue_and_no_reason_are_refused(
    steps: Steps, unchanged: Unchanged, what: str
) -> None:
    steps.register("work")
    steps.client("POST", f"{ISSUE}/hold", REASON)
    if what == "hold":
        steps.client("POST", f"{ISSUE}/resume", REASON)
    body = {"reason": "x"} | ({"state": "DONE"} if what == "state" else {})
    version = steps.issue()["version"]
    with unchanged():
        stale = steps.client("POST", f"{ISSUE}/{what}", body, headers={"if-match": '"1"'})
        assert assert_error(stale, 412, "PRECONDITION_FAILED")["details"] == {"version": version}
        assert_error(steps.client("POST", f"/api/loop/issues/A-9/{what}", body), 404, "ISSUE_NOT_FOUND")
        for reason in (None, "", " ", 1, "x" * 501, "a\0b"):
            answer = steps.client("POST", f"{ISSUE}/{what}", {**body, "reason": reason})
            assert_error(answer, 400, "INVALID_REQUEST")
        assert_error(steps.client("POST", f"{ISSUE}/{what}"), 400, "INVALID_REQUEST")
        assert_error(steps.client("POST", f"{ISSUE}/{what}", {**body, "more": 1}), 400, "INVALID_REQUEST")
        assert_error(steps.client("POST", f"{ISSUE}/{what}", body, None), 401, "UNAUTHORIZED")
    changed = steps.client("POST", f"{ISSUE}/{what}", body, headers={"if-match": f'"{version}"'})
    assert (changed.status, changed.json["version"]) == (200, version + 1)


# ---------------------------------------------------------------------------------------------- approvals


def test_an_approval_is_required_given_and_then_the_next_run_moves_on(steps: Steps) -> None:
    steps.register("approve")
    body = steps.run(actor="eve").json
    assert (body["blocker"]["code"], body["nextStep"]["stepType"], body["loopStatus"]) == (
        "APPROVAL_REQUIRED", "WORK", "paused",
    )  # fmt: skip
    answer = decide(steps, "approved", comment="go on")
    assert (answer.status, answer.headers["etag"]) == (200, '"1"'), "a decision is no change of the issue"
    approval = answer.json["approval"]
    assert set(approval) == {"decision", "actor", "comment", "at", "version", "stepNumber"}
    assert (approval["decision"], approval["actor"], approval["comment"], approval["version"]) == (
        "approved", "bob", "go on", 1,
    )  # fmt: skip
    assert (answer.json["state"], answer.json["unmetGates"]) == ("OPEN", [])
    assert event_of(steps, "loop_approval_decided") == {
        "actor": "bob", "decision": "approved", "comment": "go on", "version": 1, "stepNumber": 1, "stepType": "WORK",
    }  # fmt: skip
    run = steps.run(actor="eve").json
    assert (run["loopStatus"], run["stepExecuted"]["status"]) == ("completed", "completed")


def test_a_decision_needs_the_version_that_was_seen(steps: Steps, unchanged: Unchanged) -> None:
    steps.register("approve")
    for version in ("", "*", " "):
        with unchanged():
            assert_error(decide(steps, "approved", version), 428, "PRECONDITION_REQUIRED")
    for version in ('"0"', '"2"', 'W/"1"'):
        with unchanged():
            error = assert_error(decide(steps, "approved", version), 412, "PRECONDITION_FAILED")
        assert error["details"] == {"version": 1}
    with unchanged():
        assert_error(decide(steps, "approved", "1"), 400, "INVALID_REQUEST")
    steps.client("PATCH", ISSUE, {"plan": "another"})
    with unchanged():
        assert_error(decide(steps, "approved", 1), 412, "PRECONDITION_FAILED")
    assert decide(steps, "approved", '"1", "2"').status == 200


@pytest.mark.parametrize("change", ["facts", "hold"])
def test_a_decision_is_void_when_the_issue_changes_after_it(steps: Steps, change: str) -> None:
    steps.register("approve")
    decide(steps, "approved")
    if change == "facts":
        steps.client("PATCH", ISSUE, {"plan": "another"})
    else:
        steps.client("POST", f"{ISSUE}/hold", REASON)
        steps.client("POST", f"{ISSUE}/resume", REASON)
    assert "approval" not in steps.client("GET", ISSUE).json
    assert steps.run().json["blocker"]["code"] == "APPROVAL_REQUIRED"


def test_a_patch_that_changes_nothing_leaves_the_decision(steps: Steps) -> None:
    steps.register("approve", plan="a")
    decide(steps, "approved")
    steps.client("PATCH", ISSUE, {"plan": "a"})
    assert steps.run().json["loopStatus"] == "completed"


def test_a_rejection_leads_where_the_loop_says_and_the_next_round_is_decided_anew(steps: Steps) -> None:
    steps.register("review")
    steps.run()
    version = steps.issue()["version"]
    decide(steps, "rejected", version, comment="no tests")
    body = steps.run().json
    assert (body["stepExecuted"]["status"], steps.issue()["state"]) == ("completed", "MADE")
    assert body["message"] == "REVIEW completed (rejected), issue A-1 is MADE"
    steps.run()
    assert steps.run().json["blocker"]["code"] == "APPROVAL_REQUIRED"


def test_a_rejection_without_a_way_blocks_with_its_comment_until_it_is_decided_otherwise(steps: Steps) -> None:
    steps.register("approve")
    decide(steps, "rejected", comment="not now")
    blocker = steps.run().json["blocker"]
    assert blocker["code"] == "APPROVAL_REJECTED"
    assert blocker["message"].startswith("bob rejected WORK: not now. ")
    decide(steps, "approved")
    assert steps.run().json["loopStatus"] == "completed"


def test_where_no_approval_is_next_there_is_nothing_to_decide(steps: Steps, unchanged: Unchanged) -> None:
    steps.register("work")
    with unchanged():
        assert_error(decide(steps, "approved"), 409, "NO_APPROVAL_PENDING")
    steps.run()
    with unchanged():
        assert_error(decide(steps, "approved", 2), 409, "NO_APPROVAL_PENDING")


def test_what_is_no_decision_is_refused(steps: Steps, unchanged: Unchanged) -> None:
    steps.register("approve")
    bodies: list[Any] = [
        {}, {"decision": "maybe"}, {"decision": "approved", "comment": ""}, {"decision": "approved", "x": 1},
        {"decision": "approved", "comment": "x" * 2001}, [],
    ]  # fmt: skip
    with unchanged():
        for body in bodies:
            answer = steps.client("POST", f"{ISSUE}/approvals", body, headers={"if-match": '"1"'})
            assert_error(answer, 400, "INVALID_REQUEST")
        assert_error(decide(steps, "approved", actor=None), 401, "UNAUTHORIZED")
        answer = steps.client(
            "POST", "/api/loop/issues/A-9/approvals", {"decision": "approved"}, headers={"if-match": '"1"'}
        )
        assert_error(answer, 404, "ISSUE_NOT_FOUND")


def test_a_decision_is_bound_to_what_was_read_for_it(steps: Steps, monkeypatch: pytest.MonkeyPatch) -> None:
    """The step that is next was found on the version before: the lock shows that it is not the one any more."""
    steps.register("approve")
    get = steps.services.issues.get

    def get_and_patch(issue_id: str) -> Any:
        now = get(issue_id)
        steps.sql("UPDATE loop_issues SET version = 2, facts = '{}'")
        return now

    monkeypatch.setattr(steps.services.issues, "get", get_and_patch)
    assert_error(decide(steps, "approved", '"1", "2"'), 412, "PRECONDITION_FAILED")
    assert steps.issue()["approval"] is None


# ---------------------------------------------------------------------------------------------- four eyes

ANN = iam(WEB_SESSION, "ann")
BOB = iam(WEB_SESSION, "bob")
AS_BOT = iam(BOT)
AS_WEB = iam(WEB_SESSION)


@pytest.mark.parametrize("asks", ["registers", "runs"])
@pytest.mark.parametrize(
    ("requester", "approver", "status"),
    [
        pytest.param(ANN, ANN, 403, id="the same person"),
        pytest.param(ANN, BOB, 200, id="another person of the same front end"),
        pytest.param(AS_BOT, AS_BOT, 403, id="the same principal"),
        pytest.param(AS_BOT, BOB, 200, id="a bot asked, a person approves"),
        pytest.param(ANN, AS_BOT, 200, id="a person asked, a bot approves"),
        pytest.param(ANN, AS_WEB, 403, id="the front end in its own name, for which a person asked"),
        pytest.param(AS_WEB, ANN, 403, id="a person of the front end that asked in its own name"),
        pytest.param({"actor": "ann"}, ANN, 403, id="the same person, elsewhere"),
    ],
)
def test_four_eyes_are_those_of_two_verified_identities(
    steps: Steps, asks: str, requester: dict[str, Any], approver: dict[str, Any], status: int
) -> None:
    first, second = (requester, {"actor": "zoe"}) if asks == "registers" else ({"actor": "zoe"}, requester)
    assert steps.client("PUT", ISSUE, {"loop": "approve"}, **first).status == 201
    assert steps.run(**second).json["blocker"]["code"] == "APPROVAL_REQUIRED"
    if status == 200:
        assert decide(steps, "approved", **approver).status == 200
        return
    error = assert_error(decide(steps, "approved", **approver), 403, "FORBIDDEN")
    assert (error["message"][:11], steps.issue()["approval"]) == ("four eyes: ", None)
    assert decide(steps, "rejected", **approver).status == 200, "to reject it is everybody's"


def test_everybody_who_ran_into_the_approval_has_asked_for_it(steps: Steps) -> None:
    steps.register("approve", actor="ann")
    for actor in ("eve", "bob", "eve"):
        steps.run(actor=actor)
    assert steps.issue()["approval_requesters"] == [
        {"actor": "eve", "principal": None}, {"actor": "bob", "principal": None},
    ]  # fmt: skip
    for actor in ("ann", "eve", "bob"):
        assert_error(decide(steps, "approved", actor=actor), 403, "FORBIDDEN")
    assert decide(steps, "approved", actor="zoe").status == 200


def test_who_asked_for_another_approval_may_give_this_one(steps: Steps) -> None:
    steps.register("review", actor="ann")
    steps.run()
    steps.run(actor="eve")
    decide(steps, "rejected", steps.issue()["version"], actor="eve")
    steps.run(actor="ann")
    steps.run(actor="ann")
    assert (steps.issue()["state"], steps.issue()["approval_requesters"]) == ("OPEN", [])
    steps.run(actor="bob")
    assert decide(steps, "approved", steps.issue()["version"], actor="eve").status == 200


def test_a_principal_that_is_no_delegate_cannot_approve_as_somebody_else(steps: Steps, unchanged: Unchanged) -> None:
    steps.client("PUT", ISSUE, {"loop": "approve"}, **AS_BOT)
    with unchanged():
        assert_error(decide(steps, "approved", **iam(BOT, "bob")), 403, "FORBIDDEN")


def test_without_four_eyes_whoever_asked_may_approve(steps: Steps) -> None:
    (steps.folder / "approve.toml").write_text((steps.folder / "approve.toml").read_text().replace("true", "false"))
    steps.register("approve", actor="ann")
    steps.run()
    assert decide(steps, "approved", actor="ann").status == 200


# ---------------------------------------------------------------------------------------------- protected facts


@pytest.mark.parametrize("patch", [{"pr": {"url": "u"}}, {"pr": None}, {"note": 1, "review": "approved"}])
def test_a_protected_fact_is_not_patched(steps: Steps, unchanged: Unchanged, patch: dict[str, Any]) -> None:
    steps.register("protected", note=0)
    with unchanged():
        error = assert_error(steps.client("PATCH", ISSUE, patch), 403, "FORBIDDEN")
    assert error["message"].endswith("of issue A-1: leave them out")


def test_all_protected_facts_of_a_call_are_named(steps: Steps, unchanged: Unchanged) -> None:
    steps.register("protected")
    with unchanged():
        put = steps.client(
            "PUT", "/api/loop/issues/A-2", {"loop": "protected", "facts": {"review": 1, "pr": 2, "a": 3}}
        )
        patch = steps.client("PATCH", ISSUE, {"review": 1, "pr": 2, "a": 3})
    for answer in (put, patch):
        assert "only steps may write the facts pr, review of issue" in assert_error(answer, 403, "FORBIDDEN")["message"]


def test_other_facts_and_those_of_other_loops_are_patched(steps: Steps) -> None:
    steps.register("protected")
    steps.register("work", "A-2")
    assert steps.client("PATCH", ISSUE, {"prs": 1, "a": {"pr": 1}}).status == 200
    assert steps.client("PATCH", "/api/loop/issues/A-2", {"pr": 1}).status == 200
