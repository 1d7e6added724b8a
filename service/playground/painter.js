// Paints numbers onto a grid: a mask over an image (0 or 1), or a map of labels. By pointer, by keys, or by numbers.
import { Button, Range, Segments, Sides } from "./controls.js";
import { html, useEffect, useRef, useState } from "./vendor/preact.js";

const TOOLS = [["brush", "Brush", "brush"], ["erase", "Eraser", "eraser"], ["rectangle", "Rectangle", "square"]];
const KEYS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

const within = (value, most) => Math.min(most, Math.max(0, value));

// A disc of `radius` grid cells around (x, y).
function stamp({ width, height, values }, x, y, radius, value) {
  for (let row = Math.max(0, Math.ceil(y - radius)); row <= Math.min(height - 1, y + radius); row++) {
    const half = Math.sqrt(radius ** 2 - (row - y) ** 2);
    values.fill(value, row * width + Math.max(0, Math.ceil(x - half)), row * width + Math.min(width, Math.floor(x + half) + 1));
  }
}

function line(field, from, to, radius, value) {
  const steps = Math.ceil(Math.hypot(to.x - from.x, to.y - from.y)) || 1;
  for (let i = 0; i <= steps; i++) stamp(field, from.x + ((to.x - from.x) * i) / steps, from.y + ((to.y - from.y) * i) / steps, radius, value);
}

function fillBox({ width, height, values }, from, to, value) {
  const [left, right] = [from.x, to.x].sort((a, b) => a - b).map((x) => Math.round(Math.min(width, Math.max(0, x))));
  const [top, bottom] = [from.y, to.y].sort((a, b) => a - b).map((y) => Math.round(Math.min(height, Math.max(0, y))));
  for (let row = top; row < bottom; row++) values.fill(value, row * width + left, row * width + Math.max(left, right));
}

function show(canvas, { width, height, values }, colours) {
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(width, height);
  const words = new Uint32Array(pixels.data.buffer);
  for (let i = 0; i < values.length; i++) words[i] = colours[values[i]];
  context.putImageData(pixels, 0, 0);
}

// `field`: {width, height, values}; `colours`: one for each value, as little-endian RGBA; `value`: what the brush paints;
// `onChange` gets the field after each stroke.
export function Painter({ label, field, colours, value, background, onChange, invertible, children }) {
  const canvas = useRef(null);
  const stroke = useRef(null);
  const [tool, setTool] = useState("brush");
  const [size, setSize] = useState(18);
  const [cursor, setCursor] = useState({ x: field.width / 2, y: field.height / 2, shown: false });
  const [box, setBox] = useState(null);
  const radius = (Math.max(field.width, field.height) * size) / 200;
  const redraw = () => show(canvas.current, field, colours);
  useEffect(redraw, [field, colours]);

  const done = () => (redraw(), onChange({ ...field }));
  const place = (event) => {
    const area = canvas.current.getBoundingClientRect();
    return { x: ((event.clientX - area.left) / area.width) * field.width, y: ((event.clientY - area.top) / area.height) * field.height };
  };
  const paint = (from, to) => (line(field, from, to, radius, tool === "erase" ? 0 : value), redraw());
  const press = (event) => {
    canvas.current.setPointerCapture(event.pointerId);
    stroke.current = place(event);
    if (tool !== "rectangle") paint(stroke.current, stroke.current);
  };
  const move = (event) => {
    const at = place(event);
    setCursor({ ...at, shown: true });
    if (!stroke.current) return;
    if (tool === "rectangle") return setBox([stroke.current, at]);
    paint(stroke.current, at);
    stroke.current = at;
  };
  const up = (event) => {
    if (!stroke.current) return;
    if (tool === "rectangle") fillBox(field, stroke.current, place(event), value);
    stroke.current = null;
    setBox(null);
    done();
  };
  const key = (event) => {
    const step = Math.max(1, radius / 2);
    if (KEYS[event.key]) {
      const [dx, dy] = KEYS[event.key];
      setCursor({ x: within(cursor.x + dx * step, field.width), y: within(cursor.y + dy * step, field.height), shown: true });
    } else if (event.key === " " || event.key === "Enter") {
      paint(cursor, cursor);
      done();
    } else return;
    event.preventDefault();
  };
  const all = (change) => (field.values.forEach((now, i) => (field.values[i] = change(now))), done());
  const across = (length) => `${(length / field.width) * 100}%`;
  const down = (length) => `${(length / field.height) * 100}%`;
  const share = (x, y, w, h) => ({ left: across(x), top: down(y), width: across(w), height: down(h) });

  const between = (a, b) => share(Math.min(a.x, b.x), Math.min(a.y, b.y), Math.abs(a.x - b.x), Math.abs(a.y - b.y));

  return html`<div class="editor">
    <div class="sheet" style=${{ "--ratio": field.width / field.height }}>
      ${background && html`<img src=${background} alt="" draggable=${false} />`}
      <canvas ref=${canvas} width=${field.width} height=${field.height} tabindex="0" role="application"
        aria-label=${`${label}. Arrow keys move the brush, space paints; below are buttons and numbers that do the same.`}
        onPointerDown=${press} onPointerMove=${move} onPointerUp=${up} onPointerCancel=${up} onKeyDown=${key}
        onPointerLeave=${() => setCursor({ ...cursor, shown: false })}></canvas>
      ${cursor.shown && tool !== "rectangle" && html`<div class="cursor" style=${share(cursor.x - radius, cursor.y - radius, 2 * radius, 2 * radius)}></div>`}
      ${box && html`<div class="rubber" style=${between(...box)}></div>`}
    </div>
    <div class="tools">
      <${Segments} label="Tool" value=${tool} options=${TOOLS} set=${setTool} />
      <${Range} name="brush" label="Brush size" min=${2} max=${60} value=${size} byDefault=${18} set=${setSize} />
      <div class="row">
        <${Button} icon="fill" onClick=${() => all(() => value)}>${invertible ? "Mark everything" : "Fill all"}<//>
        ${invertible && html`<${Button} icon="invert" onClick=${() => all((now) => 1 - now)}>Invert<//>`}
        <${Button} icon="close" onClick=${() => all(() => 0)}>Clear<//>
      </div>
      ${children}
      <${ByNumbers} field=${field} fill=${(from, to) => (fillBox(field, from, to, value), done())} />
    </div>
  </div>`;
}

function ByNumbers({ field, fill }) {
  const [sides, setSides] = useState([25, 25, 75, 75]);
  const at = (x, y) => ({ x: (x / 100) * field.width, y: (y / 100) * field.height });
  return html`<details class="more">
    <summary>Rectangle by numbers</summary>
    <${Sides} values=${sides} set=${(side, value) => setSides(sides.map((old, i) => (i === side ? value : old)))} />
    <${Button} icon="square" onClick=${() => fill(at(sides[0], sides[1]), at(sides[2], sides[3]))}>Fill this rectangle<//>
  </details>`;
}
