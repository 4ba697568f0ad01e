// @ts-check
/**
 * Owns the picture of a loop: its states from top to bottom, as a line on a map, the other ways out at its left.
 *
 * The order is that of the steps' `to` from the initial state; states that only outcomes lead to stand below.
 */

import { h } from "./dom.js";
import { condition } from "./format.js";
import { statesOfLoop } from "./loops.js";
import { picture, table } from "./parts.js";

/** @typedef {import("./loops.js").Loop} Loop */
/** @typedef {import("./loops.js").Step} Step */
/** @typedef {{from: string, to: string, kind: string, name: string, isNext: boolean}} Way */

const LETTER = 7.4; // of the states' names; monospaced, so that their width is known
const SMALL_LETTER = 6.3;
const PADDING = 12;
const BOX = 28;
const LINE = 15;
const LANE = 14;
const PORT = 7;
const RADIUS = 6;
const LONGEST_NOTE = 38;

/**
 * @param {Loop} loop
 * @param {string} current
 * @param {{stepNumber: number, stepType: string} | undefined} next
 */
export function diagram(loop, current, next) {
  const main = mainStates(loop);
  const others = statesOfLoop(loop).filter((state) => !main.includes(state));
  const states = [...main, ...others];
  const leaving = (/** @type {string} */ state) => loop.steps.find(({ from }) => from.includes(state));
  const notes = new Map(states.map((state) => [state, notesOf(leaving(state), main.includes(state))]));

  const top = new Map();
  let height = 4;
  for (const state of states) {
    if (state === others[0]) height += LINE;
    top.set(state, height);
    height += BOX + (notes.get(state)?.length ?? 0) * LINE + (state === states.at(-1) ? 6 : 18);
  }

  const ways = waysOf(loop, current).filter(
    ({ from, to, kind }) => kind !== "step" || main.indexOf(to) !== main.indexOf(from) + 1 || !main.includes(from),
  );
  const arcs = withLanes(ways, top);
  const left = arcs.reduce((most, { lane }) => Math.max(most, lane + 1), 0) * LANE + (arcs.length > 0 ? 10 : 4);
  const width = left + Math.max(...states.map((state) => widthOf(state, notes.get(state) ?? [])));

  return [
    picture(
      "diagram",
      `The loop ${loop.loop}`,
      description(loop, current, next),
      { class: "diagram", width, height, viewBox: `0 0 ${width} ${height}` },
      arcs.map((arc) => arcPath(arc, left)),
      states.map((state, place) => {
        const step = leaving(state);
        const y = top.get(state);
        const isOn = state === current;
        const isStraight = step && main.includes(state) && main[place + 1] === step.to;
        return h(
          "g",
          { key: state, class: `node${isOn ? " is-current" : ""}${ending(loop, state)}` },
          isStraight && straight(left + 18, y + BOX, top.get(step.to), isOn),
          h("rect", { x: left, y, width: state.length * LETTER + 2 * PADDING, height: BOX, rx: 7 }),
          h("text", { x: left + PADDING, y: y + 18.5 }, state),
          (notes.get(state) ?? []).map((note, row) =>
            h(
              "text",
              {
                class: row === 0 ? `step${isOn ? " is-next" : ""}` : "note",
                x: left + 32,
                y: y + BOX + 15 + row * LINE,
              },
              note,
            ),
          ),
        );
      }),
    ),
    h("details", null, h("summary", null, "As a table"), stepTable(loop)),
  ];
}

/**
 * The way from the initial state when nothing goes wrong.
 *
 * @param {Loop} loop
 */
function mainStates({ initialState, steps }) {
  const states = [initialState];
  for (;;) {
    const last = /** @type {string} */ (states.at(-1));
    const to = steps.find(({ from }) => from.includes(last))?.to;
    if (to === undefined || states.includes(to)) return states;
    states.push(to);
  }
}

/**
 * @param {Step | undefined} step
 * @param {boolean} isMain
 */
function notesOf(step, isMain) {
  if (!step) return [];
  const kind = step.executor === "transition" ? [] : [step.executor];
  const skip = step.skipIf ? [`skipped if ${step.skipIf.map(condition).join(" and ")}`] : [];
  const outcomes = Object.entries(step.outcomes ?? {}).map(([name, to]) => `${name} → ${to}`);
  const name = isMain ? step.stepType : `${step.stepType} → ${step.to}`;
  return [name, ...(isMain ? [...kind, ...skip, ...outcomes] : outcomes)].map(shortened);
}

/** @param {string} text */
function shortened(text) {
  return text.length > LONGEST_NOTE ? `${text.slice(0, LONGEST_NOTE - 1)}…` : text;
}

/**
 * @param {string} state
 * @param {string[]} notes
 */
function widthOf(state, notes) {
  return Math.max(
    state.length * LETTER + 2 * PADDING + 4,
    ...notes.map((note, row) => 36 + note.length * (row === 0 ? LETTER : SMALL_LETTER)),
  );
}

/**
 * Every way from one state to another: steps, skips, outcomes.
 *
 * @param {Loop} loop
 * @param {string} current
 * @returns {Way[]}
 */
function waysOf({ steps }, current) {
  return steps.flatMap(({ from: sources, to, stepType, skipIf, outcomes }) =>
    sources.flatMap((from) => [
      { from, to, kind: "step", name: stepType, isNext: from === current },
      ...(skipIf ? [{ from, to, kind: "skip", name: `${stepType} skipped`, isNext: false }] : []),
      ...Object.entries(outcomes ?? {}).map(([name, to]) => ({
        from,
        to,
        kind: "outcome",
        name: `${stepType}: ${name}`,
        isNext: false,
      })),
    ]),
  );
}

/**
 * Each way with where it leaves and enters, and a lane in which it meets no other: the shorter, the nearer.
 *
 * @param {Way[]} ways
 * @param {Map<string, number>} top
 */
function withLanes(ways, top) {
  const drawn = ways.map((way) => ({ ...way, y1: 0, y2: 0, lane: 0 }));
  for (const [state, y] of top) {
    const ends = drawn.flatMap((way) => [
      ...(way.from === state
        ? [{ other: top.get(way.to) ?? 0, set: (/** @type {number} */ at) => (way.y1 = at) }]
        : []),
      ...(way.to === state
        ? [{ other: top.get(way.from) ?? 0, set: (/** @type {number} */ at) => (way.y2 = at) }]
        : []),
    ]);
    ends.sort((one, other) => one.other - other.other);
    ends.forEach(({ set }, place) => set(y + BOX / 2 + (place - (ends.length - 1) / 2) * PORT));
  }
  /** @type {typeof drawn} */
  const placed = [];
  for (const way of drawn.toSorted((one, other) => Math.abs(one.y1 - one.y2) - Math.abs(other.y1 - other.y2))) {
    while (placed.some((other) => other.lane === way.lane && meet(way, other))) way.lane += 1;
    placed.push(way);
  }
  return drawn;
}

/**
 * @param {{y1: number, y2: number}} one
 * @param {{y1: number, y2: number}} other
 */
function meet(one, other) {
  return (
    Math.min(one.y1, one.y2) <= Math.max(other.y1, other.y2) && Math.min(other.y1, other.y2) <= Math.max(one.y1, one.y2)
  );
}

/**
 * @param {Way & {y1: number, y2: number, lane: number}} arc
 * @param {number} left
 */
function arcPath({ from, to, kind, name, isNext, y1, y2, lane }, left) {
  const x = left - 10 - (lane + 0.5) * LANE;
  const turn = Math.min(RADIUS, Math.abs(y2 - y1) / 2) * Math.sign(y2 - y1);
  const path = `M${left} ${y1}H${x + RADIUS}Q${x} ${y1} ${x} ${y1 + turn}V${y2 - turn}Q${x} ${y2} ${x + RADIUS} ${y2}H${left - 3}`;
  return h(
    "g",
    { key: `${from} ${name}`, class: `way is-${kind}${isNext ? " is-next" : ""}` },
    h("title", null, `${name}, ${from} → ${to}`),
    h("path", { d: path }),
    h("path", { class: "head", d: `M${left - 1} ${y2}l-6 -3.5v7Z` }),
  );
}

/**
 * @param {number} x
 * @param {number} from
 * @param {number} to
 * @param {boolean} isNext
 */
function straight(x, from, to, isNext) {
  return h(
    "g",
    { class: `way is-step${isNext ? " is-next" : ""}` },
    h("path", { d: `M${x} ${from}V${to - 3}` }),
    h("path", { class: "head", d: `M${x} ${to - 1}l-3.5 -6h7Z` }),
  );
}

/**
 * @param {Loop} loop
 * @param {string} state
 */
function ending({ completedStates, failedStates }, state) {
  if (completedStates.includes(state)) return " is-completed";
  return failedStates.includes(state) ? " is-failed" : "";
}

/**
 * @param {Loop} loop
 * @param {string} current
 * @param {{stepType: string} | undefined} next
 */
function description(loop, current, next) {
  const ways = waysOf(loop, current)
    .map(({ from, to, name }) => `${name} from ${from} to ${to}`)
    .join("; ");
  return `The issue is ${current}${next ? `, next is ${next.stepType}` : ""}. ${ways}.`;
}

/** @param {Loop} loop */
function stepTable({ loop, steps }) {
  return table({
    caption: `Steps of ${loop}`,
    rows: steps,
    key: (step) => step.stepType,
    columns: [
      { label: "Step", cell: (step) => `${step.stepNumber} ${step.stepType}` },
      { label: "From", cell: (step) => step.from.join(", ") },
      {
        label: "To",
        cell: (step) => [step.to, ...Object.entries(step.outcomes ?? {}).map(([name, to]) => `, ${name}: ${to}`)],
      },
      { label: "Executed by", cell: (step) => step.executor },
      { label: "Gates", cell: (step) => step.gates.map(condition).join("; ") || "–" },
      { label: "Skipped if", cell: (step) => step.skipIf?.map(condition).join(" and ") ?? "–" },
    ],
  });
}
