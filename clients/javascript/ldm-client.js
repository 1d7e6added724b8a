// A client of ldm-service for browsers and Node >= 18: fetch and streams, no dependencies. Types: ldm-client.d.ts

const TERMINAL = new Set(["succeeded", "failed", "cancelled"]);
const RETRIED = new Set([429, 502, 503]);
const FIRST_PAUSE_MS = 250, LONGEST_PAUSE_MS = 8000; // between tries, where the server does not say when
const POLL_MS = 50, SLOWEST_POLL_MS = 1000; // while waiting; between them a tenth of the time waited
const SILENCE_MS = 45000; // of a stream of events, on which the server says something every 15 seconds
const PAGE = 50; // jobs of one answer
const JOB = ["id", "task", "model", "status", "progress", "step", "steps", "queue_position", "created_at", "started_at",
  "finished_at", "expires_at", "request", "error", "warnings", "urls"];
const IMAGE = ["url", "signed_url", "seed", "width", "height", "content_type", "sha256"];

export class LdmError extends Error {
  constructor(message, options) {
    super(message, options);
    this.name = new.target.name;
  }
}

export class ConnectionFailed extends LdmError {}
export class WaitTimeout extends LdmError {}
export class JobCancelled extends LdmError {}

/** What the server says is wrong: `problem` is all of it (RFC 9457). */
export class ProblemError extends LdmError {
  constructor(what, problem) {
    const detail = String(problem.detail ?? problem.title ?? "no reason given");
    super(`${what}: ${detail}`);
    const errors = problem.errors ?? [];
    Object.assign(this, { problem, detail, errors, pointers: errors.map((error) => error.pointer) });
  }
}

export class JobFailed extends ProblemError {}

export class ApiError extends ProblemError {
  constructor(status, problem, headers) {
    super(String(status), problem);
    const after = headers.get("retry-after") ?? ""; // a date counts as none
    const retryAfter = /^\d+$/.test(after) ? Number(after) : null;
    Object.assign(this, { status, requestId: headers.get("x-request-id") ?? "", retryAfter });
  }
}

export class Unauthorized extends ApiError {}
export class Forbidden extends ApiError {}
export class NotFound extends ApiError {}
export class ValidationError extends ApiError {}
export class RateLimited extends ApiError {}
export class Unavailable extends ApiError {}

const KINDS = {
  401: Unauthorized, 403: Forbidden, 404: NotFound, 422: ValidationError, 429: RateLimited, 503: Unavailable,
};

function parsed(text) {
  try {
    const data = JSON.parse(text);
    return typeof data === "object" ? data : null;
  } catch {
    return null;
  }
}

async function errorOf(response) {
  const text = await response.text(); // of something between us and the server, where it is no problem
  const problem = parsed(text) ?? { title: response.statusText, detail: text.slice(0, 200) };
  return new (KINDS[response.status] ?? ApiError)(response.status, problem, response.headers);
}

async function objectOf({ status, headers, blob }) {
  const data = parsed(await blob.text());
  if (data !== null) return data;
  throw new ApiError(status, { detail: "The answer is no JSON object; is this an ldm-service?" }, headers);
}

/** Base64 of an image that is wholly in memory, so that a retry can send it again. */
async function base64(image) {
  let data;
  if (image instanceof Blob) data = new Uint8Array(await image.arrayBuffer());
  else if (image instanceof ArrayBuffer) data = new Uint8Array(image);
  else if (ArrayBuffer.isView(image)) data = new Uint8Array(image.buffer, image.byteOffset, image.byteLength);
  else throw new TypeError("an image is a Blob, a File, an ArrayBuffer or a view of one");
  let text = "";
  for (let i = 0; i < data.length; i += 0x8000) text += String.fromCharCode(...data.subarray(i, i + 0x8000));
  return btoa(text);
}

async function jsonBody(fields) {
  const body = Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== null && value !== undefined));
  for (const name of ["image", "mask", "map"]) if (name in body) body[name] = await base64(body[name]);
  if ("neighbors" in body) body.neighbors = await Promise.all(body.neighbors.map(base64));
  return JSON.stringify(body);
}

function sleep(ms, signal) {
  return new Promise((resolve, reject) => {
    const stop = () => { clearTimeout(timer); reject(signal.reason); };
    const timer = setTimeout(() => { signal?.removeEventListener("abort", stop); resolve(); }, ms);
    signal?.addEventListener("abort", stop, { once: true });
  });
}

/** A controller that `signal` aborts, too, and what parts the two; AbortSignal.any is missing in Node 18. */
function linked(signal) {
  const controller = new AbortController();
  const passOn = () => controller.abort(signal.reason);
  if (signal?.aborted) passOn();
  signal?.addEventListener("abort", passOn, { once: true });
  return { controller, part: () => signal?.removeEventListener("abort", passOn) };
}

/** Decides how long to pause after a failure, and when failures in a row have lasted too long. */
class Patience {
  constructor(seconds, signal, log) {
    Object.assign(this, { ms: seconds * 1000, signal, log, failures: 0, end: 0 });
  }

  /** Pauses before the next try. Throws `error` where there shall be none, and why `signal` was aborted. */
  async after(failure) {
    this.signal?.throwIfAborted();
    const error = failure instanceof LdmError ? failure
      : new ConnectionFailed(`The connection failed: ${failure.cause?.message ?? failure.message}`, { cause: failure });
    const now = performance.now();
    if (this.failures === 0) this.end = now + this.ms;
    const longest = Math.min(LONGEST_PAUSE_MS, FIRST_PAUSE_MS * 2 ** this.failures, this.end - now);
    const asked = error.retryAfter ?? null;
    const pause = asked === null ? longest * (0.5 + Math.random() / 2) : Math.max(asked * 1000, FIRST_PAUSE_MS);
    if (pause <= 0 || now + pause > this.end) throw error;
    this.failures += 1;
    this.log(`ldm-client: ${error.message}; trying again in ${(pause / 1000).toFixed(1)} s`);
    await sleep(pause, this.signal);
  }
}

/** Server-Sent Events out of a stream's text. */
class EventParser {
  lastId = "";

  *feed(text) {
    const lines = (this.rest + text).split("\n");
    this.rest = lines.pop();
    for (const line of lines.map((each) => each.replace(/\r$/, ""))) {
      const colon = line.indexOf(":");
      if (line) this.fields[line.slice(0, colon)] = line.slice(colon + 1).replace(/^ /, "");
      else yield* this.completed();
    }
  }

  *completed() {
    const { id = this.lastId, event: name = "message", data } = this.fields;
    this.fields = {};
    if (data === undefined) return; // a comment
    this.lastId = id;
    yield { id, name, data: JSON.parse(data), ended: TERMINAL.has(name) };
  }
}

export class JobImage {
  #client;

  constructor(client, path, raw) {
    this.#client = client;
    Object.assign(this, { path, raw });
    for (const name of IMAGE) this[name] = raw[name] ?? null;
  }

  async blob(options = {}) {
    return (await this.#client._answered("GET", this.path, { ...options, headers: { Accept: "*/*" } })).blob;
  }

  async bytes(options = {}) {
    return new Uint8Array(await (await this.blob(options)).arrayBuffer());
  }
}

export class Job {
  #client;

  constructor(client, raw) {
    this.#client = client;
    this.#take(raw);
  }

  #take(raw) {
    this.raw = raw;
    for (const name of JOB) this[name] = raw[name] ?? null;
    this.path = `/v1/jobs/${this.id}`;
    this.images = (raw.images ?? []).map((image, i) => new JobImage(this.#client, `${this.path}/images/${i}`, image));
    this.seed = this.request?.seed ?? null;
    this.ended = TERMINAL.has(this.status);
  }

  async refresh(options = {}) {
    this.#take(await objectOf(await this.#client._answered("GET", this.path, options)));
    return this;
  }

  async cancel(options = {}) {
    const answer = await this.#client._answered("DELETE", this.path, options);
    if (answer.status === 204) return this.refresh(options);
    this.#take(await objectOf(answer));
    return this;
  }

  async wait({ timeout = Infinity, signal } = {}) {
    const begun = performance.now();
    while (!this.ended) {
      signal?.throwIfAborted();
      const passed = performance.now() - begun;
      const left = timeout * 1000 - passed;
      if (left <= 0) throw new WaitTimeout(`Job ${this.id} has not ended in ${timeout} s: it is ${this.status}`);
      await sleep(Math.min(SLOWEST_POLL_MS, Math.max(POLL_MS, passed / 10), left), signal);
      const retryFor = Math.min(this.#client.retryFor, left / 1000);
      const patient = Math.min(this.#client.timeout, Math.max(left, SLOWEST_POLL_MS) / 1000);
      await this.refresh({ signal, retryFor, timeout: patient });
    }
    if (this.status === "cancelled") throw new JobCancelled(`Job ${this.id} was cancelled`);
    if (this.status === "failed") throw new JobFailed(`Job ${this.id} failed`, this.error ?? {});
    return this;
  }

  async *events({ preview = false, signal } = {}) {
    const parser = new EventParser(), patience = this.#client._patience(signal);
    const path = `${this.path}/events${preview ? "?preview=1" : ""}`;
    for (;;) {
      const { controller, part } = linked(signal);
      let silence;
      try {
        const headers = { Accept: "text/event-stream", ...(parser.lastId && { "Last-Event-ID": parser.lastId }) };
        const given = { headers, signal: controller.signal, stream: true };
        const response = await this.#client._answered("GET", path, given);
        if (response.status === 204) return; // we have seen the end
        Object.assign(parser, { rest: "", fields: {} }); // without what a broken connection left half
        const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
        for (;;) {
          silence = setTimeout(() => controller.abort(new Error("nothing was heard for too long")), SILENCE_MS);
          const { done, value } = await reader.read();
          clearTimeout(silence);
          if (done) throw new Error(`the stream of job ${this.id} ended before the job`);
          patience.failures = 0;
          for (const event of parser.feed(value)) {
            this.#hear(event);
            yield event;
            if (event.ended) return;
          }
        }
      } catch (error) {
        if (error instanceof LdmError || error instanceof SyntaxError) throw error; // has been retried, or is no JSON
        await patience.after(error);
      } finally {
        clearTimeout(silence);
        part();
        controller.abort();
      }
    }
  }

  #hear({ name, data, ended }) {
    if (name === "status" || ended) this.#take(data);
    else if (name === "progress") Object.assign(this, { step: data.step, steps: data.steps, progress: data.progress });
  }
}

export class Client {
  #key;
  #log;

  constructor({ server, apiKey, timeout = 60, retryFor = 30, log = console.warn } = {}) {
    const environment = globalThis.process?.env ?? {};
    this.server = (server || environment.LDM_SERVER || "http://localhost:8000").replace(/\/+$/, "");
    if (!/^https?:\/\//.test(this.server)) throw new TypeError("server must begin with http:// or https://");
    Object.assign(this, { timeout, retryFor });
    this.#key = apiKey ?? environment.LDM_API_KEY ?? "";
    this.#log = log;
  }

  async create(task, { idempotencyKey, ...fields }, options = {}) {
    const key = idempotencyKey ?? globalThis.crypto?.randomUUID?.() ?? Array.from({ length: 3 }, Math.random).join("-");
    const headers = { "Content-Type": "application/json", "Idempotency-Key": key };
    const given = { ...options, headers, body: await jsonBody(fields) };
    return new Job(this, await objectOf(await this._answered("POST", `/v1/${task}`, given)));
  }

  txt2img(prompt, fields = {}, options = {}) {
    return this.create("txt2img", { ...fields, prompt }, options);
  }

  img2img(image, prompt, fields = {}, options = {}) {
    return this.create("txt2img", { ...fields, image, prompt }, options);
  }

  inpaint(image, mask = null, fields = {}, options = {}) {
    return this.create("inpaint", { ...fields, image, mask }, options);
  }

  superres(image, fields = {}, options = {}) {
    return this.create("superres", { ...fields, image }, options);
  }

  job(id, options = {}) {
    return new Job(this, { id }).refresh(options);
  }

  async *jobs({ status, limit = Infinity, ...options } = {}) {
    const query = new URLSearchParams(status ? { status } : {});
    for (let left = limit; left > 0; ) {
      query.set("limit", String(Math.min(PAGE, left)));
      const page = await objectOf(await this._answered("GET", `/v1/jobs?${query}`, options));
      for (const raw of page.data) yield new Job(this, raw);
      left -= page.data.length;
      if (!page.next_cursor) return;
      query.set("cursor", page.next_cursor);
    }
  }

  async models(options = {}) {
    return (await objectOf(await this._answered("GET", "/v1/models", options))).data;
  }

  _patience(signal, retryFor = this.retryFor) {
    return new Patience(retryFor, signal, this.#log);
  }

  /** The answer of a request once it is a success, with its body unless `stream`. Throws ApiError, ConnectionFailed. */
  async _answered(method, path, { headers, body, signal, retryFor, timeout = this.timeout, stream = false } = {}) {
    const patience = this._patience(signal, retryFor);
    const key = this.#key && { Authorization: `Bearer ${this.#key}` };
    for (;;) {
      const { controller, part } = linked(signal);
      const tooLong = setTimeout(() => controller.abort(new Error(`no answer in ${timeout} s`)), timeout * 1000);
      let failure;
      try {
        const sent = { Accept: "application/json", ...key, ...headers };
        const init = { method, headers: sent, body, redirect: "manual", signal: controller.signal };
        const response = await fetch(this.server + path, init);
        if (response.ok && stream) return response;
        if (response.ok) return { status: response.status, headers: response.headers, blob: await response.blob() };
        failure = await errorOf(response);
      } catch (error) {
        failure = error;
      } finally {
        clearTimeout(tooLong);
        if (!stream) part();
      }
      if (failure instanceof ApiError && !RETRIED.has(failure.status)) throw failure;
      await patience.after(failure);
    }
  }
}
