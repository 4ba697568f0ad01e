// @ts-check
/** Owns the page of a run: what it did, when, and what came of it. */

import { runActions } from "./actions.js";
import { get, now } from "./api.js";
import { h } from "./dom.js";
import { clock, duration } from "./format.js";
import {
  badge,
  facts,
  issueLink,
  jsonDetails,
  lease,
  LIVE,
  modeOf,
  nothing,
  runLink,
  section,
  table,
  time,
} from "./parts.js";
import { timeline } from "./timeline.js";

/** @type {import("./app.js").Page["title"]} */
export function title({ parts }) {
  return `Run ${parts[1].slice(0, 8)}`;
}

/** @type {import("./app.js").Page["load"]} */
export function load({ parts }, signal) {
  return get(`runs/${encodeURIComponent(parts[1])}`, {}, signal);
}

/** @type {import("./app.js").Page["isLive"]} */
export function isLive(run) {
  return LIVE.includes(run.status);
}

/** @type {import("./app.js").Page["view"]} */
export function view(run, context) {
  return [
    h(
      "p",
      { class: "subtitle" },
      badge(run.status),
      " ",
      modeOf(run),
      " of ",
      issueLink(run.issueId),
      ` by ${run.actor}`,
    ),
    runActions(run, context),
    h(
      "div",
      { class: "columns" },
      h(
        "div",
        { class: "column" },
        outcome(run),
        section("Steps", {}, steps(run)),
        section(
          "Events",
          {},
          run.events.length > 0
            ? timeline(run.events, { isOfRun: true })
            : nothing(run.mode === "dryRun" ? "A dry run leaves none." : "None yet."),
        ),
      ),
      h(
        "div",
        { class: "column rail" },
        section("Details", {}, details(run)),
        section("Metadata", {}, jsonDetails(run.metadata)),
      ),
    ),
  ];
}

/** @param {any} run */
function outcome({
  blockerCode,
  errorCode,
  errorMessage,
  message,
  status,
  cancelReason,
  cancelRequestedBy,
  cancelRequestedAt,
}) {
  if (!message && !errorCode && !cancelRequestedAt) return null;
  return h(
    "div",
    { key: "outcome", class: `outcome is-${status}` },
    (blockerCode ?? errorCode) && h("p", null, h("code", { class: "code" }, blockerCode ?? errorCode)),
    errorMessage && h("p", null, errorMessage),
    message && h("p", { class: errorMessage ? "dim" : "" }, message),
    cancelRequestedAt &&
      h(
        "p",
        null,
        `${status === "cancelled" ? "Cancelled" : "To be cancelled"} by ${cancelRequestedBy}, `,
        time(cancelRequestedAt),
      ),
    cancelReason && h("blockquote", null, cancelReason),
  );
}

/** @param {any} run */
function details(run) {
  const { loopName, loopVersion, stateBefore, stateAfter, retryOf, retriedBy, logUrl } = run;
  return facts([
    ["Run", h("code", null, run.runId)],
    ["Loop", loopName ? [loopName, loopVersion && h("span", { class: "dim" }, ` ${loopVersion}`)] : "–"],
    stateBefore && ["State", stateAfter && stateAfter !== stateBefore ? `${stateBefore} → ${stateAfter}` : stateBefore],
    ["Attempt", String(run.attempt)],
    retryOf && ["Retry of", runLink(retryOf)],
    retriedBy && ["Retried by", runLink(retriedBy)],
    run.retryAt && ["Retry planned", time(run.retryAt)],
    ["Recorded", time(run.createdAt)],
    ["Started", time(run.startedAt)],
    ["Ended", time(run.completedAt)],
    ["Took", duration(run.durationMs)],
    isLive(run) && ["Owns the issue until", lease(run)],
    run.loopStatus && ["The issue then", badge(run.loopStatus === "failed" ? "failed" : run.loopStatus)],
    run.nextStep && ["Next step", run.nextStep.stepType],
    run.principal && ["Authenticated as", run.principal],
    ["Request", h("code", null, run.requestId)],
    run.idempotencyKey && ["Idempotency-Key", h("code", null, run.idempotencyKey)],
    run.sends > 1 && ["Sent to the queue", `${run.sends} times`],
    run.lambdaRequestId && ["Lambda request", h("code", null, run.lambdaRequestId)],
    isHttps(logUrl) && [
      "Log",
      h("a", { href: logUrl, rel: "noopener noreferrer", target: "_blank" }, "its lines in CloudWatch"),
    ],
  ]);
}

/** @param {string | null} url */
function isHttps(url) {
  return !!url && URL.canParse(url) && new URL(url).protocol === "https:";
}

/**
 * Steps on the time axis of their run: waiting in the queue, and each step, to scale.
 *
 * @param {any} run
 */
function steps(run) {
  if (run.steps.length === 0) return nothing(run.status === "pending" ? "It has not begun." : "None was executed.");
  const begin = Date.parse(run.createdAt);
  const end = run.completedAt ? Date.parse(run.completedAt) : now();
  const whole = Math.max(end - begin, 1);
  const queued = Date.parse(run.startedAt ?? "") - begin;
  const rows = [
    ...(queued > 0
      ? [{ key: "queue", what: "in the queue", status: "pending", from: run.createdAt, to: run.startedAt, ms: queued }]
      : []),
    ...run.steps.map((/** @type {any} */ step) => ({
      key: step.stepId,
      what: `${step.stepNumber} ${step.stepType}`,
      status: step.status,
      from: step.startedAt,
      to: step.completedAt,
      ms: step.durationMs,
      error: step.errorMessage,
      metadata: step.metadata,
      timeoutAt: step.timeoutAt,
    })),
  ];
  return [
    table({
      caption: "Steps, in order",
      class: "spans",
      rows,
      key: (row) => row.key,
      columns: [
        { label: "Step", cell: (row) => row.what },
        { label: "Status", cell: (row) => badge(row.status, row.key === "queue" ? "waited" : row.status) },
        {
          label: "Took",
          cell: (row) => duration(row.from ? (row.ms ?? now() - Date.parse(row.from)) : null),
          class: "number",
        },
        { label: "On the run’s time", cell: (row) => span(row, begin, whole), class: "axis" },
      ],
    }),
    h(
      "p",
      { class: "axis-ends dim", "aria-hidden": "true" },
      h("span", null, clock(run.createdAt)),
      h("span", null, run.completedAt ? clock(run.completedAt) : "now"),
    ),
    rows.map(
      ({ what, metadata }) =>
        metadata && Object.keys(metadata).length > 0 && jsonDetails(metadata, `Recorded by ${what}: `),
    ),
  ];
}

/**
 * @param {any} row
 * @param {number} begin
 * @param {number} whole
 */
function span({ from, to, status }, begin, whole) {
  if (!from) return h("span", { class: "dim" }, "–");
  const start = Math.max(0, (Date.parse(from) - begin) / whole);
  const length = Math.max(0, ((to ? Date.parse(to) : now()) - Date.parse(from)) / whole);
  return h("span", {
    class: `span is-${status}`,
    "aria-hidden": "true",
    style: { "--start": start.toFixed(4), "--length": Math.min(length, 1 - start).toFixed(4) },
  });
}
