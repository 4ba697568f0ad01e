// @ts-check
/** Owns the addresses of pages: everything that a page depends on stands behind the # of the URL. */

/**
 * @typedef {{parts: string[], query: URLSearchParams}} Route
 */

/**
 * @param {string[]} parts
 * @param {Record<string, string | null | undefined>} [query] What is empty is left out.
 */
export function href(parts, query = {}) {
  const search = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    if (value) search.set(name, value);
  }
  return `#/${parts.map(encodeURIComponent).join("/")}${search.size ? `?${search}` : ""}`;
}

/**
 * @param {string} hash As in location.hash.
 * @returns {Route}
 */
export function routeOf(hash) {
  const [path = "", search = ""] = hash.replace(/^#?\/?/, "").split(/\?(.*)/s);
  return { parts: path.split("/").filter(Boolean).map(decoded), query: new URLSearchParams(search) };
}

/** @param {string} part */
function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

/**
 * Go to a page, or to the same one with other filters.
 *
 * @param {string[]} parts
 * @param {Record<string, string | null | undefined>} [query]
 */
export function go(parts, query) {
  location.hash = href(parts, query);
}
