// Requests to the endpoint, with the token of this tab.
const TIMEOUT_MS = 15_000; // For every response but the stream.
const TOKEN = "tagcache-token";
const API = new URL("../api/admin/", import.meta.url);

// The storage of a session, so that the token ends with the tab.
let token = sessionStorage.getItem(TOKEN);

export const signedIn = () => token != null;
export function keepToken(given) {
  token = given;
  if (given == null) sessionStorage.removeItem(TOKEN);
  else sessionStorage.setItem(TOKEN, given);
}

export class HttpError extends Error {
  constructor(status, detail, retryAfter = 0) { super(detail); this.status = status; this.retryAfter = retryAfter; }
}

// If a token is missing or wrong, each request sends the page the event "unauthorized".
export async function request(path, options = {}) {
  const headers = { ...options.headers };
  if (token) headers.Authorization = `Bearer ${token}`;
  const signal = options.signal ?? AbortSignal.timeout(TIMEOUT_MS);
  const response = await fetch(`${API}${path}`, { ...options, headers, signal, cache: "no-store" }).catch((error) => {
    throw error.name === "AbortError" ? error : new HttpError(0, "The endpoint cannot be reached");
  });
  if (!response.ok) {
    const problem = await response.json().catch(() => ({}));
    if (response.status === 401) dispatchEvent(new Event("unauthorized"));
    throw new HttpError(response.status, problem.detail ?? response.statusText, Number(response.headers.get("Retry-After")) || 0);
  }
  return response;
}
