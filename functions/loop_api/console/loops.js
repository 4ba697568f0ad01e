// @ts-check
/** Owns the loops that are deployed: read once, they change with a deployment only. */

import { get } from "./api.js";

/**
 * @typedef {{stepNumber: number, stepType: string, from: string[], to: string, outcomes?: Record<string, string>,
 *   executor: string, timeoutSeconds?: number, gates: Record<string, any>[], skipIf?: Record<string, any>[]}} Step
 * @typedef {{loop: string, version: string, initialState: string, completedStates: string[], failedStates: string[],
 *   protectedFacts: string[], autoAdvance: boolean, steps: Step[]}} Loop
 */

/** @type {(Loop | {loop: string, error: string})[] | undefined} */
let known;

/** @param {AbortSignal} signal */
export async function loadLoops(signal) {
  known ??= (await get("loops", {}, signal)).items;
}

/**
 * A loop that was read, where it is valid.
 *
 * @param {string | null} name
 */
export function loopOf(name) {
  const loop = known?.find((each) => each.loop === name);
  return loop && "steps" in loop ? loop : undefined;
}

/**
 * @param {Loop | undefined} loop
 * @param {number | null | undefined} number
 */
export function stepOf(loop, number) {
  return loop?.steps.find((step) => step.stepNumber === number);
}

/**
 * What a step is called; its number where the loop has lost it.
 *
 * @param {Loop | undefined} loop
 * @param {number | null} number
 */
export function stepName(loop, number) {
  return stepOf(loop, number)?.stepType ?? (number === null ? null : `step ${number}`);
}

/** The names of the loops that were read. */
export function loopNames() {
  return (known ?? []).map(({ loop }) => loop);
}

/**
 * Every state of a loop, in the order of its steps; of all loops where none is named.
 *
 * @param {string} name
 */
export function statesOf(name) {
  const loops = (known ?? []).filter(({ loop }) => !name || loop === name);
  return [...new Set(loops.flatMap((loop) => ("error" in loop ? [] : statesOfLoop(loop))))];
}

/** @param {Loop} loop */
export function statesOfLoop({ initialState, steps, completedStates, failedStates }) {
  const led = steps.flatMap(({ from, to, outcomes }) => [...from, to, ...Object.values(outcomes ?? {})]);
  return [...new Set([initialState, ...led, ...completedStates, ...failedStates])];
}
