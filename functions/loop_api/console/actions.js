// @ts-check
/** Owns what people do to issues and runs: each call once, of what was seen, with what came of it told. */

import { actor, ApiError, post } from "./api.js";
import { ask } from "./dialog.js";
import { h } from "./dom.js";
import { clock } from "./format.js";
import { tell } from "./notices.js";
import { issueLink, LIVE, runLink } from "./parts.js";

/** @typedef {import("./app.js").Context} Context */
/** @typedef {import("./dom.js").Child} Child */
/** @typedef {[string, ...Child[]]} Told A status, and words. */

const LONGEST_REASON = 500;
const LONGEST_COMMENT = 2000;

/** What a call is under way for: its buttons do nothing meanwhile. */
const busy = new Set();

/**
 * Calls of run-next-step that nobody has answered, by issue and mode. Made again they are the same call, which acts once.
 *
 * @type {Map<string, {actor: string, key: string, version: number}>}
 */
const unanswered = new Map();

/**
 * @param {any} issue
 * @param {any[]} runs Newest first.
 * @param {Context} context
 */
export function issueActions(issue, runs, context) {
  const { issueId, version, hold, liveRun, nextCall } = issue;
  const isOver = isFinished(issue);
  const retried = runOfRetry(issue, runs);
  const path = `issues/${encodeURIComponent(issueId)}`;
  const seen = { "if-match": `"${version}"` };

  /** @type {(does: () => Promise<Told>) => Promise<void>} */
  const once = (does) => perform(issueId, does, context);
  /** @type {(label: string, onclick: () => unknown, options?: {kind?: string | false, key?: string}) => Child} */
  const button = (label, onclick, options) => actionButton(label, issueId, onclick, options);

  return actionGroup(
    !isOver && [
      button("Run next step", () => once(() => runNextStep(issue, "execute")), {
        kind: nextCall?.path.endsWith("/run-next-step") && "primary",
      }),
      button("Dry run", () => once(() => runNextStep(issue, "dryRun"))),
    ],
    isApprovalNext(issue) && [
      button("Approve", () => decide("Approve", "approved"), { kind: "primary" }),
      button("Reject", () => decide("Reject", "rejected"), { kind: "danger" }),
    ],
    hold && button("Resume", resume, { key: "hold" }),
    !hold && !isOver && button("Hold", stop, { key: "hold" }),
    liveRun && button("Cancel run", () => cancelRun(liveRun, once)),
    retried && button("Cancel retry", () => cancelRetry(retried, once)),
  );

  async function stop() {
    const reason = await askReason("Hold", `Nothing of ${issueId} runs until somebody resumes it.`);
    if (reason)
      await once(async () => {
        await post(`${path}/hold`, { reason }, seen);
        return ["paused", issueLink(issueId), " is on hold."];
      });
  }

  async function resume() {
    const reason = await askReason("Resume", `${issueId} goes on from ${issue.state}.`, { isDangerous: false });
    if (reason)
      await once(async () => {
        await post(`${path}/resume`, { reason }, seen);
        return ["active", issueLink(issueId), " may go on."];
      });
  }

  /**
   * @param {string} title
   * @param {string} decision
   */
  async function decide(title, decision) {
    const comment = await ask({
      title: `${title} ${issue.nextStep.stepType}?`,
      words: `The decision is for ${issueId} as you see it, version ${version}. It moves nothing: the next run does.`,
      label: "Comment",
      confirm: title,
      isDangerous: decision === "rejected",
      most: LONGEST_COMMENT,
    });
    if (comment !== undefined)
      await once(async () => {
        await post(`${path}/approvals`, comment ? { decision, comment } : { decision }, seen);
        return ["active", issueLink(issueId), ` is ${decision}: run the next step to go on.`];
      });
  }
}

/**
 * @param {any} run
 * @param {Context} context
 */
export function runActions(run, context) {
  const { runId, status, retryAt, retriedBy, cancelRequestedAt } = run;
  const isToBeRetried = status === "failed" && retryAt && !retriedBy && !isRetryDropped(run);
  /** @type {(does: () => Promise<Told>) => Promise<void>} */
  const once = (does) => perform(runId, does, context);
  return actionGroup(
    LIVE.includes(status) && !cancelRequestedAt && actionButton("Cancel run", runId, () => cancelRun(run, once)),
    isToBeRetried && actionButton("Cancel retry", runId, () => cancelRetry(run, once)),
  );
}

/** @param {...Child} buttons */
function actionGroup(...buttons) {
  return h("div", { class: "actions", role: "group", "aria-label": "Actions" }, ...buttons);
}

/** @param {any} run */
function isRetryDropped(run) {
  return (run.events ?? []).some((/** @type {any} */ event) => event.eventType === "loop_retry_cancelled");
}

/**
 * Whether the issue waits for a decision, or for nothing else: another decision replaces the one there is.
 *
 * @param {any} issue
 */
export function isApprovalNext({ liveRun, unmetGates, nextStep, loopDefinition, hold }) {
  const step = loopDefinition?.steps.find((/** @type {any} */ each) => each.stepNumber === nextStep?.stepNumber);
  const others = unmetGates.filter((/** @type {any} */ gate) => !gate.blocker.startsWith("APPROVAL_"));
  return step?.executor === "approval" && others.length === 0 && !liveRun && !hold;
}

/** @param {any} issue */
export function isFinished({ liveRun, nextCall }) {
  return !liveRun && !nextCall;
}

/**
 * The failed run whose step is tried again by itself.
 *
 * @param {any} issue
 * @param {any[]} runs Newest first.
 */
export function runOfRetry({ nextAttemptAt, liveRun }, runs) {
  const last = runs.find((run) => run.mode === "execute");
  return nextAttemptAt && !liveRun && last?.status === "failed" && last.retryAt ? last : undefined;
}

/**
 * @param {string} label
 * @param {string} subject
 * @param {() => unknown} onclick
 * @param {{kind?: string | false, key?: string}} [options]
 */
function actionButton(label, subject, onclick, { kind = false, key = label } = {}) {
  const isBusy = busy.has(subject);
  return h(
    "button",
    {
      key,
      type: "button",
      class: kind,
      "aria-disabled": isBusy && "true", // one that is disabled would lose the focus
      onclick: (/** @type {MouseEvent} */ event) => isBusy || event.detail > 1 || onclick(), // a double click is one
    },
    label,
  );
}

/**
 * Make a call, then tell what came of it, and read the page again.
 *
 * @param {string} subject
 * @param {() => Promise<Told>} does
 * @param {Context} context
 */
async function perform(subject, does, context) {
  busy.add(subject);
  context.draw();
  try {
    tell(...(await does()));
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    tell("failed", problem(error));
  } finally {
    await context.refresh(); // nobody shall act on what was there before
    busy.delete(subject);
    context.draw();
  }
}

/**
 * @param {ApiError} error
 * @returns {Child}
 */
function problem({ code, message, details, requestId, isUnanswered }) {
  if (code === "PRECONDITION_FAILED") return "The issue has changed since you looked: it was reloaded, look again.";
  if (code === "LOOP_CONFLICT") {
    const until = details.leaseExpiresAt
      ? ` until ${clock(details.leaseExpiresAt)} at the latest`
      : details.startBy
        ? `, to begin by ${clock(details.startBy)}`
        : "";
    return [`${details.actor} owns the issue${until}: `, runLink(details.runId, "look at the run"), "."];
  }
  return [
    message,
    isUnanswered && code !== "UNAVAILABLE" && " Nobody knows whether it was done: look before you repeat it.", // that says it itself
    requestId && [" Request ", h("code", null, requestId), "."],
  ];
}

/**
 * @param {any} issue
 * @param {"execute" | "dryRun"} mode
 * @returns {Promise<Told>}
 */
async function runNextStep({ issueId, version }, mode) {
  const id = `${mode} ${issueId}`;
  const before = unanswered.get(id);
  const call = before?.actor === actor() ? before : { actor: actor(), key: newKey(), version };
  unanswered.set(id, call);
  try {
    const answer = await post(
      `issues/${encodeURIComponent(issueId)}/run-next-step`,
      { mode },
      {
        "idempotency-key": call.key,
        "if-match": `"${call.version}"`,
      },
    );
    unanswered.delete(id);
    return outcome(answer);
  } catch (error) {
    const isInFlight = error instanceof ApiError && error.code === "LOOP_CONFLICT" && before === call; // our own run, it may be
    if (error instanceof ApiError && !error.isUnanswered && !isInFlight) unanswered.delete(id);
    throw error;
  }
}

/**
 * @param {any} answer
 * @returns {Told}
 */
function outcome({ runId, blocker, error, message, stepExecuted }) {
  const run = [" ", runLink(runId, "The run")];
  if (blocker) return ["blocked", h("b", null, blocker.code), " ", blocker.message, run];
  if (error) return ["failed", h("b", null, error.code), " ", error.message, ". ", message, run];
  if (message?.startsWith("queued")) return ["pending", "Queued: it begins in the background.", run];
  return [stepExecuted?.status ?? "completed", message ?? "Done.", run];
}

function newKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/**
 * @param {{runId: string}} run
 * @param {(does: () => Promise<Told>) => Promise<void>} once
 */
async function cancelRun({ runId }, once) {
  const words =
    "One that waits ends at once; one that executes a step, at its next safe point. State and facts of the issue stay.";
  const reason = await askReason("Cancel run", words, { isRequired: false });
  if (reason !== undefined)
    await once(async () => {
      const { status } = await post(`runs/${encodeURIComponent(runId)}/cancel`, reason ? { reason } : {});
      return [
        "cancelled",
        runLink(runId, "The run"),
        status === "cancelled" ? " is cancelled." : " is to be cancelled at its next safe point.",
      ];
    });
}

/**
 * @param {{runId: string}} run
 * @param {(does: () => Promise<Told>) => Promise<void>} once
 */
async function cancelRetry({ runId }, once) {
  const reason = await askReason("Cancel retry", "The step is not tried again by itself. The run stays failed.", {
    isRequired: false,
  });
  if (reason !== undefined)
    await once(async () => {
      await post(`runs/${encodeURIComponent(runId)}/cancel`, reason ? { reason } : {});
      return ["cancelled", "The retry of ", runLink(runId, "the run"), " is dropped."];
    });
}

/**
 * @param {string} title
 * @param {string} words
 * @param {{isDangerous?: boolean, isRequired?: boolean}} [options]
 */
function askReason(title, words, { isDangerous = true, isRequired = true } = {}) {
  return ask({
    title: `${title}?`,
    words,
    label: "Reason",
    confirm: title,
    isDangerous,
    isRequired,
    most: LONGEST_REASON,
  });
}
