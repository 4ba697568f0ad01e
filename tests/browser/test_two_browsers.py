"""Two people at one issue: each acts on what they have seen, and sees what the other did."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from tests.browser.cases import DRAFT, PICKED, WAITS
from tests.browser.conftest import Held
from tests.own_stack import calls_of
from tests.stack_client import ok

if TYPE_CHECKING:
    from tests.browser.conftest import NewPerson, Register
    from tools.local.stack import Stack


CHANGED = "The issue has changed since you looked"


def test_of_two_who_run_the_same_step_at_once_one_does(person: NewPerson, register: Register) -> None:
    new = register("issue-delivery", **PICKED)
    people = [person("ann", is_paused=True), person("bea", is_paused=True)]
    held = []
    for each in people:
        each.visit(f"issues/{new.id}")
        held.append(Held(each.page, "**/run-next-step"))
        each.press("Run next step")
    for each in people:
        expect(each.button("Run next step")).to_have_attribute("aria-disabled", "true")
    for call in held:
        assert len(call) == 1
        call.let_go()
    for each in people:
        expect(each.button("Run next step")).not_to_have_attribute("aria-disabled", "true")
        expect(each.main).to_contain_text("PICKED")
    (run,) = new.runs()
    winner, loser = people if run["actor"] == "ann" else reversed(people)
    expect(winner.notices).to_contain_text("S1_PICK_ISSUE")
    expect(loser.notices).to_contain_text(re.compile(rf"{CHANGED}|owns the issue"))
    loser.provokes("409|412")


def test_who_acts_on_what_another_has_changed_is_told_and_sees_the_change(
    person: NewPerson, register: Register
) -> None:
    new = register("issue-delivery", **PICKED, **DRAFT)
    ann, bea = person("ann", is_paused=True), person("bea", is_paused=True)
    for each in (ann, bea):
        each.visit(f"issues/{new.id}")
    ann.press("Run next step")
    expect(ann.main).to_contain_text("SPEC_READY")
    bea.provokes("412")
    bea.press("Run next step")
    expect(bea.notices).to_contain_text(CHANGED)
    expect(bea.main).to_contain_text("version 2")
    assert [run["actor"] for run in new.runs()] == ["ann"]
    bea.press("Run next step")  # of what she sees now
    expect(bea.main).to_contain_text("version 3")
    assert [run["actor"] for run in new.runs()] == ["ann", "bea"]


@pytest.mark.parametrize(("name", "text"), [("Approve", ""), ("Reject", "no"), ("Hold", "stop")])
def test_nobody_decides_on_what_they_have_not_seen(person: NewPerson, register: Register, name: str, text: str) -> None:
    new = register("reviewed")
    bea = person("bea", is_paused=True)
    bea.visit(f"issues/{new.id}")
    bea.press(name)
    new.patch(risk="high")  # while she thinks about it
    bea.provokes("412")
    bea.dialog.get_by_role("textbox").fill(text)
    bea.dialog.get_by_role("button", name=name, exact=True).click()
    expect(bea.notices).to_contain_text(CHANGED)
    expect(bea.main).to_contain_text("risk")
    now = new.get()
    assert (now.get("approval"), now.get("hold")) == (None, None)


def test_nobody_decides_on_what_changed_behind_the_open_question_though_the_page_was_refreshed(
    person: NewPerson, register: Register
) -> None:
    new = register("reviewed")
    bea = person("bea", is_paused=True)
    bea.visit(f"issues/{new.id}")
    bea.press("Approve")
    new.patch(risk="high")
    bea.later()
    expect(bea.main).to_contain_text("version 2")
    bea.provokes("412")
    bea.dialog.get_by_role("button", name="Approve", exact=True).click()
    expect(bea.notices).to_contain_text(CHANGED)
    assert new.get().get("approval") is None


def test_who_meets_a_live_run_is_told_whose_it_is_and_until_when(person: NewPerson, register: Register) -> None:
    new = register("handed", **WAITS)
    ann, bea = person("ann", is_paused=True), person("bea", is_paused=True)
    for each in (ann, bea):
        each.visit(f"issues/{new.id}")
    ann.press("Run next step")
    expect(ann.button("Cancel run")).to_be_visible()
    bea.provokes("409")
    bea.press("Run next step")
    lease = new.get()["liveRun"]["leaseExpiresAt"]
    expect(bea.notices).to_contain_text(re.compile(rf"ann owns the issue until {lease[11:19]}"))
    expect(bea.button("Cancel run")).to_be_visible()
    bea.notices.get_by_role("link").click()
    expect(bea.main).to_contain_text("by ann")


def test_what_one_does_shows_at_the_other_by_itself(person: NewPerson, register: Register) -> None:
    new = register("handed", **WAITS)
    ann, bea = person("ann"), person("bea", is_paused=True)
    ann.visit(f"issues/{new.id}")
    bea.visit(f"issues/{new.id}")
    ann.press("Hold", "Look at it first")
    expect(ann.button("Resume")).to_be_visible()
    bea.later()
    expect(bea.main).to_contain_text("Look at it first")
    expect(bea.main).to_contain_text("by ann")
    bea.press("Resume", "Seen")
    expect(bea.button("Hold")).to_be_visible()
    expect(ann.button("Hold")).to_be_visible()  # in time: her clock runs
    bea.press("Run next step")
    expect(ann.button("Cancel run")).to_be_visible()
    ann.press("Cancel run", "Not like this")
    expect(ann.notices).to_contain_text("cancelled")
    bea.later()
    expect(bea.button("Cancel run")).to_have_count(0)
    assert [run["status"] for run in new.runs()] == ["cancelled"]


def test_who_cancels_what_another_has_cancelled_sees_that_it_was_the_other(
    person: NewPerson, register: Register
) -> None:
    new = register("handed", **WAITS)
    run_id = new.run()["runId"]
    bea = person("bea", is_paused=True)
    bea.visit(f"runs/{run_id}")
    ok(new.cancel(run_id, "ann was faster"))
    bea.press("Cancel run", "not needed")
    expect(bea.notices).to_contain_text("cancelled")
    expect(bea.main).to_contain_text("ann was faster")
    assert new.run_of(run_id)["cancelReason"] == "ann was faster"


def test_who_cancels_a_run_that_has_ended_meanwhile_is_told_and_sees_its_end(
    stack: Stack, person: NewPerson, register: Register
) -> None:
    new = register("handed", **WAITS)
    run_id = new.run()["runId"]
    bea = person("bea", is_paused=True)
    bea.visit(f"issues/{new.id}")
    token = calls_of(stack, new.id)[0]["taskToken"]
    ok(new.call("POST", f"/api/loop/runs/{run_id}/result", {"taskToken": token, "status": "completed"}))
    bea.provokes("409")
    bea.press("Cancel run", "too late")
    expect(bea.notices).to_contain_text("completed")
    expect(bea.main).to_contain_text("Nothing is left to run")
    expect(bea.button("Cancel run")).to_have_count(0)
