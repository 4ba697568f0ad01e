// @ts-check
/** Owns how values read: durations, times, numbers, ids, conditions. */

const SECOND = 1000;
const MINUTE = 60 * SECOND;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;

/**
 * 12 ms, 3.4 s, 2 min 5 s, 2 h 5 min, 3 d 4 h.
 *
 * @param {number | null | undefined} ms
 */
export function duration(ms) {
  if (ms === null || ms === undefined) return "–";
  if (ms < SECOND) return `${Math.min(999, Math.max(0, Math.round(ms)))} ms`;
  if (ms < MINUTE) return `${Math.floor(ms / 100) / 10} s`;
  const [unit, name, smaller, smallerName] = /** @type {[number, string, number, string]} */ (
    ms < HOUR ? [MINUTE, "min", SECOND, "s"] : ms < 2 * DAY ? [HOUR, "h", MINUTE, "min"] : [DAY, "d", HOUR, "h"]
  );
  const whole = Math.floor(ms / unit);
  const rest = Math.floor((ms % unit) / smaller);
  return rest ? `${whole} ${name} ${rest} ${smallerName}` : `${whole} ${name}`;
}

/**
 * A length of time in one unit: 12 s, 3 min, 2 h, 5 d.
 *
 * @param {number} ms
 */
export function roughly(ms) {
  if (ms < MINUTE) return `${Math.floor(ms / SECOND)} s`;
  if (ms < HOUR) return `${Math.floor(ms / MINUTE)} min`;
  if (ms < 2 * DAY) return `${Math.floor(ms / HOUR)} h`;
  return `${Math.floor(ms / DAY)} d`;
}

/**
 * 3 min ago, in 20 s.
 *
 * @param {string} instant
 * @param {number} now
 */
export function relative(instant, now) {
  const ms = now - Date.parse(instant);
  if (Math.abs(ms) < 2 * SECOND) return "just now";
  return ms > 0 ? `${roughly(ms)} ago` : `in ${roughly(-ms)}`;
}

/**
 * 2026-11-24 02:57:52.462 UTC.
 *
 * @param {string} instant
 */
export function exact(instant) {
  const at = new Date(instant);
  return Number.isNaN(at.valueOf()) ? instant : `${at.toISOString().replace("T", " ").replace("Z", "")} UTC`;
}

/**
 * 02:57:52 UTC.
 *
 * @param {string} instant
 */
export function clock(instant) {
  return `${new Date(instant).toISOString().slice(11, 19)} UTC`;
}

/** @param {number} count */
export function number(count) {
  return count.toLocaleString("en");
}

/**
 * 1 run, 2 runs.
 *
 * @param {number} count
 * @param {string} noun
 */
export function counted(count, noun) {
  return `${number(count)} ${noun}${count === 1 ? "" : "s"}`;
}

/** @param {number | null} share Of 1. */
export function percent(share) {
  if (share === null) return "–";
  const rounded = (share * 100).toFixed(1);
  return `${rounded.replace(/\.0$/, "")} %`;
}

/**
 * A run's id in lists: its beginning tells the time, its end tells it from its neighbours.
 *
 * @param {string} runId
 */
export function shortId(runId) {
  return `${runId.slice(0, 8)}…${runId.slice(-4)}`;
}

/** @param {unknown} value */
export function json(value) {
  return JSON.stringify(value, null, 2);
}

/**
 * A gate or a skip_if condition, as its loop's file has it.
 *
 * @param {Record<string, any>} condition
 */
export function condition(condition) {
  const { fact } = condition;
  if ("is" in condition) return `${fact} is ${JSON.stringify(condition.is)}`;
  if ("in" in condition)
    return `${fact} is ${condition.in.map((/** @type {unknown} */ each) => JSON.stringify(each)).join(" or ")}`;
  if ("min" in condition && "max" in condition) return `${fact} is ${condition.min} to ${condition.max}`;
  if ("min" in condition) return `${fact} is at least ${condition.min}`;
  if ("max" in condition) return `${fact} is at most ${condition.max}`;
  if ("same_as" in condition) return `${fact} is the same as ${condition.same_as}`;
  if ("max_age_seconds" in condition) return `${fact} is at most ${duration(condition.max_age_seconds * SECOND)} old`;
  return `${fact} is there`;
}
