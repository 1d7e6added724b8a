// The jobs of this session, one card each. A card is drawn again only when its job has changed.
import * as api from "./api.js";
import { Icon } from "./icons.js";
import { cancel, isOpen, renew, select } from "./jobs.js";
import { state } from "./state.js";
import { Component, html } from "./vendor/preact.js";
import { waitingFor } from "./stage.js";
import { taskOf } from "./tasks.js";

export function Gallery() {
  const { gallery, selected } = state;
  if (!gallery.length) return null;
  const open = gallery.filter(isOpen).length;
  return html`<section class="gallery" aria-labelledby="gallery-title">
    <h2 id="gallery-title">This session <span class="quiet">${gallery.length}${open ? `, ${open} not done` : ""}</span></h2>
    <ul>${gallery.map((entry) => html`<${Card} key=${entry.id} entry=${entry} selected=${entry.id === selected} />`)}</ul>
  </section>`;
}

class Card extends Component {
  shouldComponentUpdate(next) {
    return next.entry !== this.props.entry || next.selected !== this.props.selected;
  }

  render({ entry, selected }) {
    const { job, preview } = entry;
    const image = job.images[0];
    const shown = image ? api.imageUrl(image) : preview;
    return html`<li class=${`card ${job.status}`}>
      <button type="button" class="card-face" aria-pressed=${String(selected)} aria-label=${nameOf(entry)} onClick=${() => select(entry.id)}>
        ${shown ? html`<img src=${shown} alt="" loading="lazy" decoding="async" onError=${() => image && renew(entry.id)} />` : html`<span class="card-state">${waitingFor(job)}</span>`}
        ${isOpen(entry) && html`<span class="card-bar" style=${{ "--share": `${job.progress * 100}%` }}></span>`}
        <span class="card-foot"><span title=${image && `seed ${image.seed}`}>${image?.seed ?? taskOf(entry.task).label}</span>
          ${job.images.length > 1 && html`<b>${job.images.length}</b>`}${job.warnings.length > 0 && html`<${Icon} name="warning" size="14" />`}</span>
      </button>
      ${isOpen(entry) && html`<button type="button" class="card-cancel" aria-label="Cancel this job" onClick=${() => cancel(entry.id)}><${Icon} name="close" size="16" /></button>`}
    </li>`;
  }
}

function nameOf({ job, task }) {
  const what = job.request.prompt.slice(0, 80) || taskOf(task).label;
  const warned = job.warnings.length ? `, ${job.warnings.length} warnings` : "";
  return `${what}, ${job.status}${job.images[0] ? `, seed ${job.images[0].seed}` : ""}${warned}`;
}
