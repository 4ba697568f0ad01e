// @ts-check
/** Owns the overview: what is at work, what has failed, what is blocked, how long things take. */

import { get, now } from "./api.js";
import { runsPerHour, stepDurations } from "./charts.js";
import { h } from "./dom.js";
import { duration, number, percent, roughly } from "./format.js";
import { badge, issueLink, lease, nothing, reason, runLink, section, table, time, took } from "./parts.js";
import { href } from "./routes.js";

const HOUR_MS = 3_600_000;

/** The longest window that the API takes, less an hour: its clock and ours may differ. */
const WEEK_MS = 7 * 24 * HOUR_MS - HOUR_MS;

const SHOWN = 8;
const MOST_LIVE = 50;

export function title() {
  return "Overview";
}

/** @type {import("./app.js").Page["load"]} */
export async function load({ query }, signal) {
  const since = query.get("window") === "7d" ? new Date(now() - WEEK_MS).toISOString() : null;
  const [stats, live, failed] = await Promise.all([
    get("stats", { since }, signal),
    get("runs", { status: "pending,running", limit: MOST_LIVE }, signal),
    get("runs", { status: "failed", limit: SHOWN }, signal),
  ]);
  return { stats, live: live.items, failed: failed.items };
}

/** @type {import("./app.js").Page["isLive"]} */
export function isLive({ live }) {
  return live.length > 0;
}

/** @type {NonNullable<import("./app.js").Page["filters"]>} */
export function filters({ query }) {
  const chosen = query.get("window") === "7d" ? "7d" : "";
  return h(
    "nav",
    { class: "segments", "aria-label": "Window" },
    [
      ["", "24 h"],
      ["7d", "7 d"],
    ].map(([window, words]) =>
      h("a", { key: words, href: href([], { window }), "aria-current": window === chosen && "true" }, words),
    ),
  );
}

/** @type {import("./app.js").Page["view"]} */
export function view({ stats, live, failed }) {
  return [
    figures(stats),
    h("div", { class: "charts" }, runsPerHour(stats.hours), stepDurations(stats.hours)),
    h(
      "div",
      { class: "columns even" },
      h(
        "div",
        { class: "column" },
        section(
          "Live runs",
          {
            aside:
              stats.live.total > live.length &&
              h("a", { href: href(["runs"], { status: "running,pending" }) }, `all ${number(stats.live.total)}`),
          },
          live.length > 0 ? liveTable(live) : nothing("Nothing is at work now."),
        ),
        section(
          "Blocked",
          {},
          stats.blocked.length > 0 ? blockedTable(stats.blocked) : nothing("Nothing was blocked."),
        ),
      ),
      h(
        "div",
        { class: "column" },
        section(
          "Recent failures",
          { aside: h("a", { href: href(["runs"], { status: "failed" }) }, "all") },
          failed.length > 0 ? failedTable(failed) : nothing("No run has failed."),
        ),
      ),
    ),
    section("Steps", {}, stats.steps.length > 0 ? stepTable(stats.steps) : nothing("No step was executed.")),
  ];
}

/** @param {any} stats */
function figures({ runs, live, blocked }) {
  const waiting = blocked.reduce((/** @type {number} */ sum, /** @type {any} */ { ongoing }) => sum + ongoing, 0);
  const { oldest } = live;
  return h(
    "dl",
    { class: "figures" },
    figure(
      "Runs",
      number(runs.total),
      runs.durationMs && `p50 ${duration(runs.durationMs.p50)}, p95 ${duration(runs.durationMs.p95)}`,
    ),
    figure("Success rate", percent(runs.successRate), `${number(runs.byStatus.completed)} completed`),
    figure("Failed", number(runs.byStatus.failed), `${number(runs.retries)} retries`),
    figure("Blocked now", number(waiting), `${number(runs.byStatus.blocked)} blocked runs`),
    figure(
      "Live now",
      number(live.total),
      oldest ? ["oldest ", runLink(oldest.runId, roughly(Math.max(0, now() - Date.parse(oldest.createdAt))))] : "none",
    ),
  );
}

/**
 * @param {string} name
 * @param {string} value
 * @param {import("./dom.js").Child} more
 */
function figure(name, value, more) {
  return h("div", null, h("dt", null, name), h("dd", null, value, " ", h("span", { class: "dim" }, more)));
}

/** @param {any[]} runs */
function liveTable(runs) {
  return table({
    caption: "Live runs, newest first",
    rows: runs,
    key: (run) => run.runId,
    columns: [
      { label: "Issue", cell: (run) => issueLink(run.issueId) },
      { label: "Run", cell: (run) => [badge(run.status), " ", runLink(run.runId)] },
      { label: "Lease", cell: lease },
      { label: "Took", cell: took, class: "number" },
    ],
  });
}

/** @param {any[]} runs */
function failedTable(runs) {
  return table({
    caption: "Recent failures, newest first",
    rows: runs,
    key: (run) => run.runId,
    columns: [
      { label: "Issue", cell: (run) => issueLink(run.issueId) },
      { label: "Error", cell: (run) => [reason(run), h("span", { class: "dim message" }, run.errorMessage)] },
      { label: "Run", cell: (run) => runLink(run.runId, time(run.completedAt)) },
    ],
  });
}

/** @param {any[]} blocked */
function blockedTable(blocked) {
  return table({
    caption: "What was blocked, and for how long",
    rows: blocked.toSorted((one, other) => other.ongoing - one.ongoing || other.runs - one.runs),
    key: ({ code }) => code,
    columns: [
      { label: "Blocker", cell: ({ code }) => h("code", { class: "code" }, code) },
      {
        label: "Now",
        cell: ({ ongoing }) => (ongoing > 0 ? h("b", null, number(ongoing)) : h("span", { class: "dim" }, "0")),
        class: "number",
      },
      { label: "Issues", cell: ({ issues }) => number(issues), class: "number" },
      { label: "Runs", cell: ({ runs }) => number(runs), class: "number" },
      ...durations(({ blockedMs }) => blockedMs, roughly),
    ],
  });
}

/** @param {any[]} steps */
function stepTable(steps) {
  return table({
    caption: "How long steps took",
    rows: steps,
    key: ({ loop, stepNumber, stepType }) => `${loop} ${stepNumber} ${stepType}`,
    columns: [
      {
        label: "Step",
        cell: ({ stepNumber, stepType }) => h("span", { class: "name", title: stepType }, `${stepNumber} ${stepType}`),
      },
      { label: "Loop", cell: ({ loop }) => h("span", { class: "name", title: loop }, loop ?? "–"), class: "dim" },
      {
        label: "Executed",
        cell: ({ byStatus }) =>
          Object.entries(byStatus).map(([status, count]) => [badge(status, `${number(Number(count))} ${status}`), " "]),
      },
      ...durations(({ durationMs }) => durationMs),
      scale(steps),
    ],
  });
}

/**
 * @param {(row: any) => Record<string, number> | null} of
 * @param {(ms: number) => string} [words]
 */
function durations(of, words = duration) {
  return ["p50", "p95", "max"].map((name) => ({
    label: name,
    class: "number",
    cell: (/** @type {any} */ row) => (of(row) ? words(/** @type {any} */ (of(row))[name]) : "–"),
  }));
}

/**
 * A picture of the same: from p50 to p95, and on to the longest, on one scale for all steps, a logarithmic one.
 *
 * @param {any[]} steps
 */
function scale(steps) {
  const longest = Math.log(Math.max(10, ...steps.map(({ durationMs }) => durationMs?.max ?? 0)));
  const share = (/** @type {number} */ ms) => (Math.log(Math.max(1, ms)) / longest).toFixed(4);
  return {
    label: "p50 to p95, longest",
    class: "axis",
    cell: (/** @type {any} */ { durationMs }) =>
      durationMs &&
      h("span", {
        class: "whisker",
        "aria-hidden": "true",
        style: { "--p50": share(durationMs.p50), "--p95": share(durationMs.p95), "--max": share(durationMs.max) },
      }),
  };
}
