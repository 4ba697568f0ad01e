// @ts-check
/**
 * Owns the document: a page is a tree of plain objects, and the document is changed to match it, no more than needed.
 *
 * What the tree does not speak of stays as the user has it: focus, caret, scrolling, an open <details>, text in an input.
 * Text is only ever text: nothing here reads markup.
 *
 * @typedef {{tag: string, attrs: Record<string, any>, children: Child[]}} Tree
 * @typedef {Tree | string | number | null | undefined | false | any[]} Child
 */

const SVG = "http://www.w3.org/2000/svg";

/** Set as properties: their attributes are initial values only. */
const PROPERTIES = new Set(["value", "checked"]);

/** @type {WeakMap<Node, Tree>} What an element shows. */
const shown = new WeakMap();
/** @type {WeakMap<Node, Map<string, Node>>} An element's children, by key. */
const childrenOf = new WeakMap();

/**
 * A part of a page. `key`: what tells it from its siblings, where they come and go; else its place does.
 * `on…`: what listens; `style`: custom properties, by name.
 *
 * @param {string} tag
 * @param {Record<string, any> | null} [attrs]
 * @param {...Child} children
 * @returns {Tree}
 */
export function h(tag, attrs, ...children) {
  return { tag, attrs: attrs ?? {}, children };
}

/**
 * Make the children of an element these. What has the focus keeps it; where it is gone, the heading gets it.
 *
 * @param {Element} parent
 * @param {Child[]} children
 */
export function render(parent, ...children) {
  const focused = /** @type {HTMLElement | null} */ (document.activeElement);
  const isOurs = focused !== null && parent.contains(focused);
  showChildren(parent, children);
  if (!isOurs || focused === document.activeElement) return;
  const heir = focused.isConnected ? focused : /** @type {HTMLElement | null} */ (document.querySelector("h1"));
  heir?.focus({ preventScroll: true });
}

/**
 * @param {Element} parent
 * @param {Child[]} children
 */
function showChildren(parent, children) {
  const before = childrenOf.get(parent) ?? new Map();
  /** @type {Map<string, Node>} */
  const after = new Map();
  for (const [key, child] of keyed(children)) {
    after.set(key, before.get(key) ?? create(parent, child));
  }
  for (const [key, node] of before) {
    if (!after.has(key)) node.remove();
  }
  let next = childrenOf.has(parent) ? parent.firstChild : clear(parent);
  for (const node of after.values()) {
    if (node === next) next = node.nextSibling;
    else parent.insertBefore(node, next);
  }
  childrenOf.set(parent, after);
  for (const [key, child] of keyed(children)) show(/** @type {Node} */ (after.get(key)), child);
}

/** @param {Element} parent */
function clear(parent) {
  parent.replaceChildren();
  return null;
}

/**
 * The children that there are, each with a key: a place that is empty now keeps those of its siblings the same.
 *
 * @param {Child[]} children
 * @param {string} [prefix]
 * @returns {Generator<[string, Tree | string]>}
 */
function* keyed(children, prefix = "") {
  for (const [place, child] of children.entries()) {
    if (child === null || child === undefined || child === false) continue;
    if (Array.isArray(child)) yield* keyed(child, `${prefix}${place}/`);
    else if (typeof child === "object") yield [`${prefix}${child.attrs.key ?? place}:${child.tag}`, child];
    else yield [`${prefix}${place}:`, String(child)];
  }
}

/**
 * @param {Element} parent
 * @param {Tree | string} child
 */
function create(parent, child) {
  if (typeof child === "string") return document.createTextNode("");
  const isSvg = child.tag === "svg" || (parent.namespaceURI === SVG && parent.localName !== "foreignObject");
  return isSvg ? document.createElementNS(SVG, child.tag) : document.createElement(child.tag);
}

/**
 * @param {Node} node
 * @param {Tree | string} child
 */
function show(node, child) {
  if (typeof child === "string") {
    if (node.nodeValue !== child) node.nodeValue = child;
    return;
  }
  const element = /** @type {HTMLElement} */ (node);
  const before = shown.get(node)?.attrs ?? {};
  shown.set(node, child);
  showChildren(element, child.children);
  for (const name of new Set([...Object.keys(before), ...Object.keys(child.attrs)])) {
    if (name === "style") setStyle(element, before.style ?? {}, child.attrs.style ?? {});
    else if (name !== "key" && before[name] !== child.attrs[name]) setAttribute(element, name, child.attrs[name]);
  }
}

/**
 * @param {HTMLElement} element
 * @param {string} name
 * @param {any} value
 */
function setAttribute(element, name, value) {
  if (name.startsWith("on")) /** @type {any} */ (element)[name] = value ?? null;
  else if (PROPERTIES.has(name)) {
    if (/** @type {any} */ (element)[name] !== value) /** @type {any} */ (element)[name] = value ?? "";
  } else if (value === null || value === undefined || value === false) element.removeAttribute(name);
  else element.setAttribute(name, value === true ? "" : String(value));
}

/**
 * @param {HTMLElement} element
 * @param {Record<string, any>} before
 * @param {Record<string, any>} after
 */
function setStyle(element, before, after) {
  for (const name of new Set([...Object.keys(before), ...Object.keys(after)])) {
    if (before[name] === after[name]) continue;
    if (after[name] === undefined) element.style.removeProperty(name);
    else element.style.setProperty(name, String(after[name]));
  }
}
