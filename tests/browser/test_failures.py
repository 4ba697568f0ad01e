"""What goes wrong is said, with what to do; what was shown stays, and nothing is done twice."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import expect

from tests.browser.cases import DRAFT, PICKED
from tests.browser.person import REFRESH_MS

if TYPE_CHECKING:
    from playwright.sync_api import Route

    from tests.browser.conftest import NewPerson, Register
    from tests.browser.person import Person


REQUEST_ID = "8302f230-53eb-4c5a-bae7-5031ef59be4d"
READS = re.compile(r"/api/loop/(issues|runs|stats)")


def envelope(code: str, message: str, **details: Any) -> str:
    """The body of an error that the functions make."""
    return json.dumps({
        "schemaVersion": "loop.error.v1", "requestId": REQUEST_ID, "timestamp": "2026-11-24T02:57:11.737683Z",
        "error": {"code": code, "message": message, "details": details},
    })  # fmt: skip


def answers(person: Person, status: int, body: str, where: str | re.Pattern[str] = READS) -> None:
    """From now on such calls of the person are answered with this; provoked."""
    person.page.route(where, lambda route: route.fulfill(status=status, body=body, content_type="application/json"))
    if status >= 400:
        person.provokes(str(status))


# ----------------------------------------------------------------------------------------------- reading


def test_a_page_that_cannot_be_read_says_why_and_is_there_when_it_can(person: NewPerson, register: Register) -> None:
    new = register("plain")
    run_id = new.run()["runId"]
    ann = person(is_paused=True)
    for route in ("", "issues", f"issues/{new.id}", "runs", f"runs/{run_id}"):
        answers(ann, 503, envelope("UNAVAILABLE", "the database is out of reach; try again in a minute"))
        ann.visit(route)
        expect(ann.banner).to_contain_text("the database is out of reach; try again in a minute")
        expect(ann.banner).to_contain_text(REQUEST_ID)
        expect(ann.main.get_by_text("Loading")).to_have_count(0)
        ann.page.unroute(READS)
        ann.banner.get_by_role("button", name="Retry").click()
        expect(ann.banner).to_have_count(0)
        expect(ann.main.get_by_role("table").first).to_be_visible()


@pytest.mark.parametrize(
    "others",
    [
        [
            (500, envelope("INTERNAL_ERROR", "a fault of ours"), "a fault of ours"),
            (500, '{"message": "Internal Server Error"}', "answered with 500: Internal Server Error"),
            (503, '{"message": "Service Unavailable"}', "answered with 503: Service Unavailable"),
        ],
        [
            (429, '{"message": "Too Many Requests"}', "answered with 429: Too Many Requests"),
            (502, "<html><h1>Bad gateway</h1></html>", "answered with 502"),
            (200, "<html>a captive portal</html>", "answered with 200"),
            (200, "", "answered with 200"),
        ],
    ],
    ids=["of the API", "of others"],
)
def test_what_was_there_stays_while_it_cannot_be_read_again(
    person: NewPerson, register: Register, others: list[tuple[int, str, str]]
) -> None:
    new = register("plain", seen="before")
    ann = person(is_paused=True)
    page = ann.visit(f"issues/{new.id}")
    for status, body, words in others:
        answers(ann, status, body)
        ann.later()
        expect(ann.banner).to_contain_text(words)
        expect(ann.banner.get_by_role("button", name="Retry")).to_be_visible()
        expect(ann.facts).to_contain_text("before")
        expect(page.get_by_role("heading", level=1)).to_have_text(new.id)
        page.unroute(READS)
        new.patch(words=words)
        ann.later(2 * REFRESH_MS)  # by itself
        expect(ann.banner).to_have_count(0)
        expect(ann.facts).to_contain_text(words)


def test_a_page_that_fails_on_and_on_is_read_more_and_more_seldom(person: NewPerson) -> None:
    ann = person(is_paused=True)
    ann.visit("issues")
    answers(ann, 500, envelope("INTERNAL_ERROR", "a fault of ours"))
    ann.later()
    tries = []
    for _ in range(4):
        ann.calls.clear()
        for _ in range(12):
            ann.later()
        tries.append(len([call for call in ann.calls if "/issues" in call]))
    assert tries == [3, 2, 2, 2]  # times a minute


def test_a_page_that_is_opened_offline_is_there_when_the_network_is(person: NewPerson, register: Register) -> None:
    new = register("plain")
    ann = person()
    page = ann.visit("issues")
    ann.provokes("ERR_INTERNET_DISCONNECTED")
    ann.context.set_offline(True)
    page.get_by_role("link", name="Overview", exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Overview")
    expect(ann.banner).to_contain_text("offline")
    page.evaluate("id => { location.hash = `#/issues/${id}` }", new.id)
    expect(page.get_by_role("heading", level=1)).to_have_text(new.id)
    ann.context.set_offline(False)
    expect(ann.button("Run next step")).to_be_visible()
    expect(ann.banner).to_have_count(0)


def test_an_api_that_is_out_of_reach_is_said_to_be(person: NewPerson, register: Register) -> None:
    new = register("plain", seen="before")
    ann = person(is_paused=True)
    page = ann.visit(f"issues/{new.id}")
    page.route(READS, lambda route: route.abort("connectionrefused"))
    ann.provokes("ERR_CONNECTION_REFUSED")
    ann.later()
    expect(ann.banner).to_contain_text("out of reach")
    expect(ann.facts).to_contain_text("seen")
    page.unroute(READS)
    ann.later(2 * REFRESH_MS)
    expect(ann.banner).to_have_count(0)


def test_what_does_not_exist_is_said_not_to(person: NewPerson) -> None:
    ann = person(is_paused=True)
    ann.provokes("404")
    ann.provokes("400")
    for route in ("runs/01a2105c-0000-7000-8000-000000000000", "runs/not-a-uuid", "issues/not%20an%20id"):
        ann.visit(route)
        expect(ann.banner).to_be_visible()
        expect(ann.banner.get_by_role("button", name="Retry")).to_be_visible()


def test_a_bad_filter_in_an_address_is_said_to_be_and_can_be_mended(person: NewPerson) -> None:
    ann = person()
    ann.provokes("400")
    page = ann.visit("runs?status=done")
    expect(ann.banner).to_contain_text("status")
    page.get_by_label("completed").check()
    page.get_by_role("button", name="Clear").click()
    expect(ann.banner).to_have_count(0)


def test_older_ones_that_cannot_be_read_are_asked_for_again(person: NewPerson, register: Register) -> None:
    new = register("issue-delivery")
    for _ in range(11):
        new.run()
    ann = person(is_paused=True)
    page = ann.visit(f"issues/{new.id}")
    table = page.get_by_role("region", name="Runs").get_by_role("rowgroup").last
    expect(table.get_by_role("row")).to_have_count(10)
    answers(ann, 503, envelope("UNAVAILABLE", "the database is out of reach"), re.compile("cursor="))
    older = page.get_by_role("region", name="Runs").get_by_role("button", name="Older")
    older.click()
    expect(ann.notices).to_contain_text("the database is out of reach")
    page.unroute(re.compile("cursor="))
    older.click()
    expect(table.get_by_role("row")).to_have_count(11)


# --------------------------------------------------------------------------------------------------- who


def test_who_is_new_to_the_local_stack_is_asked_for_a_name_before_any_call(
    person: NewPerson, register: Register
) -> None:
    new = register("plain")
    somebody = person(None)  # no call is refused: that would be an error in the browser's console
    page = somebody.page
    page.goto(f"{somebody.url}/console#/issues/{new.id}")
    expect(somebody.dialog.get_by_role("textbox", name="Your name")).to_be_focused()
    assert somebody.calls == []
    page.keyboard.type("dora")
    page.keyboard.press("Enter")
    expect(somebody.button("Run next step")).to_be_visible()


def comes_through_the_proxy(person: Person) -> None:
    """As if the console were the one that `make console` serves, which signs what comes through it."""
    port = person.url.rsplit(":", 1)[1]
    person.context.add_cookies([{"name": f"signed_{port}", "value": "1", "url": person.url}])


def test_who_is_refused_for_want_of_a_name_is_asked_for_one(person: NewPerson, register: Register) -> None:
    new = register("plain")
    somebody = person(None)
    comes_through_the_proxy(somebody)  # else the page would ask before it calls
    somebody.provokes("401")
    page = somebody.visit(f"issues/{new.id}")
    expect(somebody.dialog.get_by_role("textbox", name="Your name")).to_be_focused()
    page.keyboard.type("dora")
    page.keyboard.press("Enter")
    expect(somebody.button("Run next step")).to_be_visible()
    expect(somebody.banner).to_have_count(0)


def test_where_calls_are_signed_nobody_is_asked_for_a_name(person: NewPerson, register: Register) -> None:
    new = register("plain")
    somebody = person(None)
    comes_through_the_proxy(somebody)

    def sign(route: Route) -> None:
        assert "x-afu9-sub" not in route.request.headers
        route.continue_(headers={**route.request.headers, "x-afu9-sub": "arn:aws:iam::1:user/x"})

    somebody.page.route("**/api/**", sign)
    somebody.visit(f"issues/{new.id}")
    expect(somebody.button("Run next step")).to_be_visible()
    expect(somebody.dialog).to_have_count(0)


@pytest.mark.parametrize("status", [401, 403])
def test_what_api_gateway_refuses_names_the_command_that_signs(
    person: NewPerson, register: Register, status: int
) -> None:
    new = register("plain")
    ann = person(is_paused=True)
    body = {401: '{"message":"Unauthorized"}', 403: '{"message":"Forbidden"}'}[status]
    answers(ann, status, body)
    ann.visit(f"issues/{new.id}")
    expect(ann.banner).to_contain_text(f"make console API_URL={ann.url}")
    expect(ann.dialog).to_have_count(0)


# ------------------------------------------------------------------------------------------------ acting


@pytest.mark.parametrize(("name", "text"), [("Run next step", None), ("Hold", "because"), ("Approve", "")])
def test_an_action_that_fails_in_the_server_says_that_nobody_knows_whether_it_was_done(
    person: NewPerson, register: Register, name: str, text: str | None
) -> None:
    new = register("reviewed")
    ann = person(is_paused=True)
    ann.visit(f"issues/{new.id}")
    answers(ann, 500, envelope("INTERNAL_ERROR", "a fault of ours"), re.compile("run-next-step|hold|approvals"))
    ann.press(name, text)
    expect(ann.notices).to_contain_text("a fault of ours")
    expect(ann.notices).to_contain_text("Nobody knows whether it was done")
    expect(ann.notices).to_contain_text(REQUEST_ID)
    expect(ann.button(name)).not_to_have_attribute("aria-disabled", "true")


def lose_its_answer(route: Route) -> None:
    """The call is done, and nobody hears of it."""
    route.fetch()
    route.abort("connectionreset")


def test_a_run_whose_answer_was_lost_is_not_made_again_by_a_second_click(person: NewPerson, register: Register) -> None:
    new = register("issue-delivery", **PICKED)
    ann = person(is_paused=True)
    page = ann.visit(f"issues/{new.id}")
    sent: list[dict[str, str]] = []

    def lose_the_first_answer(route: Route) -> None:
        sent.append(route.request.headers)
        if len(sent) == 1:
            lose_its_answer(route)
        else:
            route.continue_()

    page.route("**/run-next-step", lose_the_first_answer)
    ann.provokes("ERR_CONNECTION_RESET")
    ann.press("Run next step")
    expect(ann.notices).to_contain_text("Nobody knows whether it was done")
    expect(ann.main.get_by_text("version 2")).to_be_visible()  # what it did is seen, and still it is the same call
    ann.press("Run next step")
    expect(ann.notices).to_contain_text("S1_PICK_ISSUE")
    assert sent[0]["idempotency-key"] == sent[1]["idempotency-key"]
    assert sent[0]["if-match"] == sent[1]["if-match"]
    assert len(new.runs()) == 1
    ann.settles()
    new.patch(**DRAFT)
    ann.later()
    ann.press("Run next step")  # the answer has come: this is another call
    expect(ann.main.get_by_text("SPEC_READY").first).to_be_visible()
    assert sent[2]["idempotency-key"] != sent[0]["idempotency-key"]


def test_a_lost_blocked_run_is_not_made_again_either(person: NewPerson, register: Register) -> None:
    new = register("issue-delivery")  # its version does not tell: a blocked run changes none
    ann = person(is_paused=True)
    page = ann.visit(f"issues/{new.id}")
    page.route("**/run-next-step", lose_its_answer, times=1)
    ann.provokes("ERR_CONNECTION_RESET")
    ann.press("Run next step")
    expect(ann.notices).to_contain_text("Nobody knows whether it was done")
    ann.press("Run next step")
    expect(ann.notices).to_contain_text("NO_GITHUB_LINK")
    assert len(new.runs()) == 1


def test_a_lost_run_of_one_person_is_not_answered_to_another(person: NewPerson, register: Register) -> None:
    new = register("issue-delivery")
    ann = person(is_paused=True)
    page = ann.visit(f"issues/{new.id}")
    page.route("**/run-next-step", lose_its_answer, times=1)
    ann.provokes("ERR_CONNECTION_RESET")
    ann.press("Run next step")
    expect(ann.notices).to_contain_text("Nobody knows whether it was done")
    page.get_by_role("button", name="Acting as ann").click()
    ann.dialog.get_by_role("textbox").fill("bea")
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Acting as bea")).to_be_visible()
    ann.press("Run next step")
    expect(ann.notices).to_contain_text("NO_GITHUB_LINK")
    assert [run["actor"] for run in new.runs()] == ["ann", "bea"]


def test_an_action_without_an_answer_is_given_up_in_the_end(person: NewPerson, register: Register) -> None:
    new = register("plain")
    ann = person(is_paused=True)
    page = ann.visit(f"issues/{new.id}")
    page.evaluate("() => { AbortSignal.timeout = () => AbortSignal.abort(new DOMException('', 'TimeoutError')) }")
    ann.press("Run next step")
    expect(ann.notices).to_contain_text("has not answered within")
    expect(ann.notices).to_contain_text("Nobody knows whether it was done")
