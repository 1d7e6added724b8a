// An image from outside, read, turned upright and made as small as the model needs it.
import { bytes } from "./api.js";
import { refused } from "./jobs.js";
import { setForm, state, update } from "./state.js";
import { bestSize, inputLimit, modelOf, taskOf } from "./tasks.js";

export const emptyField = (width, height) => ({ width, height, values: new Uint8Array(width * height) });

// Puts a file into the form, or says why it cannot be read. `largest`: as large as the model takes it.
export async function takeFile(file, largest = false) {
  try {
    const bitmap = await createImageBitmap(file);
    if (!taskOf(state.form.task).image && !forImages().task) return refused({ detail: "No model here takes an image." });
    setForm({ ...fitted(bitmap, file, largest), ...forImages() });
    update({ showing: "input" });
  } catch (error) {
    if (!(error instanceof DOMException)) throw error;
    const detail = `“${file.name ?? "This"}” is no image that can be read: PNG, JPEG and WebP can.`;
    setForm(forImages());
    await refused({ detail, fields: { image: detail } });
  }
}

export async function takeUrl(url, name) {
  await takeFile(new File([await bytes(url)], name, { type: "image/png" }));
}

// A task that takes an image, where the one chosen takes none.
function forImages() {
  if (taskOf(state.form.task).image) return {};
  const able = ["img2img", "inpaint", "superres"].find((task) => modelOf(state.models, { ...state.form, task }));
  return able ? { task: able, model: null } : {};
}

function scaled({ width, height }, { pixels, side }) {
  const factor = Math.min(1, Math.sqrt(pixels / (width * height)), side / Math.max(width, height));
  return [width, height].map((length) => Math.max(1, Math.floor(length * factor)));
}

function fitted(bitmap, file, largest) {
  const model = modelOf(state.models, { ...state.form, ...forImages() });
  const most = scaled(bitmap, inputLimit(model));
  const [w, h] = largest ? most : scaled(bitmap, bestSize(model));
  const canvas = Object.assign(document.createElement("canvas"), { width: w, height: h });
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, w, h);
  const note = w < bitmap.width ? `Sent as ${w} × ${h}: ${bitmap.width} × ${bitmap.height} is more than this model ${w < most[0] ? "was trained for" : "takes"}.` : "";
  const url = canvas.toDataURL("image/png");
  return { image: { url, width: w, height: h, name: file.name, note, file, larger: w < most[0] ? most : null }, mask: emptyField(w, h) };
}

// The image again, as another task's model takes it.
export async function refit() {
  const { image, task } = state.form;
  if (image && taskOf(task).image) await takeFile(image.file);
}
