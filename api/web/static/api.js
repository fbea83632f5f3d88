// Calls of the API, with the key that the user gave for this tab.
import { Watched } from "./state.js";

const KEY = "penstock.key";

export class ApiError extends Error {
  constructor(status, body, retryAfter) {
    super(body?.message || `The server answered ${status}`);
    this.status = status;
    this.code = body?.code ?? "";
    this.retryAfterS = Number(retryAfter) || 0;
  }
}

export const key = new Watched(sessionStorage.getItem(KEY) ?? "");
// Whether the server has refused us, so that the page asks for a key.
export const keyWanted = new Watched(false);

export function setKey(text) {
  if (text) sessionStorage.setItem(KEY, text);
  else sessionStorage.removeItem(KEY);
  keyWanted.set(false);
  key.set(text);
}

// Return the response. Throws ApiError for what the server refuses, TypeError when it is not there.
export async function call(method, path, { body, headers, signal } = {}) {
  const sent = { ...headers };
  if (key.value) sent.authorization = `Bearer ${key.value}`;
  if (body !== undefined) sent["content-type"] = "application/json";
  const response = await fetch(path, {
    method,
    headers: sent,
    body: body === undefined ? undefined : JSON.stringify(body),
    signal,
    cache: "no-store",
  });
  if (response.ok) return response;
  const answer = await response.json().catch(() => null);
  if (response.status === 401) keyWanted.set(true);
  throw new ApiError(response.status, answer?.error, response.headers.get("retry-after"));
}

export async function read(path, options) {
  return (await call("GET", path, options)).json();
}
