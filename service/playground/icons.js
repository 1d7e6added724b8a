// The icons: 24 × 24, drawn with one stroke width, in the colour of the text around them.
import { html } from "./vendor/preact.js";

const PATHS = {
  text: "M5 6.500V5h14v1.500M12 5v14M9 19h6",
  image: "M4 5h16v14H4zM4 16l4.500-4.500L13 16l3-3 4 4M15.500 9.500h.01",
  brush: "M20 4 10.500 13.500M7 14c-2 0-3 1.500-3 3.500 0 1-.5 1.500-1 2 3.500.5 6.500-.5 6.500-3.200C9.500 15 8.500 14 7 14z",
  enlarge: "M14 4h6v6M20 4l-7 7M10 20H4v-6M4 20l7-7",
  map: "M4 4h7v9H4zM11 4h9v5h-9zM11 9h9v11h-9zM4 13h7v7H4z",
  boxes: "M4 5h9v8H4zM10 10h10v9H10z",
  tag: "M4 4h8l8 8-8 8-8-8zM8 8h.01",
  dice: "M5 5h14v14H5zM9 9h.01M15 9h.01M12 12h.01M9 15h.01M15 15h.01",
  sun: "M12 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8zM12 2.500v2M12 19.500v2M2.500 12h2M19.500 12h2M5.300 5.300l1.400 1.400M17.300 17.300l1.400 1.400M5.300 18.700l1.400-1.400M17.300 6.700l1.400-1.400",
  moon: "M20 14.500A8.500 8.500 0 0 1 9.500 4 8.500 8.500 0 1 0 20 14.500z",
  key: "M15 4a5 5 0 1 0 0 10 5 5 0 0 0 0-10zM11.300 12.700 4 20M6.500 17.500 9 20",
  download: "M12 4v11M7 11l5 5 5-5M5 20h14",
  code: "M8.500 7 4 12l4.500 5M15.500 7l4.500 5-4.500 5",
  trash: "M5 7h14M10 7V4.500h4V7M7 7l.8 12.500h8.400L17 7M10.500 11v5M13.500 11v5",
  vary: "M4 8h10a4 4 0 0 1 0 8H7M10 12.500 6.500 16 10 19.500M7 5 4 8l3 3",
  close: "M6 6l12 12M18 6 6 18",
  copy: "M9 9h11v11H9zM15 9V4H4v11h5",
  check: "M5 12.500 10 17.500 19 7",
  warning: "M12 4 3 19.500h18zM12 10v4.500M12 17h.01",
  upload: "M12 20V9M7 13l5-5 5 5M5 4h14",
  eraser: "M8 19h12M14.500 4.500l5 5L11 18H8l-3.500-3.500z",
  square: "M5 5h14v14H5z",
  fill: "M5 5h14v14H5zM5 12h14M12 5v14",
  invert: "M12 4a8 8 0 1 0 0 16zM12 4a8 8 0 0 1 0 16",
  pencil: "M4 20l1-4L16 5l3 3L8 19z",
};

export const Icon = ({ name, size = 20 }) => html`<svg class="icon" width=${size} height=${size} viewBox="0 0 24 24" aria-hidden="true"><path d=${PATHS[name]} /></svg>`;

export const Mark = () => html`<svg class="mark" viewBox="0 0 32 32" aria-hidden="true">
  <rect width="32" height="32" rx="9" />
  ${[[9, 9, 1.3], [16, 8, 1.6], [23.5, 9.5, 1.2], [8.500, 15.500, 1.7], [23, 16, 2], [15.5, 15.5, 2.6], [9.5, 22.5, 2.1], [16.5, 23.5, 2.4], [23, 23, 2.2]].map(
    ([x, y, r]) => html`<circle cx=${x} cy=${y} r=${r} />`,
  )}
</svg>`;
