// @ts-check
/** Owns the calls: who makes them, what an error is, and the server's clock. */

const STORED_NAME = "loop-runner.actor";

/** API Gateway gives up after 30 s: who has not answered by then will not. */
const LONGEST_MS = 35_000;

/** The clocks of this machine and of the server may differ so much before it is noticed. */
const TOLERATED_MS = 2_000;

let name = stored();
let ahead = 0;

/** What went wrong with a call, for people. */
export class ApiError extends Error {
  /**
   * @param {string} message
   * @param {{status?: number, code?: string, requestId?: string | null, details?: Record<string, any>}} [more]
   *   `status`: 0 where there was no answer. `code`: of our envelope; empty where somebody else answered.
   */
  constructor(message, { status = 0, code = "", requestId = null, details = {} } = {}) {
    super(message);
    this.status = status;
    this.code = code;
    this.requestId = requestId;
    this.details = details;
  }

  /** Whether nobody knows what became of the call. */
  get isUnanswered() {
    return this.status === 0 || this.status >= 500;
  }
}

/** The name that calls are made in; empty where they are made in that of who signs them. */
export function actor() {
  return name;
}

/**
 * Act as somebody else from now on.
 *
 * @param {string} actor
 */
export function actAs(actor) {
  name = actor;
  try {
    if (actor) localStorage.setItem(STORED_NAME, actor);
    else localStorage.removeItem(STORED_NAME);
  } catch {
    // The browser keeps nothing: the name lasts as long as the page.
  }
}

function stored() {
  try {
    return localStorage.getItem(STORED_NAME) ?? "";
  } catch {
    return "";
  }
}

/** Milliseconds since 1970 by the server's clock, which sets every time that is shown. */
export function now() {
  return Date.now() + ahead;
}

/**
 * @param {string} path Below /api/loop; what stands in it is encoded.
 * @param {Record<string, string | number | null | undefined>} query What is empty is left out.
 * @param {AbortSignal} [signal]
 */
export function get(path, query = {}, signal) {
  const given = Object.entries(query).filter(([, value]) => value !== null && value !== undefined && value !== "");
  const search = new URLSearchParams(given.map(([key, value]) => [key, String(value)]));
  return call("GET", search.size ? `${path}?${search}` : path, undefined, {}, signal);
}

/**
 * @param {string} path
 * @param {object} body
 * @param {Record<string, string>} headers
 */
export function post(path, body, headers = {}) {
  return call("POST", path, body, { "content-type": "application/json", ...headers });
}

/**
 * @param {string} method
 * @param {string} path
 * @param {object | undefined} body
 * @param {Record<string, string>} headers
 * @param {AbortSignal} [signal]
 */
async function call(method, path, body, headers, signal) {
  const longest = AbortSignal.timeout(LONGEST_MS);
  let response;
  let text;
  try {
    response = await fetch(new URL(`api/loop/${path}`, document.baseURI), {
      method,
      body: body && JSON.stringify(body),
      headers: name ? { ...headers, "x-afu9-sub": name } : headers,
      signal: signal ? AbortSignal.any([signal, longest]) : longest,
    });
    text = await response.text();
  } catch (error) {
    if (signal?.aborted) throw error;
    if (longest.aborted) throw new ApiError(`The API has not answered within ${LONGEST_MS / 1000} s.`);
    throw new ApiError(navigator.onLine ? "The API is out of reach." : "You are offline.");
  }
  setClock(response.headers.get("date"));
  const answer = parsed(text);
  if (response.ok && answer) return answer;
  throw errorOf(response, answer);
}

/** @param {string} text */
function parsed(text) {
  try {
    const value = JSON.parse(text);
    return typeof value === "object" ? value : null;
  } catch {
    return null;
  }
}

/**
 * @param {Response} response
 * @param {any} answer
 */
function errorOf(response, answer) {
  const { status, headers } = response;
  const requestId = headers.get("x-request-id") ?? headers.get("apigw-requestid");
  if (answer?.schemaVersion === "loop.error.v1") {
    const { code, message, details } = answer.error;
    return new ApiError(message, { status, code, requestId: answer.requestId, details });
  }
  if (status === 401 || status === 403) {
    const api = new URL(".", document.baseURI).href.replace(/\/$/, "");
    const message = `API Gateway refused the call, which this page cannot sign. make console API_URL=${api} opens the console signed.`;
    return new ApiError(message, { status, requestId });
  }
  const words = typeof answer?.message === "string" ? `: ${answer.message}` : "";
  return new ApiError(`The call was answered with ${status}${words}.`, {
    status: status < 400 ? 502 : status,
    requestId,
  });
}

/** @param {string | null} date The header, to the second. */
function setClock(date) {
  const at = Date.parse(date ?? "");
  if (Number.isNaN(at)) return;
  const difference = at - Date.now();
  ahead = Math.abs(difference) > TOLERATED_MS ? difference : 0;
}
