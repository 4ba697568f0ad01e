"""Steps that are executed elsewhere, and the outcome that is told: /result and /heartbeat."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest

from loop_runner.loops import Loop
from loop_runner.results import Blocked, Completed, Failed, StepCall, Waiting
from tests.contract.conftest import Unchanged, assert_error
from tests.fake_steps import Waits

if TYPE_CHECKING:
    from tests.fake_steps import Steps

DONE = {"status": "completed"}
ENDS: list[tuple[dict[str, Any], str, str]] = [
    (DONE, "completed", "DONE"),
    ({"status": "completed", "outcome": "gave_up"}, "completed", "ABANDONED"),
    ({"status": "blocked", "blocker": {"code": "NO_QUOTA", "message": "Ask for quota."}}, "blocked", "OPEN"),
    ({"status": "failed", "error": {"name": "Broken", "message": "it broke"}}, "failed", "OPEN"),
]


@pytest.fixture
def database_url(emptied_database_url: str) -> str:
    return emptied_database_url


with_each_end = pytest.mark.parametrize(("result", "status", "state"), ENDS, ids=[e[1] + "-" + e[2] for e in ENDS])


# ---------------------------------------------------------------------------------------------- lambda


def test_a_step_is_called_with_all_that_it_needs(steps: Steps) -> None:
    steps.register("work", size=3)
    answer = steps.run(headers={"x-request-id": "3f0c5b1e-7a52-4b8e-9d57-0c2b8a6f1d34"})
    (call,) = steps.calls
    assert call.event() == {
        "issueId": "A-1",
        "loop": "work",
        "state": "OPEN",
        "facts": {"size": 3},
        "step": {"number": 1, "type": "WORK"},
        "runId": answer.json["runId"],
        "attempt": 1,
        "idempotencyToken": answer.json["runId"],
        "actor": "ann",
        "requestId": "3f0c5b1e-7a52-4b8e-9d57-0c2b8a6f1d34",
    }
    assert (call.function, call.seconds) == ("loop-step-work", 20)


def test_the_step_is_on_record_before_it_is_executed(steps: Steps) -> None:
    def look(call: StepCall) -> Completed:
        (step,) = steps.steps()
        assert (step["run_id"], step["status"], step["step_type"]) == (call.run_id, "running", "WORK")
        assert step["timeout_at"] - step["started_at"] == timedelta(seconds=20)
        assert step["task_token_hash"] is None
        assert step["retry_if_lost_seconds"] == {"LEASE_EXPIRED": 30}
        assert steps.runs()[0]["step"] == 1
        return Completed()

    steps.register("work")
    steps.will(look)
    assert steps.run().json["loopStatus"] == "completed"


@pytest.mark.parametrize(
    ("result", "status", "state"),
    [
        (Completed({"pr": {"url": "u"}}, message="made it"), "completed", "DONE"),
        (Completed(outcome="gave_up"), "completed", "ABANDONED"),
        (Blocked("NO_QUOTA", "Ask for quota."), "blocked", "OPEN"),
        (Failed("Broken", "it broke"), "failed", "OPEN"),
    ],
)
def test_what_comes_of_a_step_ends_its_run_and_moves_its_issue(
    steps: Steps, result: Completed | Blocked | Failed, status: str, state: str
) -> None:
    steps.register("work")
    steps.will(result)
    body = steps.run().json
    (run,), (step,) = steps.runs(), steps.steps()
    assert (run["status"], step["status"], run["state_after"]) == (status, status, state)
    assert body["stepExecuted"]["status"] == status
    assert steps.issue()["state"] == state
    expected = {"DONE": "completed", "ABANDONED": "failed"}.get(state, {"blocked": "paused"}.get(status, "failed"))
    assert body["loopStatus"] == run["loop_status"] == expected
    match result:
        case Completed():
            assert steps.issue()["facts"] == result.facts
        case Blocked():
            message = "Ask for quota. To go on: POST /api/loop/issues/A-1/run-next-step {}"
            assert body["blocker"] == {"code": "NO_QUOTA", "message": message}
        case Failed():
            assert body["error"] == {"code": "Broken", "message": "it broke"}


def test_an_outcome_that_the_step_has_not_fails_it_and_says_which_it_has(steps: Steps) -> None:
    steps.register("work")
    steps.will(Completed({"a": 1}, outcome="vanished"))
    body = steps.run().json
    assert body["error"]["code"] == "InvalidStepResult"
    assert body["error"]["message"] == "WORK has no outcome 'vanished'; it has: gave_up"
    assert (steps.issue()["state"], steps.issue()["facts"]) == ("OPEN", {})


def test_facts_that_the_issue_cannot_hold_fail_the_step(steps: Steps) -> None:
    steps.register("work")
    steps.will(Completed({"a": "x" * 262_144}))
    body = steps.run().json
    assert (body["error"]["code"], body["stepExecuted"]["status"]) == ("InvalidStepResult", "failed")
    assert "262144 is the most" in body["error"]["message"]
    assert (steps.issue()["state"], steps.issue()["facts"]) == ("OPEN", {})


def test_an_executor_that_raises_fails_the_run_and_leaves_no_step_open(steps: Steps) -> None:
    steps.register("work")
    steps.will(RuntimeError("inside"))
    body = steps.run().json
    assert (body["error"]["code"], body["stepExecuted"]["status"]) == ("UNEXPECTED_ERROR", "failed")
    assert "inside" not in str(body)


def test_a_run_whose_step_began_says_which_one_of_which_loop_however_it_ends(steps: Steps) -> None:
    steps.register("work")
    steps.will(RuntimeError("inside"))
    steps.run()
    (run,) = steps.runs()
    loop = steps.services.loops.get("work")
    assert isinstance(loop, Loop)
    assert (run["error_code"], run["step"], run["loop_version"]) == ("UNEXPECTED_ERROR", 1, loop.version)


def test_the_facts_that_a_loop_protects_are_written_by_its_steps(steps: Steps) -> None:
    steps.register("protected", note=1)
    steps.will(Completed({"pr": {"url": "u"}}))
    assert steps.run().json["loopStatus"] == "completed"
    assert steps.issue()["facts"] == {"note": 1, "pr": {"url": "u"}}


# ---------------------------------------------------------------------------------------------- callback


def test_a_run_waits_for_the_outcome_of_its_step_under_a_lease(steps: Steps) -> None:
    waits = steps.ask()
    run, step = waits.row, waits.step
    assert (run["status"], run["loop_status"], step["status"]) == ("running", "paused", "running")
    assert step["timeout_at"] - step["started_at"] == timedelta(hours=1)
    assert timedelta(0) <= run["lease_expires_at"] - step["started_at"] - timedelta(seconds=60) < timedelta(seconds=30)
    assert waits.token not in str(run) + str(step), "the token is stored as its hash only"
    assert len(step["task_token_hash"]) == 64
    answer = steps.run()
    assert_error(answer, 409, "LOOP_CONFLICT")
    assert steps.client("GET", "/api/loop/issues/A-1").json["liveRun"]["runId"] == waits.run_id


def test_the_answer_of_a_run_that_waits_says_where_its_outcome_is_told(steps: Steps) -> None:
    steps.register("ask")
    steps.will(Waiting())
    body = steps.run().json
    assert body["loopStatus"] == "paused"
    assert body["message"] == f"WORK waits for its outcome: POST /api/loop/runs/{body['runId']}/result"
    assert set(body["stepExecuted"]) == {"stepNumber", "stepType", "status", "startedAt"}
    assert "error" not in body
    assert "blocker" not in body


def test_without_heartbeats_a_run_waits_until_the_step_times_out(steps: Steps) -> None:
    waits = steps.ask("ask-once")
    assert waits.row["lease_expires_at"] == waits.step["timeout_at"]
    assert waits.beat().status == 200
    assert waits.row["lease_expires_at"] == waits.step["timeout_at"]


@with_each_end
def test_the_outcome_that_is_told_ends_the_run(steps: Steps, result: dict[str, Any], status: str, state: str) -> None:
    waits = steps.ask()
    answer = waits.tell(result, actor="agent")
    assert answer.status == 200, answer.text
    body = answer.json
    assert (body["schemaVersion"], body["runId"], body["status"]) == ("loop.run.v1", waits.run_id, status)
    assert (body["stateAfter"], body["steps"][0]["status"]) == (state, status)
    assert waits.step["metadata"]["toldBy"] == "agent"
    assert (waits.row["actor"], steps.issue()["state"]) == ("ann", state)
    assert waits.token not in answer.text
    assert "taskTokenHash" not in answer.text


def test_facts_and_message_of_the_outcome_are_those_of_the_run(steps: Steps) -> None:
    waits = steps.ask()
    steps.client("PATCH", "/api/loop/issues/A-1", {"a": 1, "b": 2})
    body = waits.tell({**DONE, "facts": {"a": None, "c": {"d": 3}}, "message": "made it"}).json
    assert steps.issue()["facts"] == {"b": 2, "c": {"d": 3}}
    assert body["message"] == "WORK completed, issue A-1 is DONE: made it"
    assert "run_finished" in steps.events()
    assert steps.events().count("facts_changed") == 2


@with_each_end
def test_a_second_outcome_is_refused_and_changes_nothing(
    steps: Steps, unchanged: Unchanged, result: dict[str, Any], status: str, state: str
) -> None:
    waits = steps.ask()
    waits.tell(result)
    for again, *_ in ENDS:
        with unchanged():
            error = assert_error(waits.tell(again), 409, "RUN_FINISHED")
        assert error["details"] == {"status": status}
    with unchanged():
        assert_error(waits.beat(), 409, "RUN_FINISHED")


def test_the_outcome_may_come_before_the_run_waits_for_it(steps: Steps) -> None:
    told: list[Any] = []

    def tell(call: StepCall) -> Waiting:
        told.append(Waits(steps, str(call.run_id), str(call.task_token)).tell({**DONE, "facts": {"a": 1}}))
        return Waiting()

    steps.register("ask")
    steps.will(tell)
    body = steps.run().json
    assert told[0].status == 200, told[0].text
    assert (body["loopStatus"], body["stepExecuted"]["status"]) == ("completed", "completed")
    assert body["message"] == told[0].json["message"]
    (run,) = steps.runs()
    assert (run["status"], steps.issue()["state"], steps.issue()["facts"]) == ("completed", "DONE", {"a": 1})
    assert steps.events().count("run_finished") == 1


def test_a_function_that_knows_the_outcome_need_not_wait(steps: Steps) -> None:
    steps.register("ask")
    steps.will(Completed(message="nothing to do"))
    assert steps.run().json["loopStatus"] == "completed"
    token = str(steps.calls[0].task_token)
    assert_error(Waits(steps, str(steps.calls[0].run_id), token).tell(DONE), 409, "RUN_FINISHED")


def test_every_run_has_a_token_of_its_own(steps: Steps) -> None:
    steps.register("ask")
    steps.will(*[Failed("Broken", "it broke")] * 3)
    for _ in range(3):
        steps.run()
    assert len({call.task_token for call in steps.calls}) == 3
    assert all(len(str(call.task_token)) >= 43 for call in steps.calls)


@pytest.mark.parametrize("what", ["result", "heartbeat"])
def test_a_wrong_token_is_forbidden_and_changes_nothing(steps: Steps, unchanged: Unchanged, what: str) -> None:
    waits = steps.ask()
    for token in ("x", waits.token[:-1], waits.token + "x", waits.token.lower(), waits.step["task_token_hash"], "é"):
        with unchanged():
            answer = waits.beat(token) if what == "heartbeat" else waits.tell(DONE, token)
            assert_error(answer, 403, "FORBIDDEN")
    assert waits.row["status"] == "running"


@pytest.mark.parametrize("what", ["result", "heartbeat"])
def test_the_token_of_another_run_is_forbidden(steps: Steps, unchanged: Unchanged, what: str) -> None:
    waits = steps.ask()
    steps.register("ask", "A-2")
    steps.will(Waiting())
    other = Waits(steps, steps.run("A-2").json["runId"], waits.token)
    with unchanged():
        assert_error(other.beat() if what == "heartbeat" else other.tell(DONE), 403, "FORBIDDEN")


def test_a_run_that_waits_for_nothing_has_no_token(steps: Steps, unchanged: Unchanged) -> None:
    steps.register("work")
    run_id = steps.run().json["runId"]
    with unchanged():
        assert_error(Waits(steps, run_id, "x").tell(DONE), 403, "FORBIDDEN")
        assert_error(Waits(steps, run_id, "x").beat(), 403, "FORBIDDEN")
        assert_error(Waits(steps, str(UUID(int=7)), "x").tell(DONE), 404, "RUN_NOT_FOUND")
        assert_error(Waits(steps, str(UUID(int=7)), "x").beat(), 404, "RUN_NOT_FOUND")
        assert_error(Waits(steps, "x", "x").tell(DONE), 400, "INVALID_REQUEST")


BODIES: list[Any] = [
    {},
    {"status": "running"},
    {"status": "completed", "more": 1},
    {"status": "completed", "facts": []},
    {"status": "completed", "outcome": 1},
    {"status": "completed", "blocker": {"code": "A", "message": "b"}},
    {"status": "blocked"},
    {"status": "blocked", "blocker": {"code": "no code", "message": "m"}},
    {"status": "failed", "error": {"name": "", "message": "m"}},
    {"status": "failed", "error": {"name": "N"}},
    {"status": "completed", "message": "x" * 4001},
]


@pytest.mark.parametrize("result", BODIES, ids=[str(body)[:40] for body in BODIES])
def test_a_body_that_is_no_result_is_refused_and_may_be_told_again(
    steps: Steps, unchanged: Unchanged, result: dict[str, Any]
) -> None:
    waits = steps.ask()
    with unchanged():
        assert_error(waits.tell(result), 400, "INVALID_REQUEST")
    assert waits.tell(DONE).status == 200


@pytest.mark.parametrize("body", ["[]", "{", '"a"', "", '{"taskToken": 1, "status": "completed"}', '{"taskToken": ""}'])
def test_a_body_without_a_token_is_refused(steps: Steps, unchanged: Unchanged, body: str) -> None:
    waits = steps.ask()
    with unchanged():
        assert_error(waits.tell(body), 400, "INVALID_REQUEST")


def test_an_outcome_that_is_told_and_that_the_step_has_not_fails_its_run(steps: Steps) -> None:
    waits = steps.ask()
    body = waits.tell({**DONE, "outcome": "vanished"}).json
    assert (body["status"], body["errorCode"], body["stateAfter"]) == ("failed", "InvalidStepResult", "OPEN")


def test_facts_that_are_told_and_that_the_issue_cannot_hold_fail_its_run(steps: Steps) -> None:
    steps.register("ask", "A-0")
    waits = steps.ask()
    for number in range(4):
        steps.client("PATCH", "/api/loop/issues/A-1", {f"f{number}": "x" * 60_000})
    body = waits.tell({**DONE, "facts": {"more": "x" * 60_000}}).json
    assert (body["status"], body["errorCode"], body["stateAfter"]) == ("failed", "InvalidStepResult", "OPEN")
    assert "262144 is the most" in body["errorMessage"]
    assert waits.step["status"] == "failed"


def test_an_outcome_for_a_step_that_the_loop_has_lost_fails_its_run(steps: Steps) -> None:
    waits = steps.ask()
    (steps.folder / "ask.toml").write_text((steps.folder / "ask.toml").read_text().replace("WORK", "TOIL"))
    steps.services.loops._loops.clear()
    body = waits.tell(DONE).json
    assert (body["status"], body["errorCode"]) == ("failed", "LoopChanged")
    assert (body["steps"][0]["status"], steps.issue()["state"]) == ("failed", "OPEN")


# ---------------------------------------------------------------------------------------------- heartbeats


def test_a_heartbeat_extends_the_lease(steps: Steps) -> None:
    waits = steps.ask()
    steps.sql("UPDATE loop_runs SET lease_expires_at = clock_timestamp() + interval '1 s'")
    answer = waits.beat()
    assert answer.status == 200, answer.text
    assert answer.json["schemaVersion"] == "loop.run.v1"
    now = steps.sql.one("SELECT clock_timestamp() AS now")["now"]
    lease = waits.row["lease_expires_at"]
    assert timedelta(seconds=30) < lease - now <= timedelta(seconds=60)
    assert datetime.fromisoformat(answer.json["leaseExpiresAt"]) == lease
    assert waits.tell(DONE).status == 200


def test_a_heartbeat_never_extends_the_lease_beyond_the_steps_timeout(steps: Steps) -> None:
    waits = steps.ask()
    steps.sql("UPDATE loop_run_steps SET timeout_at = clock_timestamp() + interval '20 s'")
    assert waits.beat().status == 200
    assert waits.row["lease_expires_at"] == waits.step["timeout_at"]


def test_a_heartbeat_before_the_run_waits_does_not_shorten_the_lease_of_its_process(steps: Steps) -> None:
    leases: list[Any] = []

    def beat(call: StepCall) -> Waiting:
        steps.sql("UPDATE loop_runs SET lease_expires_at = clock_timestamp() + interval '90 s'")
        before = steps.runs()[0]["lease_expires_at"]
        assert Waits(steps, str(call.run_id), str(call.task_token)).beat().status == 200
        leases.extend([before, steps.runs()[0]["lease_expires_at"]])
        return Waiting()

    steps.register("ask")
    steps.will(beat)
    assert steps.run().json["stepExecuted"]["status"] == "running"
    assert leases[0] == leases[1]


def test_a_run_without_a_heartbeat_in_time_is_ended(steps: Steps) -> None:
    waits = steps.ask()
    steps.lose_lease()
    assert steps.sweep()["ended"] == 1
    assert (waits.row["status"], waits.row["error_code"]) == ("failed", "States.HeartbeatTimeout")
    assert waits.step["status"] == "failed"
    assert_error(waits.beat(), 409, "RUN_FINISHED")
    assert_error(waits.tell(DONE), 409, "RUN_FINISHED")


def test_a_run_whose_step_times_out_is_ended_whatever_its_heartbeats(steps: Steps, unchanged: Unchanged) -> None:
    waits = steps.ask()
    steps.let_time_out()
    with unchanged():
        assert_error(waits.beat(), 409, "RUN_FINISHED")
    assert steps.sweep()["ended"] == 1
    assert (waits.row["status"], waits.row["error_code"]) == ("failed", "States.Timeout")


def test_the_next_caller_ends_what_was_waited_for_in_vain_and_goes_on(steps: Steps) -> None:
    waits = steps.ask()
    steps.lose_lease()
    steps.will(Completed())
    body = steps.run().json
    assert (body["loopStatus"], waits.row["error_code"]) == ("completed", "States.HeartbeatTimeout")
    assert [run["attempt"] for run in steps.runs()] == [1, 2]
    assert steps.calls[1].idempotency_token == UUID(waits.run_id), "nobody knows what came of the first execution"
