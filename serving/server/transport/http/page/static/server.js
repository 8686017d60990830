// Calls the server that the page came from. The token lives in this module's memory only.

/** A call that failed: `status` is HTTP's, 0 where the server could not be reached; the message is the server's. */
export class CallError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

let token = "";

export function setToken(text) {
  token = text.trim();
}

export const hasToken = () => token !== "";

/** The server's address as clients write it, without a slash at its end. */
export const address = () => new URL(".", document.baseURI).href.replace(/\/$/, "");

/** host:port of gRPC: this page's host, with the port that the server listens on. */
export function grpcAddress() {
  return `${new URL(document.baseURI).hostname}:${document.documentElement.dataset.grpcPort}`;
}

/**
 * Send a request and read the whole response.
 * @returns {Promise<Response>} with a good status.
 * @throws {CallError} another status, or no response. AbortError if `signal` fires.
 */
export async function call(path, options = {}) {
  const headers = token ? { authorization: `Bearer ${token}` } : {};
  let response;
  try {
    response = await fetch(new URL(path, document.baseURI), { ...options, headers, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new CallError(0, `The server at ${address()} cannot be reached.`);
  }
  if (!response.ok) throw new CallError(response.status, await reason(response));
  return response;
}

/** Call, and read the response as JSON. */
export async function callJson(path, options) {
  return (await call(path, options)).json();
}

/**
 * Classify a picture.
 * @param {string} model NAME or NAME@VERSION.
 * @param {Blob} picture a PNG, JPEG or WebP file.
 * @returns {Promise<{answer: Object, roundTrip: number}>} milliseconds from sending the request to having the response.
 */
export async function classify(model, picture, signal) {
  const path = `v1/classify/${encodeURIComponent(model)}`;
  performance.clearResourceTimings();
  const started = performance.now();
  const answer = await callJson(path, { method: "POST", body: picture, signal });
  const elapsed = performance.now() - started;
  // The browser's own record of the call, where there is one, leaves out the time in which this page was busy.
  const [record] = performance.getEntriesByName(new URL(path, document.baseURI).href);
  return { answer, roundTrip: record?.requestStart ? record.responseEnd - record.requestStart : elapsed };
}

async function reason(response) {
  const text = await response.text();
  try {
    return JSON.parse(text).error || text;
  } catch {
    return text || `HTTP status ${response.status}`;
  }
}
