"""What people do in the console is done, once, in their name, and what came of it is told."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import expect

from tests.browser.cases import DRAFT, PICKED
from tests.browser.conftest import Held
from tests.own_stack import let_go
from tests.stack_client import ok

if TYPE_CHECKING:
    from playwright.sync_api import Request

    from tests.browser.conftest import NewPerson, Register
    from tests.stack_client import Issue
    from tools.local.stack import Stack


def last_event(issue: Issue, event_type: str) -> dict[str, Any]:
    """The data of the last event of this type."""
    data: dict[str, Any] = [each for each in issue.events() if each["eventType"] == event_type][-1]["eventData"]
    return data


# ------------------------------------------------------------------------------------------------ issues


@pytest.mark.parametrize(("name", "decision"), [("Approve", "approved"), ("Reject", "rejected")])
def test_a_decision_needs_no_comment(person: NewPerson, register: Register, name: str, decision: str) -> None:
    new = register("reviewed")
    bea = person("bea")
    bea.visit(f"issues/{new.id}")
    bea.press(name, "")
    expect(bea.notices).to_contain_text(decision)
    expect(bea.main.get_by_text("by bea").first).to_be_visible()
    approval = new.get()["approval"]
    assert (approval["decision"], approval["actor"]) == (decision, "bea")
    assert "comment" not in approval


def test_four_eyes_are_told_who_may_not_decide(person: NewPerson, register: Register) -> None:
    new = register("agent-merge", actor="cid", risk="high")
    new.call("POST", f"{new.path}/state", {"state": "IN_REVIEW", "reason": "to see the review"})
    cid = person("cid")
    cid.provokes("403")
    cid.visit(f"issues/{new.id}")
    cid.press("Approve", "")
    expect(cid.notices).to_contain_text("cid")
    assert "approval" not in new.get()


def test_a_running_step_is_to_be_cancelled_at_its_next_safe_point(
    stack: Stack, person: NewPerson, register: Register
) -> None:
    new = register("long", do="wait")
    run_id = new.queue()
    ann = person()
    ann.visit(f"runs/{run_id}")
    expect(ann.main.get_by_text("running").first).to_be_visible()
    ann.press("Cancel run", "")
    expect(ann.notices).to_contain_text("safe point")
    expect(ann.button("Cancel run")).to_have_count(0)
    let_go(stack, new.id)
    expect(ann.main.get_by_text("cancelled", exact=True).first).to_be_visible()
    assert new.run_of(run_id)["status"] == "cancelled"


# -------------------------------------------------------------------------------------------------- once


def is_run(request: Request) -> bool:
    return request.url.endswith("/run-next-step")


def test_a_double_click_makes_one_run(person: NewPerson, register: Register) -> None:
    new = register("issue-delivery", **PICKED)
    ann = person()
    ann.visit(f"issues/{new.id}")
    ann.button("Run next step").dblclick()
    expect(ann.notices).to_contain_text("S1_PICK_ISSUE")
    ann.settles()
    assert [call for call in ann.calls if call.startswith("POST")] == [f"POST {new.path}/run-next-step"]
    assert len(new.runs()) == 1


def test_a_slow_double_click_makes_one_run_where_the_answer_is_faster(person: NewPerson, register: Register) -> None:
    new = register("issue-delivery", **PICKED)
    ann = person()
    page = ann.visit(f"issues/{new.id}")
    box = ann.button("Run next step").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 5, box["y"] + 5)
    page.mouse.down(click_count=1)
    page.mouse.up(click_count=1)
    expect(ann.notices).to_contain_text("S1_PICK_ISSUE")
    ann.settles()
    expect(ann.button("Run next step")).not_to_have_attribute("aria-disabled", "true")
    page.mouse.down(click_count=2)
    page.mouse.up(click_count=2)
    ann.settles()
    assert len(new.runs()) == 1


def test_nothing_more_is_done_to_an_issue_while_a_call_is_under_way(person: NewPerson, register: Register) -> None:
    new = register("reviewed")
    ann = person()
    page = ann.visit(f"issues/{new.id}")
    held = Held(page, "**/run-next-step")
    ann.press("Run next step")
    names = ("Run next step", "Dry run", "Approve", "Reject", "Hold")
    for name in names:
        expect(ann.button(name)).to_have_attribute("aria-disabled", "true")
    expect(ann.button("Run next step")).to_be_focused()
    for name in names:
        ann.button(name).dispatch_event("click")
    page.keyboard.press("Enter")
    expect(ann.dialog).to_have_count(0)
    assert len(held) == 1
    held.let_go()
    for name in names:
        expect(ann.button(name)).not_to_have_attribute("aria-disabled", "true")
    assert len(new.runs()) == 1


def test_each_call_names_the_version_that_was_seen_and_a_key_of_its_own(person: NewPerson, register: Register) -> None:
    new = register("issue-delivery", **PICKED, **DRAFT)
    ann = person()
    page = ann.visit(f"issues/{new.id}")
    sent = []
    for version in (1, 2):
        with page.expect_request(is_run) as made:
            ann.press("Run next step")
        sent.append(made.value.all_headers())
        expect(ann.main.get_by_text(f"version {version + 1}")).to_be_visible()
    assert [headers["if-match"] for headers in sent] == ['"1"', '"2"']
    assert [headers["x-afu9-sub"] for headers in sent] == ["ann", "ann"]
    keys = {headers["idempotency-key"] for headers in sent}
    assert len(keys) == 2
    assert keys == {run["idempotencyKey"] for run in new.runs()}


@pytest.mark.parametrize(("name", "text"), [("Hold", "because"), ("Approve", ""), ("Reject", "")])
def test_a_decision_of_a_person_names_the_version_that_was_seen(
    person: NewPerson, register: Register, name: str, text: str
) -> None:
    new = register("reviewed")
    ann = person()
    page = ann.visit(f"issues/{new.id}")
    with page.expect_request(lambda request: request.method == "POST") as made:
        ann.press(name, text)
    assert made.value.all_headers()["if-match"] == '"1"'
    expect(ann.notices).to_contain_text(new.id)


# --------------------------------------------------------------------------------------------------- who


def test_a_name_that_no_header_can_hold_is_refused_at_once(person: NewPerson) -> None:
    ann = person()
    page = ann.visit("issues")
    page.get_by_role("button", name="Acting as ann").click()
    field = ann.dialog.get_by_role("textbox", name="Your name")
    for name in ("ann, bea", "Zoë", "a\tb"):
        field.fill(name)
        ann.dialog.get_by_role("button", name="Save").click()
        assert field.evaluate("field => field.validity.valid") is False, name
    expect(ann.dialog).to_be_visible()


# ------------------------------------------------------------------------------------------------- pages


def test_the_list_of_issues_shows_how_each_stands(person: NewPerson, register: Register) -> None:
    held, blocked, planned = register("plain"), register("issue-delivery"), register("retried", do="fail", name="Late")
    ok(held.call("POST", f"{held.path}/hold", {"reason": "Not before Monday"}))
    blocked.run()
    planned.run()
    ann = person()
    page = ann.visit("issues")

    def row(of: Issue) -> Any:
        return page.get_by_role("row").filter(has=page.get_by_role("link", name=of.id, exact=True))

    expect(row(held)).to_contain_text("Not before Monday")
    expect(row(blocked)).to_contain_text("NO_GITHUB_LINK")
    expect(row(blocked)).to_contain_text("Link the issue to GitHub")
    expect(row(planned)).to_contain_text("Late")
    expect(row(planned)).to_contain_text(re.compile("in (59|60) min|in 1 h"))


def test_facts_and_metadata_are_shown_as_they_are(person: NewPerson, register: Register) -> None:
    facts: dict[str, Any] = {"a": {"b": [1, None, True, "x"]}, "ünï": "ツ", "githubUrl": "https://x"}
    new = register("issue-delivery", **facts)
    ann = person()
    page = ann.visit(f"issues/{new.id}")
    region = page.get_by_role("region", name="Facts")
    region.locator("summary").click()
    assert json.loads(region.locator("pre").inner_text()) == facts
