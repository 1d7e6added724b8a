// Labelled controls. Each shows what the server says about its field, and says it to screen readers too.
import { Icon } from "./icons.js";
import { setField, state } from "./state.js";
import { html, useState } from "./vendor/preact.js";

export const errorOf = (name) => state.problem?.fields[name];

export const Trouble = ({ name, ...rest }) => errorOf(name) && html`<p class="field-error" id=${`e-${name}`} tabindex="-1" ...${rest}>${errorOf(name)}</p>`;

export function Field({ name, label, aside, children }) {
  return html`<div class=${`field ${errorOf(name) ? "wrong" : ""}`}>
    <div class="field-head"><label for=${`f-${name}`}>${label}</label>${aside}</div>
    ${children}
    <${Trouble} name=${name} />
  </div>`;
}

export const described = (name) => ({ id: `f-${name}`, "aria-invalid": errorOf(name) ? "true" : undefined, "aria-describedby": `e-${name} l-${name}` });

// What is typed stands until the field is left, however often the page is drawn meanwhile; `set` has each number at once.
export function Digits({ value, set, empty = value, ...rest }) {
  const [typed, setTyped] = useState(null);
  const read = ({ target }) => (setTyped(target.value), set(target.value === "" ? empty : Number(target.value)));
  return html`<input type="number" step="any" ...${rest} value=${typed ?? value} onInput=${read} onBlur=${() => setTyped(null)} />`;
}

// A slider with its number. `value` null means the model's default, `most` the number's own limit.
export function Range({ name, label, min, max, most = max, step = 1, value, byDefault, limits, beside, set = (to) => setField(name, to) }) {
  const shown = value ?? byDefault;
  const back = byDefault === undefined ? null : byDefault;
  const changed = value !== null && value !== byDefault;
  const told = limits && html`<span class="limits" id=${`l-${name}`}>${limits}</span>`;
  const aside = html`<span class="range-value">
    ${beside && told}
    ${changed && html`<button type="button" class="link" onClick=${() => set(back)} title=${`Back to ${byDefault}`} aria-label=${`${label}: back to ${byDefault}`}>reset</button>`}
    <${Digits} ...${described(name)} min=${min} max=${most} step=${step} value=${shown} empty=${back} set=${set} />
  </span>`;
  const share = ((Math.min(shown, max) - min) / (max - min || 1)) * 100;
  return html`<${Field} name=${name} label=${label} aside=${aside}>
    <input type="range" aria-label=${`${label}, slider`} min=${min} max=${max} step=${step} value=${Math.min(shown, max)} style=${{ "--share": `${share}%` }} onInput=${(event) => set(Number(event.target.value))} />
    ${!beside && told}
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
  <${Trouble} name=${name} />
</div>`;

export const Button = ({ icon, children, label, kind = "", ...rest }) => html`<button type="button" class=${`button ${kind} ${children ? "" : "bare"}`} aria-label=${label} title=${label} ...${rest}>
  ${icon && html`<${Icon} name=${icon} />`}${children}
</button>`;

// A rectangle's sides in per cent. `set` gets a side's place and its number.
const SIDES = ["left", "top", "right", "bottom"];
export const Sides = ({ values, set }) => html`<div class="quad">
  ${SIDES.map((name, side) => html`<label key=${name}>${name}, %
    <${Digits} min="0" max="100" value=${values[side]} set=${(to) => set(side, to)} /></label>`)}
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
