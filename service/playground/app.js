// The page: what stands on it, and what happens once it is open.
import * as api from "./api.js";
import { Button } from "./controls.js";
import { Panel, chooseTask } from "./form.js";
import { Gallery } from "./gallery.js";
import { Mark } from "./icons.js";
import { takeFile } from "./input.js";
import { keyTrouble, lost, refuse, restore, startPolling } from "./jobs.js";
import { Operators } from "./operators.js";
import { Stage } from "./stage.js";
import { say, state, update, useStore } from "./state.js";
import { servedTasks } from "./tasks.js";
import { theme, toggleTheme } from "./theme.js";
import { html, render, useEffect, useRef } from "./vendor/preact.js";

const MODELS_MS = 10_000;
const AWAY_MS = 1500;

const view = () => (location.hash === "#/operators" ? "operators" : "create");

function toForm(event) {
  event.preventDefault(); // the address says which view is shown
  document.querySelector("#task textarea, #task input")?.focus();
}

function Page() {
  const { away, said, needsKey } = useStore();
  return html`
    <a class="skip" href="#task" onClick=${toForm}>Skip to the form</a>
    <${Header} />
    ${away && html`<div class="banner" role="alert"><span class="spinner"></span>The server does not answer. The page goes on by itself once it is back.</div>`}
    ${view() === "operators" ? html`<${Operators} />` : html`<main class="create"><div class="left"><${Stage} /><${Gallery} /></div><${Panel} /></main>`}
    <div class="said" role="status" aria-live="polite">${said}</div>
    ${needsKey !== null && html`<${KeyDialog} why=${needsKey} />`}`;
}

function Header() {
  const dark = theme() === "dark";
  const link = (name, to, text) => html`<a href=${to} aria-current=${view() === name ? "page" : undefined}>${text}</a>`;
  return html`<header class="top">
    <a class="brand" href="#/"><${Mark} />ldm</a>
    <nav aria-label="Views">${link("create", "#/", "Create")}${link("operators", "#/operators", "Operators")}<a href=${`${api.ROOT}/docs`}>API</a></nav>
    <div class="top-end">
      <${Button} icon="key" label="API key" kind=${api.apiKey() ? "on" : ""} onClick=${() => update({ needsKey: "" })} />
      <${Button} icon=${dark ? "sun" : "moon"} label=${dark ? "Light theme" : "Dark theme"} onClick=${() => (toggleTheme(), update({}))} />
    </div>
  </header>`;
}

function KeyDialog({ why }) {
  const dialog = useRef(null);
  useEffect(() => dialog.current.open || dialog.current.showModal(), []);
  const enter = async (event) => {
    event.preventDefault();
    api.setApiKey(new FormData(event.target).get("key").trim());
    if (await readModels()) await opened();
  };
  return html`<dialog ref=${dialog} class="dialog" aria-labelledby="key-title" onClose=${() => update({ needsKey: null })}>
    <form onSubmit=${enter}>
      <header><h2 id="key-title">API key</h2><${Button} icon="close" label="Close" onClick=${() => dialog.current.close()} /></header>
      <div class=${`field ${why && api.apiKey() ? "wrong" : ""}`}>
        <label for="key">Key</label>
        <input id="key" name="key" type="password" autocomplete="off" spellcheck=${false} autofocus defaultValue=${api.apiKey()} aria-describedby="key-why" />
        <p id="key-why" class=${why && api.apiKey() ? "field-error" : "hint"} role="alert">${why || "An empty field takes it away."}</p>
      </div>
      <p class="quiet">It stays in this tab, and is forgotten when the tab is closed.</p>
      <div class="row end"><button class="button primary" type="submit">Use this key</button></div>
    </form>
  </dialog>`;
}

// True where the server has answered.
async function readModels() {
  try {
    const models = await api.models();
    const first = servedTasks(models)[0]?.id ?? null;
    const back = state.away && "The server is back.";
    update({ models, away: false, locked: false, needsKey: state.models ? state.needsKey : null });
    if (back) say(back);
    if (!servedTasks(models).some(({ id }) => id === state.form.task)) await chooseTask(first);
    return true;
  } catch (error) {
    if (error.status === 401 || error.status === 403) update({ locked: true, needsKey: error.status === 401 ? keyTrouble() : error.message });
    else if (error instanceof api.Away || error.status >= 500) lost();
    else refuse(error);
    return false;
  }
}

async function watchModels() {
  if (state.needsKey === null && (await readModels())) await opened();
  setTimeout(watchModels, state.away ? AWAY_MS : MODELS_MS);
}

let begun = false;

// With a good key, or where none is asked for: the gallery is read, and followed.
async function opened() {
  update({ needsKey: null });
  if (begun) return;
  try {
    await restore();
    begun = true;
    startPolling();
  } catch (error) {
    refuse(error); // the next look at the models tries again
  }
}

function takeDrops() {
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => {
    event.preventDefault();
    if (view() === "create" && event.dataTransfer.files[0] && state.models) takeFile(event.dataTransfer.files[0]);
  });
}

addEventListener("hashchange", () => update({}));
takeDrops();
render(html`<${Page} />`, document.querySelector("#app"));
if (await readModels()) await opened();
setTimeout(watchModels, MODELS_MS);
