// @ts-check
/** Owns the frame: which page is shown, when it is read again, what is said when that fails. */

import { actAs, actor, ApiError } from "./api.js";
import { h, render } from "./dom.js";
import * as issue from "./issue.js";
import * as issues from "./issues.js";
import * as overview from "./overview.js";
import { href, routeOf } from "./routes.js";
import * as run from "./run.js";
import * as runs from "./runs.js";
import { askWho, whoButton } from "./who.js";

/**
 * A page. `merge`: what is shown then, of what was just read and what is shown now.
 *
 * @typedef {object} Page
 * @property {(route: import("./routes.js").Route) => string} title
 * @property {(route: import("./routes.js").Route, signal: AbortSignal) => Promise<any>} load
 * @property {(data: any, context: Context) => import("./dom.js").Child[]} view
 * @property {(data: any) => boolean} isLive Whether something is at work on it now.
 * @property {(fresh: any, current: any) => any} [merge]
 * @property {(route: import("./routes.js").Route, context: Context) => import("./dom.js").Child} [filters]
 *
 * What a page may do beside being drawn. `update`: change what is shown, while it is this page.
 *
 * @typedef {object} Context
 * @property {import("./routes.js").Route} route
 * @property {() => Promise<void>} refresh
 * @property {() => void} draw
 * @property {(change: (data: any) => any) => void} update
 */

const NORMAL_MS = 5_000;
const LIVE_MS = 2_000;
const LONGEST_MS = 30_000;

/** How many entries of the history are remembered. */
const MOST_LEFT = 20;

/** @type {Page} */
const NOWHERE = {
  title: () => "Not found",
  load: async () => ({}),
  view: () => [h("p", { class: "nothing" }, "There is no such page. ", h("a", { href: href([]) }, "To the overview"))],
  isLive: () => false,
};

const NAVIGATION = /** @type {const} */ ([
  ["Overview", []],
  ["Issues", ["issues"]],
  ["Runs", ["runs"]],
]);

/**
 * What is on the screen. `failures`: how often in a row it could not be read.
 *
 * @type {{route: import("./routes.js").Route, page: Page, data: any, error: ApiError | null, failures: number,
 *   reading: AbortController | null}}
 */
let screen;
/** @type {number | undefined} */
let timer;

/**
 * What an entry of the browser's history showed when it was left: who goes back finds it there, at once.
 *
 * @type {Map<number, {hash: string, data: any, y: number}>}
 */
const left = new Map();
/** @type {{id: number, hash: string}} */
let entry;

/**
 * @param {import("./routes.js").Route} route
 * @returns {Page}
 */
function pageOf({ parts }) {
  const [list, id, more] = parts;
  if (list === undefined) return overview;
  if (more !== undefined) return NOWHERE;
  if (list === "issues") return id === undefined ? issues : issue;
  if (list === "runs") return id === undefined ? runs : run;
  return NOWHERE;
}

function navigate() {
  const route = routeOf(location.hash);
  const isSamePage = screen && screen.route.parts.join("/") === route.parts.join("/");
  const before = enter();
  screen?.reading?.abort();
  screen = { route, page: pageOf(route), data: before?.data, error: null, failures: 0, reading: null };
  draw();
  if (!isSamePage) scrollTo(0, before?.y ?? 0);
  refresh();
}

/** Leave the history's entry that was shown and enter the one that shall be; what that showed, if it was left before. */
function enter() {
  if (entry) left.set(entry.id, { hash: entry.hash, data: screen.data, y: scrollY });
  for (const oldest of [...left.keys()].slice(0, -MOST_LEFT)) left.delete(oldest);
  entry = { id: history.state?.entry ?? performance.timeOrigin + performance.now(), hash: location.hash };
  history.replaceState({ entry: entry.id }, "");
  const before = left.get(entry.id);
  return before?.hash === entry.hash ? before : undefined;
}

/**
 * Whether a name is asked for before the first call: the local stack refuses a call without one. On this machine is also
 * what `make console` serves, where calls are signed; it says so in a cookie.
 */
let asksFirst =
  !actor() &&
  ["127.0.0.1", "localhost", "[::1]"].includes(location.hostname) &&
  !document.cookie.includes(`signed_${location.port}=1`);

/** Whether somebody would not say a name: then the page asks no more, a button does. */
let hasDeclined = false;

/** Read the page again, now; an answer for what is on the screen no longer is dropped. */
async function refresh() {
  if (asksFirst) {
    asksFirst = false;
    draw();
    hasDeclined = !(await askWho({ isRequired: true }));
  }
  const mine = screen;
  mine.reading?.abort();
  const reading = new AbortController();
  mine.reading = reading;
  clearTimeout(timer);
  draw();
  try {
    const fresh = await mine.page.load(mine.route, reading.signal);
    if (reading.signal.aborted) return;
    mine.data = mine.data !== undefined && mine.page.merge ? mine.page.merge(fresh, mine.data) : fresh;
    mine.error = null;
    mine.failures = 0;
  } catch (error) {
    if (reading.signal.aborted) return;
    if (!(error instanceof ApiError)) throw error;
    mine.error = error;
    mine.failures += 1;
  }
  mine.reading = null;
  draw();
  plan();
  if (mine.error?.code === "UNAUTHORIZED" && mine.failures === 1 && !hasDeclined) await askForName();
}

/** Read the page again in a while, where somebody can see it. */
function plan() {
  clearTimeout(timer);
  if (document.hidden) return;
  const { page, data, failures } = screen;
  const normal = data !== undefined && page.isLive(data) ? LIVE_MS : NORMAL_MS;
  timer = setTimeout(refresh, failures ? Math.min(NORMAL_MS * 2 ** (failures - 1), LONGEST_MS) : normal);
}

async function askForName() {
  hasDeclined = !(await askWho({ isRequired: true }));
  if (!hasDeclined) refresh();
}

// --------------------------------------------------------------------------------------------------- drawing

function draw() {
  const { page, route, data, error, reading } = screen;
  const main = /** @type {HTMLElement} */ (document.querySelector("#main"));
  const title = page.title(route);
  const isFirst = data === undefined && error === null;
  const context = { route, refresh, draw: drawIfShown(screen), update: updateOf(screen) };
  document.title = `${title} · Run console`;
  main.setAttribute("aria-busy", String(isFirst));
  render(
    main,
    h(
      "div",
      { key: route.parts.join("/"), class: "page" },
      h(
        "div",
        { class: "title" },
        h("h1", { tabindex: "-1" }, title),
        h(
          "span",
          { class: `state ${error ? "is-stale" : reading ? "is-reading" : "is-fresh"}`, "aria-hidden": "true" },
          error ? "not up to date" : "live",
        ),
      ),
      error && banner(error),
      page.filters?.(route, context),
      isFirst && skeleton(),
      data !== undefined && h("div", { key: String(route.query), class: "content" }, page.view(data, context)),
    ),
  );
  drawHeader();
}

/** @param {typeof screen} mine */
function drawIfShown(mine) {
  return () => {
    if (mine === screen) draw();
  };
}

/** @param {typeof screen} mine */
function updateOf(mine) {
  return (/** @type {(data: any) => any} */ change) => {
    if (mine !== screen) return;
    mine.data = change(mine.data);
    draw();
  };
}

function skeleton() {
  return h(
    "div",
    { class: "skeleton" },
    h("p", { role: "status" }, "Loading…"),
    [1, 2, 3, 4, 5].map(() => h("div", { class: "bone", "aria-hidden": "true" })),
  );
}

/** @param {ApiError} error */
function banner(error) {
  const mayDropName = error.code === "FORBIDDEN" && actor();
  return h(
    "div",
    { class: "banner", role: "alert" },
    h(
      "div",
      null,
      h("p", null, error.message),
      h("p", { class: "dim" }, [
        screen.data !== undefined && "Shown is what was there before. ",
        error.requestId && ["Request ", h("code", null, error.requestId)],
      ]),
    ),
    h(
      "div",
      { class: "buttons" },
      error.code === "UNAUTHORIZED" && h("button", { type: "button", onclick: askForName }, "Say who you are"),
      mayDropName &&
        h(
          "button",
          {
            type: "button",
            onclick: () => {
              actAs("");
              refresh();
            },
          },
          `Act as yourself, not as ${actor()}`,
        ),
      h("button", { type: "button", onclick: () => refresh() }, "Retry"),
    ),
  );
}

function drawHeader() {
  const [section] = screen.route.parts;
  render(
    /** @type {Element} */ (document.querySelector("#header")),
    h(
      "a",
      { class: "brand", href: href([]) },
      h(
        "svg",
        { viewBox: "0 0 16 16", "aria-hidden": "true" },
        h("path", { d: "M13.5 8a5.5 5.5 0 1 1-1.8-4.1" }),
        h("circle", { cx: "13.2", cy: "4.6", r: "2" }),
      ),
      h("span", null, "Loop runner"),
    ),
    h(
      "nav",
      { "aria-label": "Pages" },
      NAVIGATION.map(([name, parts]) =>
        h(
          "a",
          {
            href: href([...parts]),
            "aria-current": parts[0] === section && (screen.route.parts.length < 2 ? "page" : "true"),
          },
          name,
        ),
      ),
    ),
    whoButton(refresh),
  );
}

function focusHeading() {
  /** @type {HTMLElement | null} */ (document.querySelector("#main h1"))?.focus({ preventScroll: true });
}

addEventListener("hashchange", (event) => {
  const before = routeOf(new URL(event.oldURL).hash).parts.join("/");
  navigate();
  if (before !== screen.route.parts.join("/")) focusHeading();
});
addEventListener("online", () => refresh());
addEventListener("offline", () => refresh());
document.addEventListener("visibilitychange", () => (document.hidden ? clearTimeout(timer) : refresh()));
document.querySelector("#skip")?.addEventListener("click", focusHeading);
history.scrollRestoration = "manual";
navigate();
