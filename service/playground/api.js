// The gateway's API. Every refusal is an ApiError with the server's problem; a server that is away is Away.
export const ROOT = new URL("..", import.meta.url).pathname.replace(/\/$/, "");
const KEY = "ldm.key";

export class Away extends Error {}

export class ApiError extends Error {
  constructor(status, problem, retryAfter) {
    super(problem.detail ?? problem.title ?? `The server answered ${status}.`);
    this.status = status;
    this.retryAfter = retryAfter;
    // field → sentence: a pointer such as /objects/0/label belongs to the field `objects`
    this.fields = {};
    for (const { pointer, detail } of problem.errors ?? []) {
      const [, field, ...rest] = pointer.split("/");
      const where = rest.length ? `${rest.map((part) => (/^\d+$/.test(part) ? Number(part) + 1 : part)).join(" ")}: ` : "";
      this.fields[field] ??= where + detail;
    }
  }
}

export const apiKey = () => sessionStorage.getItem(KEY) ?? "";
export const setApiKey = (key) => (key ? sessionStorage.setItem(KEY, key) : sessionStorage.removeItem(KEY));

async function call(path, options = {}) {
  const headers = { ...options.headers };
  if (apiKey()) headers.Authorization = `Bearer ${apiKey()}`;
  let answer;
  try {
    answer = await fetch(path, { ...options, headers });
  } catch (error) {
    throw error instanceof TypeError ? new Away("The server does not answer.") : error;
  }
  if (answer.ok) return answer;
  const problem = await answer.json().catch(() => ({}));
  throw new ApiError(answer.status, problem, Number(answer.headers.get("Retry-After")) || null);
}

const json = async (path, options) => (await call(path, options)).json();

export const models = async () => (await json(`${ROOT}/v1/models`)).data;
export const job = (id) => json(`${ROOT}/v1/jobs/${id}`);
export const jobs = async () => (await json(`${ROOT}/v1/jobs?limit=100`)).data;
export const submit = (endpoint, body) =>
  json(`${ROOT}/v1/${endpoint}`, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
export const remove = (id) => call(`${ROOT}/v1/jobs/${id}`, { method: "DELETE" });
export const metrics = async () => (await call(`${ROOT}/metrics`)).text();
export const bytes = async (url) => (await call(url)).blob();

// A signed URL needs no header, which <img> and EventSource cannot send; a server without keys signs none.
export const imageUrl = (image) => image.signed_url ?? image.url;
export function eventsUrl(job) {
  const url = job.urls.events_signed ?? job.urls.events;
  return `${url}${url.includes("?") ? "&" : "?"}preview=1`;
}

export async function readiness() {
  try {
    await call(`${ROOT}/readyz`);
    return "Ready";
  } catch (error) {
    return error.message;
  }
}
