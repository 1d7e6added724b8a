// The large place: what is being prepared, or the job that was chosen.
import * as api from "./api.js";
import { Button, Segments } from "./controls.js";
import { Compare } from "./compare.js";
import { chooseTask } from "./form.js";
import { Icon } from "./icons.js";
import { takeUrl } from "./input.js";
import { Inputs } from "./inputs.js";
import { cancel, discard, isOpen, make, refused, renew } from "./jobs.js";
import { Snippets } from "./snippets.js";
import { selectedEntry, setForm, state, update } from "./state.js";
import { hasEditor, modelOf, taskOf } from "./tasks.js";
import { html, useState } from "./vendor/preact.js";
import { Welcome } from "./welcome.js";

const VIEWS = [["input", "Input"], ["result", "Result"]];

export function Stage() {
  const entry = selectedEntry();
  const editable = hasEditor(state.form.task);
  const input = editable && state.showing === "input";
  return html`<section class="stage" aria-label="Image">
    ${editable && entry && html`<${Segments} label="On the stage" value=${input ? "input" : "result"} options=${VIEWS}
      set=${(showing) => update({ showing })} />`}
    ${input || (editable && !entry) ? html`<${Inputs} />` : entry ? html`<${Result} key=${entry.id} entry=${entry} />` : html`<${Welcome} />`}
  </section>`;
}

function Result({ entry }) {
  const { job } = entry;
  return html`<div class="result">
    <${Shown} entry=${entry} />
    ${job.images.length > 1 && html`<${Thumbs} images=${job.images} />`}
    <${Actions} entry=${entry} />
    ${job.status === "failed" && html`<div class="note bad"><${Icon} name="warning" /><p>${job.error?.detail ?? "It failed."}</p></div>`}
    ${job.warnings.map((warning) => html`<div class="note" key=${warning.code + warning.pointer}><${Icon} name="warning" /><p>${onPage(warning)}</p></div>`)}
    <${Facts} entry=${entry} />
  </div>`;
}

// The image, its preview, or the place where it will be.
function Shown({ entry }) {
  const { job, body, preview } = entry;
  const image = job.images[state.image] ?? job.images[0];
  const { width, height } = image ?? job.request;
  const alt = job.request.prompt || `${taskOf(entry.task).label}, seed ${job.request.seed}`;
  const sheet = { "--ratio": width / height };
  const shown = { src: image && api.imageUrl(image), alt, onError: () => renew(entry.id) };
  if (image && body.image) return html`<${Compare} style=${sheet} before=${body.image} after=${shown} />`;
  if (image) return html`<div class="sheet" style=${sheet}><img ...${shown} /></div>`;
  return html`<div class=${`sheet pending ${job.status}`} style=${sheet}>
    ${preview ? html`<img class="preview" src=${preview} alt="" />` : html`<p class="sheet-hint">${waitingFor(job)}</p>`}
    ${isOpen(entry) && html`<${Progress} job=${job} />`}
  </div>`;
}

const onPage = ({ code, detail }) => (code === "words_unknown" ? detail.replace("Its vocabulary is in /v1/models.", "The words it knows are listed under the prompt.") : detail);

export function waitingFor(job) {
  if (job.status === "queued") return job.queue_position > 1 ? `Number ${job.queue_position} in the queue` : "In the queue";
  return { running: "Drawing…", cancelled: "Cancelled", failed: "Failed" }[job.status] ?? "";
}

// A job that is enlarged goes on with the super-resolution model's steps.
function stepOf({ step, steps, request }) {
  const more = request.upscale ? modelOf(state.models, { task: "superres" })?.default_steps ?? 0 : 0;
  if (step > steps - more) return `Enlarging: step ${step - steps + more} of ${more}`;
  return `Step ${step} of ${steps - more}${more ? `, then ${more} to enlarge` : ""}`;
}

const Progress = ({ job }) => html`<div class="progress"><progress max="1" value=${job.progress} aria-label="Progress"></progress>
  <span>${job.status === "queued" ? waitingFor(job) : stepOf(job)}</span></div>`;

const Thumbs = ({ images }) => html`<div class="thumbs" role="group" aria-label="Images of this job">
  ${images.map((image, i) => html`<button key=${i} type="button" aria-pressed=${String(i === state.image)}
    aria-label=${`Image ${i + 1}, seed ${image.seed}`} onClick=${() => update({ image: i })}><img src=${api.imageUrl(image)} alt="" /></button>`)}
</div>`;

const attempt = (act) => act().catch(refused);
const served = (task) => modelOf(state.models, { ...state.form, task, model: null });

async function useAsInput(task, image) {
  await chooseTask(task);
  await takeUrl(api.imageUrl(image), `seed-${image.seed}.png`);
}

async function enlarge(image) {
  const { dataUrl } = await import("./png.js");
  await make("superres", { image: await dataUrl(await api.bytes(api.imageUrl(image))), seed: image.seed });
}

function vary(entry) {
  const { job, body, task } = entry;
  const seed = (job.request.seed + job.request.n) % 2 ** 32;
  return make(task, { ...body, seed });
}

function Actions({ entry }) {
  const [code, setCode] = useState(false);
  const { job, task, body } = entry;
  const image = job.images[state.image] ?? job.images[0];
  if (isOpen(entry)) return html`<div class="actions"><${Button} icon="close" onClick=${() => cancel(entry.id)}>Cancel<//></div>`;
  const name = image && `${task}-${image.seed}.${image.content_type.split("/")[1]}`;
  const whole = !["image", "mask", "map"].some((name) => name in body && !body[name]);
  return html`<div class="actions" role="toolbar" aria-label="With this image">
    ${image && html`<a class="button primary" href=${api.imageUrl(image)} download=${name}><${Icon} name="download" />Download</a>`}
    ${whole && html`<${Button} icon="vary" onClick=${() => attempt(() => vary(entry))}>Vary<//>`}
    ${image && served("img2img") && html`<${Button} icon="image" onClick=${() => attempt(() => useAsInput("img2img", image))}>Redraw<//>`}
    ${image && served("inpaint") && html`<${Button} icon="brush" onClick=${() => attempt(() => useAsInput("inpaint", image))}>Inpaint<//>`}
    ${image && served("superres") && html`<${Button} icon="enlarge" onClick=${() => attempt(() => enlarge(image))}>Enlarge<//>`}
    ${whole && html`<${Button} icon="code" onClick=${() => setCode(true)}>Code<//>`}
    <${Button} icon="trash" label="Delete from the server" onClick=${() => discard(entry)} />
    ${code && html`<${Snippets} entry=${entry} close=${() => setCode(false)} />`}
  </div>`;
}

function Facts({ entry }) {
  const { request, images, model } = entry.job;
  const seed = images[state.image]?.seed ?? request.seed;
  const reuse = () => setForm({ seed, ...(request.prompt ? { prompt: request.prompt } : {}) });
  const guidance = request.guidance_scale > 1 && `guidance ${request.guidance_scale}`;
  const size = images[0] && `${images[0].width} × ${images[0].height}`;
  const facts = [model, `${request.steps} steps`, request.sampler, guidance, size].filter(Boolean);
  return html`<div class="facts">
    ${request.prompt && html`<p class="caption-text">${request.prompt}</p>`}
    <p class="quiet"><button type="button" class="link" onClick=${reuse} title="Take seed and prompt into the form">seed ${seed}</button>
      ${facts.map((fact) => html` <span>${fact}</span>`)}</p>
  </div>`;
}
