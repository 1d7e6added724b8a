// Jobs of this session: made, followed, cancelled, deleted, and found again after a reload.
import * as api from "./api.js";
import { drawn, say, state, update } from "./state.js";
import { bodyOf, endpointOf, missing } from "./tasks.js";

const KEPT = "ldm.gallery";
const STREAMS = 3; // a browser opens six connections to a server, and images and requests need some too
const POLL_MS = 1500;
const ENDS = ["succeeded", "failed", "cancelled"];
const RENEW_MS = 10_000;
const streams = new Map();
const renewed = new Map();

export const isOpen = (entry) => !ENDS.includes(entry.job.status);

export async function send() {
  if (state.sending) return;
  const fields = missing(state.form, state.models);
  if (fields) return refused({ detail: Object.values(fields)[0], fields });
  update({ sending: true, problem: null });
  try {
    await make(state.form.task, await bodyOf(state.form, state.models));
  } catch (error) {
    refused(error);
  } finally {
    update({ sending: false });
  }
}

// Raises ApiError or Away.
export async function make(task, body) {
  const job = await api.submit(endpointOf(task), body);
  const entry = { id: job.id, task, body, job, preview: null };
  update({ gallery: [entry, ...state.gallery], selected: job.id, image: 0, showing: "result", away: false });
  showStage();
  say(`Queued: ${job.request.prompt || job.task}`);
  keep();
  tend();
}

// On a phone the stage is above the form and the cards.
export async function showStage() {
  await drawn();
  if (matchMedia("(max-width: 860px)").matches) document.querySelector(".stage")?.scrollIntoView();
}

export function refuse(error) {
  if (error instanceof api.Away) return lost();
  if (error.status === 401) return update({ needsKey: keyTrouble() });
  const again = error.retryAfter ? ` Try again in ${error.retryAfter} s.` : "";
  const message = error.message ?? error.detail;
  update({ problem: { detail: message + again, fields: error.fields ?? {} } });
  say(message);
}

// What the visitor asked for and did not get: its sentence comes into view, its field into focus.
export async function refused(error) {
  refuse(error);
  if (["image", "mask", "map", "objects"].some((name) => state.problem?.fields[name])) update({ showing: "input" });
  await drawn();
  const place = state.problem && ["[aria-invalid]", ".field-error", "#task .note.bad"].map((part) => document.querySelector(part)).find(Boolean);
  place?.focus({ preventScroll: true });
  place?.scrollIntoView({ block: "center" });
}

export const keyTrouble = () =>
  api.apiKey() ? "The server does not know this key. Check it for missing letters." : "This server asks for an API key.";

export function lost() {
  update({ away: true });
  say("The server does not answer. Trying again.");
}

const change = (id, changes) =>
  update({ gallery: state.gallery.map((entry) => (entry.id === id ? { ...entry, ...changes } : entry)) });

function receive(id, job) {
  change(id, ENDS.includes(job.status) ? { job, preview: null } : { job });
  if (ENDS.includes(job.status)) say(ended(job));
}

function ended(job) {
  if (job.status === "succeeded") return `Done, seed ${job.images[0]?.seed}.`;
  return job.status === "failed" ? `Failed: ${job.error?.detail}` : "Cancelled.";
}

// Gives streams to open jobs: first to the one on the stage, then to the oldest.
function tend() {
  const open = state.gallery.filter(isOpen).reverse();
  open.sort((a, b) => (b.id === state.selected) - (a.id === state.selected));
  const wanted = new Set(open.slice(0, STREAMS).map((entry) => entry.id));
  for (const [id, source] of streams) if (!wanted.has(id)) stop(id, source);
  for (const entry of open) if (wanted.has(entry.id) && !streams.has(entry.id)) follow(entry);
}

function stop(id, source) {
  source.close();
  streams.delete(id);
}

function follow({ id, job }) {
  const source = new EventSource(api.eventsUrl(job));
  streams.set(id, source);
  const on = (name, act) => source.addEventListener(name, (event) => act(JSON.parse(event.data)));
  on("status", (now) => receive(id, now));
  on("progress", (step) => progress(id, step));
  for (const end of ENDS) on(end, (now) => (stop(id, source), receive(id, now), tend()));
  source.onerror = () => stop(id, source); // the next poll reads the job, and a new stream follows it on
}

function progress(id, { step, steps, progress, preview }) {
  const entry = state.gallery.find((each) => each.id === id);
  if (!entry) return;
  const job = { ...entry.job, status: "running", queue_position: null, step, steps, progress };
  change(id, { job, preview: preview ?? entry.preview });
  const quarter = Math.floor(progress * 4);
  if (quarter > Math.floor(entry.job.progress * 4) && quarter < 4) say(`${quarter * 25} per cent`);
}

// Reads every open job that no stream follows.
async function poll() {
  const waiting = state.gallery.filter((entry) => isOpen(entry) && !streams.has(entry.id));
  try {
    if (waiting.length) await readAgain(waiting);
    if (waiting.length) tend();
  } catch (error) {
    if (error instanceof api.Away || error.status >= 500) lost();
    else refuse(error);
  }
  setTimeout(poll, POLL_MS);
}

async function readAgain(entries) {
  const found = new Map((await api.jobs()).map((job) => [job.id, job]));
  for (const { id } of entries) {
    const job = found.get(id) ?? (await unlessGone(id));
    if (job?.request) receive(id, job);
    else forget(id);
  }
  if (state.away) update({ away: false });
}

async function unlessGone(id) {
  try {
    return await api.job(id);
  } catch (error) {
    if (error.status === 404) return null;
    throw error;
  }
}

export async function cancel(id) {
  try {
    const answer = await api.remove(id);
    if (answer.status === 200) receive(id, await answer.json());
  } catch (error) {
    refused(error);
  }
}

// Deletes the images on the server, then the card.
export async function discard(entry) {
  try {
    await api.remove(entry.id);
  } catch (error) {
    if (error.status !== 404) return refused(error);
  }
  forget(entry.id);
  say("Deleted.");
}

function forget(id) {
  const gallery = state.gallery.filter((entry) => entry.id !== id);
  update({ gallery, selected: state.selected === id ? (gallery[0]?.id ?? null) : state.selected, image: 0 });
  keep();
}

// An image whose signed URL has ended, or that was deleted elsewhere. Not again and again, where it stays away.
export async function renew(id) {
  if (performance.now() - (renewed.get(id) ?? -Infinity) < RENEW_MS) return;
  renewed.set(id, performance.now());
  const job = await unlessGone(id).catch(() => undefined);
  if (job === null) forget(id);
  else if (job) receive(id, job);
}

// Large inputs leave the storage first: without them a job can still be shown, not drawn again.
function keep() {
  const kept = state.gallery.slice(0, 100).map(({ id, task, body }) => ({ id, task, body }));
  for (let i = kept.length; i >= 0; i--) {
    try {
      return sessionStorage.setItem(KEPT, JSON.stringify(kept));
    } catch {
      if (i > 0) kept[i - 1] = { ...kept[i - 1], body: { ...kept[i - 1].body, image: undefined, mask: undefined, map: undefined } };
    }
  }
}

export async function restore() {
  const kept = JSON.parse(sessionStorage.getItem(KEPT) ?? "[]");
  const read = await Promise.all(kept.map((entry) => unlessGone(entry.id).then((job) => ({ ...entry, job, preview: null }))));
  const gallery = read.filter((entry) => entry.job?.request);
  update({ gallery, selected: gallery[0]?.id ?? null });
  keep();
}

export function select(id) {
  update({ selected: id, image: 0, showing: "result" });
  showStage();
  tend();
}

export const startPolling = () => (poll(), tend());
