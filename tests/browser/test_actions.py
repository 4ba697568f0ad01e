"""What people do in the run console: each action once, of what was seen, with what came of it said."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import expect

if TYPE_CHECKING:
    from collections.abc import Callable

    from playwright.sync_api import Locator, Page

    from tests.browser.conftest import OpenConsole
    from tests.stack_client import Issue

WAITS: dict[str, Any] = {"do": "answer", "answer": {}}
"""Facts of an issue of ``handed`` whose step waits for somebody to tell its outcome."""


def button(page: Page, name: str) -> Locator:
    return page.get_by_role("group", name="Actions").get_by_role("button", name=name, exact=True)


def notice(page: Page) -> Locator:
    return page.get_by_role("status", name="Results").locator(".notice").last


def answer_dialog(page: Page, label: str, text: str, confirm: str) -> None:
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("textbox", name=label).fill(text)
    dialog.get_by_role("button", name=confirm, exact=True).click()


def test_next_step_is_run_of_the_version_that_is_shown_and_its_outcome_said(
    open_console: OpenConsole, register: Callable[..., Issue]
) -> None:
    issue = register("issue-delivery", githubUrl="https://github.com/example/shop/issues/1")
    page = open_console(f"#/issues/{issue.id}")
    with page.expect_request("**/run-next-step") as request:
        button(page, "Run next step").click()
    assert request.value.post_data_json == {"mode": "execute"}
    assert request.value.headers["if-match"] == '"1"'
    assert request.value.headers["x-afu9-sub"] == "ann"
    expect(notice(page)).to_contain_text(f"S1_PICK_ISSUE completed, issue {issue.id} is PICKED")
    (run,) = issue.runs()
    assert run["idempotencyKey"] == request.value.headers["idempotency-key"]
    expect(notice(page).get_by_role("link")).to_have_attribute("href", f"#/runs/{run['runId']}")
    expect(page.locator(".node.is-current")).to_contain_text("PICKED")
    expect(button(page, "Run next step")).to_be_focused()


def test_blocked_run_says_why(open_console: OpenConsole, register: Callable[..., Issue]) -> None:
    page = open_console(f"#/issues/{register('issue-delivery').id}")
    button(page, "Run next step").click()
    expect(notice(page)).to_contain_text("NO_GITHUB_LINK Link the issue to GitHub.")


def test_failed_run_says_why(open_console: OpenConsole, register: Callable[..., Issue]) -> None:
    page = open_console(f"#/issues/{register('plain', do='fail', name='Disk.Full').id}")
    button(page, "Run next step").click()
    expect(notice(page)).to_contain_text("Disk.Full not now")


def test_dry_run_says_what_would_run_and_changes_nothing(
    open_console: OpenConsole, register: Callable[..., Issue]
) -> None:
    issue = register("plain")
    page = open_console(f"#/issues/{issue.id}")
    button(page, "Dry run").click()
    expect(notice(page)).to_contain_text("dry run: WORK would run")
    expect(page.get_by_role("table", name="Runs").get_by_role("row").nth(1)).to_contain_text("dry run")
    assert [run["mode"] for run in issue.runs()] == ["dryRun"]
    assert issue.get()["state"] == "OPEN"


def test_step_that_takes_long_is_queued_and_its_end_seen(
    open_console: OpenConsole, register: Callable[..., Issue]
) -> None:
    issue = register("long")
    page = open_console(f"#/issues/{issue.id}")
    button(page, "Run next step").click()
    expect(notice(page)).to_contain_text("Queued: it begins in the background.")
    expect(page.get_by_role("region", name="Where it stands")).to_contain_text("Nothing is left to run.")


@pytest.mark.parametrize(
    ("name", "decision", "state"), [("Approve", "approved", "DONE"), ("Reject", "rejected", "REFUSED")]
)
def test_approval_is_decided_with_a_comment_and_the_next_run_carries_it_out(
    open_console: OpenConsole, register: Callable[..., Issue], name: str, decision: str, state: str
) -> None:
    issue = register("reviewed")
    page = open_console(f"#/issues/{issue.id}")
    button(page, name).click()
    answer_dialog(page, "Comment", "I have read it", name)
    expect(notice(page)).to_contain_text(f"{issue.id} is {decision}")
    standing = page.get_by_role("region", name="Where it stands")
    expect(standing).to_contain_text(f"{decision} by ann")
    expect(standing).to_contain_text("I have read it")
    approval = issue.get()["approval"]
    assert (approval["decision"], approval["actor"], approval["comment"]) == (decision, "ann", "I have read it")
    button(page, "Run next step").click()
    expect(page.locator(".node.is-current")).to_contain_text(state)


def test_only_an_approval_that_is_next_can_be_decided(
    open_console: OpenConsole, register: Callable[..., Issue]
) -> None:
    page = open_console(f"#/issues/{register('agent-merge').id}")
    expect(button(page, "Dry run")).to_be_visible()
    expect(button(page, "Approve")).to_have_count(0)
    expect(button(page, "Reject")).to_have_count(0)


def test_issue_is_held_with_a_reason_and_resumed(open_console: OpenConsole, register: Callable[..., Issue]) -> None:
    issue = register("plain")
    page = open_console(f"#/issues/{issue.id}")
    button(page, "Hold").click()
    answer_dialog(page, "Reason", "  not before Tuesday ", "Hold")
    expect(notice(page)).to_contain_text("is on hold")
    expect(page.get_by_role("region", name="Where it stands")).to_contain_text("not before Tuesday")
    assert issue.get()["hold"]["reason"] == "not before Tuesday"
    button(page, "Resume").click()
    answer_dialog(page, "Reason", "it is Tuesday", "Resume")
    expect(button(page, "Hold")).to_be_visible()
    assert "hold" not in issue.get()


def test_hold_is_not_without_a_reason_and_can_be_thought_better_of(
    open_console: OpenConsole, register: Callable[..., Issue]
) -> None:
    issue = register("plain")
    page = open_console(f"#/issues/{issue.id}")
    button(page, "Hold").click()
    answer_dialog(page, "Reason", "   ", "Hold")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(button(page, "Hold")).to_be_focused()
    button(page, "Hold").click()
    page.get_by_role("dialog").get_by_role("button", name="Back").click()
    expect(page.get_by_role("dialog")).to_have_count(0)
    assert [event["eventType"] for event in issue.events()] == ["loop_issue_registered"]


@pytest.mark.parametrize("where", ["issues", "runs"])
def test_run_that_waits_is_cancelled(open_console: OpenConsole, register: Callable[..., Issue], where: str) -> None:
    issue = register("handed", **WAITS)
    run_id = issue.run()["runId"]
    page = open_console(f"#/{where}/{issue.id if where == 'issues' else run_id}")
    button(page, "Cancel run").click()
    answer_dialog(page, "Reason", "wrong issue", "Cancel run")
    expect(notice(page)).to_contain_text("is cancelled")
    expect(button(page, "Cancel run")).to_have_count(0)
    expect(page.get_by_role("heading", level=1)).to_be_focused()
    run = issue.run_of(run_id)
    assert (run["status"], run["cancelReason"], run["cancelRequestedBy"]) == ("cancelled", "wrong issue", "ann")


@pytest.mark.parametrize("where", ["issues", "runs"])
def test_planned_retry_is_cancelled(open_console: OpenConsole, register: Callable[..., Issue], where: str) -> None:
    issue = register("retried", do="fail", name="Late")
    run_id = issue.run()["runId"]
    page = open_console(f"#/{where}/{issue.id if where == 'issues' else run_id}")
    button(page, "Cancel retry").click()
    answer_dialog(page, "Reason", "", "Cancel retry")
    expect(notice(page)).to_contain_text("is dropped")
    expect(button(page, "Cancel retry")).to_have_count(0)
    assert "nextAttemptAt" not in issue.get()


# -------------------------------------------------------------------------------------------- once, as seen


def test_what_came_of_an_action_stays_until_it_is_dismissed(
    open_console: OpenConsole, register: Callable[..., Issue]
) -> None:
    page = open_console(f"#/issues/{register('plain').id}")
    expect(page.get_by_role("status", name="Results")).to_have_attribute("aria-live", "polite")
    button(page, "Dry run").click()
    expect(notice(page)).to_contain_text("dry run")
    page.get_by_role("link", name="Runs", exact=True).click()
    expect(page.get_by_role("heading", level=1, name="Runs")).to_be_visible()
    expect(notice(page)).to_contain_text("dry run")
    page.get_by_role("button", name="Dismiss").click()
    expect(notice(page)).to_have_count(0)
    expect(page.get_by_role("heading", level=1)).to_be_focused()
