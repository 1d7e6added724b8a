// What an operator looks at: the queue, the workers, the models, and how much is asked, live.
import * as api from "./api.js";
import { Chart } from "./chart.js";
import { html, useEffect, useState } from "./vendor/preact.js";

const EVERY_MS = 2000;
const BEAT_MS = 8000; // longer than workers take to tell
const KEPT = 90; // three minutes
const LINE = /^(\w+)(?:\{(.*)\})? ([-+\d.eInfNa]+)$/;
const LABEL = /(\w+)="((?:[^"\\]|\\.)*)"/g;
const PRIORITIES = ["high", "normal", "low"];

// The text that Prometheus reads: name → [{labels, value}]
export function parse(text) {
  const found = new Map();
  for (const line of text.split("\n")) {
    const [, name, labels = "", value] = LINE.exec(line) ?? [];
    if (!name) continue;
    if (!found.has(name)) found.set(name, []);
    found.get(name).push({ labels: Object.fromEntries([...labels.matchAll(LABEL)].map(([, key, text]) => [key, text])), value: Number(value) });
  }
  return found;
}

function sum(metrics, name, labels = {}) {
  const wanted = Object.entries(labels);
  return (metrics.get(name) ?? []).filter((each) => wanted.every(([key, value]) => each.labels[key] === value)).reduce((total, { value }) => total + value, 0);
}

async function look(before) {
  const [text, models, ready] = await Promise.all([api.metrics(), api.models(), api.readiness()]);
  const metrics = parse(text);
  const now = performance.now();
  const counts = Object.fromEntries(["ldm_jobs_submitted_total", "ldm_http_requests_total", "ldm_model_rows", "ldm_model_steps"].map((name) => [name, sum(metrics, name)]));
  // a counter that fell was another gateway's, or a new one's
  const rise = (name) => Math.max(0, counts[name] - (before?.counts[name] ?? counts[name]));
  const rate = (name) => (before ? (rise(name) / (now - before.at)) * 1000 : 0);
  const steps = rise("ldm_model_steps");
  // workers tell their counts every few seconds; until then the last ratio holds
  const told = steps ? { at: now, rows: rise("ldm_model_rows") / steps } : before?.told;
  const point = {
    ...Object.fromEntries(PRIORITIES.map((priority) => [priority, sum(metrics, "ldm_queue_depth", { priority })])),
    jobs: rate("ldm_jobs_submitted_total"), requests: rate("ldm_http_requests_total"),
    listeners: sum(metrics, "ldm_event_listeners"), rows: told && now - told.at < BEAT_MS ? told.rows : 0,
  };
  return { at: now, counts, told, metrics, models, ready, points: [...(before?.points ?? []), point].slice(-KEPT) };
}

export function Operators() {
  const [seen, setSeen] = useState(null);
  const [trouble, setTrouble] = useState("");
  useEffect(() => {
    let timer = 0;
    let last = null;
    let over = false;
    const again = async () => {
      try {
        last = await look(last);
        if (!over) (setSeen(last), setTrouble(""));
      } catch (error) {
        if (!over) setTrouble(error.message);
      }
      if (!over) timer = setTimeout(again, EVERY_MS);
    };
    again();
    return () => ((over = true), clearTimeout(timer));
  }, []);
  if (!seen) return html`<main class="operators"><p class="quiet">${trouble || "Reading…"}</p></main>`;
  const now = seen.points.at(-1);
  const waiting = PRIORITIES.reduce((total, name) => total + now[name], 0);
  const workers = Math.max(0, ...seen.models.map((model) => model.workers));
  const figures = [["Waiting", waiting, "jobs in the queue"], ["Workers", workers, "processes that draw"], ["Rows per step", now.rows.toFixed(1), "share one U-Net call; guidance takes 2 an image"],
    ["Jobs a second", now.jobs.toFixed(1), "accepted"], ["Listeners", now.listeners, "open event streams that follow jobs"]];
  const ready = seen.ready === "Ready" && !trouble;
  return html`<main class="operators">
    <header><h1>Operators</h1><p class=${`pill ${ready ? "good" : "bad"}`} role="status">${trouble || seen.ready}</p></header>
    <dl class="figures">
      ${figures.map(([name, value, what]) => html`<div key=${name}><dt>${name}<small>${what}</small></dt><dd>${value}</dd></div>`)}
    </dl>
    <div class="charts">
      <${Chart} title="Queue by priority" points=${seen.points} series=${PRIORITIES} unit="jobs" stacked />
      <${Chart} title="Rows per step" points=${seen.points} series=${["rows"]} unit="rows" />
      <${Chart} title="Jobs accepted a second" points=${seen.points} series=${["jobs"]} unit="jobs/s" />
      <${Chart} title="Requests a second" points=${seen.points} series=${["requests"]} unit="requests/s" />
    </div>
    <${Models} seen=${seen} />
    <p class="quiet">Read every ${EVERY_MS / 1000} s from /v1/models, /readyz and /metrics. Rates are those of the gateway that answers.</p>
  </main>`;
}

const Models = ({ seen }) => html`<div class="table scrolls across" tabindex="0" role="region" aria-label="Models"><table>
  <caption>Models</caption>
  <thead><tr><th scope="col">Model</th><th scope="col">Tasks</th><th scope="col">Size</th><th scope="col" class="number">Workers</th>${PRIORITIES.map((name) => html`<th key=${name} scope="col" class="number">${name}</th>`)}</tr></thead>
  <tbody>${seen.models.map((model) => html`<tr key=${model.id}><th scope="row">${model.id}</th><td>${model.tasks.join(", ")}</td><td>${model.native_size.join(" × ")}</td><td class="number">${model.workers}</td>
    ${PRIORITIES.map((priority) => html`<td key=${priority} class="number">${sum(seen.metrics, "ldm_queue_depth", { model: model.id, priority })}</td>`)}</tr>`)}</tbody>
</table></div>`;
