// The prompt, the words that a model knows, and which of those written it does not.
import { Trouble, described, errorOf } from "./controls.js";
import { setField, state } from "./state.js";
import { html } from "./vendor/preact.js";

const MOST = 2000;
const WORD = /[^\W\d_]+|\d+/gu;

const unknown = (model, text) => (model.vocabulary ? [...new Set(text.toLowerCase().match(WORD))].filter((word) => !model.vocabulary.includes(word)) : []);

export function Prompt({ model }) {
  const { prompt } = state.form;
  const strange = unknown(model, prompt);
  const send = (event) => event.key === "Enter" && (event.ctrlKey || event.metaKey) && event.target.form.requestSubmit();
  return html`<div class=${`field prompt ${errorOf("prompt") ? "wrong" : ""}`}>
    <div class="field-head"><label for="f-prompt">Prompt</label>
      ${prompt.length > MOST * 0.8 && html`<span class=${prompt.length > MOST ? "count over" : "count"}>${prompt.length} of ${MOST} characters</span>`}
    </div>
    <textarea ...${described("prompt")} rows="3" placeholder=${model.vocabulary ? "a red house by the sea at sunset" : "a lighthouse on a cliff, oil painting"} value=${prompt}
      onInput=${(event) => setField("prompt", event.target.value)} onKeyDown=${send}></textarea>
    <${Trouble} name="prompt" />
    ${strange.length > 0 && html`<p class="hint">Unknown to this model: ${strange.slice(0, 8).join(", ")}${strange.length > 8 ? ", …" : ""}</p>`}
    ${model.vocabulary && html`<${Words} words=${model.vocabulary} />`}
  </div>`;
}

function Words({ words }) {
  const add = (word) => {
    const text = state.form.prompt;
    setField("prompt", text + (text && !/\s$/.test(text) ? " " : "") + word);
  };
  return html`<details class="words">
    <summary>The ${words.length} words it knows</summary>
    <div class="chips scrolls" role="group" aria-label="Words to add to the prompt">
      ${words.map((word) => html`<button key=${word} type="button" class="chip" onClick=${() => add(word)}>${word}</button>`)}
    </div>
  </details>`;
}
