// The stage before the first job: a few scenes that one click draws.
import { ROOT } from "./api.js";
import { Button } from "./controls.js";
import { Icon } from "./icons.js";
import { send } from "./jobs.js";
import { setForm, state, update } from "./state.js";
import { modelOf, takesPrompt, taskOf } from "./tasks.js";
import { html } from "./vendor/preact.js";

// Drawn by the built-in model, with these seeds.
const SCENES = [
  ["a red house by the sea at sunset, mountains behind", 9],
  ["a sailing boat on the calm sea, the sun in the sky", 7],
  ["a yellow balloon in the clear sky by day, snowy mountains behind", 11],
  ["a palm tree in the desert at night, the moon in the sky", 11],
  ["a small white house in the snow at night, a pine on the left", 7],
  ["an oak in a green field by day, hills behind", 15],
];
const OTHERS = ["a lighthouse on a cliff in a storm, oil painting", "a glass teapot on a wooden table, morning light", "a fox in fresh snow, photograph", "a city of the future at dawn, wide view"];

// The next image shall be another one: the scene's seed does not stay in the form.
async function draw(prompt, seed) {
  setForm({ prompt, seed });
  await send();
  setForm({ seed: null });
}

export function Welcome() {
  const model = modelOf(state.models, state.form);
  const task = taskOf(state.form.task);
  if (state.locked) return html`<div class="welcome"><h1>This server asks for a key</h1><div class="row"><${Button} icon="key" kind="primary" onClick=${() => update({ needsKey: "" })}>Enter the key<//></div></div>`;
  if (!state.models) return html`<p class="quiet">Reading the models…</p>`;
  if (!model) return html`<div class="welcome"><h1>No model is served yet</h1><p class="lead">A worker that serves one shows up here by itself.</p></div>`;
  const known = model.id === "scenes" && task.id === "txt2img";
  return html`<div class="welcome">
    <h1>Describe a scene.<br />Watch it appear.</h1>
    <p class="lead">${takesPrompt(model) ? "Write a prompt, or begin with one of these." : "This model draws what it was trained on: press Generate."}</p>
    ${known && html`<ul class="scenes">${SCENES.map(([prompt, seed], i) => html`<li key=${prompt}>
      <button type="button" onClick=${() => draw(prompt, seed)}><img src=${`${ROOT}/playground/scenes/${i}.webp`} alt="" width="160" height="160" /><span>${prompt}</span></button></li>`)}</ul>`}
    ${!known && takesPrompt(model) && html`<ul class="ideas">${(model.vocabulary ? SCENES.map(([prompt]) => prompt) : OTHERS).map((prompt) => html`<li key=${prompt}>
      <button type="button" onClick=${() => draw(prompt, null)}><${Icon} name="pencil" /><span>${prompt}</span></button></li>`)}</ul>`}
  </div>`;
}
