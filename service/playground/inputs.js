// What the stage shows while something is prepared: an image, a mask on it, a map of labels, or boxes.
import { Boxes } from "./boxes.js";
import { Button, Trouble } from "./controls.js";
import { Icon } from "./icons.js";
import { emptyField, takeFile, takeUrl } from "./input.js";
import { colourOf, labelName, labelOptions, words } from "./labels.js";
import { ROOT } from "./api.js";
import { Painter } from "./painter.js";
import { setField, state } from "./state.js";
import { modelOf, taskOf } from "./tasks.js";
import { html, useMemo, useRef, useState } from "./vendor/preact.js";

export function Inputs() {
  const { form, models } = state;
  const task = taskOf(form.task);
  const model = modelOf(models, form);
  if (task.boxes) return html`<${Boxes} model=${model} />`;
  if (task.map) return html`<${LabelMap} model=${model} />`;
  if (!form.image) return html`<${Drop} />`;
  return html`<${Chosen} task=${task} />`;
}

function Drop() {
  const [over, setOver] = useState(false);
  return html`<div class=${`drop ${over ? "over" : ""}`} onDragOver=${() => setOver(true)} onDragLeave=${() => setOver(false)} onDrop=${() => setOver(false)}>
    <${Icon} name="upload" size="32" />
    <h2>Drop an image here</h2>
    <p class="quiet">PNG, JPEG or WebP. It goes to this server alone.</p>
    <div class="row"><${Choose} kind="primary">Choose a file<//><${Button} icon="image" onClick=${() => takeUrl(`${ROOT}/playground/example.png`, "example.png")}>Take the example<//></div>
    <${Trouble} name="image" role="alert" />
  </div>`;
}

function Choose({ kind, children }) {
  const input = useRef(null);
  const read = (event) => event.target.files[0] && takeFile(event.target.files[0]);
  return html`<${Button} icon="upload" kind=${kind} onClick=${() => input.current.click()}>${children}<//>
    <input ref=${input} class="hidden" type="file" accept="image/png,image/jpeg,image/webp" aria-label="An image file" tabindex="-1" onChange=${read} />`;
}

function Chosen({ task }) {
  const { image, mask } = state.form;
  const colours = useMemo(() => words(["rgb(0 0 0 / 0)", "rgb(86 104 255 / 0.62)"]), []);
  const other = html`<div class="row"><${Choose}>Another image<//><${Button} icon="trash" label="Take this image away" onClick=${() => setField("image", null)} /></div>
    <p class="hint">${image.note || `${image.name}, ${image.width} × ${image.height}`} ${image.larger && html`<button type="button" class="link" onClick=${() => takeFile(image.file, true)}>Send ${image.larger.join(" × ")} instead</button>`}</p>
    <${Trouble} name="image" role="alert" /><${Trouble} name="mask" role="alert" />`;
  if (task.mask) {
    return html`<${Painter} label="Mask: paint over what shall change" field=${mask} colours=${colours} value=${1} background=${image.url}
      invertible onChange=${(to) => setField("mask", to)}>${other}<//>`;
  }
  return html`<div class="editor"><div class="sheet" style=${{ "--ratio": image.width / image.height }}><img src=${image.url} alt=${`The image to begin with: ${image.name}`} /></div>
    <div class="tools">${other}</div></div>`;
}

function LabelMap({ model }) {
  const [value, setValue] = useState(Math.min(1, model.label_count - 1));
  const colours = useMemo(() => words(Array.from({ length: model.label_count }, (_, id) => colourOf(id))), [model.label_count]);
  const [width, height] = model.native_size;
  const blank = useMemo(() => emptyField(width, height), [width, height]);
  const used = [...new Set((state.form.map ?? blank).values)].slice(0, 12);
  return html`<${Painter} label="Map: paint what is where" field=${state.form.map ?? blank} colours=${colours} value=${value} onChange=${(to) => setField("map", to)}>
    <div class="field"><div class="field-head"><label for="f-label">Paint with</label><span class="swatch" style=${{ "--hue": colourOf(value) }}></span></div>
      <select id="f-label" value=${value} onChange=${(event) => setValue(Number(event.target.value))}>${labelOptions(model, value)}</select></div>
    <div class="chips" role="group" aria-label="Labels on the map">
      ${used.map((id) => html`<button key=${id} type="button" class="chip" aria-pressed=${String(id === value)} onClick=${() => setValue(id)}><span class="swatch" style=${{ "--hue": colourOf(id) }}></span>${labelName(model, id)}</button>`)}
    </div>
    <${Trouble} name="map" role="alert" />
  <//>`;
}
