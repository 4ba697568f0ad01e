// @ts-check
/** Owns what came of actions: each stays until somebody has read and dismissed it. */

import { h, render } from "./dom.js";

/** @typedef {{id: number, kind: string, words: import("./dom.js").Child}} Notice */

/** @type {Notice[]} */
let notices = [];
let count = 0;

/**
 * Tell what came of an action; a screen reader reads it when it has read what it reads now.
 *
 * @param {string} kind completed, failed, blocked, cancelled, running: a run's status, or what is like it.
 * @param {...import("./dom.js").Child} words
 */
export function tell(kind, ...words) {
  count += 1;
  notices = [...notices, { id: count, kind, words }];
  draw();
}

/** @param {Notice} notice */
function dismiss(notice) {
  notices = notices.filter((each) => each !== notice);
  draw();
  /** @type {HTMLElement | null} */ (document.querySelector("#notices button") ?? document.querySelector("h1"))?.focus({
    preventScroll: true,
  });
}

function draw() {
  const region = /** @type {Element} */ (document.querySelector("#notices"));
  render(
    region,
    notices.map((notice) =>
      h(
        "div",
        { key: `${notice.id}`, class: `notice is-${notice.kind}` },
        h("p", null, notice.words),
        h("button", { type: "button", class: "quiet", "aria-label": "Dismiss", onclick: () => dismiss(notice) }, "×"),
      ),
    ),
  );
}
