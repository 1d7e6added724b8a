// Labels of maps and layouts: their names, where a model has some, and a colour for each that tells neighbours apart.
import { html } from "./vendor/preact.js";

const GOLDEN = 137.508;

export const labelName = (model, id) => model.labels[id] ?? `label ${id}`;
export const colourOf = (id) => `hsl(${(id * GOLDEN + 210) % 360} 62% ${id % 2 ? 52 : 62}%)`;
export const labelOptions = (model, chosen) =>
  Array.from({ length: model.label_count }, (_, id) => html`<option key=${id} value=${id} selected=${id === chosen}>${labelName(model, id)}</option>`);

// As a canvas' pixels have it, read as little-endian 32-bit words.
export function words(colours) {
  const context = Object.assign(document.createElement("canvas"), { width: colours.length, height: 1 }).getContext("2d");
  colours.forEach((colour, i) => ((context.fillStyle = colour), context.fillRect(i, 0, 1, 1)));
  return new Uint32Array(context.getImageData(0, 0, colours.length, 1).data.buffer.slice(0));
}
