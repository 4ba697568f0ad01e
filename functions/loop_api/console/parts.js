// @ts-check
/** Owns what pages are made of: statuses, times, links, tables, boxes. */

import { now } from "./api.js";
import { h } from "./dom.js";
import { duration, exact, json, relative, roughly, shortId } from "./format.js";
import { href } from "./routes.js";

/** @typedef {import("./dom.js").Child} Child */

/** What is not over: such a run owns its issue. */
export const LIVE = ["pending", "running"];

/** Statuses of runs, in the order in which they are stacked and listed. */
export const RUN_STATUSES = ["completed", "failed", "blocked", "cancelled", "running", "pending"];

/** A shape for each status, so that none is told by its colour alone. Paths in a square of 12. */
const SHAPES = {
  completed: "M2.5 6.5 5 9 9.5 3.5",
  failed: "M3 3 9 9M9 3 3 9",
  blocked: "M4.2 2.5v7M7.8 2.5v7",
  cancelled: "M6 1.5a4.5 4.5 0 1 0 0 9a4.5 4.5 0 0 0 0-9M3 9 9 3",
  running: "M3.5 2.2 9.5 6 3.5 9.8Z",
  pending: "M6 1.5a4.5 4.5 0 1 0 0 9a4.5 4.5 0 0 0 0-9M6 3.5V6l1.8 1.2",
  skipped: "M2 8.5a4 4 0 0 1 7.4-2M9.8 3v3.6H6.2",
  active: "M2 6h7.5M6.5 3 9.5 6 6.5 9",
  paused: "M4.2 2.5v7M7.8 2.5v7",
};

/** @param {string} status */
export function shape(status) {
  const path = SHAPES[/** @type {keyof typeof SHAPES} */ (status)] ?? "M6 5.9v.2";
  return h("svg", { class: `shape is-${status}`, viewBox: "0 0 12 12", "aria-hidden": "true" }, h("path", { d: path }));
}

/**
 * A picture that is described: what it is in short, and all that it shows.
 *
 * @param {string} name What tells it from other pictures of the page.
 * @param {string} title
 * @param {string} description
 * @param {Record<string, any>} attrs
 * @param {...Child} shapes
 */
export function picture(name, title, description, attrs, ...shapes) {
  const [titleId, descriptionId] = [`${name}-title`, `${name}-description`];
  return h(
    "svg",
    { role: "img", "aria-labelledby": titleId, "aria-describedby": descriptionId, ...attrs },
    h("title", { id: titleId }, title),
    h("desc", { id: descriptionId }, description),
    ...shapes,
  );
}

/**
 * @param {string} status
 * @param {string} [words] Where the status itself is not what shall be read.
 */
export function badge(status, words = status) {
  return h("span", { class: `badge is-${status}` }, shape(status), words);
}

/**
 * How long ago, or until when; the exact time is in the title.
 *
 * @param {string | null | undefined} instant
 */
export function time(instant) {
  if (!instant) return h("span", { class: "dim" }, "–");
  return h("time", { datetime: instant, title: exact(instant) }, relative(instant, now()));
}

/** @param {string} issueId */
export function issueLink(issueId) {
  return h("a", { class: "id", href: href(["issues", issueId]), title: issueId }, issueId);
}

/**
 * @param {string} runId
 * @param {Child} [words]
 */
export function runLink(runId, words = shortId(runId)) {
  return h("a", { class: "id", href: href(["runs", runId]), title: runId }, words);
}

/**
 * Whether a live run's lease is over: somebody will end it.
 *
 * @param {{status: string, leaseExpiresAt?: string | null}} run
 */
export function isPastLease(run) {
  return LIVE.includes(run.status) && !!run.leaseExpiresAt && Date.parse(run.leaseExpiresAt) < now();
}

/** @param {{status: string, leaseExpiresAt?: string | null}} run */
export function lease(run) {
  if (!run.leaseExpiresAt) return time(null);
  return h("span", null, isPastLease(run) && [badge("failed", "past its lease"), " "], time(run.leaseExpiresAt));
}

/**
 * How long a run took; of a live one, how long it has been at work.
 *
 * @param {any} run
 */
export function took(run) {
  if (!LIVE.includes(run.status)) return duration(run.durationMs);
  const since = Date.parse(run.startedAt ?? run.createdAt);
  return [
    isPastLease(run) && [badge("failed", "past its lease"), " "],
    `${roughly(Math.max(0, now() - since))} so far`,
  ];
}

/**
 * How a run ended, in short: its blocker, its error, or what it says.
 *
 * @param {{blockerCode?: string | null, errorCode?: string | null, message?: string | null}} run
 */
export function reason(run) {
  const code = run.blockerCode ?? run.errorCode;
  return code ? h("code", { class: "code", title: code }, code) : null;
}

/** @param {{mode?: string}} run */
export function modeOf(run) {
  return run.mode === "dryRun" ? h("span", { class: "tag" }, "dry run") : null;
}

/**
 * @param {string} heading
 * @param {{key?: string, class?: string, aside?: Child}} options
 * @param {...Child} children
 */
export function section(heading, { key = heading, class: name = "", aside = null }, ...children) {
  const id = `section-${key.replaceAll(/\W+/g, "-")}`.toLowerCase();
  return h(
    "section",
    { key, class: `section ${name}`, "aria-labelledby": id },
    h("div", { class: "section-head" }, h("h2", { id }, heading), aside),
    ...children,
  );
}

/**
 * A table whose rows become cards where it is narrow. The first column heads its row.
 *
 * @template Row
 * @param {{caption: string, rows: Row[], key: (row: Row) => string, class?: string,
 *   columns: {label: string, cell: (row: Row) => Child, class?: string}[]}} options
 */
export function table({ caption, rows, key, columns, class: name = "" }) {
  return h(
    "table",
    { class: `table ${name}`, role: "table" },
    h("caption", { class: "unseen" }, caption),
    h(
      "thead",
      { role: "rowgroup" },
      h(
        "tr",
        { role: "row" },
        columns.map(({ label, class: name }) => h("th", { scope: "col", role: "columnheader", class: name }, label)),
      ),
    ),
    h(
      "tbody",
      { role: "rowgroup" },
      rows.map((row) =>
        h(
          "tr",
          { key: key(row), role: "row" },
          columns.map(({ label, cell, class: name }, place) =>
            place === 0
              ? h("th", { scope: "row", role: "rowheader", class: name }, cell(row))
              : h("td", { role: "cell", class: name, "data-label": label }, h("span", null, cell(row))),
          ),
        ),
      ),
    ),
  );
}

/**
 * Names and values.
 *
 * @param {(readonly [string, Child] | null | false | undefined | "")[]} pairs
 */
export function facts(pairs) {
  return h(
    "dl",
    { class: "facts" },
    pairs.map((pair) => pair && h("div", { key: pair[0] }, h("dt", null, pair[0]), h("dd", null, pair[1]))),
  );
}

/** @param {...Child} words */
export function nothing(...words) {
  return h("p", { class: "nothing" }, ...words);
}

/**
 * An object behind the names of its keys.
 *
 * @param {object} value
 * @param {string} [words] Before the names.
 */
export function jsonDetails(value, words = "") {
  const names = Object.keys(value);
  if (names.length === 0) return nothing("None.");
  return h(
    "details",
    { key: words },
    h("summary", null, words, names.join(", ")),
    h("pre", { class: "json" }, json(value)),
  );
}

/**
 * What to do about a blocker, without the call that its message ends with.
 *
 * @param {string} message
 */
export function advice(message) {
  return message.split(" To go on: ")[0];
}

/**
 * A call of the API, as a person would write it down.
 *
 * @param {{method: string, path: string, body: object, ifMatch?: number}} call
 */
export function callBlock({ method, path, body, ifMatch }) {
  return h(
    "pre",
    { class: "call" },
    h("b", null, method),
    ` ${path}`,
    ifMatch !== undefined && `\nIf-Match: "${ifMatch}"`,
    Object.keys(body).length > 0 && `\n${JSON.stringify(body)}`,
  );
}
