// @ts-check
/** Owns how events read. */

import { h } from "./dom.js";
import { runLink, shape, time } from "./parts.js";

/**
 * @typedef {{eventId: number, runId: string | null, eventType: string, eventData: Record<string, any>, occurredAt: string}} Event
 */

/** By event type: the status that it looks like, and its words. */
const WORDS = /** @type {Record<string, [string, (data: Record<string, any>) => string]>} */ ({
  loop_issue_registered: ["active", ({ loop, state }) => `registered in ${loop}, ${state}`],
  loop_facts_changed: ["active", ({ factKeys }) => `facts changed: ${(factKeys ?? []).join(", ")}`],
  loop_issue_held: ["paused", () => "put on hold"],
  loop_issue_resumed: ["active", () => "resumed"],
  loop_state_set: ["active", ({ stateBefore, stateAfter }) => `put from ${stateBefore} to ${stateAfter} by hand`],
  loop_approval_decided: ["active", ({ stepType, decision }) => `${stepType} ${decision}`],
  loop_run_queued: ["pending", ({ attempt }) => `run queued${attemptOf(attempt)}`],
  loop_run_started: ["running", ({ attempt }) => `run started${attemptOf(attempt)}`],
  loop_step_skipped: ["skipped", ({ stepType }) => `${stepType} skipped`],
  loop_step_completed: ["completed", ({ stepType }) => `${stepType} completed`],
  loop_run_finished: [
    "completed",
    ({ stateBefore, stateAfter }) =>
      stateBefore === stateAfter ? "run completed" : `run completed, ${stateBefore} → ${stateAfter}`,
  ],
  loop_run_blocked: ["blocked", ({ blockerCode }) => `run blocked: ${blockerCode}`],
  loop_run_failed: [
    "failed",
    ({ errorCode, endedBy }) => `run failed: ${errorCode}${endedBy ? `, ended by ${endedBy}` : ""}`,
  ],
  loop_run_cancelled: ["cancelled", () => "run cancelled"],
  loop_retry_planned: ["pending", () => "retry planned"],
  loop_retry_cancelled: ["cancelled", () => "retry cancelled"],
});

/** @param {number} attempt */
function attemptOf(attempt) {
  return attempt > 1 ? `, attempt ${attempt}` : "";
}

/**
 * @param {Event[]} events
 * @param {{isOfRun?: boolean}} [options] Whether they are those of the run that is shown.
 */
export function timeline(events, { isOfRun = false } = {}) {
  return h(
    "ol",
    { class: "timeline" },
    events.map(({ eventId, runId, eventType, eventData, occurredAt }) => {
      const { actor, reason, comment, retryAt } = eventData;
      const [status, phrase] = WORDS[eventType] ?? ["active", () => eventType];
      const words = phrase(eventData);
      const said = reason ?? comment;
      return h(
        "li",
        { key: String(eventId) },
        shape(status),
        h(
          "div",
          null,
          h(
            "p",
            null,
            runId && !isOfRun && eventType.startsWith("loop_run_") ? runLink(runId, words) : words,
            retryAt && [", due ", time(retryAt)],
          ),
          h("p", { class: "dim" }, time(occurredAt), actor && ` by ${actor}`),
          said && h("blockquote", null, said),
        ),
      );
    }),
  );
}
