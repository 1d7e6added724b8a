// Labelled controls. Each shows what the server says about its field, and says it to screen readers too.
import { Icon } from "./icons.js";
import { setField, state } from "./state.js";
import { html } from "./vendor/preact.js";

export const errorOf = (name) => state.problem?.fields[name];

export function Field({ name, label, aside, children }) {
  const error = errorOf(name);
  return html`<div class=${`field ${error ? "wrong" : ""}`}>
    <div class="field-head"><label for=${`f-${name}`}>${label}</label>${aside}</div>
    ${children}
    ${error && html`<p class="field-error" id=${`e-${name}`}>${error}</p>`}
  </div>`;
}

export const described = (name) => ({ id: `f-${name}`, "aria-invalid": errorOf(name) ? "true" : undefined, "aria-describedby": errorOf(name) ? `e-${name}` : undefined });

// A slider with its number. `value` null means the model's default, `most` the number's own limit.
export function Range({ name, label, min, max, most = max, step = 1, value, byDefault, set = (to) => setField(name, to) }) {
  const shown = value ?? byDefault;
  const read = (event) => event.target.value !== "" && set(Number(event.target.value));
  const changed = value !== null && value !== byDefault;
  const aside = html`<span class="range-value">
    ${changed && html`<button type="button" class="link" onClick=${() => set(byDefault === undefined ? null : byDefault)} aria-label=${`${label}: back to ${byDefault}`}>reset</button>`}
    <input type="number" ...${described(name)} min=${min} max=${most} step=${step} value=${shown} onChange=${read} />
  </span>`;
  const share = ((Math.min(shown, max) - min) / (max - min || 1)) * 100;
  return html`<${Field} name=${name} label=${label} aside=${aside}>
    <input type="range" aria-label=${`${label}, slider`} min=${min} max=${max} step=${step} value=${Math.min(shown, max)} style=${{ "--share": `${share}%` }} onInput=${read} />
  <//>`;
}

export function Select({ name, label, value, options, set = (to) => setField(name, to) }) {
  return html`<${Field} name=${name} label=${label}>
    <select ...${described(name)} value=${value} onChange=${(event) => set(event.target.value)}>
      ${options.map((option) => {
        const [id, text] = Array.isArray(option) ? option : [option, option];
        return html`<option key=${id} value=${id} selected=${String(id) === String(value)}>${text}</option>`;
      })}
    </select>
  <//>`;
}

export const Switch = ({ name, label, hint, checked }) => html`<div class=${`field ${errorOf(name) ? "wrong" : ""}`}>
  <label class="switch" for=${`f-${name}`}>
    <input type="checkbox" role="switch" ...${described(name)} checked=${checked} onChange=${(event) => setField(name, event.target.checked)} />
    <span class="switch-track" aria-hidden="true"></span>
    <span>${label}<small>${hint}</small></span>
  </label>
  ${errorOf(name) && html`<p class="field-error" id=${`e-${name}`}>${errorOf(name)}</p>`}
</div>`;

export const Button = ({ icon, children, label, kind = "", ...rest }) => html`<button type="button" class=${`button ${kind} ${children ? "" : "bare"}`} aria-label=${label} title=${label} ...${rest}>
  ${icon && html`<${Icon} name=${icon} />`}${children}
</button>`;

// A rectangle's sides in per cent. `set` gets a side's place and its number.
const SIDES = ["left", "top", "right", "bottom"];
export const Sides = ({ values, set }) => html`<div class="quad">
  ${SIDES.map((name, side) => html`<label key=${name}>${name}, %
    <input type="number" min="0" max="100" value=${values[side]} onChange=${(event) => set(side, Number(event.target.value))} /></label>`)}
</div>`;

// Buttons of which one is pressed. `options`: [id, text, icon]
export const Segments = ({ label, value, options, set }) => html`<div class="segments" role="group" aria-label=${label}>
  ${options.map(([id, text, icon]) => html`<button key=${id} type="button" aria-pressed=${String(id === value)} onClick=${() => set(id)}>
    ${icon && html`<${Icon} name=${icon} size="18" />`}<span>${text}</span>
  </button>`)}
</div>`;

// Tabs as ARIA has them: one is in the tab order, arrows move.
export function Tabs({ label, value, options, set, controls }) {
  const move = (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const tabs = [...event.currentTarget.children];
    const next = (tabs.indexOf(event.target) + step + tabs.length) % tabs.length;
    tabs[next].focus();
    set(options[next][0]);
  };
  return html`<div class="tabs" role="tablist" aria-label=${label} onKeyDown=${move}>
    ${options.map(([id, text, icon]) => html`<button key=${id} type="button" role="tab" id=${`tab-${id}`} aria-controls=${controls} aria-selected=${String(id === value)}
      tabindex=${id === value ? 0 : -1} onClick=${() => set(id)}><${Icon} name=${icon} />${text}</button>`)}
  </div>`;
}
