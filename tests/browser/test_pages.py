"""The pages of the run console: what each shows of what the API says."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from playwright.sync_api import expect

from loop_runner.loops import load_loop
from tests.browser.conftest import Calls, answer_json
from tests.conftest import LOOPS
from tests.stack_client import ok

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.browser.conftest import NewPerson, OpenConsole
    from tests.stack_client import Issue
    from tools.local.stack import Stack


@pytest.mark.parametrize(
    ("address", "heading"),
    [
        ("", "Overview"),
        ("#/", "Overview"),
        ("#/?window=7d", "Overview"),
        ("#/issues", "Issues"),
        ("#/issues?loop=issue-delivery&state=CREATED", "Issues"),
        ("#/runs", "Runs"),
        ("#/runs?status=failed,blocked&loop=plain&actor=ann&since=2026-01-01T00:00Z&until=2036-01-01T00:00Z", "Runs"),
        ("#/nowhere", "Not found"),
        ("#/issues/%", "%"),
    ],
)
def test_page_opens_under_its_address(open_console: OpenConsole, address: str, heading: str) -> None:
    page = open_console(address, may_be_refused=heading == "%")
    expect(page.get_by_role("heading", level=1)).to_have_text(heading)
    expect(page).to_have_title(f"{heading} · Run console")
    expect(page.locator("main")).to_have_attribute("aria-busy", "false")


def test_navigation_leads_to_each_page_and_says_where_one_is(open_console: OpenConsole) -> None:
    page = open_console()
    for name in ("Issues", "Runs", "Overview"):
        link = page.get_by_role("navigation", name="Pages").get_by_role("link", name=name)
        link.click()
        expect(page.get_by_role("heading", level=1, name=name)).to_be_focused()
        expect(link).to_have_attribute("aria-current", "page")


# ------------------------------------------------------------------------------------------------- overview


def test_overview_says_what_the_statistics_say(
    open_console: OpenConsole, register: Callable[..., Issue], stack: Stack
) -> None:
    register("plain").run()
    blocked = register("issue-delivery")
    blocked.run()
    page = open_console()
    stats = ok(blocked.call("GET", "/api/loop/stats"))
    figures = page.locator("dl.figures > div")
    for name, value in {
        "Runs": stats["runs"]["total"],
        "Success rate": f"{round(stats['runs']['successRate'] * 100, 1):g} %",
        "Failed": f"{stats['runs']['byStatus']['failed']} {stats['runs']['retries']} retries",
        "Blocked now": sum(each["ongoing"] for each in stats["blocked"]),
        "Live now": stats["live"]["total"],
    }.items():
        figure = figures.filter(has=page.get_by_text(name, exact=True)).locator("dd")
        expect(figure).to_have_text(re.compile(rf"^{value}(?!\d)"))
    row = page.get_by_role("row").filter(has_text="NO_GITHUB_LINK")
    (of_code,) = (each for each in stats["blocked"] if each["code"] == "NO_GITHUB_LINK")
    expect(row.get_by_role("cell").first).to_have_text(str(of_code["ongoing"]))
    expect(page.get_by_role("row").filter(has_text="WORK").first).to_be_visible()


def test_overview_shows_what_is_live_and_marks_what_is_past_its_lease(
    open_console: OpenConsole, register: Callable[..., Issue], stack: Stack
) -> None:
    late, fine = register("handed", do="answer", answer={}), register("handed", do="answer", answer={})
    run_id = late.run()["runId"]
    fine.run()
    with psycopg.connect(stack.database_url) as connection:
        connection.execute(
            "UPDATE loop_runs SET lease_expires_at = clock_timestamp() - interval '1 minute' WHERE id = %s", [run_id]
        )
    page = open_console()
    live = page.get_by_role("table", name="Live runs").get_by_role("row")
    expect(live.filter(has_text=late.id)).to_contain_text("past its lease")
    expect(live.filter(has_text=fine.id)).to_contain_text("so far")
    expect(live.filter(has_text=fine.id)).not_to_contain_text("past its lease")


def test_overview_shows_recent_failures(open_console: OpenConsole, register: Callable[..., Issue]) -> None:
    issue = register("plain", do="fail", name="Disk.Full")
    issue.run()
    failure = open_console().get_by_role("table", name="Recent failures").get_by_role("row").filter(has_text=issue.id)
    expect(failure).to_contain_text("Disk.Full")
    expect(failure).to_contain_text("not now")


def test_window_is_in_the_address_and_in_the_call(open_console: OpenConsole) -> None:
    page = open_console()
    calls = Calls(page)
    page.get_by_role("link", name="7 d").click()
    expect(page.get_by_role("link", name="7 d")).to_have_attribute("aria-current", "true")
    expect(page.locator(".content")).to_be_visible()
    assert page.url.endswith("#/?window=7d")
    assert any(call.startswith("GET stats?since=") for call in calls.made)


def test_charts_have_their_numbers_as_a_table(open_console: OpenConsole, register: Callable[..., Issue]) -> None:
    register("plain").run()
    page = open_console()
    for title in ("Runs per hour", "Step duration per hour"):
        figure = page.get_by_role("figure").filter(has_text=title)
        expect(figure.get_by_role("img", name=title)).to_be_visible()
        figure.get_by_text("As a table").click()
        hours = figure.get_by_role("table", name=title).get_by_role("row")
        assert hours.count() in {25, 26}  # with the head; a day may touch 25 hours
        expect(hours.nth(1)).not_to_have_text("")


# --------------------------------------------------------------------------------------------------- lists


def test_issues_are_filtered_by_loop_and_state(open_console: OpenConsole, register: Callable[..., Issue]) -> None:
    blocked, other = register("issue-delivery"), register("plain")
    blocked.run()
    page = open_console("#/issues")
    expect(page.get_by_role("row").filter(has_text=other.id)).to_be_visible()
    page.get_by_label("Loop").select_option("issue-delivery")
    page.get_by_label("State").select_option("CREATED")
    row = page.get_by_role("row").filter(has_text=blocked.id)
    expect(row).to_contain_text("NO_GITHUB_LINK")
    expect(row).to_contain_text("Link the issue to GitHub")
    expect(page.get_by_role("row").filter(has_text=other.id)).to_have_count(0)
    assert page.url.endswith("#/issues?loop=issue-delivery&state=CREATED")
    page.get_by_role("button", name="Clear").click()
    expect(page.get_by_label("Loop")).to_have_value("")
    expect(page.get_by_role("row").filter(has_text=other.id)).to_be_visible()


def test_issue_is_opened_by_its_id(open_console: OpenConsole, register: Callable[..., Issue]) -> None:
    issue = register("plain")
    page = open_console("#/issues")
    page.get_by_label("Open issue").fill(f" {issue.id} ")
    page.get_by_role("button", name="Open", exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_have_text(issue.id)


def test_runs_are_filtered_by_status_loop_actor_and_time(
    open_console: OpenConsole, register: Callable[..., Issue]
) -> None:
    issue = register("plain", do="block")
    blocked = issue.run(actor="zoe")["runId"]
    issue.patch(do="go on")
    completed = issue.run(actor="zoe")["runId"]
    page = open_console("#/runs")
    page.get_by_label("Actor").fill("zoe")
    page.get_by_label("Actor").press("Enter")
    shown = {
        run_id: page.get_by_role("row").filter(has=page.locator(f"a[href$='{run_id}']"))
        for run_id in (blocked, completed)
    }
    expect(shown[completed]).to_be_visible()
    page.get_by_role("group", name="Status").get_by_label("blocked").check()
    expect(shown[completed]).to_have_count(0)
    expect(shown[blocked]).to_contain_text("NO_WINDOW")
    page.get_by_role("group", name="Status").get_by_label("completed").check()
    expect(shown[completed]).to_be_visible()
    page.get_by_label("Loop").select_option("plain")
    page.get_by_label("Since").fill("2026-01-01T00:00")
    page.get_by_label("Until").fill("2026-01-02T00:00")
    expect(page.get_by_text("No run is like that.")).to_be_visible()
    assert page.url.endswith(
        "#/runs?actor=zoe&status=completed%2Cblocked&loop=plain&since=2026-01-01T00%3A00Z&until=2026-01-02T00%3A00Z"
    )
    page.reload()
    expect(page.get_by_label("Actor")).to_have_value("zoe")
    expect(page.get_by_label("Until")).to_have_value("2026-01-02T00:00")
    expect(page.get_by_role("group", name="Status").get_by_label("completed")).to_be_checked()


def test_empty_page_with_a_cursor_says_to_look_further_back(open_console: OpenConsole) -> None:
    page = open_console("#/nowhere")
    empty: dict[str, Any] = {"schemaVersion": "loop.runs.v1", "items": [], "nextCursor": "further"}
    page.route("**/api/loop/runs?*", lambda route: answer_json(route, 200, empty))
    page.evaluate("location.hash = '#/runs?actor=nobody'")
    expect(page.get_by_text("None among these, look further back.")).to_be_visible()
    with page.expect_request("**/api/loop/runs?*cursor=further*"):
        page.get_by_role("button", name="Older").click()


# --------------------------------------------------------------------------------------------- issue and run


def test_issue_says_what_it_waits_for_and_the_call_that_lets_it_go_on(
    open_console: OpenConsole, register: Callable[..., Issue]
) -> None:
    issue = register("issue-delivery", githubUrl="https://github.com/example/shop/issues/1")
    issue.run()
    issue.run()
    page = open_console(f"#/issues/{issue.id}")
    standing = page.get_by_role("region", name="Where it stands").get_by_role("listitem")
    gates = issue.get()["unmetGates"]
    assert gates
    for gate in gates:
        item = standing.filter(has=page.get_by_text(gate["blocker"], exact=True))
        expect(item).to_contain_text(gate["message"].split(" To go on: ")[0])
        expect(item).to_contain_text(f"{gate['call']['method']} {gate['call']['path']}")
    page.get_by_text("githubUrl", exact=True).click()
    expect(page.get_by_text('"githubUrl": "https://github.com/example/shop/issues/1"')).to_be_visible()
    events = page.get_by_role("region", name="Timeline").get_by_role("listitem")
    expect(events.first).to_contain_text("run blocked: NO_DRAFT")
    expect(events.last).to_contain_text("registered in issue-delivery, CREATED")
    expect(page.get_by_role("region", name="Runs").get_by_role("row")).to_have_count(3)


def test_issue_says_who_is_at_work_on_what_and_until_when(
    open_console: OpenConsole, register: Callable[..., Issue]
) -> None:
    issue = register("handed", do="answer", answer={})
    issue.run(actor="bob")
    page = open_console(f"#/issues/{issue.id}")
    standing = page.get_by_role("region", name="Where it stands")
    expect(standing).to_contain_text("Run of bob waits for the outcome of WORK")
    until = issue.get()["liveRun"]["leaseExpiresAt"]
    expect(standing.locator(f"time[datetime='{until}']")).to_have_text("in 59 min")


def test_issue_says_that_it_is_tried_again_by_itself_and_after_which_failure(
    open_console: OpenConsole, register: Callable[..., Issue]
) -> None:
    issue = register("retried", do="fail", name="Late")
    issue.run()
    standing = open_console(f"#/issues/{issue.id}").get_by_role("region", name="Where it stands")
    expect(standing).to_contain_text("tried again by itself in")
    expect(standing).to_contain_text("failed with Late")


def test_finished_issue_says_so_and_offers_nothing(open_console: OpenConsole, register: Callable[..., Issue]) -> None:
    issue = register("plain")
    issue.run()
    page = open_console(f"#/issues/{issue.id}")
    expect(page.get_by_role("region", name="Where it stands")).to_contain_text("Nothing is left to run.")
    expect(page.get_by_role("group", name="Actions").get_by_role("button")).to_have_count(0)


@pytest.mark.parametrize("name", ["issue-delivery", "incident-runbook", "agent-merge"])
def test_diagram_has_each_state_and_step_and_marks_where_the_issue_is(
    open_console: OpenConsole, register: Callable[..., Issue], name: str
) -> None:
    loop = load_loop(LOOPS / f"{name}.toml")
    page = open_console(f"#/issues/{register(name).id}")
    diagram = page.get_by_role("img", name=f"The loop {name}")
    expect(diagram.locator(".node.is-current")).to_contain_text(loop.initial_state)
    expect(diagram.locator(".node.is-current")).to_have_count(1)
    texts = diagram.locator(".node > text:not(.step, .note)").all_text_contents()
    assert sorted(texts) == sorted(loop.states)
    described = diagram.locator("> desc").text_content() or ""
    for step in loop.steps:
        assert f"{step.type} from {step.from_[0]} to {step.to}" in described
        expect(diagram.get_by_text(step.type, exact=True)).to_be_visible()
        for outcome, to in (step.outcomes or {}).items():
            expect(diagram.get_by_text(f"{outcome} → {to}", exact=True).first).to_be_visible()
    shapes = diagram.locator(".node > rect, .node > text:is(.step, .note)").all()
    boxes = [box for shape in shapes if (box := shape.bounding_box())]
    for one, other in pairwise(sorted(boxes, key=lambda box: box["y"])):
        assert one["y"] + one["height"] <= other["y"] + 2  # letters do not fill their box
    width = page.get_by_role("region", name="Loop").bounding_box()
    drawn = diagram.bounding_box()
    assert width
    assert drawn
    assert drawn["x"] + drawn["width"] <= width["x"] + width["width"]


def test_run_page_shows_the_record_and_leads_to_its_neighbours(
    open_console: OpenConsole, register: Callable[..., Issue]
) -> None:
    issue = register("retried", do="fail", name="Late")
    first = issue.run()["runId"]
    issue.patch(do="go on")
    second = issue.run()["runId"]
    run = issue.run_of(first)
    page = open_console(f"#/runs/{first}")
    expect(page.get_by_role("heading", level=1)).to_have_text(f"Run {first[:8]}")
    for value in (run["errorCode"], run["errorMessage"], run["message"], run["requestId"], run["loopVersion"]):
        expect(page.locator("main")).to_contain_text(value)
    step = page.get_by_role("table", name="Steps").get_by_role("row").nth(1)
    expect(step).to_contain_text("1 WORK")
    expect(step).to_contain_text(f"{run['steps'][0]['durationMs']} ms")
    expect(page.get_by_role("region", name="Events").get_by_role("listitem")).to_have_count(len(run["events"]))
    page.locator(f"a[href='#/runs/{second}']").click()
    expect(page.locator("main")).to_contain_text(second)
    expect(page.locator(f"dd a[href='#/runs/{first}']")).to_be_visible()
    page.get_by_role("link", name=issue.id).click()
    expect(page.get_by_role("heading", level=1)).to_have_text(issue.id)


def test_steps_of_a_run_are_drawn_to_scale(
    open_console: OpenConsole, register: Callable[..., Issue], stack: Stack
) -> None:
    issue = register("plain", do="fail", name="X")
    run_id = issue.run()["runId"]
    with psycopg.connect(stack.database_url) as connection:  # a quarter in the queue, then the step
        connection.execute("SET LOCAL session_replication_role = replica")
        connection.execute(
            """
            UPDATE loop_runs
            SET started_at = created_at + interval '1 s', completed_at = created_at + interval '4 s'
            WHERE id = %s
            """,
            [run_id],
        )
        connection.execute(
            """
            UPDATE loop_run_steps AS s
            SET started_at = r.started_at, completed_at = r.completed_at, duration_ms = 3000
            FROM loop_runs AS r
            WHERE r.id = s.run_id AND r.id = %s
            """,
            [run_id],
        )
    rows = open_console(f"#/runs/{run_id}").get_by_role("table", name="Steps").get_by_role("row")
    for number, words, start, length in ((1, "in the queue", "0.0000", "0.2500"), (2, "3 s", "0.2500", "0.7500")):
        expect(rows.nth(number)).to_contain_text(words)
        span = rows.nth(number).locator(".span")
        expect(span).to_have_attribute("style", f"--start: {start}; --length: {length};")


@pytest.mark.parametrize(
    ("url", "links"),
    [("https://console.example.org/log", 1), ("javascript:alert(1)", 0), ("http://example.org/", 0), (None, 0)],
)
def test_run_links_to_its_log_by_https_only(
    open_console: OpenConsole, register: Callable[..., Issue], url: str | None, links: int
) -> None:
    issue = register("plain")
    run = issue.run_of(issue.run()["runId"])
    page = open_console("#/nowhere")
    page.route("**/api/loop/runs/*", lambda route: answer_json(route, 200, run | {"logUrl": url}))
    page.evaluate(f"location.hash = '#/runs/{run['runId']}'")
    expect(page.get_by_role("region", name="Details")).to_be_visible()
    log = page.locator("a:not([href^='#'])")
    expect(log).to_have_count(links)
    if links:
        expect(log).to_have_attribute("href", str(url))
        expect(log).to_have_attribute("rel", "noopener noreferrer")


def test_lengths_of_time_read_well(person: NewPerson) -> None:
    page = person().visit()
    lengths = [-3, 0.4, 7, 999.7, 1_000, 59_990, 60_000, 3_599_999, 3_600_000, 172_799_999, 172_800_000]
    durations, rough = page.evaluate(
        """async (lengths) => {
            const { duration, roughly } = await import("/console/format.js");
            return [lengths.map(duration), lengths.map(roughly)];
        }""",
        lengths,
    )
    assert durations == [
        *("0 ms", "0 ms", "7 ms", "999 ms", "1 s", "59.9 s"),
        *("1 min", "59 min 59 s", "1 h", "47 h 59 min", "2 d"),
    ]
    assert rough[4:] == ["1 s", "59 s", "1 min", "59 min", "1 h", "47 h", "2 d"]
