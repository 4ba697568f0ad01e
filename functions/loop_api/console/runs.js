// @ts-check
/** Owns the list of runs, of all issues or of one. */

import { get } from "./api.js";
import { h } from "./dom.js";
import { choice, filterBar, instant, statuses, text } from "./filters.js";
import { listEnd, merged } from "./lists.js";
import { loadLoops, loopNames, loopOf, stepName } from "./loops.js";
import { badge, issueLink, LIVE, modeOf, reason, runLink, table, time, took } from "./parts.js";

const PAGE = 30;
const FILTERS = ["status", "loop", "actor", "since", "until"];

export function title() {
  return "Runs";
}

/**
 * @param {import("./routes.js").Route} route
 * @param {AbortSignal} [signal]
 * @param {string} [cursor]
 */
function read({ query }, signal, cursor) {
  const given = Object.fromEntries(FILTERS.map((name) => [name, query.get(name)]));
  return get("runs", { ...given, limit: PAGE, cursor }, signal);
}

/** @type {import("./app.js").Page["load"]} */
export async function load(route, signal) {
  const [runs] = await Promise.all([read(route, signal), loadLoops(signal)]);
  return runs;
}

/** @type {NonNullable<import("./app.js").Page["merge"]>} */
export function merge(fresh, current) {
  return mergeRuns(fresh, current);
}

/**
 * @param {import("./lists.js").List<any>} fresh
 * @param {import("./lists.js").List<any>} current
 */
export function mergeRuns(fresh, current) {
  return merged(fresh, current, (run) => [run.createdAt, run.runId]);
}

/** @type {import("./app.js").Page["isLive"]} */
export function isLive({ items }) {
  return items.some((/** @type {any} */ run) => LIVE.includes(run.status));
}

/** @type {NonNullable<import("./app.js").Page["filters"]>} */
export function filters(route) {
  return h(
    "div",
    { class: "bar" },
    filterBar(
      route,
      statuses(route),
      choice(route, "Loop", loopNames()),
      text(route, "Actor"),
      instant(route, "Since"),
      instant(route, "Until"),
    ),
  );
}

/** @type {import("./app.js").Page["view"]} */
export function view(runs, { route, update }) {
  return [
    runs.items.length > 0 &&
      runTable(runs.items, "Runs, newest first", (run) => stepName(loopOf(run.loopName), run.step), { hasIssue: true }),
    listEnd(
      runs,
      (cursor) => read(route, undefined, cursor),
      update,
      route.query.size > 0 ? "No run is like that." : "Nothing has run yet.",
    ),
  ];
}

/**
 * @param {any[]} runs
 * @param {string} caption
 * @param {(run: any) => string | null} nameOf What its step is called.
 * @param {{hasIssue?: boolean}} [options]
 */
export function runTable(runs, caption, nameOf, { hasIssue = false } = {}) {
  return table({
    caption,
    rows: runs,
    key: (run) => run.runId,
    columns: [
      { label: "Run", cell: (run) => [runLink(run.runId), " ", modeOf(run)] },
      ...(hasIssue ? [{ label: "Issue", cell: (/** @type {any} */ run) => issueLink(run.issueId) }] : []),
      { label: "Status", cell: (run) => [badge(run.status), " ", reason(run)] },
      { label: "Step", cell: (run) => step(run, nameOf(run)) },
      { label: "Actor", cell: (run) => run.actor, class: "actor" },
      { label: "Recorded", cell: (run) => time(run.createdAt), class: "dim" },
      { label: "Took", cell: took, class: "number" },
    ],
  });
}

/**
 * @param {any} run
 * @param {string | null} name
 */
function step({ attempt, stateBefore, stateAfter }, name) {
  const isMoved = stateAfter && stateBefore !== stateAfter;
  const more = [attempt > 1 && `attempt ${attempt}`, isMoved && `→ ${stateAfter}`].filter(Boolean).join(", ");
  return [name ?? h("span", { class: "dim" }, "none"), more && h("span", { class: "more" }, ` ${more}`)];
}
