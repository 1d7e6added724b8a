// The panel: what shall be drawn, by which model, and how.
import { Button, Digits, Field, Range, Select, Switch, Tabs, described, errorOf } from "./controls.js";
import { Icon } from "./icons.js";
import { refit } from "./input.js";
import { send, showStage } from "./jobs.js";
import { Prompt } from "./prompt.js";
import { setField, setForm, state, update } from "./state.js";
import { canUpscale, defaultSampler, guidanceOf, hasEditor, modelOf, modelsFor, servedTasks, takesPrompt, taskOf, upscales } from "./tasks.js";
import { html } from "./vendor/preact.js";

export async function chooseTask(task) {
  const ofModel = { model: null, width: null, height: null, steps: null, sampler: null, guidance_scale: null };
  setForm({ task, ...ofModel });
  update({ problem: null, showing: hasEditor(task) ? "input" : "result" });
  await refit();
}

const turnTo = (task) => (chooseTask(task), hasEditor(task) && showStage());

export function Panel() {
  const { form, models } = state;
  const model = modelOf(models, form);
  const why = state.locked ? "What this server draws is shown to those with a key." : models ? "No worker serves a model at the moment." : "Reading the models…";
  if (!model) return html`<aside class="panel" aria-label="What to draw"><p class="quiet">${why}</p></aside>`;
  const submit = (event) => (event.preventDefault(), send());
  const task = taskOf(form.task);
  return html`<aside class="panel" aria-label="What to draw">
    <${Tabs} label="Task" controls="task" value=${form.task} set=${turnTo}
      options=${servedTasks(models).map(({ id, label, icon }) => [id, label, icon])} />
    <form id="task" role="tabpanel" aria-labelledby=${`tab-${form.task}`} onSubmit=${submit} noValidate>
      <${Models} model=${model} />
      ${takesPrompt(model) && html`<${Prompt} model=${model} />`}
      ${form.task === "class2img" && html`<${Class} model=${model} />`}
      ${form.task === "img2img" && html`<${Range} name="strength" label="How far from the image" min=${0} max=${1} step=${0.05} value=${form.strength} byDefault=${0.8} />`}
      ${task.sized && html`<${Size} model=${model} />`}
      <${Sampling} model=${model} />
      <${Problem} />
      <div class="send">
        <button class="button primary" type="submit" disabled=${state.sending || state.away}>
          ${state.sending ? html`<span class="spinner"></span>` : html`<${Icon} name=${task.icon} />`}${task.verb}</button>
      </div>
    </form>
  </aside>`;
}

function Models({ model }) {
  const able = modelsFor(state.models, state.form.task);
  if (able.length < 2) return null;
  const set = (id) => setForm({ model: id, width: null, height: null, steps: null, sampler: null, guidance_scale: null });
  return html`<${Select} name="model" label="Model" value=${model.id} options=${able.map(({ id }) => id)} set=${set} />`;
}

function Class({ model }) {
  const set = (value) => setField("class_id", Number(value));
  if (model.labels.length) return html`<${Select} name="class_id" label="Class" value=${state.form.class_id} options=${model.labels.map((name, id) => [id, name])} set=${set} />`;
  return html`<${Range} name="class_id" label=${`Class, 0 to ${model.label_count - 1}`} min=${0} max=${model.label_count - 1} value=${state.form.class_id} byDefault=${0} />`;
}

// Shapes of about the trained number of pixels.
const SHAPES = [["Square", 1, 1], ["Portrait", 0.75, 1], ["Landscape", 1, 0.75]];

function Size({ model }) {
  const { form } = state;
  const [native, nativeHeight] = model.native_size;
  const rounded = (length) => Math.max(model.size_multiple, Math.round(length / model.size_multiple) * model.size_multiple);
  const width = form.width ?? native;
  const height = form.height ?? nativeHeight;
  const limits = (most) => `${model.size_multiple}–${most}, in steps of ${model.size_multiple}`;
  const most = model.max_side || Math.floor(Math.sqrt(model.max_pixels) / model.size_multiple) * model.size_multiple;
  return html`<div class="size" role="group" aria-label="Size">
    <div class="field-head"><span class="caption">Size</span><span class="chips">
      ${SHAPES.map(([name, w, h]) => {
        const [x, y] = [rounded(native * w), rounded(nativeHeight * h)];
        return html`<button key=${name} type="button" class="chip" aria-pressed=${String(x === width && y === height)} onClick=${() => setForm({ width: x, height: y })}>${name}</button>`;
      })}
    </span></div>
    <div class="pair">
      <${Range} name="width" label="Width" min=${model.size_multiple} max=${most} most=${most} step=${model.size_multiple} value=${form.width} byDefault=${native} limits=${limits(most)} />
      <${Range} name="height" label="Height" min=${model.size_multiple} max=${most} most=${most} step=${model.size_multiple} value=${form.height} byDefault=${nativeHeight} limits=${limits(most)} />
    </div>
    ${!model.max_side && html`<p class="limits">Or as many pixels in another shape: at most ${model.max_pixels} in all.</p>`}
  </div>`;
}

function Sampling({ model }) {
  const { form, models } = state;
  const guidance = guidanceOf(model, form.task);
  const mostSteps = Math.min(model.max_steps, Math.max(100, 2 * model.default_steps));
  return html`
    <div class=${model.guidance ? "pair" : ""}>
      <${Range} name="steps" label="Steps" min=${1} max=${mostSteps} most=${model.max_steps} value=${form.steps} byDefault=${model.default_steps} limits=${`1–${model.max_steps}`} />
      ${model.guidance && html`<${Range} name="guidance_scale" label="Guidance" min=${1} max=${Math.max(12, guidance)} most=${30} step=${0.5}
        value=${form.guidance_scale} byDefault=${guidance} limits="1–30" />`}
    </div>
    <${Seed} />
    <${Range} name="n" label="Images" min=${1} max=${8} value=${form.n} byDefault=${1} limits="1–8" beside />
    ${canUpscale(models, form.task) && html`<${Switch} name="upscale" label="Enlarge" hint="by the super-resolution model, in the same job"
      checked=${upscales(models, form)} />`}
    <details class="more" open=${["sampler", "eta", "format", "priority", "negative_prompt"].some(errorOf)}>
      <summary>More</summary>
      ${takesPrompt(model) && html`<${Field} name="negative_prompt" label="What it shall not show">
        <input type="text" ...${described("negative_prompt")} value=${form.negative_prompt} onInput=${(event) => setField("negative_prompt", event.target.value)} /><//>`}
      <div class="pair">
        <${Select} name="sampler" label="Sampler" value=${form.sampler ?? defaultSampler(model, form.eta)} options=${model.samplers} />
        <${Select} name="format" label="Format" value=${form.format} options=${["png", "jpeg", "webp"]} />
      </div>
      <${Range} name="eta" label="Eta: fresh noise in each step" min=${0} max=${1} step=${0.05} value=${form.eta} byDefault=${0} />
      <${Select} name="priority" label="Priority" value=${form.priority} options=${["low", "normal", "high"]} />
    </details>`;
}

const roll = () => setField("seed", crypto.getRandomValues(new Uint32Array(1))[0]);

function Seed() {
  return html`<${Field} name="seed" label="Seed">
    <div class="joined">
      <${Digits} ...${described("seed")} min="0" max="4294967295" step="1" placeholder="another one each time" value=${state.form.seed ?? ""} empty=${null} set=${(to) => setField("seed", to)} />
      ${state.form.seed !== null && html`<${Button} icon="close" label="Another seed each time" onClick=${() => setField("seed", null)} />`}
      <${Button} icon="dice" label="Roll a seed" onClick=${roll} />
    </div>
  <//>`;
}

// What is wrong with the request as a whole; a field's own sentence stands at the field.
function Problem() {
  if (!state.problem || Object.values(state.problem.fields).includes(state.problem.detail)) return null;
  return html`<div class="note bad" role="alert" tabindex="-1"><${Icon} name="warning" /><p>${state.problem.detail}</p></div>`;
}
