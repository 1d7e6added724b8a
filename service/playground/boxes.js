// Things and their places: boxes drawn on a sheet, each with a label; a list of the same in numbers.
import { Button, Sides, Trouble } from "./controls.js";
import { colourOf, labelName, labelOptions } from "./labels.js";
import { setField, state } from "./state.js";
import { html, useRef, useState } from "./vendor/preact.js";

const SMALLEST = 0.02;
const inside = (share) => Math.round(Math.min(1, Math.max(0, share)) * 1000) / 1000;

export function Boxes({ model }) {
  const sheet = useRef(null);
  const [drawn, setDrawn] = useState(null);
  const { objects, width, height } = state.form;
  const [label, setLabel] = useState(0);
  const full = objects.length >= model.max_objects;
  const place = (event) => {
    const area = sheet.current.getBoundingClientRect();
    return [inside((event.clientX - area.left) / area.width), inside((event.clientY - area.top) / area.height)];
  };
  const down = (event) => {
    if (full || event.target.closest("button")) return;
    sheet.current.setPointerCapture(event.pointerId);
    setDrawn([place(event), place(event)]);
  };
  const up = () => {
    if (!drawn) return;
    const box = ordered(drawn);
    setDrawn(null);
    if (box[2] - box[0] > SMALLEST && box[3] - box[1] > SMALLEST) add(box);
  };
  const add = (box) => setField("objects", [...objects, { label, box }]);
  const change = (at, changes) => setField("objects", objects.map((each, i) => (i === at ? { ...each, ...changes } : each)));
  const remove = (at) => setField("objects", objects.filter((_, i) => i !== at));
  const ratio = (width ?? model.native_size[0]) / (height ?? model.native_size[1]);

  return html`<div class="editor">
    <div class="sheet plain" ref=${sheet} style=${{ "--ratio": ratio }} onPointerDown=${down}
      onPointerMove=${(event) => drawn && setDrawn([drawn[0], place(event)])} onPointerUp=${up} onPointerCancel=${up}>
      ${!objects.length && !drawn && html`<p class="sheet-hint">Drag to draw a box</p>`}
      ${objects.map((thing, i) => html`<${Box} key=${i} box=${thing.box} label=${thing.label} model=${model} />`)}
      ${drawn && html`<${Box} box=${ordered(drawn)} label=${label} model=${model} />`}
    </div>
    <div class="tools">
      <div class="field"><div class="field-head"><label for="f-next">Next box is</label></div>
        <select id="f-next" value=${label} onChange=${(event) => setLabel(Number(event.target.value))}>${labelOptions(model)}</select></div>
      <div class="row"><${Button} icon="boxes" disabled=${full} onClick=${() => add([0.25, 0.25, 0.75, 0.75])}>Add a box<//>
        ${objects.length > 0 && html`<${Button} icon="close" onClick=${() => setField("objects", [])}>Clear<//>`}</div>
      <${Trouble} name="objects" role="alert" />
      ${full && html`<p class="hint">This model takes ${model.max_objects} boxes at most.</p>`}
      <ul class="things">${objects.map((thing, i) => html`<${Thing} key=${i} at=${i} thing=${thing} model=${model} change=${change} remove=${remove} />`)}</ul>
    </div>
  </div>`;
}

const ordered = ([[x0, y0], [x1, y1]]) => [Math.min(x0, x1), Math.min(y0, y1), Math.max(x0, x1), Math.max(y0, y1)];

function Box({ box: [x0, y0, x1, y1], label, model }) {
  const percent = (share) => `${share * 100}%`;
  return html`<div class="thing-box" style=${{ left: percent(x0), top: percent(y0), width: percent(x1 - x0), height: percent(y1 - y0), "--hue": colourOf(label) }}>
    <span>${labelName(model, label)}</span></div>`;
}

function Thing({ at, thing, model, change, remove }) {
  const set = (side, value) => change(at, { box: thing.box.map((old, i) => (i === side ? inside(value / 100) : old)) });
  return html`<li>
    <span class="swatch" style=${{ "--hue": colourOf(thing.label) }}></span>
    <select aria-label=${`Box ${at + 1}: label`} value=${thing.label} onChange=${(event) => change(at, { label: Number(event.target.value) })}>${labelOptions(model, thing.label)}</select>
    <${Button} icon="trash" label=${`Delete box ${at + 1}`} onClick=${() => remove(at)} />
    <${Sides} values=${thing.box.map((share) => Math.round(share * 1000) / 10)} set=${set} />
  </li>`;
}
