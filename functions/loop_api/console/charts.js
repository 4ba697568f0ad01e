// @ts-check
/** Owns the charts: shapes that stretch with the page, words that do not, and the same numbers as a table. */

import { h } from "./dom.js";
import { counted, duration, exact, number } from "./format.js";
import { picture, RUN_STATUSES, table } from "./parts.js";

/** @typedef {import("./dom.js").Child} Child */
/** @typedef {{hour: string, byStatus: Record<string, number>, durationMs: {p50: number, p95: number, max: number} | null}} Hour */

const HEIGHT = 100;
const MARKS_MS = [1, 10, 100, 1_000, 10_000, 60_000, 600_000, 3_600_000, 36_000_000, 86_400_000, 864_000_000];

/** @param {Hour[]} hours */
export function runsPerHour(hours) {
  const used = RUN_STATUSES.filter((status) => hours.some(({ byStatus }) => byStatus[status] > 0));
  const most = Math.max(...hours.map(({ byStatus }) => total(byStatus)));
  const top = ceiling(most);
  const all = hours.reduce((sum, { byStatus }) => sum + total(byStatus), 0);
  return chart({
    title: "Runs per hour",
    summary: `${counted(all, "run")} in ${hours.length} hours, at most ${most} in one`,
    legend: used.map((status) => h("span", { key: status, class: `swatch is-${status}` }, status)),
    marks: [top, top / 2, 0].map((value) => ({ at: value / top, words: number(value) })),
    hours,
    shapes: hours.map((hour, place) => {
      let base = 0;
      return h(
        "g",
        { key: hour.hour },
        hover(
          place,
          `${hourOf(hour)}: ${used.map((status) => `${number(hour.byStatus[status])} ${status}`).join(", ") || "none"}`,
        ),
        used.map((status) => {
          const count = hour.byStatus[status];
          const height = (count / top) * HEIGHT;
          base += height;
          return (
            count > 0 &&
            h("rect", { key: status, class: `is-${status}`, x: place + 0.12, width: 0.76, y: HEIGHT - base, height })
          );
        }),
      );
    }),
    columns: [
      { label: "Hour (UTC)", cell: hourOf },
      ...used.map((status) => ({
        label: status,
        class: "number",
        cell: (/** @type {Hour} */ hour) => number(hour.byStatus[status]),
      })),
    ],
  });
}

/** @param {Hour[]} hours */
export function stepDurations(hours) {
  const measured = hours.flatMap(({ durationMs }) => durationMs ?? []);
  const low = MARKS_MS.findLast((mark) => mark <= Math.max(1, Math.min(...measured.map(({ p50 }) => p50)))) ?? 1;
  const high = MARKS_MS.find((mark) => mark >= Math.max(low * 10, ...measured.map(({ p95 }) => p95))) ?? Infinity;
  const marks = MARKS_MS.filter((mark) => mark >= low && mark <= high);
  const every = Math.ceil(marks.length / 5);
  const at = (/** @type {number} */ ms) => Math.log(Math.max(ms, low) / low) / Math.log(high / low);
  return chart({
    title: "Step duration per hour",
    summary:
      measured.length > 0
        ? `half of the steps within the lower mark, 95 % within the upper one, from ${duration(low)} to ${duration(high)}`
        : "no step was executed",
    legend: [
      h("span", { class: "swatch is-p50" }, "p50"),
      h("span", { class: "swatch is-p95" }, "p95"),
      h("span", { class: "dim" }, "logarithmic"),
    ],
    marks: marks
      .filter((_, place) => place % every === 0)
      .map((mark) => ({ at: at(mark), words: duration(mark) }))
      .reverse(),
    hours,
    shapes: hours.map((hour, place) => {
      const { durationMs } = hour;
      if (!durationMs) return h("g", { key: hour.hour }, hover(place, `${hourOf(hour)}: none`));
      const [lower, upper] = [at(durationMs.p50), at(durationMs.p95)].map((share) => HEIGHT * (1 - share));
      return h(
        "g",
        { key: hour.hour },
        hover(
          place,
          `${hourOf(hour)}: p50 ${duration(durationMs.p50)}, p95 ${duration(durationMs.p95)}, longest ${duration(durationMs.max)}`,
        ),
        h("rect", { class: "range", x: place + 0.12, width: 0.76, y: upper, height: Math.max(lower - upper, 0) }),
        h("path", { class: "mark is-p95", d: `M${place + 0.12} ${upper}h0.76` }),
        h("path", { class: "mark is-p50", d: `M${place + 0.12} ${lower}h0.76` }),
      );
    }),
    columns: [
      { label: "Hour (UTC)", cell: hourOf },
      ...["p50", "p95", "max"].map((name) => ({
        label: name,
        class: "number",
        cell: (/** @type {any} */ hour) => duration(hour.durationMs?.[name]),
      })),
    ],
  });
}

/**
 * @param {{title: string, summary: string, legend: Child, marks: {at: number, words: string}[], hours: Hour[], shapes: Child[],
 *   columns: {label: string, class?: string, cell: (hour: Hour) => Child}[]}} chart
 */
function chart({ title, summary, legend, marks, hours, shapes, columns }) {
  const days = hours.length > 48;
  return h(
    "figure",
    { class: "chart" },
    h("figcaption", null, h("h2", null, title), h("p", { class: "legend" }, legend)),
    h(
      "div",
      { class: "plot" },
      h(
        "div",
        { class: "y", "aria-hidden": "true" },
        marks.map(({ at, words }) => h("span", { key: words, style: { "--at": at.toFixed(4) } }, words)),
      ),
      picture(
        title.toLowerCase().replaceAll(" ", "-"),
        title,
        summary,
        { viewBox: `0 0 ${hours.length} ${HEIGHT}`, preserveAspectRatio: "none" },
        marks.map(({ at, words }) =>
          h("path", { key: words, class: "grid", d: `M0 ${HEIGHT * (1 - at)}H${hours.length}` }),
        ),
        shapes,
      ),
      h(
        "div",
        { class: "x", "aria-hidden": "true" },
        hours.map(({ hour }, place) => {
          const isMarked = days ? hour.slice(11, 13) === "00" : Number(hour.slice(11, 13)) % 6 === 0;
          return (
            isMarked &&
            h(
              "span",
              { key: hour, style: { "--at": ((place + 0.5) / hours.length).toFixed(4) } },
              days ? hour.slice(5, 10) : hour.slice(11, 16),
            )
          );
        }),
      ),
    ),
    h(
      "details",
      null,
      h("summary", null, "As a table"),
      table({
        caption: title,
        rows: hours.toReversed(),
        key: ({ hour }) => hour,
        columns,
      }),
    ),
  );
}

/**
 * What is said of an hour where the pointer is above it.
 *
 * @param {number} place
 * @param {string} words
 */
function hover(place, words) {
  return h("rect", { class: "hover", x: place, width: 1, y: 0, height: HEIGHT }, h("title", null, words));
}

/** @param {Hour} hour */
function hourOf({ hour }) {
  return exact(hour).slice(0, 16);
}

/** @param {Record<string, number>} byStatus */
function total(byStatus) {
  return Object.values(byStatus).reduce((sum, count) => sum + count, 0);
}

/**
 * The end of an axis for so many: twice a round number.
 *
 * @param {number} most
 */
function ceiling(most) {
  const half = Math.max(1, most / 2);
  const power = 10 ** Math.floor(Math.log10(half));
  const round = [1, 2, 3, 4, 5, 6, 8, 10].find((factor) => factor * power >= half) ?? 10;
  return 2 * round * power;
}
