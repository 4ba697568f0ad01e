// @ts-check
/** Owns the questions that are asked before something is done. */

import { h, render } from "./dom.js";

/**
 * Ask for a text; what was written, trimmed, or undefined where nothing shall be done.
 *
 * @param {{title: string, words: import("./dom.js").Child, label: string, confirm: string, isDangerous?: boolean,
 *   isRequired?: boolean, isLong?: boolean, most?: number, value?: string, check?: (text: string) => string}} question
 *   `check`: what is wrong with a text; empty where it is right.
 * @returns {Promise<string | undefined>}
 */
export function ask({ title, words, label, confirm, isDangerous, isRequired, isLong = true, most, value, check }) {
  const dialog = document.createElement("dialog");
  /** @type {string | undefined} */
  let given;

  function field() {
    return /** @type {HTMLInputElement} */ (dialog.querySelector("#answer"));
  }

  function validate() {
    const text = field().value.trim();
    field().setCustomValidity(isRequired && !text ? `${label}: say at least a word` : (check?.(text) ?? ""));
  }

  render(
    dialog,
    h(
      "form",
      {
        onsubmit: (/** @type {Event} */ event) => {
          event.preventDefault();
          given = field().value.trim();
          dialog.close();
        },
      },
      h("h2", { id: "question" }, title),
      h("p", { id: "question-words" }, words),
      h(
        "label",
        { for: "answer" },
        label,
        !isRequired && h("span", { class: "dim", "aria-hidden": "true" }, " optional"),
      ),
      h(isLong ? "textarea" : "input", {
        id: "answer",
        maxlength: most,
        value,
        rows: isLong && "3",
        autofocus: true,
        autocomplete: "off",
        oninput: validate,
        "aria-label": label,
        "aria-describedby": "question-words",
      }),
      h(
        "div",
        { class: "buttons" },
        h("button", { type: "button", onclick: () => dialog.close() }, "Back"),
        h("button", { type: "submit", class: isDangerous ? "danger" : "primary" }, confirm),
      ),
    ),
  );
  dialog.setAttribute("aria-labelledby", "question");
  document.body.append(dialog);
  validate();
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(given);
    });
  });
}
