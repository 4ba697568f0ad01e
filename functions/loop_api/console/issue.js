// @ts-check
/** Owns the page of an issue: where it stands, what lets it go on, what has happened. */

import { isFinished, issueActions, runOfRetry } from "./actions.js";
import { get } from "./api.js";
import { diagram } from "./diagram.js";
import { h } from "./dom.js";
import { duration } from "./format.js";
import { listEnd, merged } from "./lists.js";
import { stepName, stepOf } from "./loops.js";
import { advice, badge, callBlock, jsonDetails, lease, runLink, section, time } from "./parts.js";
import { mergeRuns, runTable } from "./runs.js";
import { timeline } from "./timeline.js";

const RUNS = 10;
const EVENTS = 20;

/** @type {import("./app.js").Page["title"]} */
export function title({ parts }) {
  return parts[1];
}

/** @type {import("./app.js").Page["load"]} */
export async function load(route, signal) {
  const path = pathOf(route);
  const [issue, runs, events] = await Promise.all([
    get(path, { include: "loop" }, signal),
    get(`${path}/runs`, { limit: RUNS }, signal),
    get(`${path}/events`, { limit: EVENTS }, signal),
  ]);
  return { issue, runs, events };
}

/** @param {import("./routes.js").Route} route */
function pathOf({ parts }) {
  return `issues/${encodeURIComponent(parts[1])}`;
}

/** @type {NonNullable<import("./app.js").Page["merge"]>} */
export function merge(fresh, current) {
  return {
    issue: fresh.issue,
    runs: mergeRuns(fresh.runs, current.runs),
    events: merged(fresh.events, current.events, (event) => [event.occurredAt, event.eventId]),
  };
}

/** @type {import("./app.js").Page["isLive"]} */
export function isLive({ issue }) {
  return !!issue.liveRun || !!issue.nextAttemptAt;
}

/** @type {import("./app.js").Page["view"]} */
export function view({ issue, runs, events }, context) {
  const { route, update } = context;
  const path = pathOf(route);
  return [
    h(
      "p",
      { class: "subtitle" },
      h("span", { class: "tag" }, issue.state),
      ` of ${issue.loop}, version ${issue.version}`,
    ),
    issueActions(issue, runs.items, context),
    h(
      "div",
      { class: "columns" },
      h(
        "div",
        { class: "column" },
        section("Where it stands", {}, standing(issue, runs.items)),
        section(
          "Runs",
          {},
          runs.items.length > 0 &&
            runTable(runs.items, `Runs of ${issue.issueId}, newest first`, (run) =>
              stepName(issue.loopDefinition, run.step),
            ),
          listEnd(
            runs,
            (cursor) => get(`${path}/runs`, { limit: RUNS, cursor }),
            (change) => update((data) => ({ ...data, runs: change(data.runs) })),
            "It has not run yet.",
          ),
        ),
        section(
          "Timeline",
          {},
          timeline(events.items),
          listEnd(
            events,
            (cursor) => get(`${path}/events`, { limit: EVENTS, cursor }),
            (change) => update((data) => ({ ...data, events: change(data.events) })),
            "Nothing has happened yet.",
          ),
        ),
      ),
      h(
        "div",
        { class: "column rail" },
        issue.loopDefinition && section("Loop", {}, diagram(issue.loopDefinition, issue.state, issue.nextStep)),
        section("Facts", {}, jsonDetails(issue.facts)),
      ),
    ),
  ];
}

/**
 * @param {any} issue
 * @param {any[]} runs
 */
function standing(issue, runs) {
  const { hold, liveRun, approval, unmetGates, nextAttemptAt, nextStep, loopDefinition } = issue;
  const failed = runOfRetry(issue, runs);
  return h(
    "ul",
    { class: "standing" },
    hold &&
      h(
        "li",
        { key: "hold" },
        badge("paused", "on hold"),
        ` by ${hold.by}, `,
        time(hold.since),
        h("blockquote", null, hold.reason),
      ),
    liveRun && h("li", { key: "run" }, liveRunOf(liveRun, runs, loopDefinition)),
    nextAttemptAt &&
      !liveRun &&
      h(
        "li",
        { key: "next" },
        badge("pending", failed ? "tried again by itself" : "goes on by itself"),
        " ",
        time(nextAttemptAt),
        failed && [": ", runLink(failed.runId, "the last run"), " failed with ", h("code", null, failed.errorCode)],
      ),
    approval &&
      h(
        "li",
        { key: "approval" },
        badge(approval.decision === "approved" ? "completed" : "failed", approval.decision),
        ` by ${approval.actor}, `,
        time(approval.at),
        approval.comment && h("blockquote", null, approval.comment),
      ),
    unmetGates.map((/** @type {any} */ gate) =>
      h(
        "li",
        { key: `gate ${gate.blocker} ${gate.fact}` },
        badge("blocked", gate.blocker),
        " ",
        gate.blocker !== "ON_HOLD" && advice(gate.message),
        callBlock(gate.call),
      ),
    ),
    nextStep &&
      !liveRun &&
      unmetGates.length === 0 &&
      h(
        "li",
        { key: "step" },
        badge("active", "next"),
        ` ${nextStep.stepType}`,
        nextStep.estimatedDurationMs !== undefined && `, about ${duration(nextStep.estimatedDurationMs)}`,
      ),
    isFinished(issue) &&
      h(
        "li",
        { key: "over" },
        badge(loopDefinition?.failedStates.includes(issue.state) ? "failed" : "completed", issue.state),
        " Nothing is left to run.",
      ),
    !loopDefinition &&
      h("li", { key: "loop" }, badge("failed", issue.loop), " This loop is not deployed, or not valid."),
  );
}

/**
 * Who is at work until when, and what it waits for.
 *
 * @param {any} liveRun
 * @param {any[]} runs
 * @param {import("./loops.js").Loop | undefined} loop
 */
function liveRunOf(liveRun, runs, loop) {
  const step = stepOf(loop, runs.find((run) => run.runId === liveRun.runId)?.step);
  const what =
    liveRun.status === "pending"
      ? "waits to begin"
      : step?.executor === "callback"
        ? `waits for the outcome of ${step.stepType}`
        : step
          ? `executes ${step.stepType}`
          : "is at work";
  return [
    badge(liveRun.status),
    " ",
    runLink(liveRun.runId, `Run of ${liveRun.actor}`),
    ` ${what}`,
    liveRun.startedAt && [", begun ", time(liveRun.startedAt)],
    liveRun.leaseExpiresAt && [", it owns the issue until ", lease(liveRun)],
  ];
}
