// What the page knows: one object, changed by `update`, drawn at most once a frame.
import { useEffect, useState } from "./vendor/preact.js";

export const state = {
  models: null, // null: not read yet
  away: false, // the server does not answer
  needsKey: null, // a sentence: why a key is asked for
  locked: false, // the models cannot be read without another key
  gallery: [], // entries, newest first: {id, task, body, job, preview}
  selected: null, // id of the entry on the stage
  showing: "result", // what the stage shows: "input" or "result"
  image: 0, // which of the entry's images
  problem: null, // why the form was refused: {detail, fields}
  sending: false,
  said: "", // for screen readers
  form: {
    task: null, model: null, prompt: "", negative_prompt: "", width: null, height: null, steps: null, sampler: null,
    guidance_scale: null, eta: 0, seed: null, n: 1, format: "png", priority: "normal", upscale: null, strength: 0.8,
    class_id: 0,
    image: null, // {url, width, height, name, note}
    mask: null, // {width, height, values}
    map: null,
    objects: [], // {label, box: [x0, y0, x1, y1]}
  },
};

// A reload keeps what was written and chosen; images and masks are not kept.
const FORM = "ldm.form";
Object.assign(state.form, JSON.parse(sessionStorage.getItem(FORM) ?? "{}"));
addEventListener("pagehide", () => {
  const { image, mask, map, ...kept } = state.form;
  sessionStorage.setItem(FORM, JSON.stringify(kept));
});

const drawers = new Set();
let planned = false;

export function update(changes) {
  Object.assign(state, changes);
  if (planned) return;
  planned = true;
  requestAnimationFrame(() => {
    planned = false;
    for (const draw of drawers) draw({});
  });
}

// After the page was drawn again.
export const drawn = () => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));

export const setField = (name, value) => setForm({ [name]: value });

// Also forgets what was wrong with the fields that change.
export function setForm(changes) {
  const fields = Object.fromEntries(Object.entries(state.problem?.fields ?? {}).filter(([name]) => !(name in changes)));
  const problem = Object.keys(fields).length ? { ...state.problem, fields } : null;
  update({ form: { ...state.form, ...changes }, problem });
}

export function useStore() {
  const [, draw] = useState(null);
  useEffect(() => {
    drawers.add(draw);
    return () => drawers.delete(draw);
  }, []);
  return state;
}

export const selectedEntry = () => state.gallery.find((entry) => entry.id === state.selected) ?? null;
export const say = (sentence) => update({ said: sentence });
