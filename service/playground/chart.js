// A small chart over time: areas on one another, or one line, in SVG.
import { html } from "./vendor/preact.js";

const WIDTH = 320;
const HEIGHT = 96;
const PLACES = 90;

const nice = (value) => [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000].find((each) => each >= value) ?? value;

function area(lower, upper, most) {
  const x = (i) => WIDTH - ((upper.length - 1 - i) * WIDTH) / (PLACES - 1);
  const y = (value) => HEIGHT - (value / most) * HEIGHT;
  const top = upper.map((value, i) => `${x(i).toFixed(1)},${y(value).toFixed(1)}`);
  const bottom = lower.map((value, i) => `${x(i).toFixed(1)},${y(value).toFixed(1)}`).reverse();
  return { fill: `M${[...top, ...bottom].join("L")}Z`, line: `M${top.join("L")}` };
}

export function Chart({ title, points, series, unit, stacked = false }) {
  let lower = points.map(() => 0);
  const levels = series.map((name) => {
    const upper = points.map((point, i) => (stacked ? lower[i] : 0) + point[name]);
    const level = { name, lower: stacked ? lower : points.map(() => 0), upper };
    lower = upper;
    return level;
  });
  const most = nice(Math.max(...levels.flatMap(({ upper }) => upper)));
  const now = points.at(-1);
  const said = series.map((name) => `${stacked ? `${name} ` : ""}${+now[name].toFixed(1)}`).join(", ");
  return html`<figure class="chart">
    <figcaption><span>${title}</span><b>${said} ${unit}</b></figcaption>
    <svg viewBox=${`0 0 ${WIDTH} ${HEIGHT}`} preserveAspectRatio="none" role="img" aria-label=${`${title}: now ${said} ${unit}; the axis ends at ${most}`}>
      ${[0, 0.5, 1].map((share) => html`<line key=${share} class="rule" x1="0" x2=${WIDTH} y1=${HEIGHT * share} y2=${HEIGHT * share} />`)}
      ${levels.map(({ name, lower, upper }, i) => {
        const { fill, line } = area(lower, upper, most);
        return html`<g key=${name} class=${`level-${i}`}><path class="area" d=${fill} /><path class="line" d=${line} /></g>`;
      })}
    </svg>
    <div class="axis" aria-hidden="true"><span>3 min ago</span>${stacked && html`<span class="legend">${series.map((name, i) => html`<i key=${name} class=${`level-${i}`}>${name}</i>`)}</span>`}<span>0 to ${most}</span></div>
  </figure>`;
}
