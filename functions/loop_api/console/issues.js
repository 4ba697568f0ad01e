// @ts-check
/** Owns the list of issues. */

import { get } from "./api.js";
import { h } from "./dom.js";
import { choice, filterBar } from "./filters.js";
import { listEnd, merged } from "./lists.js";
import { loadLoops, loopNames, statesOf } from "./loops.js";
import { advice, badge, issueLink, lease, LIVE, reason, runLink, table, time } from "./parts.js";
import { go } from "./routes.js";

const PAGE = 30;

export function title() {
  return "Issues";
}

/**
 * @param {import("./routes.js").Route} route
 * @param {AbortSignal} [signal]
 * @param {string} [cursor]
 */
function read({ query }, signal, cursor) {
  return get("issues", { loop: query.get("loop"), state: query.get("state"), limit: PAGE, cursor }, signal);
}

/** @type {import("./app.js").Page["load"]} */
export async function load(route, signal) {
  const [issues] = await Promise.all([read(route, signal), loadLoops(signal)]);
  return issues;
}

/** @type {NonNullable<import("./app.js").Page["merge"]>} */
export function merge(fresh, current) {
  return merged(fresh, current, (issue) => [issue.createdAt, issue.issueId]);
}

/** @type {import("./app.js").Page["isLive"]} */
export function isLive({ items }) {
  return items.some((/** @type {any} */ { lastRun }) => LIVE.includes(lastRun?.status));
}

/** @type {NonNullable<import("./app.js").Page["filters"]>} */
export function filters(route) {
  return h(
    "div",
    { class: "bar" },
    filterBar(
      route,
      choice(route, "Loop", loopNames()),
      choice(route, "State", statesOf(route.query.get("loop") ?? "")),
    ),
    h(
      "form",
      {
        class: "open",
        onsubmit: (/** @type {any} */ event) => {
          event.preventDefault();
          const id = event.target.elements.id.value.trim();
          if (id) go(["issues", id]);
        },
      },
      h(
        "label",
        null,
        h("span", null, "Open issue"),
        h("input", { name: "id", placeholder: "its id", autocomplete: "off", spellcheck: "false" }),
      ),
      h("button", { type: "submit" }, "Open"),
    ),
  );
}

/** @type {import("./app.js").Page["view"]} */
export function view(issues, { route, update }) {
  return [
    issues.items.length > 0 &&
      table({
        caption: "Issues, newest first",
        rows: issues.items,
        key: (issue) => issue.issueId,
        columns: [
          { label: "Issue", cell: (issue) => issueLink(issue.issueId) },
          { label: "Loop", cell: ({ loop }) => h("span", { class: "name", title: loop }, loop), class: "dim" },
          { label: "State", cell: (issue) => h("span", { class: "tag" }, issue.state) },
          { label: "Last run", cell: (issue) => lastRun(issue.lastRun), class: "wide" },
          { label: "What is next", cell: next },
          { label: "Changed", cell: (issue) => time(issue.updatedAt), class: "dim" },
        ],
      }),
    listEnd(
      issues,
      (cursor) => read(route, undefined, cursor),
      update,
      route.query.size > 0 ? "No issue is like that." : "No issue is registered.",
    ),
  ];
}

/** @param {any} run */
function lastRun(run) {
  if (!run) return h("span", { class: "dim" }, "none");
  return [
    badge(run.status),
    " ",
    reason(run),
    " ",
    h("span", { class: "more" }, runLink(run.runId, time(run.completedAt ?? run.createdAt)), " by ", run.actor),
  ];
}

/** @param {any} issue */
function next({ hold, nextAttemptAt, lastRun }) {
  if (hold) return [badge("paused", "on hold"), " ", h("span", { class: "dim" }, hold.reason)];
  if (LIVE.includes(lastRun?.status)) return [h("span", { class: "dim" }, "at work until "), lease(lastRun)];
  if (nextAttemptAt)
    return [badge("pending", lastRun?.status === "failed" ? "tried again" : "goes on"), " ", time(nextAttemptAt)];
  if (lastRun?.status === "blocked") return advice(lastRun.message);
  return h("span", { class: "dim" }, lastRun?.loopStatus === "completed" ? "done" : "–");
}
