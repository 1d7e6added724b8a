// What each task is called, what it takes, and how a form becomes the body of its request.
import { maskAsPng, mapAsPng } from "./png.js";

export const TASKS = [
  { id: "txt2img", label: "Text", verb: "Generate", icon: "text", sized: true },
  { id: "img2img", label: "Redraw", verb: "Redraw", icon: "image", endpoint: "txt2img", image: true },
  { id: "inpaint", label: "Inpaint", verb: "Redraw what is marked", icon: "brush", image: true, mask: true },
  { id: "superres", label: "Enlarge", verb: "Enlarge", icon: "enlarge", image: true },
  { id: "semantic2img", label: "Map", verb: "Draw the map", icon: "map", map: true },
  { id: "layout2img", label: "Layout", verb: "Draw the layout", icon: "boxes", sized: true, boxes: true },
  { id: "class2img", label: "Class", verb: "Generate", icon: "tag", sized: true },
  { id: "unconditional", label: "Surprise", verb: "Generate", icon: "dice", sized: true },
];

const byId = new Map(TASKS.map((task) => [task.id, task]));
export const taskOf = (id) => byId.get(id);
export const endpointOf = (id) => taskOf(id).endpoint ?? id;
export const hasEditor = (id) => ["image", "map", "boxes"].some((part) => taskOf(id)?.[part]);

export const modelsFor = (models, id) => models.filter((model) => model.tasks.includes(endpointOf(id)) && (id !== "img2img" || model.text));
export const servedTasks = (models) => TASKS.filter((task) => modelsFor(models, task.id).length);

export function modelOf(models, form) {
  const able = modelsFor(models ?? [], form.task);
  const endpoint = form.task && endpointOf(form.task);
  return able.find((model) => model.id === form.model) ?? able.find((model) => model.default_for.includes(endpoint)) ?? able[0] ?? null;
}

export const canUpscale = (models, task) => task !== "superres" && (models ?? []).some((model) => model.tasks.includes("superres"));

// A model whose own images are small is enlarged unless the visitor says no.
export function upscales(models, form) {
  const model = modelOf(models, form);
  return canUpscale(models, form.task) && (form.upscale ?? (model !== null && Math.max(...model.native_size) < 256));
}

export const guidanceOf = (model, task) => (task === "inpaint" && model.inpaint_guidance_scale) || model.default_guidance_scale;
export const defaultSampler = (model, eta) => (eta && model.samplers.includes("ddim") ? "ddim" : model.default_sampler);
export const takesPrompt = (model) => model.text;

// The largest image, in pixels, that a task takes from outside.
export function inputLimit(model) {
  const side = model.max_side ? model.max_side / model.scale : Infinity;
  return { pixels: model.max_pixels / model.scale ** 2, side };
}

// Beyond its trained size a model doubles things; super-resolution sees windows of it, and takes all it may.
export const bestSize = (model) => (model.scale > 1 ? inputLimit(model) : { pixels: model.native_size[0] * model.native_size[1], side: Infinity });

const PLAIN = ["steps", "sampler", "guidance_scale", "seed"];

export async function bodyOf(form, models) {
  const task = taskOf(form.task);
  const model = modelOf(models, form);
  const body = { model: model.id };
  if (takesPrompt(model)) body.prompt = form.prompt;
  if (takesPrompt(model) && form.negative_prompt) body.negative_prompt = form.negative_prompt;
  for (const name of task.sized ? ["width", "height", ...PLAIN] : PLAIN) if (form[name] !== null) body[name] = form[name];
  if (form.eta) body.eta = form.eta;
  if (form.n !== 1) body.n = form.n;
  if (form.format !== "png") body.format = form.format;
  if (form.priority !== "normal") body.priority = form.priority;
  if (upscales(models, form)) body.upscale = true;
  if (task.id === "img2img") body.strength = form.strength;
  if (task.image) body.image = form.image.url;
  if (task.mask) body.mask = await maskAsPng(form.mask);
  if (task.map) body.map = await mapAsPng(form.map);
  if (task.boxes) body.objects = form.objects;
  if (task.id === "class2img") body.class_id = form.class_id;
  return body;
}

// What is missing before the server needs to be asked: field → sentence.
export function missing(form, models) {
  const task = taskOf(form.task);
  const model = modelOf(models, form);
  if (task.image && !form.image) return { image: "Choose an image first, or drop one on the page." };
  if (task.mask && !form.mask?.values.some(Boolean)) return { mask: "Nothing is marked yet: paint over what shall change, or mark everything." };
  if (task.map && !form.map) return { map: "The map is blank: paint what is where, or fill all of it." };
  if (task.boxes && !form.objects.length) return { objects: "Draw at least one box." };
  if (takesPrompt(model) && ["txt2img", "img2img"].includes(task.id) && !form.prompt.trim()) return { prompt: "Say what the image shall show." };
  return null;
}
