// Before and after, with a line between them that a slider moves. `before`: a URL; `after`: an image's attributes.
import { html, useState } from "./vendor/preact.js";

export function Compare({ before, after, style }) {
  const [share, setShare] = useState(0);
  return html`<div class="compare">
    <div class="sheet" style=${{ ...style, "--cut": `${share}%` }}>
      <img ...${after} />
      <img class="before" src=${before} alt="" />
      ${share > 0 && html`<div class="cut"></div>`}
    </div>
    <label class="compare-slider"><span>Result</span>
      <input type="range" min="0" max="100" value=${share} style=${{ "--share": `${share}%` }} aria-label="How much of the image before is shown"
        onInput=${(event) => setShare(Number(event.target.value))} />
      <span>Before</span></label>
  </div>`;
}
