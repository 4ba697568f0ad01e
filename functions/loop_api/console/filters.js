// @ts-check
/** Owns the filters of lists: labelled inputs whose values stand in the address. */

import { h } from "./dom.js";
import { RUN_STATUSES } from "./parts.js";
import { go, routeOf } from "./routes.js";

/**
 * Go to the same list with one filter changed. What is empty is no filter.
 *
 * @param {import("./routes.js").Route} route
 * @param {string} name
 * @param {string} value
 */
export function filter({ parts }, name, value) {
  const { query } = routeOf(location.hash); // that of the route is older where two filters change at once
  go(parts, { ...Object.fromEntries(query), [name]: value });
}

/**
 * @param {import("./routes.js").Route} route
 * @param {...import("./dom.js").Child} inputs
 */
export function filterBar({ parts, query }, ...inputs) {
  return h(
    "form",
    {
      key: "filters",
      class: "filters",
      role: "search",
      onsubmit: (/** @type {Event} */ event) => event.preventDefault(),
    },
    ...inputs,
    query.size > 0 && h("button", { type: "button", class: "quiet", onclick: () => go(parts) }, "Clear"),
  );
}

/**
 * @param {import("./routes.js").Route} route
 * @param {string} label
 * @param {string[]} choices
 */
export function choice(route, label, choices) {
  const name = label.toLowerCase();
  const value = route.query.get(name) ?? "";
  const all = value && !choices.includes(value) ? [value, ...choices] : choices;
  return h(
    "label",
    null,
    h("span", null, label),
    h(
      "select",
      { name, value, onchange: (/** @type {any} */ event) => filter(route, name, event.target.value) },
      h("option", { value: "" }, "any"),
      all.map((each) => h("option", { key: each, value: each }, each)),
    ),
  );
}

/**
 * @param {import("./routes.js").Route} route
 * @param {string} label
 */
export function text(route, label) {
  const name = label.toLowerCase();
  return h(
    "label",
    null,
    h("span", null, label),
    h("input", {
      name,
      type: "text",
      value: route.query.get(name) ?? "",
      placeholder: "anybody",
      autocomplete: "off",
      spellcheck: "false",
      onchange: (/** @type {any} */ event) => filter(route, name, event.target.value.trim()),
    }),
  );
}

/**
 * A time in UTC, as all exact times of the console.
 *
 * @param {import("./routes.js").Route} route
 * @param {string} label
 */
export function instant(route, label) {
  const name = label.toLowerCase();
  const given = Date.parse(route.query.get(name) ?? "");
  const value = Number.isNaN(given) ? "" : new Date(given).toISOString().slice(0, 16);
  return h(
    "label",
    { title: "UTC" },
    h("span", null, label),
    h("input", {
      name,
      type: "datetime-local",
      value,
      onchange: (/** @type {any} */ event) => filter(route, name, event.target.value && `${event.target.value}Z`),
    }),
  );
}

/**
 * Any number of statuses.
 *
 * @param {import("./routes.js").Route} route
 */
export function statuses(route) {
  const chosen = (route.query.get("status") ?? "").split(",").filter(Boolean);
  return h(
    "fieldset",
    { class: "chips" },
    h("legend", null, "Status"),
    RUN_STATUSES.map((status) =>
      h(
        "label",
        { key: status, class: `chip is-${status}` },
        h("input", {
          type: "checkbox",
          checked: chosen.includes(status),
          onchange: (/** @type {any} */ event) =>
            filter(
              route,
              "status",
              RUN_STATUSES.filter((each) => (each === status ? event.target.checked : chosen.includes(each))).join(","),
            ),
        }),
        h("span", null, status),
      ),
    ),
  );
}
