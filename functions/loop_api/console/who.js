// @ts-check
/** Owns in whose name the page acts. */

import { actAs, actor } from "./api.js";
import { ask } from "./dialog.js";
import { h } from "./dom.js";

/** Printable ASCII without a comma: what a header can hold, and one name only. */
const NAME = /^[ -+\--~]*$/;

let isAsking = false;

/**
 * Ask who acts; whether that is somebody else now. Nothing happens while the question is open.
 *
 * @param {{isRequired: boolean}} options Whether nothing can be done without a name.
 */
export async function askWho({ isRequired }) {
  if (isAsking) return false;
  isAsking = true;
  const before = actor();
  const without = " Leave it empty where calls are signed: they are in the name of who signs them.";
  const name = await ask({
    title: "Who are you?",
    words: `Your name goes with each call as x-afu9-sub, and into the record.${isRequired ? "" : without}`,
    label: "Your name",
    confirm: "Save",
    isRequired,
    isLong: false,
    most: 256,
    value: before,
    check: (text) => (NAME.test(text) ? "" : "Latin letters, digits and punctuation, but no comma"),
  });
  isAsking = false;
  if (name === undefined || name === before) return false;
  actAs(name);
  return true;
}

/** @param {() => void} changed Called when somebody else acts from now on. */
export function whoButton(changed) {
  return h(
    "button",
    {
      type: "button",
      class: "who",
      onclick: async () => {
        if (await askWho({ isRequired: false })) changed();
      },
    },
    "Acting as ",
    h("b", null, actor() || "yourself"),
  );
}
