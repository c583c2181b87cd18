// Reads /api/v1 of the server that served this page.

export class ApiError extends Error {
  constructor(status, body) {
    super(body.message || `the server answered ${status}`);
    this.status = status;
    this.code = body.code || "";
    this.remedy = body.remedy || "";
  }
}

const TIMEOUT_MS = 15000;

export function get(path, params, signal) {
  const query = new URLSearchParams(Object.entries(params || {}).filter(([, value]) => value !== undefined && value !== null && value !== ""));
  return ask("GET", `/api/v1/${path}${query.size ? `?${query}` : ""}`, signal);
}

/// Changes something; the server refuses it when another site's page asks.
export const post = (path) => ask("POST", `/api/v1/${path}`);

async function ask(method, url, signal) {
  const timeout = AbortSignal.timeout(TIMEOUT_MS);
  let response;
  try {
    response = await fetch(url, { method, headers: { accept: "application/json" }, cache: "no-store", signal: signal ? AbortSignal.any([signal, timeout]) : timeout });
  } catch (error) {
    if (signal && signal.aborted) throw error;
    throw new ApiError(0, { code: "UNREACHABLE", message: "The server does not answer.", remedy: "Is it running? This page tries again by itself." });
  }
  const text = await response.text();
  let body = {};
  try { body = JSON.parse(text); } catch { body = { message: text.slice(0, 300) }; }
  if (!response.ok) throw new ApiError(response.status, body);
  return body;
}

export const segment = encodeURIComponent;
